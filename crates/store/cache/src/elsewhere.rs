//! Layers in trees where they lie on others than those they were made on: in merges and differences.
//!
//! There a layer may show only what it changed of its own parent's tree, and hide only what it removed. Most layers are
//! like that anyway; of the others a copy is made, once, as soon as somebody looks inside such a tree. The files of the
//! copy are those of the layer, unless another layer there has them too ([`crate::inodes`]).

use std::sync::Arc;

use fstree::Root;
use layer::{Base, Change};
use tasks::Cx;

use crate::fresh::Fresh;
use crate::node::Node;
use crate::record::Body;
use crate::{Cache, Error, Ref};

impl Cache {
    /// Puts the layers of `node`, which are all unpacked, into the shape they need where they lie.
    pub(crate) async fn reshape(&self, cx: &Cx, node: &Arc<Node>) -> Result<(), Error> {
        cx.check()?;
        let placed = node.placed();
        for layer in &placed {
            let ready = !layer.elsewhere || layer.node.is_unchanged() || has_shape(&layer.node);
            if !ready {
                self.reshape_one(cx, &layer.node).await?;
            }
        }
        if self.inner.snapshots.is_layered() && placed.iter().any(|layer| layer.elsewhere) {
            return self.part(cx, node, &placed).await;
        }
        Ok(())
    }

    async fn reshape_one(&self, cx: &Cx, node: &Arc<Node>) -> Result<(), Error> {
        let working = cx.run(node.working.clone().lock_owned()).await?;
        if has_shape(node) {
            return Ok(());
        }
        let Some(key) = node.record.read().snapshot() else {
            return Err(Error::Lazy {
                id: node.id.clone(),
            });
        };
        if !self.inner.snapshots.is_layered() {
            return self.set_shape(node, key.0);
        }
        let lower = match node.parents.first() {
            Some(parent) => {
                // It may itself stand on a merge nobody looked into since it was loaded.
                Box::pin(self.reshape(cx, parent)).await?;
                Some(Ref::new(self.clone(), parent.clone()).tree(cx).await?)
            }
            None => None,
        };
        let (cache, node, cx) = (self.clone(), node.clone(), cx.clone());
        tasks::blocking(move || {
            let _working = working;
            let snapshots = &cache.inner.snapshots;
            let lower = lower.map(|tree| Root::from_borrowed(tree.fd()));
            let lower = lower.transpose().map_err(Error::io("open a tree"))?;
            let upper = Root::open(snapshots.directory(key)).map_err(Error::io("open a tree"))?;
            let lower = lower.map(Base::Tree);
            let change = Change::Overlay { lower, upper };
            if layer::is_carved(&cx, &change)? {
                return cache.set_shape(&node, key.0);
            }
            let fresh = Fresh::prepare(&cache.inner, None)?;
            layer::carve(&cx, &change, &snapshots.directory(fresh.key()))?;
            snapshots.adopt(fresh.key())?;
            cache.set_shape(&node, fresh.key().0)?;
            fresh.keep();
            Ok(())
        })
        .await
    }

    pub(crate) fn set_shape(&self, node: &Arc<Node>, key: u64) -> Result<(), Error> {
        self.inner.change(node, |record| {
            if let Body::Layer { elsewhere, .. } = &mut record.body {
                *elsewhere = Some(key);
            }
        })
    }
}

fn has_shape(node: &Node) -> bool {
    match node.record.read().body {
        Body::Layer { elsewhere, .. } => elsewhere.is_some(),
        _ => true,
    }
}
