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
    instance: Instance,
}

/// `Err`: it names nothing that could be had, which is told when somebody wants it.
type Instance = Result<Arc<dyn ::source::Instance>, Failure>;

impl SourceOp {
    pub(crate) fn new(worker: Arc<Worker>, id: Identifier, instance: Instance) -> Self {
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

    pub(crate) fn instance(&self) -> Result<&dyn ::source::Instance, Failure> {
        match &self.instance {
            Ok(instance) => Ok(&**instance),
            Err(failure) => Err(failure.clone()),
        }
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
        let facts = match &self.instance {
            Ok(it) => it.facts(&work.cx, &sessions, &none, &asked).await.ok(),
            Err(_) => None,
        };
        let version = match facts {
            Some(Facts::Image { digest, .. }) => digest.to_string(),
            Some(Facts::Git(facts)) => facts.checksum,
            Some(Facts::Http(facts)) => facts.digest.to_string(),
            Some(Facts::Nothing) | None => String::new(),
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
            .instance()?
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
            .instance()?
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
