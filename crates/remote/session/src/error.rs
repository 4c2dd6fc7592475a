//! Why a callback into the client failed.

use diagnostics::Failure;
use fault::{Class, Classify};
use tasks::Cancelled;
use tonic::{Code, Status};

/// Why a callback into the client failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The session did not come in time.
    #[error("no active session for {id}: context deadline exceeded")]
    NotActive {
        /// Id that was looked up.
        id: String,
    },

    /// The build has no session at all.
    #[error("no active sessions")]
    NoSessions,

    /// The client does not offer the method.
    #[error("method {method} not supported by the client")]
    Unsupported {
        /// Full path of the method.
        method: String,
    },

    /// The client has no such secret.
    #[error("secret {id}: not found")]
    SecretMissing {
        /// Id of the secret.
        id: String,
    },

    /// The client forwards no such agent.
    #[error("no SSH key \"{id}\" forwarded from the client")]
    NoAgent {
        /// Id of the agent as the mount gives it.
        id: String,
    },

    /// The client did not answer in time.
    #[error("{operation}: context deadline exceeded")]
    TimedOut {
        /// What was asked.
        operation: &'static str,
    },

    /// A key of a token authority has the wrong size.
    #[error("invalid pubkey length {length}")]
    KeyLength {
        /// Bytes it has.
        length: usize,
    },

    /// The stream that should open a session does not say what it must.
    #[error("missing {key} in the metadata of a session")]
    MissingMetadata {
        /// The key.
        key: &'static str,
    },

    /// The connection inside the session could not be made.
    #[error("failed to connect to the session {id}: {reason}")]
    Connect {
        /// Id of the session.
        id: String,
        /// Why.
        reason: String,
    },

    /// A name that no header can carry.
    #[error("header key {key:?} contains value with non-printable ASCII characters")]
    Header {
        /// The header.
        key: &'static str,
    },

    /// The socket for a forwarded agent could not be made.
    #[error("failed to make the agent socket: {reason}")]
    Socket {
        /// Why.
        reason: String,
    },

    /// A blob of the client is not what its name says.
    #[error("unexpected content {actual} of {expected}")]
    Mismatch {
        /// Its name.
        expected: oci::Digest,
        /// What came.
        actual: oci::Digest,
    },

    /// A blob could not be read or written on the way.
    #[error("failed to transfer a blob: {reason}")]
    Blob {
        /// Why.
        reason: String,
    },

    /// The daemon's own store failed.
    #[error("{message}")]
    Store {
        /// Complete text.
        message: String,
        /// Class.
        class: Class,
    },

    /// The build, or the session, ended.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),

    /// What the client answered.
    #[error(transparent)]
    Answer(#[from] Failure),
}

impl Error {
    /// The gRPC code of the client's answer, if that is what failed.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Answer(failure) => Some(failure.code()),
            _ => None,
        }
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Answer(Failure::from_status(&status))
    }
}

impl From<content::Error> for Error {
    fn from(err: content::Error) -> Self {
        match err {
            content::Error::Cancelled(cancelled) => Self::Cancelled(cancelled),
            err => Self::Store {
                message: fault::chain(&err),
                class: err.class(),
            },
        }
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::NotActive { .. } | Self::TimedOut { .. } => Class::TimedOut,
            Self::NoSessions | Self::KeyLength { .. } | Self::MissingMetadata { .. } => Class::User,
            Self::NoAgent { .. } | Self::SecretMissing { .. } | Self::Header { .. } => Class::User,
            Self::Unsupported { .. } => Class::Unsupported,
            Self::Connect { .. } | Self::Mismatch { .. } => Class::Unavailable,
            Self::Blob { .. } => Class::Internal,
            Self::Store { class, .. } => *class,
            Self::Socket { .. } => Class::Internal,
            Self::Cancelled(cancelled) => cancelled.class(),
            Self::Answer(failure) => failure.class(),
        }
    }
}

impl From<Error> for Failure {
    fn from(err: Error) -> Self {
        match err {
            Error::Answer(failure) => failure,
            other => Failure::from_error(&other),
        }
    }
}
