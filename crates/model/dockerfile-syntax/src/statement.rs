//! First half of parsing: from lines to statements, each with its words but not yet with a meaning.
//!
//! A statement is one instruction: physical lines joined, comments taken out, heredoc bodies collected, flags and
//! arguments told apart by the form its name asks for. Names nobody knows pass; the second half refuses them.

use std::borrow::Cow;

use bytestring::ByteString;

use crate::args::{self, Args};
use crate::ast::Flag;
use crate::directive::{Directive, Key, Reader};
use crate::error::{Error, Problem};
use crate::heredoc::{self, Heredoc};
use crate::source::{Joining, Lines, Text, text_of, without_bom, without_line_end};
use crate::span::{Position, Span};

/// The instructions.
pub(crate) const NAMES: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// One instruction.
#[derive(Debug)]
pub(crate) struct Statement {
    pub(crate) keyword: Cow<'static, str>,
    pub(crate) flags: Vec<Flag>,
    pub(crate) args: Args,
    pub(crate) heredocs: Vec<Heredoc>,
    pub(crate) text: Text,
    pub(crate) span: Span,
    pub(crate) comments: Vec<String>,
}

/// All statements of a file.
#[derive(Debug)]
pub(crate) struct Statements {
    pub(crate) escape: char,
    pub(crate) directives: Vec<Directive>,
    pub(crate) list: Vec<Statement>,
    /// Last lines of instructions with blank lines in between, heredoc bodies not counted.
    pub(crate) empty_continuations: Vec<u32>,
}

/// Splits a file into statements. What cannot be read is handed to `failed`, and left out if that says to go on.
pub(crate) fn read(
    source: &[u8],
    mut failed: impl FnMut(Error) -> Result<(), Error>,
) -> Result<Statements, Error> {
    // Words are parts of one copy of the file, unless it holds what is no text.
    let whole = std::str::from_utf8(source).ok().map(ByteString::from);
    let own = whole.as_ref().map_or(source, |whole| whole.as_bytes());
    let mut reader = FileReader {
        whole: whole.as_ref(),
        bom: source.len() - without_bom(source).len(),
        lines: Lines::new(without_bom(own)),
        directives: Reader::new("#"),
        comments: Vec::new(),
        found: Statements {
            escape: '\\',
            directives: Vec::new(),
            // Most instructions are longer.
            list: Vec::with_capacity(source.len() / 24),
            empty_continuations: Vec::new(),
        },
    };
    loop {
        match reader.statement() {
            Ok(true) => {}
            Ok(false) => break,
            Err(err) => failed(err)?,
        }
    }
    if reader.bom == source.len() {
        // The line the mark stands on.
        reader.lines.count = 1;
    }
    let here = Span::line(reader.lines.count);
    if reader.found.list.is_empty() {
        failed(Problem::NoInstructions.at(here))?;
    }
    if reader.lines.too_long {
        failed(Problem::LineTooLong.at(here))?;
    }
    Ok(reader.found)
}

struct FileReader<'a> {
    /// What the lines are of, if it is text.
    whole: Option<&'a ByteString>,
    lines: Lines<'a>,
    /// Bytes in front of the first line.
    bom: usize,
    directives: Reader,
    comments: Vec<String>,
    found: Statements,
}

