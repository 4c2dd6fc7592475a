//! What all such caches do alike: layers under their digests, and documents whose layers say what they are.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use content::{Provider, Store};
use futures::StreamExt as _;
use oci::{Descriptor, Digest, Timestamp};
use progress::Progress;
use remotecache::document::{Annotations, Document, beginning};
use remotecache::{Blob, Error, Exporter, Graph, Importer, Kind, Origin, Work, parse, write};
use reqwest::Response;
use session::Group;
use tasks::Cx;

use crate::attrs::Attrs;
use crate::download::download;
use crate::{Environment, Signing};

/// A place in a store of objects where caches are.
#[async_trait]
pub(crate) trait Objects: Send + Sync + Sized + 'static {
    /// What users call such caches.
    const KIND: &'static str;
    /// What they see while one is written.
    const EXPORT: &'static str;

    /// Checks the options of a cache. Nobody is asked anything yet.
    fn configured(attrs: &Attrs<'_>) -> Result<Self, Error>;
    /// Blobs sent beside each other.
    fn at_once(&self) -> usize {
        4
    }
    /// The documents of the cache, as far as there are any.
    async fn documents(&self, cx: &Cx) -> Result<Vec<Bytes>, Error>;
    /// Called before anything is sent.
    async fn prepare(&self, cx: &Cx) -> Result<(), Error> {
        cx.check().map_err(Error::from)
    }
    /// Makes this the document of the cache, whose blobs are there.
    async fn publish(&self, cx: &Cx, document: Bytes) -> Result<(), Error>;
    /// Whether a blob is there.
    async fn has(&self, cx: &Cx, blob: &Digest) -> Result<bool, Error>;
    /// Whether a blob is there. One that is there is kept from being thrown away for its age.
    async fn keep(&self, cx: &Cx, blob: &Digest) -> Result<bool, Error> {
        self.has(cx, blob).await
    }
    /// Sends a blob of the daemon's store.
    async fn send(&self, cx: &Cx, blob: &Descriptor, store: &Store) -> Result<(), Error>;
    /// Starts reading a blob at this byte; the answer says whether it does.
    async fn open(&self, cx: &Cx, blob: &Digest, start: u64) -> Result<Response, Error>;
}

/// Caches in such places.
pub(crate) struct Caches<O> {
    environment: Environment,
    signing: Signing,
    of: PhantomData<fn() -> O>,
}

impl<O: Objects> Caches<O> {
    /// Options that are not given are looked up in `environment`.
    pub(crate) fn new(environment: &Environment, signing: &Signing) -> Self {
        Self {
            environment: environment.clone(),
            signing: signing.clone(),
            of: PhantomData,
        }
    }

    fn cache(&self, given: &BTreeMap<String, String>) -> Result<Arc<Cache<O>>, Error> {
        let objects = O::configured(&Attrs {
            given,
            environment: &self.environment,
            signing: &self.signing,
        })?;
        Ok(Arc::new(Cache(Arc::new(objects))))
    }
}

impl<O: Objects> Kind for Caches<O> {
    fn name(&self) -> &'static str {
        O::KIND
    }

    fn importer(
        &self,
        attrs: &BTreeMap<String, String>,
    ) -> Result<Option<Arc<dyn Importer>>, Error> {
        Ok(Some(self.cache(attrs)?))
    }

    fn exporter(&self, attrs: &BTreeMap<String, String>) -> Result<Arc<dyn Exporter>, Error> {
        Ok(self.cache(attrs)?)
    }
}

struct Cache<O>(Arc<O>);

#[async_trait]
impl<O: Objects> Importer for Cache<O> {
    async fn import(&self, work: &Work) -> Result<Graph, Error> {
        let documents = self.0.documents(&work.cx).await?;
        read(&self.0, &documents)
    }
}

#[async_trait]
impl<O: Objects> Exporter for Cache<O> {
    fn name(&self) -> &'static str {
        O::EXPORT
    }

    fn layers(&self) -> layer::Options {
        layer::Options::default()
    }

    async fn export(&self, work: &Work, graph: &Graph) -> Result<BTreeMap<String, String>, Error> {
        if let Some(document) = send_all(&self.0, work, graph).await? {
            self.0.publish(&work.cx, document).await?;
        }
        Ok(BTreeMap::new())
    }
}

