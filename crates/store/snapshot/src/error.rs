//! Why something with snapshots failed.

use std::io;
use std::path::{Path, PathBuf};

use fault::{Class, Classify};

/// Why something with snapshots failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("failed to {action} snapshot {}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The program for overlays without the kernel cannot be used.
    #[error("snapshotter fuse-overlayfs: {obstacle}")]
    NoFuse {
        /// What is missing, and what can be done.
        obstacle: String,
    },
    /// A tree could not be copied.
    #[error(transparent)]
    Copy(#[from] fstree::Error),
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl Fn(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path: path.clone(),
            source,
        }
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::Io { source, .. } => fault::class_of(source, Class::Internal),
            Self::NoFuse { .. } => Class::Unsupported,
            Self::Copy(err) => err.class(),
        }
    }
}
