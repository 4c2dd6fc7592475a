//! Why a transfer failed.

use std::io;
use std::path::PathBuf;

use diagnostics::Failure;
use fault::{Class, Classify};
use fstree::errno_text;
use tasks::Cancelled;
use tonic::Status;

/// Why a transfer failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The sender gave up.
    #[error("error from sender: {text}")]
    FromSender {
        /// What it said.
        text: String,
    },

    /// The receiver gave up.
    #[error("error from receiver: {text}")]
    FromReceiver {
        /// What it said.
        text: String,
    },

    /// A path is not in its shortest form.
    #[error("unclean path {path}: invalid argument")]
    Unclean {
        /// The path.
        path: String,
    },

    /// A path begins at the root of the machine.
    #[error("absolute path {path}: invalid argument")]
    Absolute {
        /// The path.
        path: String,
    },

    /// A path leads out of the tree.
    #[error("escape check {path}: invalid argument")]
    Escape {
        /// The path.
        path: String,
    },

    /// Entries come in the wrong order, or below something that is no directory.
    #[error("changes out of order: {path:?} {last:?}")]
    Order {
        /// The path.
        path: String,
        /// The entry before it.
        last: String,
    },

    /// A hard link to something that cannot be linked to.
    #[error("invalid link {path} to unknown path: {target:?}")]
    Link {
        /// The link.
        path: String,
        /// What it should be a name of.
        target: String,
    },

    /// Content came for a file nobody asked for.
    #[error("invalid file request {id}")]
    NotRequested {
        /// Number of the file.
        id: u32,
    },

    /// A file was asked for that was not listed, or twice.
    #[error("invalid file id {id}")]
    UnknownId {
        /// Number of the file.
        id: u32,
    },

    /// A name, link target or attribute that messages cannot carry.
    #[error("{} cannot be sent: not valid UTF-8", path.display())]
    NotText {
        /// The path.
        path: PathBuf,
    },

    /// The stream ended in the middle.
    #[error("unexpected EOF")]
    Eof,

    /// The session offers no local directories.
    #[error("no local sources enabled")]
    NoLocalSources,

    /// A file operation failed.
    #[error("{op} {}: {}", path.display(), errno_text(source))]
    Io {
        /// What was tried.
        op: &'static str,
        /// The path inside the tree.
        path: PathBuf,
        /// Why it failed; part of the text already.
        source: io::Error,
    },

    /// A tree could not be read.
    #[error(transparent)]
    Tree(#[from] fstree::Error),

    /// A filter makes no sense.
    #[error(transparent)]
    Filter(#[from] fstree::FilterError),

    /// A list of patterns makes no sense.
    #[error(transparent)]
    Pattern(#[from] fstree::PatternError),

    /// The session failed.
    #[error(transparent)]
    Session(#[from] session::Error),

    /// The call failed.
    #[error(transparent)]
    Call(Failure),

    /// Somebody asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl Error {
    pub(crate) fn io(
        op: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::Io {
            op,
            path: path.into(),
            source: source.into(),
        }
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Call(Failure::from_status(&status))
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::FromSender { .. } | Self::FromReceiver { .. } | Self::NotText { .. } => {
                Class::User
            }
            Self::Unclean { .. }
            | Self::Absolute { .. }
            | Self::Escape { .. }
            | Self::Order { .. }
            | Self::Link { .. }
            | Self::NotRequested { .. }
            | Self::UnknownId { .. }
            | Self::NoLocalSources => Class::User,
            Self::Eof => Class::Unavailable,
            Self::Io { source, .. } => source.class(),
            Self::Tree(err) => err.class(),
            Self::Filter(err) => err.class(),
            Self::Pattern(err) => err.class(),
            Self::Session(err) => err.class(),
            Self::Call(failure) => failure.class(),
            Self::Cancelled(cancelled) => cancelled.class(),
        }
    }
}

impl From<Error> for Failure {
    fn from(err: Error) -> Self {
        match err {
            Error::Call(failure) => failure,
            Error::Session(err) => err.into(),
            // The text of the system's error is in the text already.
            Error::Io { .. } => Failure::new(err.class(), err.to_string()),
            other => Failure::from_error(&other),
        }
    }
}
