//! Why something with blobs failed.

use std::io;
use std::path::PathBuf;

use fault::{Class, Classify};
use oci::Digest;

/// Why something with blobs failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such blob.
    #[error("content {digest}: not found")]
    NotFound {
        /// What was looked for.
        digest: Digest,
    },
    /// What was written is not what was announced.
    #[error("unexpected commit digest {actual}, expected {expected}")]
    Mismatch {
        /// What came.
        actual: Digest,
        /// What should have come.
        expected: Digest,
    },
    /// A blob is not what was stored under its name. It is gone now.
    #[error("content {digest} was damaged on disk and has been removed, try again")]
    Damaged {
        /// Which.
        digest: Digest,
    },
    /// A blob could not be read.
    #[error("failed to read blob {digest}")]
    Read {
        /// Which.
        digest: Digest,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A blob could not be written or removed.
    #[error("failed to write blob{}", .digest.as_ref().map(|digest| format!(" {digest}")).unwrap_or_default())]
    Write {
        /// Which, if that was known beforehand.
        digest: Option<Digest>,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The directory of the store cannot be used.
    #[error("content store {}", .path.display())]
    Store {
        /// Which directory.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A provider could not deliver.
    #[error("{message}")]
    Provider {
        /// Complete text.
        message: String,
        /// Class.
        class: Class,
    },
    /// Somebody asked to stop.
    #[error(transparent)]
    Cancelled(#[from] tasks::Cancelled),
}

impl Error {
    /// What a provider failed with, its whole chain as text.
    pub fn provider<E: std::error::Error + Classify + 'static>(err: &E) -> Self {
        Self::Provider {
            message: fault::chain(err),
            class: err.class(),
        }
    }

    pub(crate) fn reading(digest: &Digest) -> impl FnOnce(io::Error) -> Self + use<'_> {
        |source| match source.kind() {
            io::ErrorKind::NotFound => Self::NotFound {
                digest: digest.clone(),
            },
            _ => Self::Read {
                digest: digest.clone(),
                source,
            },
        }
    }

    pub(crate) fn writing(digest: &Digest) -> impl FnOnce(io::Error) -> Self + use<'_> {
        |source| Self::Write {
            digest: Some(digest.clone()),
            source,
        }
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::NotFound { .. } => Class::NotFound,
            Self::Mismatch { .. } | Self::Damaged { .. } => Class::Unavailable,
            Self::Read { source, .. } | Self::Write { source, .. } | Self::Store { source, .. } => {
                fault::class_of(source, Class::Internal)
            }
            Self::Provider { class, .. } => *class,
            Self::Cancelled(_) => Class::Cancelled,
        }
    }
}
