//! What went wrong with which path, worded the way users of upstream know it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use fault::{Class, Classify};

/// A file operation that failed: `lstat /x: no such file or directory`.
#[derive(Debug, thiserror::Error)]
#[error("{op} {}", path.display())]
pub struct Error {
    /// What was tried, named like the system call: `open`, `lstat`, `mkdir`.
    pub op: &'static str,
    /// The path inside the tree.
    pub path: PathBuf,
    /// Why it failed.
    pub source: Cause,
}

impl Error {
    /// An error of `op` on `path`.
    pub fn new(op: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Self {
        Self {
            op,
            path: path.as_ref().to_owned(),
            source: Cause(source.into()),
        }
    }

    /// The kind of the system's error.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.0.kind()
    }

    /// Whether the path, or a directory on the way to it, is not there.
    pub fn is_missing(&self) -> bool {
        is_missing(&self.source.0)
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        self.source.0.class()
    }
}

/// The system's answer, printed in lower case and without the number.
#[derive(Debug)]
pub struct Cause(pub io::Error);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&errno_text(&self.0))
    }
}

impl std::error::Error for Cause {}

/// The text of a system error as Go programs print it: `no such file or directory`.
pub fn errno_text(err: &io::Error) -> String {
    let full = err.to_string();
    if err.raw_os_error().is_none() {
        return full;
    }
    let text = full.split(" (os error ").next().unwrap_or(&full);
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(first), Some(second)) if first.is_uppercase() && second.is_lowercase() => {
            format!("{}{}", first.to_lowercase(), &text[first.len_utf8()..])
        }
        _ => text.to_owned(),
    }
}

/// Whether this says that the path or one of its directories does not exist.
pub(crate) fn is_missing(err: &io::Error) -> bool {
    matches!(
        err.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_reads_as_upstream_words_it() {
        let err = Error::new("lstat", "/x", io::Error::from_raw_os_error(2));
        assert_eq!(fault::chain(&err), "lstat /x: no such file or directory");
        assert_eq!(err.class(), Class::NotFound);
    }
}