impl<'a> FileReader<'a> {
    /// A line as text, without its line end. A file that is text is not looked at again.
    fn text(&self, line: &'a [u8]) -> Cow<'a, str> {
        let line = without_line_end(line);
        let known = self.whole.and_then(|whole| {
            let start = line.as_ptr().addr().checked_sub(whole.as_ptr().addr())?;
            whole.get(start..start + line.len())
        });
        known.map_or_else(|| text_of(line), Cow::Borrowed)
    }

    /// Reads up to the end of the next statement, or over one line without any. False at the end of the file.
    fn statement(&mut self) -> Result<bool, Error> {
        let Some(raw) = self.lines.next_raw() else {
            return Ok(false);
        };
        let first = self.lines.count;
        let whole = self.text(raw);
        let line = whole.trim_start();
        if line.starts_with('#') {
            self.comment(&whole, line)?;
            return Ok(true);
        }
        // Whatever comes after a line that is no directive is none either.
        let _ = self.directives.line(line, first);

        let escape = self.found.escape;
        let indent = whole.len() - line.len() + if first == 1 { self.bom } else { 0 };
        let (piece, mut open) = without_continuation(line, escape);
        if piece.is_empty() && !open {
            return Ok(true);
        }
        let begin = match self.whole {
            Some(whole) => whole.slice_ref(piece),
            None => piece.into(),
        };
        let mut text = Joining::new(begin, position(first, indent));
        let mut blank_lines = false;
        while open {
            let Some(raw) = self.lines.next_raw() else {
                break;
            };
            let line = self.text(raw);
            let trimmed = line.trim_start();
            if trimmed.is_empty() {
                blank_lines = true;
            } else if !trimmed.starts_with('#') {
                let piece;
                (piece, open) = without_continuation(&line, escape);
                text.push(piece, position(self.lines.count, 0));
            }
        }
        let text = text.finish();
        if blank_lines {
            self.found.empty_continuations.push(self.lines.count);
        }
        self.finish(first, text)?;
        Ok(true)
    }

    /// A comment line, which may be a directive.
    fn comment(&mut self, whole: &str, line: &str) -> Result<(), Error> {
        let number = self.lines.count;
        // Compat: places of bad directives count the lines before them, see parser/parser.go.
        let before = Span::line(number - 1);
        match self
            .directives
            .line(line, number)
            .map_err(|problem| problem.at(before))?
        {
            Some(directive) => {
                if directive.key == Key::Escape {
                    self.found.escape = match directive.value.as_str() {
                        "\\" => '\\',
                        "`" => '`',
                        other => return Err(Problem::EscapeToken(other.to_owned()).at(before)),
                    };
                }
                self.found.directives.push(directive);
            }
            None => {
                // Compat: the first character goes even if it is not the `#`, see parser/parser.go.
                let mut rest = whole.chars();
                rest.next();
                match rest.as_str().trim() {
                    "" => self.comments.clear(),
                    text => self.comments.push(text.to_owned()),
                }
            }
        }
        Ok(())
    }

    /// Makes a statement of joined lines and reads the documents that follow.
    fn finish(&mut self, first: u32, mut text: Text) -> Result<(), Error> {
        let here = |last: u32| Span { first, last };
        let comments = std::mem::take(&mut self.comments);
        let parts = split(text.untrimmed(), text.untrimmed(), self.found.escape, 0)
            .map_err(|problem| problem.at(here(self.lines.count)))?;
        let mut heredocs = Vec::new();
        if parts.takes_heredocs() && text.untrimmed().contains("<<") {
            let below = self.lines.clone();
            for mut document in heredoc::in_line(text.untrimmed()) {
                if !self.body(&mut document, &mut text) {
                    let err = Problem::OpenHeredoc.at(here(self.lines.count));
                    // Whoever goes on takes the lines for instructions again.
                    self.lines = below;
                    return Err(err);
                }
                heredocs.push(document);
            }
        }
        let Parts {
            keyword,
            mut flags,
            args,
        } = parts;
        let indent = text.untrimmed().len() - text.untrimmed().trim_start().len();
        for flag in &mut flags {
            flag.range = flag.range.start - indent..flag.range.end - indent;
        }
        self.found.list.push(Statement {
            keyword,
            flags,
            args,
            heredocs,
            text,
            span: here(self.lines.count),
            comments,
        });
        Ok(())
    }

    /// Reads the body of a document. False if its end is missing.
    fn body(&mut self, document: &mut Heredoc, text: &mut Text) -> bool {
        while let Some(raw) = self.lines.next_raw() {
            text.push_below(raw);
            let mut end = without_line_end(raw);
            if document.chomp {
                let tabs = end.iter().take_while(|&&byte| byte == b'\t').count();
                end = &end[tabs..];
            }
            if end == document.name.as_bytes() {
                return true;
            }
            document.content.extend_from_slice(raw);
        }
        false
    }
}

fn position(line: u32, column: usize) -> Position {
    Position {
        line,
        column: u32::try_from(column).unwrap_or(u32::MAX),
    }
}

/// The line without an escape character at its end that joins it with the next one, and whether there was one.
fn without_continuation(line: &str, escape: char) -> (&str, bool) {
    match line.trim_end_matches([' ', '\t']).strip_suffix(escape) {
        // Escaped itself, it joins nothing.
        Some(rest) if !rest.ends_with(escape) => (rest, true),
        _ => (line, false),
    }
}

/// Name, flags and arguments of a joined line.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) keyword: Cow<'static, str>,
    pub(crate) flags: Vec<Flag>,
    pub(crate) args: Args,
}

impl Parts {
    fn takes_heredocs(&self) -> bool {
        let inner = match &self.args {
            Args::Instruction(inner) if self.keyword.eq_ignore_ascii_case("onbuild") => inner,
            _ => self,
        };
        let name = &*inner.keyword;
        let known = ["run", "copy", "add"]
            .iter()
            .any(|known| known.eq_ignore_ascii_case(name));
        known && !matches!(inner.args, Args::Json(_))
    }
}

/// The blanks between the parts of a line.
pub(crate) const BLANKS: [char; 5] = ['\t', '\u{b}', '\u{c}', '\r', ' '];

/// Splits a joined line, or what is left of one, `line`. Ranges of flags count from its start.
pub(crate) fn split(
    whole: &ByteString,
    line: &str,
    escape: char,
    depth: usize,
) -> Result<Parts, Problem> {
    let trimmed = line.trim();
    let (keyword, rest) = trimmed.split_once(BLANKS).unwrap_or((trimmed, ""));
    let rest = rest.trim_start_matches(BLANKS);
    // Nothing but blanks was cut off in front of what is left.
    let offset = line.trim_end().len() - rest.len();
    let (flags, rest) = args::leading_flags(whole, rest, escape, offset);
    let args = args::parse(whole, keyword, rest.trim(), escape, depth)?;
    Ok(Parts {
        keyword: known(keyword).map_or_else(|| keyword.to_owned().into(), Cow::Borrowed),
        flags,
        args,
    })
}

/// The name of an instruction, written as it is commonly written.
fn known(keyword: &str) -> Option<&'static str> {
    NAMES.into_iter().find(|name| *name == keyword)
}
