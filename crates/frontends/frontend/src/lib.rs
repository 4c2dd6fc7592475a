//! The contract between frontends, which turn a language into LLB, and the build they work for.

mod container;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use diagnostics::Failure;
use oci::{Digest, Platform};
use tasks::Cx;

pub use container::{
    Container, ContainerRequest, Ended, PrivateFile, Serve, Start, WinSize, Wires, Wish,
};

/// What a frontend is asked.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// FrontendAttrs / FrontendOpt.
    pub options: BTreeMap<String, String>,
    /// FrontendInputs.
    pub inputs: BTreeMap<String, proto::pb::Definition>,
    /// The session of the client.
    pub session: String,
}

/// What it answers.
#[derive(Clone, Default)]
pub struct Outcome {
    /// A single result; `None` inside: scratch.
    pub single: Option<Option<Arc<dyn Reference>>>,
    /// Results by platform id.
    pub platforms: BTreeMap<String, Option<Arc<dyn Reference>>>,
    /// Result metadata, wire facts 4.6.
    pub metadata: BTreeMap<String, Bytes>,
    /// Attestations by platform id; the empty id for a single result.
    pub attestations: BTreeMap<String, Vec<Attestation>>,
}

/// A statement about a result.
#[derive(Clone, Default)]
pub struct Attestation {
    /// A single in-toto predicate, or a directory of statements.
    pub kind: proto::gateway::AttestationKind,
    /// Free-form facts, such as why it was made.
    pub metadata: BTreeMap<String, Bytes>,
    /// Where it is; `None`: in an empty tree.
    pub reference: Option<Arc<dyn Reference>>,
    /// Path in there.
    pub path: String,
    /// URI of the predicate type.
    pub predicate_type: String,
    /// What it is about; nothing: the result.
    pub subjects: Vec<proto::gateway::InTotoSubject>,
}

impl Outcome {
    /// All references, the single one first.
    pub fn references(&self) -> impl Iterator<Item = &Arc<dyn Reference>> {
        self.single.iter().chain(self.platforms.values()).flatten()
    }
}

/// A result that may not have been computed yet.
#[async_trait]
pub trait Reference: Send + Sync {
    /// Gateway ref id.
    fn id(&self) -> &str;
    /// The LLB it came from.
    fn definition(&self) -> Option<Arc<proto::pb::Definition>>;
    /// Computes it.
    async fn evaluate(&self, cx: &Cx) -> Result<(), Failure>;
    /// Reads a file; `range` is (offset, length).
    async fn read_file(
        &self,
        cx: &Cx,
        path: &str,
        range: Option<(i64, i64)>,
    ) -> Result<Bytes, Failure>;
    /// Lists a directory.
    async fn read_dir(
        &self,
        cx: &Cx,
        path: &str,
        include: &str,
    ) -> Result<Vec<proto::fsutil::Stat>, Failure>;
    /// Looks at a path without following a final link.
    async fn stat_file(&self, cx: &Cx, path: &str) -> Result<proto::fsutil::Stat, Failure>;
    /// For whoever implemented the bridge.
    fn as_any(&self) -> &(dyn std::any::Any + Send + Sync);
}

/// What `Bridge::solve` takes.
#[derive(Debug, Clone, Default)]
pub struct SolveRequest {
    /// LLB; or
    pub definition: Option<proto::pb::Definition>,
    /// another frontend.
    pub frontend: String,
    /// Options of that frontend.
    pub options: BTreeMap<String, String>,
    /// Inputs of that frontend.
    pub inputs: BTreeMap<String, proto::pb::Definition>,
    /// Compute before answering.
    pub evaluate: bool,
    /// Remote caches that may be used for this.
    pub cache_imports: Vec<proto::gateway::CacheOptionsEntry>,
    /// Rules for the sources of this definition, behind those of the build.
    pub source_policies: Vec<proto::sourcepolicy::Policy>,
    /// Is asked when something in the definition fails, whenever that is.
    pub explain: Option<Arc<dyn Explain>>,
}

/// Knows more about a failure than the step that failed: what its author wrote, and what that could have meant.
#[async_trait]
pub trait Explain: std::fmt::Debug + Send + Sync {
    /// The failure, with more to say if there is more. May look at other trees of the build; must not fail itself.
    async fn explain(&self, cx: &Cx, failure: Failure) -> Failure;
}

/// How an image name is resolved.
#[derive(Debug, Clone, Default)]
pub struct ResolveOptions {
    /// Wanted platform.
    pub platform: Option<Platform>,
    /// `default`, `pull` or `local`.
    pub mode: String,
    /// Vertex name to show.
    pub log_name: String,
    /// Look in a store of the client, not at a registry.
    pub store: Option<OciStore>,
}

