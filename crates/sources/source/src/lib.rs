//! The contract of sources: things a build starts from.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use oci::Platform;
use progress::Progress;
use session::Group;
use tasks::Cx;

/// A source as LLB names it: `scheme://rest` and its attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identifier {
    /// `docker-image`, `local`, …
    pub scheme: String,
    /// What follows `://`.
    pub name: String,
    /// Attributes.
    pub attrs: BTreeMap<String, String>,
    /// Normalised platform.
    pub platform: Platform,
}

/// One answer about the key of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// S of the cache-key rules; starts with `session:` when it must not leave the daemon.
    pub text: String,
    /// No further answer will come.
    pub done: bool,
}

/// One source op, resolved step by step; remembers what it resolved.
#[async_trait]
pub trait Instance: Send + Sync {
    /// Answer number `index`.
    async fn key(
        &self,
        cx: &Cx,
        sessions: &Group,
        progress: &Progress,
        index: usize,
    ) -> Result<Key, Error>;
    /// The tree; `None` is scratch.
    async fn snapshot(
        &self,
        cx: &Cx,
        sessions: &Group,
        progress: &Progress,
    ) -> Result<Option<cache::Ref>, Error>;
}

/// A kind of source.
pub trait Source: Send + Sync {
    /// Schemes it answers to.
    fn schemes(&self) -> &'static [&'static str];
    /// Checks the identifier; does no I/O.
    fn instance(&self, id: Identifier) -> Result<Arc<dyn Instance>, Error>;
}

/// Why a source failed: the complete text for users, the class, and the cause for logs.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Complete text.
    pub message: String,
    /// Class.
    pub class: fault::Class,
}

impl Error {
    /// From any error that knows its class; the text is the whole chain.
    pub fn new<E: std::error::Error + fault::Classify + 'static>(err: &E) -> Self {
        Self {
            message: fault::chain(err),
            class: err.class(),
        }
    }

    /// A wrong option or a missing thing of the user's.
    pub fn user(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            class: fault::Class::User,
        }
    }
}

impl fault::Classify for Error {
    fn class(&self) -> fault::Class {
        self.class
    }
}

/// How an image name is resolved.
#[derive(Debug, Clone, Default)]
pub struct ResolveImage {
    /// Wanted platform; `None`: the daemon's.
    pub platform: Option<Platform>,
    /// `default`, `pull` or `local`.
    pub mode: String,
}

/// An image name, resolved.
#[derive(Debug, Clone)]
pub struct ResolvedImage {
    /// The normalised name.
    pub reference: String,
    /// Digest of what the name points at: the index if it is one.
    pub digest: oci::Digest,
    /// Image config JSON of the wanted platform.
    pub config: Vec<u8>,
}

/// Answers what an image is without fetching its layers.
#[async_trait]
pub trait ImageResolver: Send + Sync {
    /// Resolves `name` (without a scheme).
    async fn resolve(
        &self,
        cx: &Cx,
        sessions: &Group,
        progress: &Progress,
        name: &str,
        wanted: &ResolveImage,
    ) -> Result<ResolvedImage, Error>;
}
