//! Why a file cannot be had.

use fault::{Class, Classify};
use oci::Digest;

/// Why a file cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL is none.
    #[error("parse {url:?}: {source}")]
    Url {
        /// What was given.
        url: String,
        /// Why not.
        source: url::ParseError,
    },
    /// The server could not be reached, or the connection broke.
    #[error("{method} {url:?}: {reason}")]
    Request {
        /// `Get` or `Head`.
        method: &'static str,
        /// Where, without passwords.
        url: String,
        /// Why.
        reason: String,
    },
    /// The server says no.
    #[error("invalid response status {status}")]
    Status {
        /// What it says.
        status: u16,
    },
    /// The server says that something is as it was which is not here.
    #[error("invalid not-modified ETag: {tag}")]
    NotModified {
        /// What it is talking about.
        tag: String,
    },
    /// The file is another one.
    #[error("digest mismatch {actual}: {expected}")]
    Mismatch {
        /// What came.
        actual: Digest,
        /// What should have come.
        expected: Digest,
    },
    /// The build has seen another file behind the URL already.
    #[error("digest mismatch for {url}: {actual} (expected: {expected})")]
    Changed {
        /// Where.
        url: String,
        /// What it has seen.
        actual: Digest,
        /// What is wanted.
        expected: Digest,
    },
    /// There is no such secret.
    #[error("failed to retrieve HTTP auth secret {name}")]
    Secret {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: session::Error,
    },
    /// A secret cannot be sent.
    #[error("secret {name} is no valid header")]
    Header {
        /// Its name.
        name: String,
    },
    /// The file cannot be made.
    #[error(transparent)]
    Open(std::io::Error),
    /// The file cannot be written or read.
    #[error("failed to {what} the file")]
    File {
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Connections cannot be made at all.
    #[error("failed to set up connections: {reason}")]
    Setup {
        /// Why.
        reason: String,
    },
    /// The client failed.
    #[error(transparent)]
    Session(#[from] session::Error),
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] cache::Error),
    /// The build ended.
    #[error(transparent)]
    Cancelled(#[from] tasks::Cancelled),
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::Url { .. }
            | Self::Status { .. }
            | Self::NotModified { .. }
            | Self::Mismatch { .. }
            | Self::Changed { .. }
            | Self::Secret { .. }
            | Self::Header { .. } => Class::User,
            Self::Request { .. } => Class::Unavailable,
            Self::Open(err) => err.class(),
            Self::File { .. } | Self::Setup { .. } => Class::Internal,
            Self::Session(err) => err.class(),
            Self::Cache(err) => err.class(),
            Self::Cancelled(err) => err.class(),
        }
    }
}
