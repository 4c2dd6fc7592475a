//! What a client asks for, and what it gets.

use std::collections::BTreeMap;

use proto::pb;

/// One output of a build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExporterRequest {
    /// `image`, `local`, …
    pub kind: String,
    /// Options.
    pub attrs: BTreeMap<String, String>,
}

/// A build.
#[derive(Debug, Clone, Default)]
pub struct SolveRequest {
    /// Chosen by the client.
    pub id: String,
    /// LLB, or
    pub definition: Option<pb::Definition>,
    /// a frontend; neither: the client drives the build through the gateway.
    pub frontend: String,
    /// Options of the frontend.
    pub frontend_attrs: BTreeMap<String, String>,
    /// Definitions handed to the frontend.
    pub frontend_inputs: BTreeMap<String, pb::Definition>,
    /// Outputs.
    pub exporters: Vec<ExporterRequest>,
    /// Ask the client for more outputs when the results are known.
    pub session_exporter: bool,
    /// Caches to look into, by type.
    pub cache_imports: Vec<ExporterRequest>,
    /// Cache exports by type.
    pub cache_exports: Vec<ExporterRequest>,
    /// The client's session.
    pub session: String,
    /// What steps may do beyond the ordinary.
    pub entitlements: Vec<String>,
    /// Rules for the sources of the build.
    pub source_policy: Option<proto::sourcepolicy::Policy>,
    /// The session that is asked about each source; empty: none.
    pub source_policy_session: String,
    /// Leaves no trace in the history.
    pub internal: bool,
    /// Behaviour of an older release that the client wants (10, 20, 30); absent: the current one.
    pub compatibility: Option<u32>,
}
