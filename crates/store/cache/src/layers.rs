//! Blobs of layers: those an image came with, and those made from trees when somebody exports them.
//!
//! A blob is made once per record and compression, however many exports ask for it.

use std::sync::Arc;

use db::Batch;
use fstree::Root;
use layer::{Base, Change, Compression, Options};
use oci::Descriptor;
use progress::Progress;
use tasks::{Cx, Scope};
use tokio::sync::Semaphore;

use crate::base::Unmounted;
use crate::node::Node;
use crate::record::{BLOBS, Blob, Body, Record, VARIANTS, pair};
use crate::{Cache, Error, Inner, LayerBlob, Ref, RefId};

/// Says that a variant, decompressed, is not what the blob of its record is: an index may be a part of either.
const DIFF_ID: &str = "containerd.io/uncompressed";
/// Layers made at a time; each uses several threads of its own.
const AT_ONCE: usize = 4;

impl Ref {
    /// The layers of this tree as blobs, the lowest first. Blobs that do not exist are made; those of images are not
    /// fetched unless they have to be converted.
    pub async fn layers(
        &self,
        cx: &Cx,
        options: &Options,
        progress: &Progress,
    ) -> Result<Vec<LayerBlob>, Error> {
        let cache = self.cache();
        cache.inner.settle(self.node())?;
        let nodes = self.node().layers();
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        let mut scope = Scope::new(cx, "make layers");
        let (told, mut hear) = tokio::sync::mpsc::unbounded_channel();
        let mut blobs: Vec<Option<LayerBlob>> = Vec::with_capacity(nodes.len());
        for (index, node) in nodes.into_iter().enumerate() {
            if let Some(ready) = cache.inner.ready(&node, options)? {
                blobs.push(Some(ready));
                continue;
            }
            blobs.push(None);
            let (cache, cx, progress) = (cache.clone(), scope.cx().clone(), progress.clone());
            let (options, turns, told) = (options.clone(), turns.clone(), told.clone());
            scope.spawn("make layer", async move {
                let _turn = turns.acquire().await;
                let made = cache.make_blob(&cx, &node, &options, &progress).await?;
                // The receiver lives until all tasks have ended.
                let _ = told.send((index, made));
                Ok::<_, Error>(())
            });
        }
        drop(told);
        scope.join().await?;
        while let Some((index, made)) = hear.recv().await {
            blobs[index] = Some(made);
        }
        Ok(blobs.into_iter().flatten().collect())
    }
}

impl Cache {
    pub(crate) async fn make_blob(
        &self,
        cx: &Cx,
        node: &Arc<Node>,
        options: &Options,
        progress: &Progress,
    ) -> Result<LayerBlob, Error> {
        let _one_at_a_time = cx.run(node.working.lock()).await?;
        loop {
            if let Some(ready) = self.inner.ready(node, options)? {
                return Ok(ready);
            }
            let exists = node.record.read().blob().is_some();
            let made = if exists {
                let blob = self.inner.fetch(cx, node, progress).await?;
                self.convert(cx, node, blob, options).await?
            } else {
                self.diff_blob(cx, node, options).await?
            };
            // The same bytes may have belonged to a record that was removed meanwhile, and gone with it.
            if self.content().contains(&made.digest) {
                continue;
            }
            tracing::warn!(digest = %made.digest, "blob vanished after it was made, making it again");
        }
    }

    /// Another compression of a blob that is here.
    async fn convert(
        &self,
        cx: &Cx,
        node: &Arc<Node>,
        blob: Blob,
        options: &Options,
    ) -> Result<Descriptor, Error> {
        let (store, cx, wanted) = (self.content().clone(), cx.clone(), options.clone());
        let source = blob.descriptor.clone();
        let converted =
            tasks::blocking(move || layer::convert(&cx, &store, &source, &wanted)).await?;
        let mut made = converted.descriptor;
        if converted.diff_id != blob.diff_id {
            let diff_id = converted.diff_id.to_string();
            made.annotations.insert(DIFF_ID.to_owned(), diff_id);
        }
        let json = serde_json::to_vec(&made).map_err(|source| Error::Damaged {
            id: node.id.clone(),
            source,
        })?;
        let mut batch = Batch::new();
        batch.put(VARIANTS, variant(node, options), json);
        batch.put(BLOBS, pair(made.digest.as_str(), node.id.as_str()), "");
        self.inner.db.commit(batch)?;
        Ok(made)
    }

