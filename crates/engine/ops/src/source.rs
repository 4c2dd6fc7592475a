//! The source op: a tree from outside.

use std::sync::Arc;

use ::source::{Asked, Facts, Identifier};
use cachekeys::Part;
use diagnostics::Failure;
use oci::Digest;
use progress::Progress;
use solver::{CacheMap, Work};

use crate::explain::part;
use crate::{Value, Worker};

/// A source, identified but not resolved.
pub struct SourceOp {
    worker: Arc<Worker>,
    id: Identifier,
    instance: Arc<dyn ::source::Instance>,
}

impl SourceOp {
    pub(crate) fn new(
        worker: Arc<Worker>,
        id: Identifier,
        instance: Arc<dyn ::source::Instance>,
    ) -> Self {
        Self {
            worker,
            id,
            instance,
        }
    }

    /// What the definition calls it.
    pub(crate) fn id(&self) -> &Identifier {
        &self.id
    }

    pub(crate) fn instance(&self) -> &dyn ::source::Instance {
        &*self.instance
    }

    pub(crate) fn worker(&self) -> &Worker {
        &self.worker
    }

    /// What it brought in, for people: its name, and the version if the name does not say it.
    pub(crate) async fn parts(&self, work: &Work, name: &str) -> Vec<Part> {
        let name = match name.strip_prefix('[').and_then(|it| it.split_once("] ")) {
            Some((_, name)) => name,
            None => name,
        };
        let asked = Asked {
            no_config: true,
            ..Asked::default()
        };
        let sessions = self.worker.group(work);
        let none = Progress::none();
        let facts = self
            .instance
            .facts(&work.cx, &sessions, &none, &asked)
            .await;
        let version = match facts {
            Ok(Facts::Image { digest, .. }) => digest.to_string(),
            Ok(Facts::Git(facts)) => facts.checksum,
            Ok(Facts::Http(facts)) => facts.digest.to_string(),
            Ok(Facts::Nothing) | Err(_) => String::new(),
        };
        let text = if version.is_empty() || name.contains(&version) {
            name.to_owned()
        } else {
            format!("{name}@{version}")
        };
        vec![part("kind", cachekeys::SOURCE), part("source", &text)]
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