/// A store of images at the client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OciStore {
    /// Session that has it.
    pub session: String,
    /// What the session calls it.
    pub store: String,
}

/// An image name, resolved.
#[derive(Debug, Clone)]
pub struct ResolvedImage {
    /// The name, possibly rewritten by policy.
    pub reference: String,
    /// Digest of what the name points at (the index if it is one).
    pub digest: Digest,
    /// Image config JSON.
    pub config: Bytes,
}

/// A finding a frontend reports.
#[derive(Debug, Clone, Default)]
pub struct Warning {
    /// Vertex it belongs to.
    pub vertex: String,
    /// 1 by default.
    pub level: i64,
    /// One line.
    pub short: String,
    /// Further lines.
    pub detail: Vec<String>,
    /// Where to read more.
    pub url: String,
    /// Source file.
    pub info: Option<proto::pb::SourceInfo>,
    /// Places in it.
    pub ranges: Vec<proto::pb::Range>,
}

/// What a frontend may ask of the build. Implemented by `builder`.
#[async_trait]
pub trait Bridge: Send + Sync {
    /// Solves LLB or asks another frontend.
    async fn solve(&self, cx: &Cx, request: SolveRequest) -> Result<Outcome, Failure>;
    /// Resolves an image name to digest and config.
    async fn resolve_image(
        &self,
        cx: &Cx,
        name: &str,
        options: ResolveOptions,
    ) -> Result<ResolvedImage, Failure>;
    /// Reports a finding.
    async fn warn(&self, warning: Warning) -> Result<(), Failure>;
    /// Makes a container of results; nothing runs in it yet. It is gone with the build at the latest.
    async fn new_container(
        &self,
        _cx: &Cx,
        _request: ContainerRequest,
    ) -> Result<Arc<dyn Container>, Failure> {
        let text = "containers of frontends are not supported";
        Err(Failure::new(fault::Class::Unsupported, text))
    }
    /// The failure with what can be looked into: the trees its step left get names that [`Bridge::new_container`]
    /// knows, and live as long as the build.
    fn exposed(&self, failure: Failure) -> Failure {
        failure
    }
    /// Platforms of the worker, native first.
    fn platforms(&self) -> Vec<Platform>;
    /// Whether ops may use this LLB capability.
    fn supports(&self, capability: &str) -> bool {
        llb::caps::supported(capability)
    }
    /// Whether requests may be passed on to another frontend of this name.
    fn offers(&self, _frontend: &str) -> bool {
        false
    }
    /// What a source of any kind says about itself, as policies allow it: the answer has the source they made of it.
    async fn source_meta(
        &self,
        _cx: &Cx,
        request: proto::gateway::ResolveSourceMetaRequest,
    ) -> Result<proto::gateway::ResolveSourceMetaResponse, Failure> {
        let source = request.source.unwrap_or_default();
        let text = format!("no metadata for source {}", source.identifier);
        Err(Failure::new(fault::Class::Unsupported, text))
    }
    /// Asks a git or http source for its facts, without fetching it.
    async fn resolve_source(
        &self,
        cx: &Cx,
        source: proto::pb::SourceOp,
        log_name: &str,
    ) -> Result<SourceFacts, Failure> {
        let request = proto::gateway::ResolveSourceMetaRequest {
            source: Some(source),
            log_name: log_name.to_owned(),
            git: Some(proto::gateway::ResolveSourceGitRequest {
                return_object: true,
            }),
            ..proto::gateway::ResolveSourceMetaRequest::default()
        };
        let answer = self.source_meta(cx, request).await?;
        Ok(SourceFacts {
            git_commit: answer.git.map(|git| git.commit_object),
            last_modified: answer
                .http
                .and_then(|http| http.last_modified)
                .map(|time| time.seconds),
        })
    }
}

/// What a source says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceFacts {
    /// The raw git commit object.
    pub git_commit: Option<Bytes>,
    /// `Last-Modified` of an http source, in seconds since the epoch.
    pub last_modified: Option<i64>,
}

/// Turns a language into LLB.
#[async_trait]
pub trait Frontend: Send + Sync {
    /// `dockerfile.v0`
    fn name(&self) -> &'static str;
    /// Answers a request.
    async fn solve(
        &self,
        cx: &Cx,
        bridge: Arc<dyn Bridge>,
        request: Request,
    ) -> Result<Outcome, Failure>;
}
