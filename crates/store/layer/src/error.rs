//! Why something with layers failed.

use std::io;
use std::path::PathBuf;

use fault::{Class, Classify};
use oci::Digest;

/// Why something with layers failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading or writing a tree failed.
    #[error(transparent)]
    Tree(#[from] fstree::Error),
    /// A blob could not be read or written.
    #[error(transparent)]
    Content(#[from] content::Error),
    /// Somebody asked to stop.
    #[error(transparent)]
    Cancelled(#[from] tasks::Cancelled),
    /// A directory of an overlay was renamed in a way that only the kernel can follow.
    #[error("redirect_dir is used but it's not supported in overlayfs differ")]
    Redirect,
    /// A file changed while it was read.
    #[error("{} changed while its layer was made", .path.display())]
    Changed {
        /// Which file.
        path: PathBuf,
    },
    /// The encoder has no such level.
    #[error("failed to get compressed stream: gzip: invalid compression level: {level}")]
    Level {
        /// What was asked for.
        level: i64,
    },
    /// Writing the archive failed.
    #[error("failed to write layer")]
    Write {
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The blob is no archive, or its compression is broken.
    #[error("failed to read layer {digest}")]
    Read {
        /// Which blob.
        digest: Digest,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The archive says something that cannot be done.
    #[error("{text}")]
    Archive {
        /// What, in upstream's words.
        text: String,
    },
    /// The archive is not the one that was promised.
    #[error("wrong diff id calculated on extraction {actual}, expected {expected}")]
    DiffId {
        /// What it is.
        actual: Digest,
        /// What it should be.
        expected: Digest,
    },
    /// An operation on the target failed.
    #[error("{what}")]
    Target {
        /// Which, with the path, in upstream's words.
        what: String,
        /// Cause.
        #[source]
        source: fstree::Cause,
    },
}

impl Error {
    pub(crate) fn target(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Target {
            what: what.into(),
            source: fstree::Cause(source.into()),
        }
    }

    pub(crate) fn archive(text: impl Into<String>) -> Self {
        Self::Archive { text: text.into() }
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::Tree(err) => err.class(),
            Self::Content(err) => err.class(),
            Self::Cancelled(_) => Class::Cancelled,
            Self::Redirect | Self::Changed { .. } => Class::Internal,
            Self::Write { source } => fault::class_of(source, Class::Internal),
            Self::Level { .. } | Self::Read { .. } | Self::Archive { .. } | Self::DiffId { .. } => {
                Class::User
            }
            Self::Target { source, .. } => fault::class_of(&source.0, Class::Internal),
        }
    }
}
