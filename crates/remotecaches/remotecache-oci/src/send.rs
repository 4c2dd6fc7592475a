//! Sending a cache that is made like an image: layers beside each other, then the document, then the manifest.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use oci::Descriptor;
use parking_lot::Mutex;
use remotecache::manifest::Form;
use remotecache::{Blob, Error, Graph, Work};
use tasks::{Cx, Scope};

/// Where the parts of a cache go.
#[async_trait]
pub(crate) trait Target: Clone + Send + Sync + 'static {
    /// A layer, unless it is there.
    async fn layer(&self, cx: &Cx, work: &Work, blob: &Blob) -> Result<(), Error>;
    /// The document, unless it is there.
    async fn config(
        &self,
        cx: &Cx,
        work: &Work,
        what: &Descriptor,
        bytes: Bytes,
    ) -> Result<(), Error>;
    /// The manifest, and its name.
    async fn manifest(
        &self,
        cx: &Cx,
        work: &Work,
        what: &Descriptor,
        bytes: Bytes,
    ) -> Result<(), Error>;
}

/// Chunks of cache mounts sent beside each other: there may be a thousand.
const AT_ONCE: usize = 6;

/// Sends a cache and answers with its manifest.
pub(crate) async fn send(
    target: &impl Target,
    work: &Work,
    graph: &Graph,
    form: Form,
) -> Result<BTreeMap<String, String>, Error> {
    let Some(written) = form.write(graph)? else {
        tracing::warn!("failed to match any cache with layers");
        drop(
            work.progress
                .status("skipping cache export for empty result", ""),
        );
        return Ok(BTreeMap::new());
    };
    let mut scope: Scope<Error> = Scope::new(&work.cx, "send layers");
    for blob in written.blobs.clone() {
        let (cx, target, work) = (scope.cx().clone(), target.clone(), work.clone());
        scope.spawn("send layer", async move {
            let title = format!("writing layer {}", blob.descriptor.digest);
            let _status = work.progress.status(&title, "");
            target.layer(&cx, &work, &blob).await
        });
    }
    let mounts = graph.mounts.as_ref().map(|mounts| {
        let left: Vec<Blob> = mounts.blobs().to_vec();
        let left = Arc::new(Mutex::new(left.into_iter()));
        for _ in 0..AT_ONCE {
            let (cx, target, work) = (scope.cx().clone(), target.clone(), mounts.work(work));
            let left = left.clone();
            scope.spawn("send cache mounts", async move {
                loop {
                    let next = left.lock().next();
                    let Some(blob) = next else { return Ok(()) };
                    target.layer(&cx, &work, &blob).await?;
                }
            });
        }
        work.progress.status("writing cache mounts", "")
    });
    scope
        .join()
        .await
        .map_err(within("error writing layer blob"))?;
    drop(mounts);
    let (config, bytes) = written.config.clone();
    let status = work
        .progress
        .status(&format!("writing config {}", config.digest), "");
    let sent = target.config(&work.cx, work, &config, bytes).await;
    sent.map_err(within("error writing config blob"))?;
    drop(status);
    let (manifest, bytes) = written.manifest.clone();
    let kind = if form.image {
        "image manifest"
    } else {
        "manifest"
    };
    let title = format!("writing cache {kind} {}", manifest.digest);
    let _status = work.progress.status(&title, "");
    let sent = target.manifest(&work.cx, work, &manifest, bytes).await;
    sent.map_err(within("error writing manifest blob"))?;
    written.response()
}

/// Says what failed.
fn within(what: &'static str) -> impl Fn(Error) -> Error {
    move |err| match err {
        Error::Cancelled(err) => err.into(),
        other => Error::Place {
            class: fault::Classify::class(&other),
            text: format!("{what}: {}", fault::chain(&other)),
        },
    }
}
