//! What the solver must know about a step: the contract `engine/ops` fulfils.

use std::sync::Arc;

use async_trait::async_trait;
use cachekeys::Key;
use diagnostics::Failure;
use oci::Digest;
use progress::Progress;
use tasks::Cx;

/// What an operation is given while it works for one or more builds.
#[derive(Clone)]
pub struct Work {
    /// Stops when the last build that wants the result leaves.
    pub cx: Cx,
    /// Where to report; reaches every build that has the vertex.
    pub progress: Progress,
    /// The sessions of the builds that have the vertex now, in the order they came; asked anew at each call.
    pub sessions: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    /// What is about to run; only [`Operation::run`] is told.
    pub step: Option<Arc<Step>>,
}

/// A step that is about to run.
#[derive(Debug, Clone)]
pub struct Step {
    /// What users see.
    pub name: String,
    /// The keys its result will be known by.
    pub keys: Vec<Key>,
    /// It runs because the cache is to be ignored.
    pub ignores_cache: bool,
}

/// The definition key of an operation and what is known of its inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheMap {
    /// D of the cache-key rules: does not contain the inputs. May be `random:…`.
    pub digest: Digest,
    /// One entry per input.
    pub inputs: Vec<InputMap>,
    /// No further answer will come (only image sources answer twice).
    pub done: bool,
}

/// What the definition key says about one input.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InputMap {
    /// Part of the link from this input.
    pub selector: Option<Digest>,
    /// `Operation::content_key` can answer for this input.
    pub content: bool,
    /// `Operation::prepare_input` must be called before the input is used.
    pub prepare: bool,
}

/// One step, shared by all builds that have its vertex.
///
/// 1. `cache_map` is deterministic for an answer index within the life of the object.
/// 2. `run` yields all outputs, in order.
/// 3. Nothing is called again after it succeeded; cancelled attempts may be repeated.
#[async_trait]
pub trait Operation: Send + Sync + 'static {
    /// A result: cheap to clone, keeps what it names alive.
    type Value: Clone + Send + Sync + 'static;

    /// Answer number `index` of the definition key.
    async fn cache_map(&self, work: &Work, index: usize) -> Result<CacheMap, Failure>;

    /// Makes a complete input usable (fetches and unpacks lazy layers).
    async fn prepare_input(
        &self,
        work: &Work,
        input: usize,
        value: &Self::Value,
    ) -> Result<(), Failure>;

    /// C of the cache-key rules for a complete input. `None`: no content key after all.
    async fn content_key(
        &self,
        work: &Work,
        input: usize,
        value: &Self::Value,
    ) -> Result<Option<Digest>, Failure>;

    /// Whether running counts against the limit of parallel steps. Steps that build further steps must not.
    fn limited(&self) -> bool {
        true
    }

    /// Does the work.
    async fn run(&self, work: &Work, inputs: &[Self::Value]) -> Result<Vec<Self::Value>, Failure>;
}

/// Where results live between builds. Ids are opaque texts (`worker::ref`).
#[async_trait]
pub trait ResultStore<V>: Send + Sync + 'static {
    /// Keeps a result beyond the build and names it.
    async fn save(&self, value: &V) -> Result<String, Failure>;
    /// Gets it back; `None` when it is gone.
    async fn load(&self, id: &str) -> Result<Option<V>, Failure>;
    /// Whether it is still there. Must be cheap.
    fn exists(&self, id: &str) -> bool;
}

/// A node of a build's graph, before the solver has seen it.
pub struct Vertex<O> {
    /// Names the vertex in progress and in the shared graph.
    pub digest: Digest,
    /// What the client calls it, when loading changed the digest; errors name the vertex by it.
    pub original: Option<Digest>,
    /// What users see.
    pub name: String,
    /// Inputs in order.
    pub inputs: Vec<Edge<O>>,
    /// The step. Dropped if an equal vertex is active already.
    pub op: Arc<O>,
    /// Always run; the result is still stored.
    pub ignore_cache: bool,
    /// Shown as one line with others.
    pub group: Option<progress::Group>,
}

/// Output `index` of a vertex.
pub struct Edge<O> {
    /// The vertex.
    pub vertex: Arc<Vertex<O>>,
    /// Which of its outputs.
    pub index: usize,
}

impl<O> Clone for Edge<O> {
    fn clone(&self) -> Self {
        Self {
            vertex: self.vertex.clone(),
            index: self.index,
        }
    }
}

impl<O> std::fmt::Debug for Edge<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.vertex.digest, self.index)
    }
}

impl<O> Drop for Vertex<O> {
    // Graphs may be a hundred thousand vertices deep, which the compiler's own recursion would not survive.
    fn drop(&mut self) {
        let mut left = std::mem::take(&mut self.inputs);
        while let Some(edge) = left.pop() {
            if let Some(mut vertex) = Arc::into_inner(edge.vertex) {
                left.append(&mut vertex.inputs);
            }
        }
    }
}
