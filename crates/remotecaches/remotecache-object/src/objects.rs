//! What all such caches do alike: layers under their digests, and documents whose layers say what they are.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use content::{Provider, Store};
use futures::StreamExt as _;
use oci::{Descriptor, Digest, Timestamp};
use progress::Progress;
use remotecache::document::{Annotations, Document, beginning};
use remotecache::{Blob, Error, Graph, Origin, Work, parse, write};
use reqwest::Response;
use session::Group;
use tasks::Cx;
use tokio::sync::mpsc;

/// A store of objects.
#[async_trait]
pub(crate) trait Objects: Send + Sync + 'static {
    /// Whether a blob is there. One that is there is kept from being thrown away for its age.
    async fn keep(&self, cx: &Cx, blob: &Digest) -> Result<bool, Error>;
    /// Sends a blob of the daemon's store.
    async fn send(&self, cx: &Cx, blob: &Descriptor, store: &Store) -> Result<(), Error>;
    /// Starts reading a blob.
    async fn open(&self, cx: &Cx, blob: &Digest) -> Result<Response, Error>;
}

/// Blobs sent beside each other, and what to write where documents are.
pub(crate) async fn export<O: Objects>(
    objects: &Arc<O>,
    work: &Work,
    graph: &Graph,
    at_once: usize,
) -> Result<Option<Bytes>, Error> {
    let Some(mut document) = write(graph) else {
        tracing::warn!("failed to match any cache with layers");
        drop(
            work.progress
                .status("skipping cache export for empty result", ""),
        );
        return Ok(None);
    };
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
    let mut sending = futures::stream::iter(blobs)
        .map(|blob| send(objects.clone(), work.clone(), blob))
        .buffer_unordered(at_once);
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

/// Reads a document.
pub(crate) fn import<O: Objects>(objects: &Arc<O>, bytes: &[u8]) -> Result<Graph, Error> {
    let document: Document = serde_json::from_slice(bytes).map_err(|source| Error::Json {
        what: "cache config".to_owned(),
        source,
    })?;
    let origin: Arc<dyn Origin> = Arc::new(Stored(objects.clone()));
    let blobs = document.layers.iter().filter_map(|layer| {
        let told = layer.annotations.as_ref()?;
        let mut blob = Descriptor::new(&told.media_type, layer.blob.clone(), told.size);
        let annotations = &mut blob.annotations;
        let diff_id = told.diff_id.as_ref()?.to_string();
        annotations.insert("containerd.io/uncompressed".to_owned(), diff_id);
        if told.created_at != beginning() {
            let created = told.created_at.to_string();
            annotations.insert("buildkit/createdat".to_owned(), created);
        }
        Blob::imported(blob, &origin)
    });
    let blobs: Vec<Blob> = blobs.collect();
    let mut graph = Graph::default();
    parse(&document, blobs, &mut graph)?;
    Ok(graph)
}

/// The blobs of such a store.
struct Stored<O>(Arc<O>);

#[async_trait]
impl<O: Objects> Origin for Stored<O> {
    fn provider(&self, _: &Group) -> Arc<dyn Provider> {
        Arc::new(Self(self.0.clone()))
    }

    async fn has(&self, cx: &Cx, _: &Group, blob: &Digest) -> bool {
        self.0.keep(cx, blob).await.unwrap_or(false)
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
        if store.contains(&blob.digest) {
            return Ok(());
        }
        let opened = self.0.open(cx, &blob.digest).await;
        let mut response = opened.map_err(|err| content::Error::provider(&err))?;
        let mut status = progress.status(blob.digest.as_str(), "downloading");
        let mut writer = store.writer(Some(&blob.digest))?;
        let (sender, mut queue) = mpsc::channel::<Bytes>(4);
        let written = tasks::blocking(move || {
            while let Some(piece) = queue.blocking_recv() {
                writer.write_all(&piece)?;
            }
            Ok::<_, std::io::Error>(writer)
        });
        let read = async {
            let mut current = 0;
            while let Some(piece) = cx.run(response.chunk()).await?.map_err(|err| {
                content::Error::provider(&crate::http::broken("failed to read blob", &err))
            })? {
                current += i64::try_from(piece.len()).unwrap_or(0);
                status.set(current, blob.size);
                if sender.send(piece).await.is_err() {
                    break;
                }
            }
            drop(sender);
            Ok::<_, content::Error>(())
        };
        let (read, written) = tokio::join!(read, written);
        read?;
        let writer = written.map_err(|source| content::Error::Write {
            digest: Some(blob.digest.clone()),
            source,
        })?;
        tasks::blocking(move || writer.commit()).await?;
        Ok(())
    }
}