/// Sends blobs, beside each other. The answer is the document that says what they are, if there are any.
async fn send_all<O: Objects>(
    objects: &Arc<O>,
    work: &Work,
    graph: &Graph,
) -> Result<Option<Bytes>, Error> {
    let Some(mut document) = write(graph) else {
        tracing::warn!("failed to match any cache with layers");
        drop(
            work.progress
                .status("skipping cache export for empty result", ""),
        );
        return Ok(None);
    };
    objects.prepare(&work.cx).await?;
    let mut blobs = Vec::new();
    let mut seen = BTreeSet::new();
    for layer in &mut document.layers {
        let Some(blob) = graph.layers.blob(&layer.blob) else {
            continue;
        };
        layer.annotations = Some(annotations(blob));
        if seen.insert(layer.blob.clone()) {
            blobs.push(blob.clone());
        }
    }
    let mut blobs: Vec<_> = blobs.into_iter().map(|blob| (work.clone(), blob)).collect();
    if let Some(mounts) = &graph.mounts {
        let work = mounts.work(work);
        let further = mounts.blobs().iter();
        blobs.extend(further.map(|blob| (work.clone(), blob.clone())));
    }
    let mut sending = futures::stream::iter(blobs)
        .map(|(work, blob)| send(objects.clone(), work, blob))
        .buffer_unordered(objects.at_once());
    while let Some(sent) = work.cx.run(sending.next()).await? {
        sent?;
    }
    let bytes = document.to_bytes().map_err(|source| Error::Json {
        what: "cache config".to_owned(),
        source,
    })?;
    Ok(Some(bytes.into()))
}

fn annotations(blob: &Blob) -> Annotations {
    let kind = &blob.descriptor.media_type;
    Annotations {
        media_type: layer::convert_media_type(kind, true, true),
        diff_id: Some(blob.diff_id.clone()),
        size: blob.descriptor.size,
        created_at: blob.created.map_or_else(beginning, Timestamp::from),
    }
}

async fn send<O: Objects>(objects: Arc<O>, work: Work, blob: Blob) -> Result<(), Error> {
    let descriptor = &blob.descriptor;
    if objects.keep(&work.cx, &descriptor.digest).await? {
        return Ok(());
    }
    let _status = work
        .progress
        .status(&format!("writing layer {}", descriptor.digest), "");
    if !work.store.contains(&descriptor.digest)
        && let Some(provider) = blob.provider(&work.sessions)
    {
        provider
            .fetch(&work.cx, descriptor, &work.store, &work.progress)
            .await?;
    }
    objects.send(&work.cx, descriptor, &work.store).await
}

/// Reads documents.
fn read<O: Objects>(objects: &Arc<O>, documents: &[Bytes]) -> Result<Graph, Error> {
    let origin: Arc<dyn Origin> = Arc::new(Stored(objects.clone()));
    let mut graph = Graph::default();
    for bytes in documents {
        let document: Document = oci::json::object(bytes).map_err(|source| Error::Json {
            what: "cache config".to_owned(),
            source,
        })?;
        let layers = document.layers.iter();
        let blobs: Vec<Blob> = layers
            .filter_map(|layer| blob(&layer.blob, layer.annotations.as_ref()?, &origin))
            .collect();
        parse(&document, blobs, &mut graph)?;
        graph.note_mounts(&document, &origin);
    }
    Ok(graph)
}

fn blob(digest: &Digest, told: &Annotations, origin: &Arc<dyn Origin>) -> Option<Blob> {
    let mut blob = Descriptor::new(&told.media_type, digest.clone(), told.size);
    let diff_id = told.diff_id.as_ref()?.to_string();
    let annotations = &mut blob.annotations;
    annotations.insert("containerd.io/uncompressed".to_owned(), diff_id);
    if told.created_at != beginning() {
        let created = told.created_at.to_string();
        annotations.insert("buildkit/createdat".to_owned(), created);
    }
    Blob::imported(blob, origin)
}

/// The blobs of such a store.
pub(crate) struct Stored<O>(pub(crate) Arc<O>);

#[async_trait]
impl<O: Objects> Origin for Stored<O> {
    fn provider(&self, _: &Group) -> Arc<dyn Provider> {
        Arc::new(Self(self.0.clone()))
    }

    async fn has(&self, cx: &Cx, _: &Group, blob: &Digest) -> bool {
        self.0.has(cx, blob).await.unwrap_or(false)
    }
}

#[async_trait]
impl<O: Objects> Provider for Stored<O> {
    async fn fetch(
        &self,
        cx: &Cx,
        blob: &Descriptor,
        store: &Store,
        progress: &Progress,
    ) -> Result<(), content::Error> {
        download(&*self.0, cx, blob, store, progress).await
    }
}
