//! Why something with the database failed.

use std::io;
use std::path::PathBuf;

use fault::{Class, Classify};

/// Why something with the database failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has the file open.
    #[error("database {} is in use by another process", .path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A file could not be read or written.
    #[error("database file {}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The database file cannot be used.
    #[error("database failed to {action}")]
    Storage {
        /// What was tried.
        action: &'static str,
        /// Cause.
        #[source]
        source: Box<redb::Error>,
    },
    /// What the changes talk about could not be synced.
    #[error("failed to sync the files of the store")]
    Sync {
        /// Cause.
        #[source]
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn storage<E: Into<redb::Error>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |err| Self::Storage {
            action,
            source: Box::new(err.into()),
        }
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::InUse { .. } => Class::Unavailable,
            Self::File { source, .. } | Self::Sync { source } => {
                fault::class_of(source, Class::Internal)
            }
            Self::Storage { source, .. } => match source.as_ref() {
                redb::Error::Io(err) => fault::class_of(err, Class::Internal),
                _ => Class::Internal,
            },
        }
    }
}
