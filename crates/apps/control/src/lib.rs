//! The gRPC services of the daemon: translation between wire messages and the builder, nothing else.

mod bridge;
mod control;
mod events;
mod info;
mod outcome;
mod usage;

use std::sync::Arc;

use builder::Builder;
use proto::control::control_server::ControlServer;
use proto::gateway::llb_bridge_server::LlbBridgeServer;

pub use info::{Package, WorkerRecord};

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
    pub fn bridge(&self) -> LlbBridgeServer<Services> {
        LlbBridgeServer::new(self.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
            .accept_compressed(tonic::codec::CompressionEncoding::Gzip)
    }
}
