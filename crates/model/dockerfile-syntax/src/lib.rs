//! Reads Dockerfiles: lexer, parser, typed instructions, shell words, lint rules.
//!
//! [`parse`] turns bytes into a [`Dockerfile`]: directives, stages and typed instructions, each with its lines, its text,
//! its comments and its flags as written. Nothing is expanded or looked up; [`shell`] has the language of words in which
//! `ENV`, `COPY` and others are written, for whoever gives a file its meaning. Findings go into a [`lint::Linter`].
//!
//! For editors, [`parse_leniently`] goes on after errors, and instructions tell where each of their words stands.
//!
//! This crate knows nothing of builds, images or platforms. It does no I/O.
//!
//! ```
//! use dockerfile_syntax::{Kind, lint::Linter, parse};
//!
//! let file = parse(b"FROM alpine AS Base\nENV greeting hello\n", &mut Linter::off())?;
//! let stage = &file.stages[0];
//! assert_eq!(stage.name.as_deref(), Some("base"));
//! assert!(matches!(&stage.instructions[0].kind, Kind::Env(env) if env.legacy));
//! # Ok::<(), dockerfile_syntax::Error>(())
//! ```

mod args;
pub mod ast;
mod build;
pub mod case;
pub mod csv;
pub mod directive;
mod error;
mod flags;
mod heredoc;
pub mod lint;
mod number;
pub mod port;
mod print;
pub mod quote;
pub mod shell;
pub mod signal;
mod source;
mod span;
mod statement;
pub mod suggest;
mod token;

pub use ast::*;
pub use error::{Error, Problem};
pub use heredoc::Heredoc;
pub use source::Text;
pub use span::{Position, Span};
pub use token::{Token, TokenKind};

/// Parses a Dockerfile.
///
/// Findings of the parser go to `linter`, in upstream's order, up to the point where parsing fails.
pub fn parse(source: &[u8], linter: &mut lint::Linter) -> Result<Dockerfile, Error> {
    build::file(source, linter, Err)
}

/// Parses what can be understood of a Dockerfile that somebody is still writing.
///
/// Each instruction that cannot be parsed is left out and has its error in the list: first what cannot be split into
/// instructions, then what makes no sense, each from top to bottom. The first error is what [`parse`] returns. Where it is
/// a `FROM`, the instructions up to the next one are checked and left out as well; where it is a heredoc without an end,
/// the lines below it are read as instructions. After a line that is too long nothing is read.
///
/// ```
/// use dockerfile_syntax::{lint::Linter, parse_leniently};
///
/// let (file, errors) = parse_leniently(b"FROM alpine\nRUM make\nUSER me\n", &mut Linter::off());
/// assert_eq!(file.stages[0].instructions.len(), 1);
/// assert_eq!(errors[0].span.map(|span| span.first), Some(2));
/// assert!(errors[0].to_string().ends_with("unknown instruction: RUM (did you mean RUN?)"));
/// ```
pub fn parse_leniently(source: &[u8], linter: &mut lint::Linter) -> (Dockerfile, Vec<Error>) {
    let mut errors = Vec::new();
    let file = build::file(source, linter, |err| {
        errors.push(err);
        Ok(())
    });
    // Whatever fails is in the list: nothing is returned.
    (file.unwrap_or_default(), errors)
}

/// Parses the one instruction that an image or stage stored by `ONBUILD`.
///
/// Problems are without a place of their own; they belong to the `FROM` that pulled the trigger in.
pub fn parse_trigger(expression: &str) -> Result<Instruction, Problem> {
    build::trigger(expression)
}
