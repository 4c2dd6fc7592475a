//! Text of instructions, and where it came from.

use std::borrow::Cow;
use std::fmt;
use std::ops::{Deref, Range};

use bytestring::ByteString;

use crate::span::Position;

/// An instruction on one line: continuation lines joined, comments between them gone.
///
/// Dereferences to the text without outer blanks. Each byte of it can be traced back with [`Text::locate`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Text {
    line: ByteString,
    trimmed: Range<usize>,
    /// Where the first physical line is in the file.
    first: Option<Position>,
    /// Where in `line` each further physical line starts, and where that is in the file.
    further: Vec<(usize, Position)>,
    /// The lines of the documents below it, as written.
    documents: Vec<u8>,
}

impl Text {
    /// The text without outer blanks.
    pub fn as_str(&self) -> &str {
        &self.line[self.trimmed.clone()]
    }

    /// Where in the file the byte at `offset` was written.
    pub fn locate(&self, offset: usize) -> Option<Position> {
        let offset = offset + self.trimmed.start;
        if offset > self.line.len() {
            return None;
        }
        let before = self.further.partition_point(|(start, _)| *start <= offset);
        let (start, position) = match before.checked_sub(1) {
            Some(index) => self.further[index],
            None => (0, self.first?),
        };
        let column = position.column + u32::try_from(offset - start).ok()?;
        Some(Position { column, ..position })
    }

    /// The text with outer blanks, as stored for triggers.
    pub(crate) fn untrimmed(&self) -> &ByteString {
        &self.line
    }

    /// Adds a line of a document below the instruction.
    pub(crate) fn push_below(&mut self, line: &[u8]) {
        self.documents.extend_from_slice(line);
    }

    /// The lines of the documents below it.
    pub(crate) fn below(&self) -> &[u8] {
        &self.documents
    }
}

/// A text to which physical lines are added.
#[derive(Debug, Default)]
pub(crate) struct Joining {
    text: Text,
    /// All of it, if it is more than one line.
    joined: Option<String>,
}

impl Joining {
    /// Begins with a physical line whose first byte here stands at `position`.
    pub(crate) fn new(piece: ByteString, position: Position) -> Self {
        Self {
            text: Text {
                line: piece,
                first: Some(position),
                ..Text::default()
            },
            joined: None,
        }
    }

    /// Adds a physical line.
    pub(crate) fn push(&mut self, piece: &str, position: Position) {
        let line = &self.text.line;
        let joined = self.joined.get_or_insert_with(|| line.to_string());
        self.text.further.push((joined.len(), position));
        joined.push_str(piece);
    }

    pub(crate) fn finish(self) -> Text {
        let mut text = self.text;
        if let Some(joined) = self.joined {
            text.line = joined.into();
        }
        let start = text.line.len() - text.line.trim_start().len();
        text.trimmed = start..start.max(text.line.trim_end().len());
        text
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The longest line that is read, without its line feed.
pub(crate) const MAX_LINE: usize = 65535;

/// Reads physical lines and counts them.
#[derive(Debug, Clone)]
pub(crate) struct Lines<'a> {
    rest: &'a [u8],
    /// How many lines were read.
    pub(crate) count: u32,
    /// Set when reading stopped at a line that is too long.
    pub(crate) too_long: bool,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(source: &'a [u8]) -> Self {
        Self {
            rest: source,
            count: 0,
            too_long: false,
        }
    }

    /// The next line with its line end.
    pub(crate) fn next_raw(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() || self.too_long {
            return None;
        }
        let feed = self.rest.iter().position(|&byte| byte == b'\n');
        if feed.unwrap_or(self.rest.len()) > MAX_LINE {
            self.too_long = true;
            return None;
        }
        let (line, rest) = self
            .rest
            .split_at(feed.map_or(self.rest.len(), |at| at + 1));
        self.rest = rest;
        self.count += 1;
        Some(line)
    }
}

/// A line as text, without its line end.
pub(crate) fn text_of(line: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(without_line_end(line))
}

pub(crate) fn without_line_end(line: &[u8]) -> &[u8] {
    let end = line
        .iter()
        .rposition(|byte| !matches!(byte, b'\r' | b'\n'))
        .map_or(0, |at| at + 1);
    &line[..end]
}

/// The file without its byte order mark.
pub(crate) fn without_bom(source: &[u8]) -> &[u8] {
    source.strip_prefix(b"\xef\xbb\xbf").unwrap_or(source)
}
