//! Why a cache cannot be used.

use fault::{Class, Classify};
use oci::Digest;

/// Why a cache cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option is wrong or missing: the complete text.
    #[error("{text}")]
    Option {
        /// The complete text.
        text: String,
    },
    /// There is no such kind of cache.
    #[error("unknown cache {role}: {kind}")]
    Unknown {
        /// `importer` or `exporter`.
        role: &'static str,
        /// What was asked for.
        kind: String,
    },
    /// The manifest is neither an image nor an index.
    #[error("unsupported or uninferrable manifest type")]
    Manifest,
    /// A document is not JSON of the right shape.
    #[error("failed to parse {what}")]
    Json {
        /// Which.
        what: String,
        /// Cause.
        #[source]
        source: serde_json::Error,
    },
    /// The records of a document contradict each other.
    #[error("{text}")]
    Document {
        /// The complete text.
        text: String,
    },
    /// A document is larger than anybody would write.
    #[error("blob {digest} is too large ({size} > {limit})")]
    TooLarge {
        /// Which.
        digest: Digest,
        /// Its size.
        size: i64,
        /// What is accepted.
        limit: i64,
    },
    /// Where the cache is, something failed: the complete text.
    #[error("{text}")]
    Place {
        /// The complete text.
        text: String,
        /// Class.
        class: Class,
    },
    /// The daemon's cache failed.
    #[error(transparent)]
    Cache(#[from] cache::Error),
    /// The daemon's blobs failed.
    #[error(transparent)]
    Content(#[from] content::Error),
    /// A blob that the cache names is not there any more.
    #[error("blob {blob}: not found")]
    Lost {
        /// Its digest.
        blob: oci::Digest,
    },
    /// Somebody asked to stop.
    #[error(transparent)]
    Cancelled(#[from] tasks::Cancelled),
}

impl Error {
    /// A wrong option.
    pub fn option(text: impl Into<String>) -> Self {
        Self::Option { text: text.into() }
    }

    /// From the error of wherever the cache is; the text is the whole chain.
    pub fn place<E: std::error::Error + Classify + 'static>(err: &E) -> Self {
        Self::Place {
            text: fault::chain(err),
            class: err.class(),
        }
    }

    /// From the error of a place that does not have the cache. Compat: upstream looks for it when it makes an importer.
    pub fn absent<E: std::error::Error + Classify + 'static>(kind: &str, err: &E) -> Self {
        let text = fault::chain(err);
        Self::Place {
            text: format!("failed to configure {kind} cache importer: {text}"),
            class: err.class(),
        }
    }

    pub(crate) fn document(text: impl Into<String>) -> Self {
        Self::Document { text: text.into() }
    }

    pub(crate) fn json(what: impl Into<String>) -> impl FnOnce(serde_json::Error) -> Self {
        let what = what.into();
        move |source| Self::Json { what, source }
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::Option { .. }
            | Self::Unknown { .. }
            | Self::Manifest
            | Self::Json { .. }
            | Self::Document { .. }
            | Self::TooLarge { .. } => Class::User,
            Self::Place { class, .. } => *class,
            Self::Lost { .. } => Class::NotFound,
            Self::Cache(err) => err.class(),
            Self::Content(err) => err.class(),
            Self::Cancelled(err) => err.class(),
        }
    }
}
