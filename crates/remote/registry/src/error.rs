//! Why a request to a registry failed.

pub(crate) mod document;

use std::path::PathBuf;

use fault::{Class, Classify};
use http::{Method, StatusCode};
use oci::Digest;

pub use document::Refusal;

/// Why a request to a registry failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing under this name.
    #[error("{name}: not found")]
    NotFound {
        /// What was asked for.
        name: String,
    },

    /// The repository has no such blob.
    #[error("could not fetch content descriptor {digest} ({media_type}) from remote: not found")]
    BlobNotFound {
        /// The blob.
        digest: Digest,
        /// What it should be.
        media_type: String,
        /// Where it was looked for, without secrets.
        url: Option<String>,
    },

    /// The registry answered, but with a status that is no success.
    #[error("{0}")]
    Status(Box<UnexpectedStatus>),

    /// The registry refused a push and said why.
    #[error("{0}")]
    Refused(Refusal, Class),

    /// The registry does not know the types of OCI, as far as one can tell.
    #[error(
        "registry refused {media_type} (oci-mediatypes=false makes an image with Docker's types)"
    )]
    Types {
        /// Of the manifest.
        media_type: String,
        /// What it said.
        #[source]
        source: Box<Error>,
    },

    /// No credentials that are good enough.
    #[error("{action} access denied, repository does not exist or may require authorization")]
    Denied {
        /// `pull` or `push`.
        action: &'static str,
        /// What the server said.
        #[source]
        source: Box<Error>,
    },

    /// The registry does not accept what we showed.
    #[error("server message: {message}: authorization failed")]
    Unauthorized {
        /// What the server said.
        message: String,
    },

    /// The registry demands something we cannot do, or there are no credentials for it.
    #[error("failed to find supported auth scheme: not implemented")]
    NoScheme,

    /// Credentials or a token could not be had.
    #[error("failed to authorize")]
    Authorize(#[source] Box<Error>),

    /// The token server did not give a token.
    #[error("failed to fetch {kind} token")]
    Token {
        /// `anonymous` or `oauth`.
        kind: &'static str,
        /// Cause.
        #[source]
        source: Box<Error>,
    },

    /// The token server answered nonsense.
    #[error("{problem}")]
    TokenAnswer {
        /// What is wrong with it.
        problem: &'static str,
    },

    /// The client could not be asked for credentials.
    #[error(transparent)]
    Session(#[from] session::Error),

    /// No answer: no connection, or it broke.
    #[error("failed to do request: {method} \"{url}\": {reason}")]
    Transport {
        /// As Go prints it: `Head`.
        method: String,
        /// Without secrets.
        url: String,
        /// For users.
        reason: String,
        /// What to do about it.
        kind: Broken,
    },

    /// The connection broke while reading a blob.
    #[error("failed to read {digest} from {host} after {offset} bytes: {reason}")]
    Read {
        /// The blob.
        digest: Digest,
        /// From where.
        host: String,
        /// How far it got.
        offset: u64,
        /// For users.
        reason: String,
    },

    /// The registry sent a blob of another size than the manifest says.
    #[error("registry {host} sent {actual} bytes for {digest}, expected {expected}")]
    Size {
        /// The blob.
        digest: Digest,
        /// Who.
        host: String,
        /// Bytes that came, or were announced.
        actual: u64,
        /// Bytes the descriptor says.
        expected: u64,
    },

    /// The registry sent something else than what its digest says.
    #[error("registry {host} sent content with digest {actual} for {expected}")]
    Mismatch {
        /// Who.
        host: String,
        /// What came.
        actual: Digest,
        /// What was asked for.
        expected: Digest,
    },

    /// The list of what refers to a manifest is none.
    #[error("failed to decode referrers index")]
    Referrers(#[source] serde_json::Error),

    /// A manifest nobody needs to be this large.
    #[error("rejecting {size} byte manifest for {name}: not found")]
    TooLarge {
        /// Bytes.
        size: u64,
        /// What was asked for.
        name: String,
    },

    /// The digest the registry names is none.
    #[error("\"{text}\" in header not a valid digest")]
    DigestHeader {
        /// What it says.
        text: String,
    },

    /// The registry named a place for an upload that is no URL.
    #[error("unable to parse location {location}")]
    Location {
        /// What it says.
        location: String,
    },

    /// Redirected round and round.
    #[error("stopped after 10 redirects")]
    Redirects,

    /// A tag where there must be none.
    #[error("can't push tagged ref {name} by digest")]
    Tagged {
        /// The reference.
        name: String,
    },

    /// A manifest that is no JSON.
    #[error("failed to parse manifest {digest}")]
    Manifest {
        /// The manifest.
        digest: Digest,
        /// Cause.
        #[source]
        source: serde_json::Error,
    },

    /// A blob that is not in the store and that nobody can bring.
    #[error("content {digest}: not found")]
    NoContent {
        /// The blob.
        digest: Digest,
    },

    /// A certificate or key of the configuration cannot be used.
    #[error("failed to read {}", .path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: rustls::pki_types::pem::Error,
    },

    /// The TLS settings of a host make no sense.
    #[error("failed to load keypair for {}", .path.display())]
    KeyPair {
        /// The certificate.
        path: PathBuf,
        /// Cause.
        #[source]
        source: rustls::Error,
    },

    /// The HTTP client could not be made.
    #[error("failed to set up connections to {host}: {reason}")]
    Setup {
        /// For which host.
        host: String,
        /// Why.
        reason: String,
    },

    /// The store failed.
    #[error(transparent)]
    Content(#[from] content::Error),

    /// Somebody asked to stop.
    #[error(transparent)]
    Cancelled(#[from] tasks::Cancelled),
}

/// How a connection failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// Nobody listens, or the name is not known.
    Connect,
    /// Took too long.
    TimedOut,
    /// It ended in the middle.
    Closed,
    /// TLS failed.
    Tls,
    /// TLS failed because the other side speaks plain HTTP.
    Plain,
    /// Anything else.
    Other,
}

/// An answer that is no success.
#[derive(Debug)]
pub struct UnexpectedStatus {
    /// Of the request.
    pub method: Method,
    /// Without secrets.
    pub url: String,
    /// The answer.
    pub status: StatusCode,
    /// What the registry's error document says, or the beginning of the body.
    pub refusal: Option<Refusal>,
}

impl UnexpectedStatus {
    /// Whether it may be the type of what was sent that is not liked.
    pub(crate) fn refuses_types(&self) -> bool {
        let says = |word: &str| match &self.refusal {
            Some(refusal) => refusal.to_string().to_lowercase().contains(word),
            None => false,
        };
        match self.status {
            StatusCode::UNSUPPORTED_MEDIA_TYPE => true,
            StatusCode::BAD_REQUEST => {
                says("media type") || says("mediatype") || says("manifest invalid")
            }
            _ => false,
        }
    }
}

impl std::fmt::Display for UnexpectedStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            method,
            url,
            status,
            refusal,
        } = self;
        write!(f, "unexpected status from {method} request to {url}: ")?;
        write_status(f, *status)?;
        match refusal {
            // Compat: what the registry's document says stands on a line of its own.
            Some(Refusal::Document(text)) => write!(f, "\n{text}"),
            _ => Ok(()),
        }
    }
}

