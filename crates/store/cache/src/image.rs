//! Layers of images: known at once, fetched and unpacked when somebody looks inside.
//!
//! A layer is found again by its chain id, the digest over its diff id and all below, so images with the same base share
//! records. All layers are fetched beside each other, and each is unpacked as soon as it and those below are there.

use std::collections::HashSet;
use std::sync::Arc;

use db::Batch;
use oci::Digest;
use progress::Progress;
use tasks::{Cx, Scope};

use crate::fresh::Fresh;
use crate::node::Node;
use crate::record::{Blob, Body, CHAINS, Record, to_nanos};
use crate::{Cache, Error, ImageLayer, Inner, RecordType, Ref, RefId};

impl Cache {
    /// The tree of an image with these layers, the lowest first. Nothing is fetched. `None` for no layers. Images share
    /// what they have in common, as long as the blobs are the same.
    pub fn image(&self, layers: Vec<ImageLayer>) -> Result<Option<Ref>, Error> {
        let mut nodes = self.inner.nodes.lock();
        let mut batch = Batch::new();
        let mut fresh = HashSet::new();
        let mut top: Option<Arc<Node>> = None;
        let mut chain_id: Option<Digest> = None;
        for layer in layers {
            // The same files in other blobs are another image: who builds on it gets the blobs it has.
            let below = chain_id.as_ref().map_or("", Digest::as_str);
            let (diff_id, blob) = (&layer.diff_id, &layer.descriptor.digest);
            let next = Digest::of(format!("{below} {diff_id} {blob}"));
            let found = match self.inner.db.value(CHAINS, next.as_str().as_bytes())? {
                Some(id) => std::str::from_utf8(&id).ok().and_then(RefId::parse),
                None => None,
            };
            let found = match found {
                Some(id) => self.inner.load(&mut nodes, &id)?,
                None => None,
            };
            // Its parent may differ if that was removed and made again: then it is another record.
            let same_parent = |node: &Arc<Node>| {
                node.parents.first().map(|parent| &parent.id) == top.as_ref().map(|node| &node.id)
            };
            let provider = layer.provider.clone();
            let node = match found.filter(same_parent) {
                Some(node) => node,
                None => {
                    let id = RefId::random();
                    let record = self.inner.lazy(layer, top.as_ref(), next.clone());
                    record.put(&id, &mut batch);
                    fresh.insert(id.clone());
                    nodes.add(Node::new(id, record, top.iter().cloned().collect()))
                }
            };
            *node.provider.lock() = Some(provider);
            chain_id = Some(next);
            top = Some(node);
        }
        self.inner.db.commit(batch).inspect_err(|_| {
            for id in &fresh {
                nodes.forget(id);
            }
        })?;
        Ok(top.map(|node| Ref::new(self.clone(), node)))
    }

    /// Fetches and unpacks what is missing of `node`'s layers.
    pub(crate) async fn ensure(
        &self,
        cx: &Cx,
        node: &Arc<Node>,
        progress: &Progress,
    ) -> Result<(), Error> {
        let layers = node.layers();
        let missing: Vec<_> = layers
            .into_iter()
            .filter(|layer| layer.record.read().snapshot().is_none())
            .collect();
        if missing.is_empty() {
            return self.compose_if_needed(cx, node, progress).await;
        }
        if self.inner.snapshots.is_layered() {
            self.unpack_side_by_side(cx, missing, progress).await?;
            return self.compose_if_needed(cx, node, progress).await;
        }
        let mut scope = Scope::new(cx, "unpack layers");
        for layer in &missing {
            let (cache, cx, progress) = (self.clone(), scope.cx().clone(), progress.clone());
            let layer = layer.clone();
            scope.spawn("fetch layer", async move {
                let _one_at_a_time = layer.working.lock().await;
                cache.inner.fetch(&cx, &layer, &progress).await.map(drop)
            });
        }
        let (cache, work, status) = (self.clone(), scope.cx().clone(), progress.clone());
        scope.spawn("unpack layers", async move {
            // In order: each tree begins as a copy of the one below.
            for layer in missing {
                cache.unpack(&work, &layer, &status).await?;
            }
            Ok(())
        });
        scope.join().await?;
        self.compose_if_needed(cx, node, progress).await
    }

    async fn compose_if_needed(
        &self,
        cx: &Cx,
        node: &Arc<Node>,
        progress: &Progress,
    ) -> Result<(), Error> {
        self.reshape(cx, node).await?;
        if self.inner.snapshots.is_layered() {
            return Ok(());
        }
        self.compose(cx, node, progress).await
    }

    /// Fetches and unpacks one layer, once however many ask for it.
    async fn unpack(&self, cx: &Cx, node: &Arc<Node>, progress: &Progress) -> Result<(), Error> {
        let working = cx.run(node.working.clone().lock_owned()).await?;
        if node.record.read().snapshot().is_some() {
            return Ok(());
        }
        let blob = self.inner.fetch(cx, node, progress).await?;
        let below = node.below()?;
        let status = format!("extracting {}", blob.descriptor.digest);
        let status = progress.status(&status, "extracting");
        let (inner, cx, node) = (self.inner.clone(), cx.clone(), node.clone());
        let unpacked = tasks::blocking(move || {
            // Whoever waits finds the work done, even if nobody waits for this one any more.
            let _working = working;
            let fresh = Fresh::prepare(&inner, below.as_ref())?;
            let target = inner.target(&fresh, below.as_ref());
            layer::apply(
                &cx,
                &inner.content,
                &blob.descriptor,
                Some(&blob.diff_id),
                &target,
            )?;
            inner.snapshots.adopt(fresh.key())?;
            inner.change(&node, |record| {
                if let Body::Layer { snapshot, .. } = &mut record.body {
                    *snapshot = Some(fresh.key().0);
                }
            })?;
            fresh.keep();
            Ok(())
        })
        .await;
        drop(status);
        unpacked
    }
}

impl Inner {
    /// The record of a layer that is only known so far.
    fn lazy(&self, layer: ImageLayer, parent: Option<&Arc<Node>>, chain_id: Digest) -> Record {
        Record {
            parents: parent.iter().map(|parent| parent.id.clone()).collect(),
            body: Body::Layer {
                snapshot: None,
                unchanged: false,
                elsewhere: None,
                blob: Some(Box::new(Blob {
                    descriptor: layer.descriptor,
                    diff_id: layer.diff_id,
                    chain_id: Some(chain_id),
                })),
            },
            description: layer.description,
            record_type: RecordType::Regular,
            created: to_nanos(layer.created.unwrap_or_else(|| (self.clock)())),
        }
    }

    /// Makes the blob of a layer present.
    pub(crate) async fn fetch(
        &self,
        cx: &Cx,
        node: &Node,
        progress: &Progress,
    ) -> Result<Blob, Error> {
        let blob = node.record.read().blob().cloned();
        let Some(blob) = blob else {
            return Err(Error::Lazy {
                id: node.id.clone(),
            });
        };
        if !self.content.contains(&blob.descriptor.digest) {
            let provider = node
                .provider
                .lock()
                .clone()
                .ok_or_else(|| Error::NoProvider {
                    digest: blob.descriptor.digest.clone(),
                })?;
            provider
                .fetch(cx, &blob.descriptor, &self.content, progress)
                .await?;
        }
        Ok(blob)
    }
}
