//! Reads Dockerfiles: lexer, parser, typed instructions, shell words, lint rules.
//!
//! [`parse`] turns bytes into a [`Dockerfile`]: directives, stages and typed instructions, each with its lines, its text,
//! its comments and its flags as written. Nothing is expanded or looked up; [`shell`] has the language of words in which
//! `ENV`, `COPY` and others are written, for whoever gives a file its meaning. Findings go into a [`lint::Linter`].
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

pub use ast::*;
pub use error::{Error, Problem};
pub use heredoc::Heredoc;
pub use source::Text;
pub use span::{Position, Span};

/// Parses a Dockerfile.
///
/// Findings of the parser go to `linter`, in upstream's order, up to the point where parsing fails.
pub fn parse(source: &[u8], linter: &mut lint::Linter) -> Result<Dockerfile, Error> {
    build::file(source, linter)
}

/// Parses the one instruction that an image or stage stored by `ONBUILD`.
///
/// Problems are without a place of their own; they belong to the `FROM` that pulled the trigger in.
pub fn parse_trigger(expression: &str) -> Result<Instruction, Problem> {
    build::trigger(expression)
}
