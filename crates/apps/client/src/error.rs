//! Why a call to the daemon failed.

use std::path::PathBuf;

use diagnostics::Failure;
use fault::{Class, Classify};

/// Why a call to the daemon failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be used.
    #[error("invalid address {address:?}: {reason}")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody answers there.
    #[error("failed to connect to {address}: is buildkitd running?")]
    Connect {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A certificate or key cannot be read.
    #[error("failed to read {path}")]
    Tls {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The daemon did not answer in time.
    #[error("timed out waiting for {address}")]
    TimedOut {
        /// Where.
        address: String,
    },
    /// The definition, with all that goes with it, does not fit into one message.
    #[error(
        "the build's definition is too large: {size} bytes, {} are allowed",
        session::MAX_MESSAGE
    )]
    TooLarge {
        /// Bytes.
        size: usize,
    },
    /// A directory to be sent is not there.
    #[error("invalid local {name}: {path}")]
    Local {
        /// Name of the source.
        name: String,
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: fstree::Cause,
    },
    /// The place for an output cannot be used.
    #[error(transparent)]
    Output(#[from] fstree::Error),
    /// What was read could not be passed on.
    #[error("failed to pass on a blob")]
    Blob {
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// An option is wrong or missing: the complete text.
    #[error("{text}")]
    Option {
        /// The complete text.
        text: String,
    },
    /// More than one output is a folder laid out as OCI says.
    #[error("oci store key \"export\" already exists")]
    TwoLayouts,
    /// An index of images cannot be used.
    #[error("could not update {path}")]
    Index {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: fstree::Cause,
    },
    /// The connection that offers this machine's files broke.
    #[error(transparent)]
    Session(#[from] session::Error),
    /// The daemon said no.
    #[error(transparent)]
    Daemon(#[from] Failure),
}

impl Error {
    /// Whether a build failed for what is wrong on this machine, and not for what the daemon answered.
    pub fn is_of_this_machine(&self) -> bool {
        matches!(
            self,
            Self::Local { .. }
                | Self::Output(_)
                | Self::Option { .. }
                | Self::TwoLayouts
                | Self::Index { .. }
        )
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        let failure = Failure::from_status(&status);
        Self::Daemon(match std::error::Error::source(&status) {
            // Nobody answered this: the connection, and what is wrong with it.
            Some(source) => {
                let text = format!("the connection to the daemon broke: {}", cause(source));
                Failure::new(failure.class(), text)
            }
            None => failure,
        })
    }
}

/// The innermost cause; those around it only repeat it.
pub(crate) fn cause(err: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(err), |err| err.source());
    causes.last().map(ToString::to_string).unwrap_or_default()
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::Address { .. } | Self::Local { .. } | Self::Option { .. } | Self::TwoLayouts => {
                Class::User
            }
            Self::Output(err) => err.class(),
            Self::Connect { .. } => Class::Unavailable,
            Self::Tls { source, .. } | Self::Blob { source } => source.class(),
            Self::Index { source, .. } => source.0.class(),
            Self::TimedOut { .. } => Class::TimedOut,
            Self::TooLarge { .. } => Class::Exhausted,
            Self::Session(err) => err.class(),
            Self::Daemon(err) => err.class(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_connection_tells_what_is_wrong_with_it() {
        let refused = std::io::Error::other("received fatal alert: CertificateRequired");
        let status = tonic::Status::from_error(Box::new(refused));
        assert_eq!(
            Error::from(status).to_string(),
            "the connection to the daemon broke: received fatal alert: CertificateRequired"
        );
        let answered = Error::from(tonic::Status::not_found("no such ref"));
        assert_eq!(answered.to_string(), "no such ref");
    }
}
