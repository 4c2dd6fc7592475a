//! What a layer lies on, for those who compare it with that.
//!
//! To mount a tree of many layers takes longer than to ask each of them for a few names, and a mount that nobody needs
//! any more is not gone at once either.

use std::sync::Arc;

use fstree::Root;
use layer::{Base, Layers, Listing};
use tasks::Cx;

use crate::node::{self, Node};
use crate::record::MadeOf;
use crate::{Cache, Error, Inner, Ref};

/// What can be had without a mount.
pub(crate) enum Unmounted {
    /// Nothing is below.
    Nothing,
    /// The layers below.
    Layers(Layers),
    /// There is a tree already, or it had better be mounted.
    No,
}

impl Inner {
    /// What a layer lies on. Blocks.
    pub(crate) fn unmounted(self: &Arc<Self>, node: &Arc<Node>) -> Result<Unmounted, Error> {
        let Some(parent) = node.parents.first() else {
            return Ok(Unmounted::Nothing);
        };
        let snapshots = &*self.snapshots;
        if !snapshots.is_layered() || parent.is_open() {
            return Ok(Unmounted::No);
        }
        let upper = node.listing(snapshots)?;
        if upper.is_large() {
            return Ok(Unmounted::No);
        }
        let Some(layers) = self.stack(parent)? else {
            return Ok(Unmounted::No);
        };
        let (inner, parent) = (self.clone(), parent.clone());
        let whole = move || {
            let mount = parent.view(&*inner.snapshots);
            let tree = mount.map_err(std::io::Error::other)?.detached()?;
            Root::from_borrowed(tree.fd())
        };
        Ok(match Layers::below(&upper, layers, whole) {
            Some(layers) => Unmounted::Layers(layers),
            None => Unmounted::No,
        })
    }

    /// The layers that a mount of `node` would have, the nearest first; `None` if it is a single directory.
    fn stack(&self, node: &Arc<Node>) -> Result<Option<Vec<Arc<Listing>>>, Error> {
        let snapshots = &*self.snapshots;
        let mut layers = Vec::new();
        let mut at = node;
        // Most stand on each other, and need not be listed first.
        loop {
            if at.record.read().made_of() != MadeOf::ItsOwn {
                return self.stack_of_parts(node);
            }
            if !at.is_unchanged() {
                layers.push(at.listing(snapshots)?);
            }
            match at.parents.first() {
                Some(parent) => at = parent,
                None => break,
            }
        }
        // With one, or none, the mount is a directory.
        Ok((layers.len() > 1).then_some(layers))
    }

    fn stack_of_parts(&self, node: &Arc<Node>) -> Result<Option<Vec<Arc<Listing>>>, Error> {
        let chain = node.chain()?;
        if chain.keys.len() == 1 && !chain.cut {
            return Ok(None);
        }
        let snapshots = &*self.snapshots;
        let parts = node.placed();
        let own = |key| {
            let mut nodes = parts.iter().map(|part| &part.node);
            nodes.find(|node| node.record.read().snapshot() == Some(key))
        };
        let listed = chain.keys.iter().map(|key| match own(*key) {
            Some(node) => node.listing(snapshots),
            None => node::listing(snapshots, *key).map(Arc::new),
        });
        listed.collect::<Result<_, Error>>().map(Some)
    }
}

impl Cache {
    /// The tree a layer lies on.
    pub(crate) async fn mounted(&self, cx: &Cx, node: &Node) -> Result<Option<Base>, Error> {
        let Some(parent) = node.parents.first() else {
            return Ok(None);
        };
        let tree = Ref::new(self.clone(), parent.clone()).tree(cx).await?;
        let root = Root::from_borrowed(tree.fd()).map_err(Error::io("open a tree"))?;
        Ok(Some(Base::Tree(root)))
    }
}