    /// The blob of a layer that has none, made from its tree.
    async fn diff_blob(
        &self,
        cx: &Cx,
        node: &Arc<Node>,
        options: &Options,
    ) -> Result<Descriptor, Error> {
        let (inner, work) = (self.inner.clone(), cx.clone());
        let (layer, wanted) = (node.clone(), options.clone());
        let without = move || match inner.unmounted(&layer)? {
            Unmounted::Nothing => inner.diff(&work, &layer, None, &wanted).map(Some),
            Unmounted::Layers(layers) => {
                let lower = Some(Base::Layers(layers));
                inner.diff(&work, &layer, lower, &wanted).map(Some)
            }
            Unmounted::No => Ok::<_, Error>(None),
        };
        let made = match tasks::blocking(without).await? {
            Some(made) => made,
            None => {
                let lower = self.mounted(cx, node).await?;
                let (inner, work) = (self.inner.clone(), cx.clone());
                let (layer, wanted) = (node.clone(), options.clone());
                tasks::blocking(move || inner.diff(&work, &layer, lower, &wanted)).await?
            }
        };
        self.inner.change(node, |record| {
            if let Body::Layer { blob, .. } = &mut record.body {
                *blob = Some(Box::new(Blob {
                    descriptor: made.descriptor.clone(),
                    diff_id: made.diff_id,
                    chain_id: None,
                }));
            }
        })?;
        Ok(made.descriptor)
    }
}

impl Inner {
    /// Makes the blob of a layer from its tree. Blocks.
    fn diff(
        &self,
        cx: &Cx,
        node: &Node,
        lower: Option<Base>,
        options: &Options,
    ) -> Result<layer::LayerBlob, Error> {
        let Some(key) = node.record.read().snapshot() else {
            return Err(Error::Lazy {
                id: node.id.clone(),
            });
        };
        let upper = Root::open(self.snapshots.directory(key)).map_err(Error::io("open a tree"))?;
        let change = if self.snapshots.is_layered() {
            Change::Overlay { lower, upper }
        } else {
            let lower = lower.and_then(Base::into_tree);
            Change::Trees { lower, upper }
        };
        Ok(layer::diff(cx, &change, options, &self.content)?)
    }

    /// The blob of a layer if nothing has to be done for it.
    pub(crate) fn ready(
        &self,
        node: &Arc<Node>,
        options: &Options,
    ) -> Result<Option<LayerBlob>, Error> {
        let (blob, created, description) = {
            let record = node.record.read();
            let Some(blob) = record.blob() else {
                return Ok(None);
            };
            (blob.clone(), record.created(), record.description.clone())
        };
        let is = Compression::of(&blob.descriptor);
        let mut diff_id = blob.diff_id;
        let descriptor = if !options.force || is.is_none_or(|is| is == options.compression) {
            // A blob that was made here and is gone can be made again; one that somebody else has need not be here.
            let lost = node.provider.lock().is_none()
                && !self.content.contains(&blob.descriptor.digest)
                && node.record.read().snapshot().is_some();
            if lost {
                return self.forget_blob(node).map(|()| None);
            }
            blob.descriptor
        } else {
            let Some(json) = self.db.value(VARIANTS, &variant(node, options))? else {
                return Ok(None);
            };
            match serde_json::from_slice::<Descriptor>(&json) {
                Ok(mut variant) if self.content.contains(&variant.digest) => {
                    let other = variant.annotations.remove(DIFF_ID);
                    if let Some(other) = other.and_then(|text| text.parse().ok()) {
                        diff_id = other;
                    }
                    variant
                }
                _ => return Ok(None),
            }
        };
        Ok(Some(LayerBlob {
            descriptor,
            diff_id,
            created: Some(created),
            description,
            provider: node.provider.lock().clone(),
        }))
    }

    fn forget_blob(&self, node: &Node) -> Result<(), Error> {
        tracing::warn!(id = %node.id, "the blob of a layer is gone, making it again");
        self.change(node, |record| {
            if let Body::Layer { blob, .. } = &mut record.body {
                *blob = None;
            }
        })
    }

    /// All blobs of a record: its own and its variants.
    pub(crate) fn blobs_of(&self, id: &RefId, record: &Record) -> Result<Vec<oci::Digest>, Error> {
        let mut digests: Vec<_> = record
            .blob()
            .map(|blob| blob.descriptor.digest.clone())
            .into_iter()
            .collect();
        for (_, json) in self.db.prefix(VARIANTS, &pair(id.as_str(), ""))? {
            if let Ok(variant) = serde_json::from_slice::<Descriptor>(&json) {
                digests.push(variant.digest);
            }
        }
        Ok(digests)
    }
}

/// Where a variant of a record's blob is kept.
fn variant(node: &Node, options: &Options) -> Vec<u8> {
    let level = options
        .level
        .map_or_else(String::new, |level| level.to_string());
    pair(
        node.id.as_str(),
        &format!("{} {level}", options.compression.as_str()),
    )
}
