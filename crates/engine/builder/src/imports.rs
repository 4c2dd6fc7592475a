//! Remote caches a build looks into: read in the background, asked like the daemon's own, fetched from when a result is
//! loaded. One that cannot be read is shown as failed and counts as empty.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use cache::{Cache, ImageLayer, Ref};
use cachekeys::{Key, KeyStore, Record};
use diagnostics::Failure;
use oci::Digest;
use ops::{Value, Worker};
use parking_lot::Mutex;
use progress::{Progress, Sink};
use remotecache::{Error, Found, Imported, Importer, Kind, Now, Work};
use tasks::{Cx, Scope};

use crate::bridge::BuildBridge;
use crate::vertex;

/// What one build has to do with remote caches.
#[derive(Default)]
pub(crate) struct Imports {
    used: Mutex<BTreeSet<String>>,
    /// Vertices whose results must not be exported.
    unexported: Mutex<BTreeSet<Digest>>,
}

impl Imports {
    /// Results of these vertices stay here.
    pub(crate) fn keep(&self, vertices: BTreeSet<Digest>) {
        if !vertices.is_empty() {
            self.unexported.lock().extend(vertices);
        }
    }

    pub(crate) fn is_kept(&self, vertex: &Digest) -> bool {
        self.unexported.lock().contains(vertex)
    }
}

impl BuildBridge {
    /// Looks into a cache from now on, once however often it is named.
    pub(crate) fn import(&self, kind: &str, attrs: &BTreeMap<String, String>) {
        let id = id(kind, attrs);
        if !self.imports.used.lock().insert(id.clone()) {
            return;
        }
        let machinery = &self.machinery;
        self.job.import(Arc::new(Import {
            importer: importer(&machinery.caches, kind, attrs),
            id,
            sink: self.job.sink(),
            worker: machinery.worker.clone(),
            session: self.session.clone(),
            read: Mutex::default(),
        }));
    }
}

/// What an import is called. Compat: a name in a registry is its own.
fn id(kind: &str, attrs: &BTreeMap<String, String>) -> String {
    if kind == "registry"
        && let Some(name) = attrs.get("ref").filter(|name| !name.is_empty())
    {
        return name.clone();
    }
    // FNV-1a: short, and the same for the same options.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for (key, value) in attrs {
        for byte in format!("{key}\0{value}\0").bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    format!("{kind}:{hash}")
}

fn importer(
    kinds: &[Arc<dyn Kind>],
    kind: &str,
    attrs: &BTreeMap<String, String>,
) -> Result<Arc<dyn Importer>, Failure> {
    let found = kinds.iter().find(|it| it.name() == kind);
    let importer = match found.map(|it| it.importer(attrs)).transpose() {
        Ok(importer) => importer.flatten(),
        Err(err) => {
            let text = format!("failed to configure {kind} cache importer");
            return Err(Failure::from_error(&err).context(text));
        }
    };
    importer.ok_or_else(|| {
        Failure::from_error(&Error::Unknown {
            role: "importer",
            kind: kind.to_owned(),
        })
    })
}

/// A cache of one build.
struct Import {
    id: String,
    importer: Result<Arc<dyn Importer>, Failure>,
    sink: Arc<dyn Sink>,
    worker: Arc<Worker>,
    session: String,
    read: Mutex<Option<Arc<Imported>>>,
}

impl Import {
    async fn read(&self, cx: &Cx, progress: Progress) -> Result<Arc<Imported>, Failure> {
        let importer = self.importer.as_ref().map_err(Failure::clone)?;
        let work = Work {
            cx: cx.clone(),
            progress,
            sessions: self.worker.sessions.group(vec![self.session.clone()]),
            store: self.worker.cache.content().clone(),
        };
        let graph = importer.import(&work).await;
        let graph = graph.map_err(|err| Failure::from_error(&err))?;
        Ok(Arc::new(Imported::new(graph)))
    }

