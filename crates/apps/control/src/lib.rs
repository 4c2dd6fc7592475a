//! The gRPC services of the daemon: translation between wire messages and the builder, nothing else.

mod bridge;
mod content;
mod control;
mod exec;
mod explain;
mod history;
mod info;
mod outcome;
mod serve;
mod signals;
mod usage;
mod verify;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use builder::Builder;
use futures::Stream;
use proto::content::content_server::ContentServer;
use proto::control::control_server::ControlServer;
use proto::explain::explain_server::ExplainServer;
use proto::gateway::llb_bridge_server::LlbBridgeServer;
use proto::verify::verify_server::VerifyServer;

pub use bridge::Bridges;
pub use info::{GcRule, Package, WorkerRecord};
pub use serve::Door;
pub use usage::Upkeep;

use bridge::Callers;

/// The largest message either side may send.
pub const MAX_MESSAGE: usize = 16 << 20;

/// What the services translate to.
#[derive(Clone)]
pub struct Services {
    /// Runs builds.
    pub builder: Arc<Builder>,
    /// Clients.
    pub sessions: session::Manager,
    /// Stored trees.
    pub cache: cache::Cache,
    /// What keeps them in order.
    pub upkeep: Upkeep,
    /// What this daemon is.
    pub package: Package,
    /// What its worker is.
    pub worker: WorkerRecord,
}

impl Services {
    /// The control service.
    pub fn control(&self) -> ControlServer<Services> {
        ControlServer::new(self.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
            .accept_compressed(tonic::codec::CompressionEncoding::Gzip)
    }

    /// The gateway of builds that their clients drive.
    pub fn bridge(&self) -> LlbBridgeServer<Bridges> {
        let bridges = Bridges {
            callers: Callers::Any(self.builder.clone()),
            worker: Arc::new(self.worker.clone()),
        };
        LlbBridgeServer::new(bridges)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
            .accept_compressed(tonic::codec::CompressionEncoding::Gzip)
    }

    /// Why steps ran.
    pub fn explain(&self) -> ExplainServer<Services> {
        ExplainServer::new(self.clone()).max_encoding_message_size(MAX_MESSAGE)
    }

    /// Whether what is stored fits together.
    pub fn verify(&self) -> VerifyServer<Services> {
        VerifyServer::new(self.clone())
    }

    /// The blobs.
    pub fn content(&self) -> ContentServer<Services> {
        ContentServer::new(self.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
            .accept_compressed(tonic::codec::CompressionEncoding::Gzip)
    }
}

/// A stream and the task that fills it.
struct WithTask<S> {
    inner: S,
    _task: tasks::Task<()>,
}

impl<S> WithTask<S> {
    fn new(inner: S, task: tasks::Task<()>) -> Self {
        Self { inner, _task: task }
    }
}

impl<S: Stream + Unpin> Stream for WithTask<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        Pin::new(&mut self.inner).poll_next(cx)
    }
}
