//! Why something with the cache failed.

use std::io;

use fault::{Class, Classify};

use crate::RefId;

/// Why something with the cache failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such record.
    #[error("{id}: not found")]
    NotFound {
        /// Which.
        id: RefId,
    },
    /// Somebody uses the record, or other records stand on it.
    #[error("{id}: in use")]
    InUse {
        /// Which.
        id: RefId,
    },
    /// The tree of the record was not fetched and unpacked yet.
    #[error("{id}: layers are not unpacked")]
    Lazy {
        /// Which.
        id: RefId,
    },
    /// A layer is neither here nor is it known where to get it.
    #[error("missing blob for layer {digest} and no provider for it")]
    NoProvider {
        /// The blob.
        digest: oci::Digest,
    },
    /// A file operation of the cache itself failed.
    #[error("failed to {action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// What stands in the database cannot be understood.
    #[error("record {id} is damaged")]
    Damaged {
        /// Which.
        id: RefId,
        /// Cause.
        #[source]
        source: serde_json::Error,
    },
    /// The database failed.
    #[error(transparent)]
    Db(#[from] db::Error),
    /// The blob store failed.
    #[error(transparent)]
    Content(#[from] content::Error),
    /// The trees failed.
    #[error(transparent)]
    Snapshot(#[from] snapshot::Error),
    /// A layer could not be made or unpacked.
    #[error(transparent)]
    Layer(#[from] layer::Error),
    /// There is no checksum.
    #[error(transparent)]
    Checksum(#[from] contenthash::Error),
    /// Somebody asked to stop.
    #[error(transparent)]
    Cancelled(#[from] tasks::Cancelled),
}

impl Error {
    pub(crate) fn io(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, source }
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::NotFound { .. } | Self::NoProvider { .. } => Class::NotFound,
            Self::InUse { .. } => Class::Unavailable,
            Self::Lazy { .. } | Self::Damaged { .. } => Class::Internal,
            Self::Io { source, .. } => fault::class_of(source, Class::Internal),
            Self::Db(err) => err.class(),
            Self::Content(err) => err.class(),
            Self::Snapshot(err) => err.class(),
            Self::Layer(err) => err.class(),
            Self::Checksum(err) => err.class(),
            Self::Cancelled(err) => err.class(),
        }
    }
}
