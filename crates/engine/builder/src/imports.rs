//! Remote caches a build looks into: read in the background, asked like the daemon's own, fetched from when a result is
//! loaded. One that cannot be read is shown as failed and counts as empty.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use cache::{Cache, ImageLayer, Ref};
use cachekeys::{Key, KeyStore, Record};
use diagnostics::Failure;
use fault::{Class, Classify as _};
use oci::Digest;
use ops::{Offered, Value, Worker};
use parking_lot::Mutex;
use progress::{Progress, Sink};
use remotecache::{Error, Found, Imported, Importer, Kind, Now, Work};
use tasks::{Cx, Scope, Task};
use tokio::sync::OnceCell;

use crate::bridge::BuildBridge;
use crate::cache_mounts::{Stock, Used, Which};
use crate::vertex;

/// What one build has to do with remote caches.
#[derive(Default)]
pub(crate) struct Imports {
    used: Mutex<BTreeSet<String>>,
    /// Not looked into yet.
    announced: Mutex<BTreeMap<String, Arc<Import>>>,
    reading: Mutex<Vec<Task<()>>>,
    /// Vertices whose results must not be exported.
    unexported: Mutex<BTreeSet<Digest>>,
    /// The cache mounts of the build's steps.
    pub(crate) mounts: Arc<Mutex<Used>>,
    /// Cache mounts that came with caches.
    pub(crate) stocks: Mutex<Vec<Arc<Stock>>>,
    offered: Mutex<Vec<Offered>>,
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
        let announced = self.imports.announced.lock().remove(&id);
        let import = announced.unwrap_or_else(|| self.new_import(kind, attrs, id));
        self.job.import(import);
    }

    /// Begins to read a cache that a frontend is going to look into. What the frontend itself needs does not wait for it.
    pub(crate) fn announce(&self, cx: &Cx, kind: &str, attrs: &BTreeMap<String, String>) {
        let id = id(kind, attrs);
        let mut announced = self.imports.announced.lock();
        if announced.contains_key(&id) {
            return;
        }
        let import = self.new_import(kind, attrs, id.clone());
        announced.insert(id, import.clone());
        let cx = cx.clone();
        let reading = tasks::spawn("read announced cache", async move {
            import.imported(&cx).await;
        });
        self.imports.reading.lock().push(reading);
    }

    fn new_import(&self, kind: &str, attrs: &BTreeMap<String, String>, id: String) -> Arc<Import> {
        let machinery = &self.machinery;
        let import = Arc::new(Import {
            importer: importer(&machinery.caches, kind, attrs),
            id,
            sink: self.job.sink(),
            worker: machinery.worker.clone(),
            session: self.session.clone(),
            read: OnceCell::new(),
        });
        if let Some(which) = Which::parse(attrs) {
            let stock = Arc::new(Stock {
                import: import.clone(),
                which,
                used: self.imports.mounts.clone(),
            });
            let dirs = &machinery.worker.cache_dirs;
            let offered = dirs.offer(&self.session, stock.clone());
            self.imports.offered.lock().push(offered);
            self.imports.stocks.lock().push(stock);
        }
        import
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
pub(crate) struct Import {
    id: String,
    importer: Result<Arc<dyn Importer>, Failure>,
    sink: Arc<dyn Sink>,
    pub(crate) worker: Arc<Worker>,
    session: String,
    /// Nothing when it cannot be read.
    read: OnceCell<Option<Arc<Imported>>>,
}

impl Import {
    async fn read(&self, cx: &Cx, progress: Progress) -> Result<Arc<Imported>, Failure> {
        let importer = self.importer.as_ref().map_err(Failure::clone)?;
        let graph = importer.import(&self.work(cx, progress)).await;
        let graph = graph.map_err(|err| Failure::from_error(&err))?;
        Ok(Arc::new(Imported::new(graph)))
    }

    /// What it works with.
    pub(crate) fn work(&self, cx: &Cx, progress: Progress) -> Work {
        Work {
            cx: cx.clone(),
            progress,
            sessions: self.worker.sessions.group(vec![self.session.clone()]),
            store: self.worker.cache.content().clone(),
        }
    }

    /// The cache, read once by whoever needs it first.
    pub(crate) async fn imported(&self, cx: &Cx) -> Option<Arc<Imported>> {
        let read = || async {
            let title = format!("importing cache manifest from {}", self.id);
            let read = vertex::run(&self.sink, &title, &title, |progress| {
                self.read(cx, progress)
            });
            read.await
                .inspect_err(|err| {
                    tracing::debug!(id = self.id, error = err.text(), "a cache is not used");
                })
                .ok()
        };
        self.read.get_or_init(read).await.clone()
    }

    async fn result(
        &self,
        work: &solver::Work,
        key: &Key,
        record: &Record,
    ) -> Result<Option<Vec<(Key, Record, Value)>>, Error> {
        let Some(imported) = self.read.get().cloned().flatten() else {
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
        } else {
            let looking = self.work(&work.cx, work.progress.clone());
            let lost = imported.lost_blob(&looking, &record.result).await?;
            if let Some(blob) = lost {
                return Err(Error::Lost { blob });
            }
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
        let imported = self.imported(cx).await?;
        Some(imported)
    }

    async fn load(
        &self,
        work: &solver::Work,
        key: &Key,
        record: &Record,
    ) -> Result<Option<Vec<(Key, Record, Value)>>, Failure> {
        let loaded = self.result(work, key, record).await;
        loaded.map_err(|err| {
            let failure = Failure::from_error(&err);
            if failure.class() != Class::Cancelled {
                let (id, text) = (&self.id, failure.text());
                let short = format!("cache {id} is not used for this step: {text}");
                work.progress.warn(short);
            }
            failure
        })
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
