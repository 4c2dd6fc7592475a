//! The contract of sources: things a build starts from.

mod address;
mod facts;
pub mod file;
mod index;
mod memo;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use oci::Platform;
use progress::Progress;
use session::Group;
use tasks::Cx;

pub use address::redacted;
pub use facts::{Asked, Attested, Facts, GitFacts, Hash, HttpFacts, Suffixed};
pub use index::Index;
pub use memo::Memo;

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
    /// What the source says about itself, without its tree where that is possible.
    async fn facts(
        &self,
        _cx: &Cx,
        _sessions: &Group,
        _progress: &Progress,
        _asked: &Asked,
    ) -> Result<Facts, Error> {
        Ok(Facts::Nothing)
    }
}

/// A kind of source.
pub trait Source: Send + Sync {
    /// Schemes it answers to.
    fn schemes(&self) -> &'static [&'static str];
    /// Checks the identifier; does no I/O. What one build resolved once, it sees the same way again: `memo` is the
    /// build's.
    fn instance(&self, id: Identifier, memo: &Arc<Memo>) -> Result<Arc<dyn Instance>, Error>;
    /// The identifier (`scheme://rest`) in the form that source policies see.
    fn canonical(&self, id: &Identifier) -> String {
        format!("{}://{}", id.scheme, id.name)
    }
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

    /// What kept a tree or a file from being made.
    pub fn io(what: &str, err: &std::io::Error) -> Self {
        Self {
            message: format!("{what}: {err}"),
            class: fault::Class::Internal,
        }
    }

    /// The same with words in front: `context: text`.
    #[must_use]
    pub fn context(mut self, context: impl std::fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
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
