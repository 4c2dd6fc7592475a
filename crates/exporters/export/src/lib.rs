//! The contract of exporters: what becomes of a result, and what all exporters read the same way.

pub mod attestation;
mod attrs;
mod epoch;
mod platforms;
pub mod purl;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use oci::Platform;
use progress::Progress;
use session::Group;
use tasks::Cx;

pub use attestation::Attestation;
pub use attrs::{parse_bool, parse_flag, parse_integer};
pub use epoch::Epoch;
pub use platforms::Part;

/// A build's result as exporters take it.
#[derive(Clone, Default)]
pub struct Input {
    /// The result when the frontend gave a single one. `None` inside: scratch.
    pub single: Option<Option<cache::Ref>>,
    /// Results by platform id, in the order of `refs.platforms`.
    pub platforms: Vec<PlatformResult>,
    /// Metadata of the frontend's result (`containerimage.config`, `refs.platforms`, …), see the wire facts 4.6.
    pub metadata: BTreeMap<String, Bytes>,
    /// Inline cache (`moby.buildkit.cache.v0`) by platform id; the empty id for a single result.
    pub inline_cache: BTreeMap<String, Bytes>,
    /// What is said about the results, by platform id.
    pub attestations: BTreeMap<String, Vec<Attestation>>,
    /// Behaviour of an older release that the client wants (10, 20, 30); absent: the current one.
    pub compatibility: Option<u32>,
}

/// One platform's result.
#[derive(Clone)]
pub struct PlatformResult {
    /// `linux/amd64`
    pub id: String,
    /// The same, parsed.
    pub platform: Platform,
    /// `None`: scratch.
    pub result: Option<cache::Ref>,
}

/// What an exporter works with.
#[derive(Clone)]
pub struct Work {
    /// Cancellation.
    pub cx: Cx,
    /// Its vertex.
    pub progress: Progress,
    /// The session of the client that asked for the build.
    pub sessions: Group,
    /// Index of this exporter in the request.
    pub index: usize,
    /// SOURCE_DATE_EPOCH of the build, if any, in seconds.
    pub epoch: Option<i64>,
}

/// What an exporter answers: entries of ExporterResponse, and work that may run beside other exporters' (the push).
pub struct Exported {
    /// Entries of ExporterResponse.
    pub response: BTreeMap<String, String>,
    /// Descriptor of what was made, for the history.
    pub descriptor: Option<oci::Descriptor>,
    /// Runs after all exporters are done.
    pub finalize: Option<Finalize>,
}

/// Deferred work of an exporter.
pub type Finalize = Box<dyn FnOnce(Work) -> futures_box::BoxFuture<Result<(), Error>> + Send>;

/// A boxed future.
pub mod futures_box {
    /// A boxed future.
    pub type BoxFuture<T> = std::pin::Pin<Box<dyn std::future::Future<Output = T> + Send>>;
}

/// A configured output of one build.
#[async_trait]
pub trait Instance: Send + Sync {
    /// Vertex name, `exporting to image` and the like.
    fn name(&self) -> String;
    /// What the layers of an image are like, for those who make images of `input`.
    fn layers(&self, input: &Input) -> Option<layer::Options> {
        let _ = input;
        None
    }
    /// Does it.
    async fn export(&self, work: &Work, input: &Input) -> Result<Exported, Error>;
}

/// A kind of output.
pub trait Exporter: Send + Sync {
    /// `image`, `local`, …
    fn kinds(&self) -> &'static [&'static str];
    /// Checks the options of a request; an unknown key is not an error (Compat: upstream passes them on as metadata).
    fn resolve(
        &self,
        kind: &str,
        attrs: &BTreeMap<String, String>,
    ) -> Result<Arc<dyn Instance>, Error>;
}

/// Why an export failed: the complete text for users and the class.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Complete text.
    pub message: String,
    /// Class.
    pub class: fault::Class,
}

impl Work {
    /// The session of the client that asked for the build.
    pub async fn client(&self) -> Result<session::Session, Error> {
        let id = self.sessions.ids().first();
        let Some(id) = id else {
            return Err(Error::new(&session::Error::NoSessions));
        };
        let found = self.sessions.manager().get(&self.cx, id).await;
        found.map_err(|err| Error::new(&err))
    }
}

impl Error {
    /// From any error that knows its class; the text is the whole chain.
    pub fn new<E: std::error::Error + fault::Classify + 'static>(err: &E) -> Self {
        Self {
            message: fault::chain(err),
            class: err.class(),
        }
    }

    /// A wrong option.
    pub fn user(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            class: fault::Class::User,
        }
    }
}

impl From<tasks::Cancelled> for Error {
    fn from(cancelled: tasks::Cancelled) -> Self {
        Self::new(&cancelled)
    }
}

impl fault::Classify for Error {
    fn class(&self) -> fault::Class {
        self.class
    }
}
