//! `registry`: a cache under a name of its own, or inside an image that was pushed.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use content::{Provider, Store};
use oci::media_type::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use oci::{Descriptor, Digest, Manifest, Reference};
use registry::{Client, Sessions, Standing};
use remotecache::manifest::flag;
use remotecache::{Blob, Documents, Error, Exporter, Graph, Importer, Kind, Origin, Work};
use session::Group;
use tasks::Cx;

use crate::options::Options;
use crate::send::{self, Target};

/// Caches in registries.
pub struct Registry {
    client: Client,
}

impl Registry {
    /// Caches that `client` can reach.
    pub fn new(client: Client) -> Self {
        Self { client }
    }
}

impl Kind for Registry {
    fn name(&self) -> &'static str {
        "registry"
    }

    fn importer(
        &self,
        attrs: &BTreeMap<String, String>,
    ) -> Result<Option<Arc<dyn Importer>>, Error> {
        Ok(Some(Arc::new(Import(Named::parse(&self.client, attrs)?))))
    }

    fn exporter(&self, attrs: &BTreeMap<String, String>) -> Result<Arc<dyn Exporter>, Error> {
        Ok(Arc::new(Export {
            options: Options::parse(attrs)?,
            to: Named::parse(&self.client, attrs)?,
        }))
    }
}

/// A name in a registry.
#[derive(Clone)]
struct Named {
    client: Client,
    reference: Reference,
    insecure: bool,
}

impl Named {
    fn parse(client: &Client, attrs: &BTreeMap<String, String>) -> Result<Self, Error> {
        let name = attrs.get("ref").map_or("", String::as_str);
        if name.is_empty() {
            return Err(Error::option("missing ref"));
        }
        let reference = Reference::parse(name).map_err(|err| Error::place(&err))?;
        let insecure = attrs.get("registry.insecure");
        let insecure = insecure
            .map(|value| flag("registry.insecure", value))
            .transpose()?;
        Ok(Self {
            client: client.clone(),
            reference: reference.with_default_tag(),
            insecure: insecure.unwrap_or(false),
        })
    }

    fn repository(&self, sessions: &Group) -> registry::Repository {
        let who = Sessions::credentials(sessions);
        self.client.repository(who, &self.reference, self.insecure)
    }
}

struct Import(Named);

#[async_trait]
impl Importer for Import {
    async fn import(&self, work: &Work) -> Result<Graph, Error> {
        let repository = self.0.repository(&work.sessions);
        let root = repository.resolve(&work.cx).await;
        let root = root.map_err(|err| Error::absent("registry", &err))?;
        let origin: Arc<dyn Origin> = Arc::new(Layers {
            of: self.0.clone(),
            listed: matches!(root.media_type.as_str(), OCI_INDEX | DOCKER_LIST),
        });
        let from = Reader {
            repository,
            store: work.store.clone(),
        };
        let mut graph = remotecache::read(&work.cx, &from, &root, &origin, &work.progress).await?;
        graph.layers.edit(|blob| {
            registry::Origin::note(&mut blob.descriptor, &self.0.reference);
        });
        Ok(graph)
    }
}

/// The layers of a cache.
struct Layers {
    of: Named,
    /// They are in a list of manifests. Registries that take them for what the list says throw them away.
    listed: bool,
}

#[async_trait]
impl Origin for Layers {
    fn provider(&self, sessions: &Group) -> Arc<dyn Provider> {
        Arc::new(self.of.repository(sessions))
    }

    async fn has(&self, cx: &Cx, sessions: &Group, blob: &Digest) -> bool {
        if !self.listed {
            // A registry keeps what a manifest names.
            return true;
        }
        let asked = self.of.repository(sessions).may_have(cx, blob).await;
        asked.unwrap_or(true)
    }
}

struct Reader {
    repository: registry::Repository,
    store: Store,
}

#[async_trait]
impl Documents for Reader {
    async fn read(&self, cx: &Cx, document: &Descriptor) -> Result<Bytes, Error> {
        let read = self.repository.read(cx, document, &self.store).await;
        read.map_err(|err| Error::place(&err))
    }
}

struct Export {
    to: Named,
    options: Options,
}

