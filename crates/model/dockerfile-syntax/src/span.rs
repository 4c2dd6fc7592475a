//! Places in a Dockerfile: spans of whole lines, and single positions.

/// The lines something covers, counted from 1, both ends included.
///
/// Problems with parser directives are reported one line too early, so line 0 occurs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span {
    /// First line.
    pub first: u32,
    /// Last line; equal to `first` for one line.
    pub last: u32,
}

impl Span {
    /// The span of a single line.
    pub fn line(line: u32) -> Self {
        Self {
            first: line,
            last: line,
        }
    }

    /// Each line of the span. Clients are sent one range per line.
    pub fn lines(self) -> impl DoubleEndedIterator<Item = u32> + ExactSizeIterator {
        let end = self.last.max(self.first);
        self.first..end.saturating_add(1)
    }
}

/// One place in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Line, counted from 1.
    pub line: u32,
    /// Byte in that line, counted from 0.
    pub column: u32,
}
