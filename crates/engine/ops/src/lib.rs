//! What each LLB op does: its definition key, its content keys, its work.
//!
//! An [`Op`] is what the solver runs. It knows nothing of builds, frontends or exporters; it works on a [`Worker`],
//! which holds the stores and the runtime.

mod build;
mod combine;
pub mod container;
mod devices;
mod exec;
mod exec_key;
mod exec_mounts;
mod explain;
mod file;
mod file_key;
#[cfg(test)]
mod golden;
mod json;
mod load;
mod logs;
mod meta;
mod origin;
mod remains;
mod results;
mod source;
mod usage;
mod worker;

use async_trait::async_trait;
use diagnostics::Failure;
use oci::Digest;
use solver::{CacheMap, InputMap, Operation, Work};

pub use build::Nested;
pub use devices::DeviceGrants;
pub use exec_mounts::{CacheDirs, Lending, Lent, Offered, Stock, checksum};
pub use explain::{Asking, Explain, Explained};
pub use load::{Edge, LoadOptions, Loaded, canonical, instance, load, load_parsed, platform};
pub use logs::LogLimits;
pub use origin::Origin;
pub use remains::Remains;
pub use results::Results;
pub use usage::{Curious, Usages};
pub use worker::{Entitlements, Worker, WorkerOptions};

/// A tree a step made; `None` is scratch. Cheap to clone; keeps the tree alive.
#[derive(Clone, Debug, Default)]
pub struct Value(pub Option<cache::Ref>);

/// One step of a build.
pub enum Op {
    /// Brings in a tree from outside.
    Source(source::SourceOp),
    /// Runs a process.
    Exec(Box<exec::ExecOp>),
    /// Changes files.
    File(Box<file::FileOp>),
    /// Stacks trees.
    Merge(combine::MergeOp),
    /// What one tree has that another has not.
    Diff(combine::DiffOp),
    /// Hands on trees.
    Passthrough(combine::PassthroughOp),
    /// Builds a definition another step made.
    Build(build::BuildOp),
}

#[async_trait]
impl Operation for Op {
    type Value = Value;

    async fn cache_map(&self, work: &Work, index: usize) -> Result<CacheMap, Failure> {
        match self {
            Self::Source(op) => op.cache_map(work, index).await,
            Self::Exec(op) => op.key().cache_map(),
            Self::File(op) => Ok(op.key().cache_map()),
            Self::Merge(op) => Ok(op.cache_map()),
            Self::Diff(op) => Ok(op.cache_map()),
            Self::Passthrough(op) => Ok(op.cache_map()),
            Self::Build(op) => Ok(op.cache_map()),
        }
    }

    async fn prepare_input(
        &self,
        work: &Work,
        _input: usize,
        value: &Value,
    ) -> Result<(), Failure> {
        let Value(Some(tree)) = value else {
            return Ok(());
        };
        tree.ensure(&work.cx, &work.progress)
            .await
            .map_err(|err| Failure::from_error(&err))
    }

    async fn content_key(
        &self,
        work: &Work,
        input: usize,
        value: &Value,
    ) -> Result<Option<Digest>, Failure> {
        let (queries, selector) = match self {
            Self::Exec(op) => {
                let key = op.key();
                (key.content_queries(input)?, key.selector(input)?)
            }
            Self::File(op) => {
                let key = op.key();
                (key.content_queries(input), key.selector(input))
            }
            Self::Source(_)
            | Self::Merge(_)
            | Self::Diff(_)
            | Self::Passthrough(_)
            | Self::Build(_) => (Vec::new(), None),
        };
        if queries.is_empty() {
            return Ok(None);
        }
        let digest = meta::content_digest(work, value, &queries)
            .await
            .map_err(|err| Remains::of_input(input, value).of_failed(err))?;
        if let Some(worker) = self.worker() {
            explain::note_files(worker, &digest, selector.as_ref(), value, queries).await;
        }
        Ok(Some(digest))
    }

    fn limited(&self) -> bool {
        !matches!(self, Self::Build(_))
    }

    async fn run(&self, work: &Work, inputs: &[Value]) -> Result<Vec<Value>, Failure> {
        let told = explain::begin(self, work, inputs).await;
        let ended = self.perform(work, inputs).await;
        if let Some(told) = told {
            told.end(self, work, ended.is_ok()).await;
        }
        ended
    }
}

impl Op {
    /// What the op works on, if it needs anything.
    fn worker(&self) -> Option<&Worker> {
        match self {
            Self::Source(op) => Some(op.worker()),
            Self::Exec(op) => Some(&op.worker),
            Self::File(op) => Some(&op.worker),
            Self::Merge(op) => Some(op.worker()),
            Self::Diff(op) => Some(op.worker()),
            Self::Passthrough(_) | Self::Build(_) => None,
        }
    }

    async fn perform(&self, work: &Work, inputs: &[Value]) -> Result<Vec<Value>, Failure> {
        match self {
            Self::Source(op) => op.run(work).await,
            Self::Exec(op) => op.run(work, inputs).await,
            Self::File(op) => op.run(work, inputs).await,
            Self::Merge(op) => op.run(inputs),
            Self::Diff(op) => op.run(work, inputs).await,
            Self::Passthrough(op) => Ok(op.run(inputs)),
            Self::Build(op) => op.run(work, inputs).await,
        }
    }
}

/// Inputs nothing is known of but that they exist.
fn plain_inputs(count: usize) -> Vec<InputMap> {
    vec![InputMap::default(); count]
}
