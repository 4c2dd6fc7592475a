//! Wire messages and service stubs, and how they are encoded where the bytes matter.
//!
//! One module per protobuf package, generated from `proto/*.proto` by `cargo xtask codegen` and checked in. What the
//! messages mean is the business of the crates that use them. [`encode`] makes the bytes that digests are taken of,
//! [`gojson`] and [`protojson`] the two JSON forms that are on the wire. What is made by the thousands is written by hand.

mod definition;
pub mod encode;
pub mod gojson;
mod metadata;
pub mod protojson;
mod schema;

#[allow(missing_docs, clippy::all)]
#[rustfmt::skip]
#[path = "gen/tree.rs"]
mod generated;

/// Content stores: `containerd.services.content.v1`.
pub use generated::containerd::services::content::v1 as content;
/// Checksum records as kept on disk: `contenthash`.
pub use generated::contenthash;
/// Typed error details: `errdefs`.
pub use generated::errdefs;
/// Entries and packets of a file transfer: `fsutil.types`.
pub use generated::fsutil::types as fsutil;
/// A gRPC status as a message: `google.rpc`.
pub use generated::google::rpc;
/// Why steps ran: `kiln.explain.v1`.
pub use generated::kiln::explain::v1 as explain;
/// Whether what is stored fits together: `kiln.verify.v1`.
pub use generated::kiln::verify::v1 as verify;
/// Secrets: `moby.buildkit.secrets.v1`.
pub use generated::moby::buildkit::secrets::v1 as secrets;
/// The service of the daemon: `moby.buildkit.v1`.
pub use generated::moby::buildkit::v1 as control;
/// Capabilities: `moby.buildkit.v1.apicaps`.
pub use generated::moby::buildkit::v1::apicaps as caps;
/// What frontends call: `moby.buildkit.v1.frontend`.
pub use generated::moby::buildkit::v1::frontend as gateway;
/// Source policy documents: `moby.buildkit.v1.sourcepolicy`.
pub use generated::moby::buildkit::v1::sourcepolicy;
/// Source decisions by the client: `moby.buildkit.v1.sourcepolicy.policysession`.
pub use generated::moby::buildkit::v1::sourcepolicy::policysession;
/// Workers as they describe themselves: `moby.buildkit.v1.types`.
pub use generated::moby::buildkit::v1::types;
/// Exporters chosen by the client: `moby.exporter.v1`.
pub use generated::moby::exporter::v1 as exporter;
/// Credentials and tokens. The same package as [`filesync`] on the wire, `moby.filesync.v1`.
pub use generated::moby::filesync::v1 as auth;
/// File transfers: `moby.filesync.v1`.
pub use generated::moby::filesync::v1 as filesync;
/// Agent connections: `moby.sshforward.v1`.
pub use generated::moby::sshforward::v1 as sshforward;
/// Uploads: `moby.upload.v1`.
pub use generated::moby::upload::v1 as upload;
/// Takes spans: `opentelemetry.proto.collector.trace.v1`.
pub use generated::opentelemetry::proto::collector::trace::v1 as trace_service;
/// Values and attributes of spans: `opentelemetry.proto.common.v1`.
pub use generated::opentelemetry::proto::common::v1 as trace_common;
/// Processes that make spans: `opentelemetry.proto.resource.v1`.
pub use generated::opentelemetry::proto::resource::v1 as trace_resource;
/// Spans: `opentelemetry.proto.trace.v1`.
pub use generated::opentelemetry::proto::trace::v1 as trace;
/// LLB: `pb`.
pub mod pb {
    pub use crate::definition::{Definition, Location, Locations, Source};
    pub use crate::generated::pb::*;
    pub use crate::metadata::{OpMetadata, SmallMap};
}
/// Call stacks in error details: `stack`.
pub use generated::stack;

/// All message and service descriptions as an encoded `FileDescriptorSet`, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("gen/descriptors.bin");

/// Why JSON or bytes are not the message they should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is not JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),

    /// The bytes are not the message.
    #[error(transparent)]
    Decode(#[from] prost::DecodeError),

    /// A length points beyond the end.
    #[error("unexpected end of message")]
    Truncated,

    /// There is no such message.
    #[error("unknown message type {name}")]
    UnknownType {
        /// Full name of the type.
        name: String,
    },

    /// A member of a JSON object has the wrong type.
    #[error("{message}: {field}: unexpected {found}")]
    Unexpected {
        /// Full name of the message.
        message: String,
        /// The field, empty when the message itself is meant.
        field: String,
        /// What was there.
        found: &'static str,
    },
}
