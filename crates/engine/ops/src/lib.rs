//! What each LLB op does: its definition key, its content keys, its work.
//!
//! An [`Op`] is what the solver runs. It knows nothing of builds, frontends or exporters; it works on a [`Worker`],
//! which holds the stores and the runtime.

mod combine;
mod exec;
mod exec_key;
mod exec_mounts;
mod file;
mod file_key;
#[cfg(test)]
mod golden;
mod json;
mod load;
mod logs;
mod meta;
mod results;
mod source;
mod worker;

use async_trait::async_trait;
use diagnostics::Failure;
use oci::Digest;
use solver::{CacheMap, InputMap, Operation, Work};

pub use exec_mounts::CacheDirs;
pub use load::{Edge, LoadOptions, Loaded, load};
pub use logs::LogLimits;
pub use results::Results;
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
        let queries = match self {
            Self::Exec(op) => op.key().content_queries(input)?,
            Self::File(op) => op.key().content_queries(input),
            Self::Source(_) | Self::Merge(_) | Self::Diff(_) | Self::Passthrough(_) => Vec::new(),
        };
        if queries.is_empty() {
            return Ok(None);
        }
        meta::content_digest(work, value, &queries).await.map(Some)
    }

    async fn run(&self, work: &Work, inputs: &[Value]) -> Result<Vec<Value>, Failure> {
        match self {
            Self::Source(op) => op.run(work).await,
            Self::Exec(op) => op.run(work, inputs).await,
            Self::File(op) => op.run(work, inputs).await,
            Self::Merge(op) => op.run(inputs),
            Self::Diff(op) => op.run(work, inputs).await,
            Self::Passthrough(op) => Ok(op.run(inputs)),
        }
    }
}

/// Inputs nothing is known of but that they exist.
fn plain_inputs(count: usize) -> Vec<InputMap> {
    vec![InputMap::default(); count]
}
