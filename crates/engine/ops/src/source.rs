//! The source op: a tree from outside.

use std::sync::Arc;

use diagnostics::Failure;
use oci::Digest;
use solver::{CacheMap, Work};

use crate::{Value, Worker};

/// A source, identified but not resolved.
pub struct SourceOp {
    worker: Arc<Worker>,
    instance: Arc<dyn ::source::Instance>,
}

impl SourceOp {
    pub(crate) fn new(worker: Arc<Worker>, instance: Arc<dyn ::source::Instance>) -> Self {
        Self { worker, instance }
    }

    pub(crate) async fn cache_map(&self, work: &Work, index: usize) -> Result<CacheMap, Failure> {
        let sessions = self.worker.group(work);
        let key = self
            .instance
            .key(&work.cx, &sessions, &work.progress, index)
            .await
            .map_err(|err| Failure::from_error(&err))?;
        Ok(CacheMap {
            digest: definition_key(&key.text),
            inputs: Vec::new(),
            done: key.done,
        })
    }

    pub(crate) async fn run(&self, work: &Work) -> Result<Vec<Value>, Failure> {
        let sessions = self.worker.group(work);
        let tree = self
            .instance
            .snapshot(&work.cx, &sessions, &work.progress)
            .await
            .map_err(|err| Failure::from_error(&err))?;
        Ok(vec![Value(tree)])
    }
}

/// D of a source with this key.
pub(crate) fn definition_key(key: &str) -> Digest {
    let digest = Digest::of(format!("buildkit.source.v0:{key}"));
    // A tree of the client's is known by its content alone; its key must never leave the daemon.
    if key.starts_with("session:") {
        digest.into_random()
    } else {
        digest
    }
}
