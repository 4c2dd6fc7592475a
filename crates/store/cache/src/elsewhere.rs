//! Layers in trees where they lie on others than those they were made on: in merges.
//!
//! There a layer may hide only what it removed from its own parent. Most layers are like that anyway; for the others
//! the snapshotter makes a copy, once, as soon as somebody looks inside such a tree.

use std::sync::Arc;

use fstree::Root;
use tasks::Cx;

use crate::fresh::Fresh;
use crate::node::Node;
use crate::record::Body;
use crate::{Cache, Error, Ref};

impl Cache {
    /// Puts the layers of `node`, which are all unpacked, into the shape they need where they lie.
    pub(crate) async fn reshape(&self, cx: &Cx, node: &Arc<Node>) -> Result<(), Error> {
        cx.check()?;
        for layer in node.placed() {
            let ready = !layer.elsewhere || layer.node.is_unchanged() || has_shape(&layer.node);
            if !ready {
                self.reshape_one(cx, &layer.node).await?;
            }
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
        let snapshots = self.inner.snapshots.clone();
        if !tasks::blocking(move || snapshots.hides_more(key)).await? {
            return self.set_shape(node, key.0);
        }
        let below = match node.parents.first() {
            Some(parent) => Some(Ref::new(self.clone(), parent.clone()).tree(cx).await?),
            None => None,
        };
        let (cache, node) = (self.clone(), node.clone());
        tasks::blocking(move || {
            let _working = working;
            let below = below.map(|tree| Root::from_borrowed(tree.fd()));
            let below = below.transpose().map_err(Error::io("open a tree"))?;
            let fresh = Fresh::fill(&cache.inner, |copy| {
                Ok(cache.inner.snapshots.hide_less(key, below.as_ref(), copy)?)
            })?;
            cache.set_shape(&node, fresh.key().0)?;
            fresh.keep();
            Ok(())
        })
        .await
    }

    fn set_shape(&self, node: &Arc<Node>, key: u64) -> Result<(), Error> {
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