/// A status in words: `500 Internal Server Error`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status(pub StatusCode);

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write_status(f, self.0)
    }
}

/// `500 Internal Server Error`
pub(crate) fn write_status(
    f: &mut std::fmt::Formatter<'_>,
    status: StatusCode,
) -> std::fmt::Result {
    write!(f, "{}", status.as_u16())?;
    match status.canonical_reason() {
        Some(reason) => write!(f, " {reason}"),
        None => Ok(()),
    }
}

impl Error {
    /// The HTTP status, if that is what failed.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Status(unexpected) => Some(unexpected.status),
            Self::Denied { source, .. } | Self::Authorize(source) | Self::Token { source, .. } => {
                source.status()
            }
            _ => None,
        }
    }

    /// Where the registry refused what was asked of it, and the status; `None` where there was no answer, or another
    /// failure.
    pub fn refused(&self) -> Option<(String, Status)> {
        match self {
            Self::Status(unexpected) => Some((unexpected.url.clone(), Status(unexpected.status))),
            Self::BlobNotFound { url, .. } => Some((url.clone()?, Status(StatusCode::NOT_FOUND))),
            _ => None,
        }
    }

    /// Whether waiting a while may help.
    pub(crate) fn is_temporary(&self) -> bool {
        match self {
            Self::Status(unexpected) => unexpected.status.is_server_error(),
            Self::Transport { kind, .. } => !matches!(kind, Broken::Tls | Broken::Plain),
            Self::Read { .. } => true,
            Self::Authorize(source) | Self::Token { source, .. } => source.is_temporary(),
            _ => false,
        }
    }

    /// Whether nobody was there to ask. Worth waiting for only when somebody was there before.
    pub(crate) fn found_nobody(&self) -> bool {
        match self {
            Self::Transport { kind, .. } => *kind == Broken::Connect,
            Self::Authorize(source) | Self::Token { source, .. } => source.found_nobody(),
            _ => false,
        }
    }

    /// Whether the registry, or who gives the tokens for it, is not there or not in order for now: no connection, one
    /// that was reset or cut, no answer in time; a status of 500 and more, or 429, after the repeats that belong to a
    /// question. Everything else is an answer: what it says of a name or of whoever asks, a server that cannot be
    /// trusted or speaks another protocol, content that is not what it should be.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Status(unexpected) => {
                let status = unexpected.status;
                status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
            }
            Self::Transport { kind, .. } => match kind {
                Broken::Connect | Broken::TimedOut | Broken::Closed => true,
                Broken::Tls | Broken::Plain | Broken::Other => false,
            },
            Self::Read { .. } => true,
            Self::Authorize(source) | Self::Token { source, .. } => source.is_unreachable(),
            _ => false,
        }
    }

    /// The registry's own words instead of the status, as a failed push shows them.
    pub(crate) fn into_refusal(self) -> Self {
        match self {
            Self::Status(unexpected) => {
                let class = class_of_status(unexpected.status);
                match unexpected.refusal {
                    Some(refusal) => Self::Refused(refusal, class),
                    None => Self::Status(unexpected),
                }
            }
            other => other,
        }
    }

    /// How far the request got; of several hosts' failures the one with the highest rank is told.
    pub(crate) fn rank(&self) -> u8 {
        match self {
            Self::TooLarge { .. } => 4,
            Self::Status(_) | Self::Mismatch { .. } | Self::Size { .. } | Self::Read { .. } => 3,
            Self::NotFound { .. } | Self::BlobNotFound { .. } => 2,
            _ => 1,
        }
    }
}