#[async_trait]
impl Exporter for Export {
    fn name(&self) -> &'static str {
        "exporting cache to registry"
    }

    fn layers(&self) -> layer::Options {
        self.options.layers.clone()
    }

    async fn export(&self, work: &Work, graph: &Graph) -> Result<BTreeMap<String, String>, Error> {
        let repository = self.to.repository(&work.sessions);
        let before = repository.before_push(&work.cx).await;
        let before = before.map_err(|err| Error::place(&err))?;
        let kept = before.map_or_else(HashSet::new, |manifest| kept(&manifest));
        let push = |kept| Push {
            repository: repository.clone(),
            kept: Arc::new(kept),
            relied: Arc::default(),
        };
        let target = push(kept);
        match send::send(&target, work, graph, self.options.form).await {
            // It keeps less than it said, or does not like to be told the same again.
            Err(err) if target.relies() && !matches!(err, Error::Cancelled(_)) => {
                let error = fault::chain(&err);
                tracing::warn!(name = %self.to.reference, error, "cache not taken, asking for each layer");
                let target = push(HashSet::new());
                send::send(&target, work, graph, self.options.form).await
            }
            sent => sent,
        }
    }
}

/// The blobs that a manifest keeps alive. Those of a list may be gone: some registries take them for manifests.
fn kept(manifest: &[u8]) -> HashSet<Digest> {
    let Ok(manifest) = serde_json::from_slice::<Manifest>(manifest) else {
        return HashSet::new();
    };
    if !matches!(&*manifest.media_type, OCI_MANIFEST | DOCKER_MANIFEST) {
        return HashSet::new();
    }
    let layers = manifest.layers.into_iter().filter(|blob| {
        // Those need not be in the registry.
        blob.urls.is_empty() && !layer::is_nondistributable(&blob.media_type)
    });
    let all = layers.chain([manifest.config]);
    all.map(|blob| blob.digest).collect()
}

#[derive(Clone)]
struct Push {
    repository: registry::Repository,
    /// What the registry has for as long as the manifest is there that had the name before: nobody asks for it.
    kept: Arc<HashSet<Digest>>,
    /// Whether that mattered.
    relied: Arc<AtomicBool>,
}

impl Push {
    fn has(&self, blob: &Digest) -> bool {
        let kept = self.kept.contains(blob);
        if kept {
            self.relied.store(true, Ordering::Relaxed);
            self.repository.note(blob);
        }
        kept
    }

    fn relies(&self) -> bool {
        self.relied.load(Ordering::Relaxed)
    }

    async fn blob(
        &self,
        cx: &Cx,
        work: &Work,
        blob: &Descriptor,
        origin: &registry::Origin,
    ) -> Result<(), Error> {
        if self.has(&blob.digest) {
            return Ok(());
        }
        let (store, progress) = (&work.store, &work.progress);
        let pushed = self.repository.push(cx, blob, origin, store, progress);
        pushed.await.map_err(|err| Error::place(&err))
    }
}

#[async_trait]
impl Target for Push {
    async fn layer(&self, cx: &Cx, work: &Work, blob: &Blob) -> Result<(), Error> {
        let descriptor = &blob.descriptor;
        let origin = registry::Origin::of(descriptor, blob.provider(&work.sessions));
        self.blob(cx, work, descriptor, &origin).await
    }

    async fn config(
        &self,
        cx: &Cx,
        work: &Work,
        what: &Descriptor,
        bytes: Bytes,
    ) -> Result<(), Error> {
        store(work, bytes).await?;
        let origin = registry::Origin::default();
        self.blob(cx, work, what, &origin).await
    }

    async fn manifest(
        &self,
        cx: &Cx,
        work: &Work,
        what: &Descriptor,
        bytes: Bytes,
    ) -> Result<(), Error> {
        store(work, bytes).await?;
        let (to, store, progress) = (&self.repository, &work.store, &work.progress);
        let standing = if self.relies() {
            Standing::PutAgain
        } else {
            Standing::Kept
        };
        let pushed = to.push_manifest(cx, what, standing, store, progress);
        pushed.await.map_err(|err| Error::place(&err))
    }
}

async fn store(work: &Work, bytes: Bytes) -> Result<(), Error> {
    let store = work.store.clone();
    tasks::blocking(move || store.put(bytes)).await?;
    Ok(())
}