    async fn result(
        &self,
        work: &solver::Work,
        key: &Key,
        record: &Record,
    ) -> Result<Option<Vec<(Key, Record, Value)>>, Error> {
        let Some(imported) = self.read.lock().clone() else {
            return Ok(None);
        };
        // Whoever has the step when a layer is needed is asked for it.
        let (manager, sessions) = (self.worker.sessions.clone(), work.sessions.clone());
        let now: Now = Arc::new(move || manager.group(sessions()));
        let Some(layers) = imported.layers(&record.result, &now) else {
            return Ok(None);
        };
        let cache = self.worker.cache.clone();
        if imported.ends_with_client(&record.result) {
            fetch(work, &cache, &layers).await?;
        }
        let (key, record) = (key.clone(), record.clone());
        tasks::blocking(move || {
            let Some(top) = cache.image(layers)? else {
                return Ok(None);
            };
            let found = imported.with_parts(record.store, &key, &record);
            Ok(Some(values(top, found)))
        })
        .await
    }
}

/// What is found, as trees: `top` and those it stands on.
fn values(top: Ref, found: Vec<Found>) -> Vec<(Key, Record, Value)> {
    let mut below = vec![top];
    while let Some(parent) = below.last().and_then(Ref::parent) {
        below.push(parent);
    }
    below.reverse();
    let value = |found: Found| {
        let tree = below.get(found.height.checked_sub(1)?)?;
        Some((found.key, found.record, Value(Some(tree.clone()))))
    };
    found.into_iter().filter_map(value).collect()
}

/// Makes layers present that nobody can bring once the client is gone.
async fn fetch(work: &solver::Work, cache: &Cache, layers: &[ImageLayer]) -> Result<(), Error> {
    let mut scope: Scope<Error> = Scope::new(&work.cx, "fetch layers");
    let mut seen = BTreeSet::new();
    for layer in layers {
        let digest = &layer.descriptor.digest;
        if cache.content().contains(digest) || !seen.insert(digest) {
            continue;
        }
        let (cx, store) = (scope.cx().clone(), cache.content().clone());
        let (layer, progress) = (layer.clone(), work.progress.clone());
        scope.spawn("fetch layer", async move {
            let blob = &layer.descriptor;
            Ok(layer.provider.fetch(&cx, blob, &store, &progress).await?)
        });
    }
    scope.join().await
}

#[async_trait]
impl solver::Import<Value> for Import {
    fn id(&self) -> &str {
        &self.id
    }

    async fn open(&self, cx: &Cx) -> Option<Arc<dyn KeyStore>> {
        let title = format!("importing cache manifest from {}", self.id);
        let read = vertex::run(&self.sink, &title, &title, |progress| {
            self.read(cx, progress)
        });
        match read.await {
            Ok(imported) => {
                *self.read.lock() = Some(imported.clone());
                Some(imported)
            }
            Err(err) => {
                tracing::debug!(id = self.id, error = err.text(), "a cache is not used");
                None
            }
        }
    }

    async fn load(
        &self,
        work: &solver::Work,
        key: &Key,
        record: &Record,
    ) -> Result<Option<Vec<(Key, Record, Value)>>, Failure> {
        let loaded = self.result(work, key, record).await;
        loaded.map_err(|err| Failure::from_error(&err))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_is_named_by_its_ref_or_its_options() {
        let attrs = |pairs: &[(&str, &str)]| {
            let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
            pairs.iter().map(owned).collect::<BTreeMap<_, _>>()
        };
        assert_eq!(id("registry", &attrs(&[("ref", "a.b/c")])), "a.b/c");
        let one = id("local", &attrs(&[("src", "/x")]));
        assert!(one.starts_with("local:"));
        assert_ne!(one, id("local", &attrs(&[("src", "/y")])));
    }

    #[test]
    fn a_kind_nobody_knows_is_named() {
        let refused = importer(&[], "carrier-pigeon", &BTreeMap::new());
        let text = refused.err().map(|err| err.text().to_owned());
        assert_eq!(
            text.as_deref(),
            Some("unknown cache importer: carrier-pigeon")
        );
    }
}
