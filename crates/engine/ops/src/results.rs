//! Results between builds: trees of the cache, named `WORKER::REF`.

use async_trait::async_trait;
use cache::{Cache, RefId};
use diagnostics::Failure;
use solver::ResultStore;

use crate::Value;

/// Names trees and finds them again.
pub struct Results {
    cache: Cache,
    worker: String,
}

impl Results {
    /// Results of the worker with this id.
    pub fn new(cache: Cache, worker: &str) -> Self {
        Self {
            cache,
            worker: worker.to_owned(),
        }
    }

    /// The tree an id names: `None` when it is not ours or no id, `Some(None)` for scratch.
    fn parse(&self, id: &str) -> Option<Option<RefId>> {
        let (worker, tree) = id.split_once("::")?;
        if worker != self.worker {
            return None;
        }
        if tree.is_empty() {
            return Some(None);
        }
        RefId::parse(tree).map(Some)
    }
}

impl Results {
    /// The record an id names, there or not; scratch has none.
    pub fn record(&self, id: &str) -> Option<RefId> {
        self.parse(id)?
    }

    /// The tree an id names, if it is there.
    pub fn find(&self, id: &str) -> Option<Value> {
        match self.parse(id)? {
            None => Some(Value(None)),
            Some(tree) => self.cache.get(&tree).map(|tree| Value(Some(tree))),
        }
    }
}

#[async_trait]
impl ResultStore<Value> for Results {
    async fn save(&self, value: &Value) -> Result<String, Failure> {
        let id = match &value.0 {
            None => String::new(),
            Some(tree) => tree.id().to_string(),
        };
        Ok(format!("{}::{id}", self.worker))
    }

    async fn load(&self, id: &str) -> Result<Option<Value>, Failure> {
        Ok(self.find(id))
    }

    fn exists(&self, id: &str) -> bool {
        match self.parse(id) {
            None => false,
            Some(None) => true,
            Some(Some(tree)) => self.cache.exists(&tree),
        }
    }
}