fn class_of_status(status: StatusCode) -> Class {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Class::Denied,
        StatusCode::NOT_FOUND => Class::NotFound,
        StatusCode::TOO_MANY_REQUESTS => Class::Unavailable,
        status if status.is_server_error() => Class::Unavailable,
        status if status.is_client_error() => Class::User,
        _ => Class::Internal,
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::NotFound { .. }
            | Self::BlobNotFound { .. }
            | Self::NoContent { .. }
            | Self::TooLarge { .. } => Class::NotFound,
            Self::Status(unexpected) => class_of_status(unexpected.status),
            Self::Refused(_, class) => *class,
            Self::Denied { .. } | Self::Unauthorized { .. } => Class::Denied,
            Self::NoScheme => Class::Unsupported,
            Self::Authorize(source) | Self::Token { source, .. } | Self::Types { source, .. } => {
                source.class()
            }
            Self::Session(err) => err.class(),
            Self::Transport { kind, .. } if *kind == Broken::TimedOut => Class::TimedOut,
            Self::Transport { .. }
            | Self::TokenAnswer { .. }
            | Self::Read { .. }
            | Self::Size { .. }
            | Self::Mismatch { .. }
            | Self::DigestHeader { .. }
            | Self::Location { .. }
            | Self::Referrers(_)
            | Self::Redirects => Class::Unavailable,
            Self::Tagged { .. }
            | Self::Manifest { .. }
            | Self::Certificate { .. }
            | Self::KeyPair { .. } => Class::User,
            Self::Setup { .. } => Class::Internal,
            Self::Content(err) => err.class(),
            Self::Cancelled(_) => Class::Cancelled,
        }
    }
}
