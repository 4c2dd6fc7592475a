//! Why a file operation failed, in upstream's words.

use std::io;
use std::path::{Path, PathBuf};

use fault::{Class, Classify};

/// A file operation that failed. Paths are those inside the tree.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call on a path.
    #[error(transparent)]
    File(#[from] fstree::Error),
    /// The directory a copy goes to is not there and shall not be made.
    #[error("failed to stat {dest}")]
    NoParent {
        /// As asked for.
        dest: String,
        /// What was looked at.
        source: fstree::Error,
    },
    /// The place a copy goes to cannot be looked at.
    #[error("failed to lstat destination path")]
    Destination {
        /// What was looked at.
        source: fstree::Error,
    },
    /// A wildcard path that matches nothing.
    #[error("{path} not found")]
    NoMatch {
        /// The cleaned path.
        path: String,
    },
    /// A file shall go where a directory is.
    #[error("cannot replace to directory {} with file", path.display())]
    DirectoryInTheWay {
        /// The directory.
        path: PathBuf,
    },
    /// A directory shall go where something else is.
    #[error("cannot copy to non-directory: {}", path.display())]
    FileInTheWay {
        /// What is there.
        path: PathBuf,
    },
    /// The root of a tree shall be removed.
    #[error("rmPath: invalid empty path")]
    EmptyPath,
    /// A bad include or exclude list.
    #[error(transparent)]
    Patterns(#[from] fstree::FilterError),
    /// A mode that is neither octal nor symbolic.
    #[error("invalid syntax")]
    Mode,
    /// A user or group is given by name, but no tree to look it up in.
    #[error("invalid user index: -1")]
    NoAccounts,
    /// `/etc/passwd` or `/etc/group` is something else than a file.
    #[error("{path} is not a regular file")]
    NotRegular {
        /// Which.
        path: &'static str,
    },
    /// `/etc/passwd` or `/etc/group` is too large to be read.
    #[error("{path:?} exceeds {limit} bytes")]
    TooLarge {
        /// Which.
        path: &'static str,
        /// How much is read at most.
        limit: u64,
    },
    /// An archive has an entry of a kind that cannot be unpacked.
    #[error("unhandled tar header type {kind}")]
    UnknownEntry {
        /// The type byte.
        kind: u8,
    },
    /// An archive cannot be read.
    #[error("failed to read archive")]
    Archive {
        /// Why.
        source: io::Error,
    },
    /// The work was told to stop.
    #[error(transparent)]
    Cancelled(#[from] tasks::Cancelled),
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::File(source) | Self::NoParent { source, .. } | Self::Destination { source } => {
                match source.kind() {
                    // The path says what the tree is not.
                    io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => Class::User,
                    _ => source.class(),
                }
            }
            Self::NoMatch { .. } => Class::NotFound,
            Self::Patterns(err) => err.class(),
            Self::DirectoryInTheWay { .. }
            | Self::FileInTheWay { .. }
            | Self::EmptyPath
            | Self::Mode
            | Self::NotRegular { .. }
            | Self::TooLarge { .. }
            | Self::UnknownEntry { .. }
            | Self::NoAccounts
            | Self::Archive { .. } => Class::User,
            Self::Cancelled(err) => err.class(),
        }
    }
}

/// Turns a system error into one about `path`, shown from the root of its tree.
pub(crate) fn on<E: Into<io::Error>>(
    op: &'static str,
    path: impl AsRef<Path>,
) -> impl FnOnce(E) -> Error {
    let path = fstree::path::rooted(path);
    move |err| Error::File(fstree::Error::new(op, path, err))
}
