//! The layers of a record one at a time, for those who know the ones below already.
//!
//! [`Ref::layers`] lists all layers of one record. Whoever needs those of thousands of records that stand on each
//! other goes from each to its parent instead and looks at every layer once.

use layer::Options;
use progress::Progress;
use tasks::Cx;

use crate::record::{self, MadeOf, Record};
use crate::{Cache, Error, LayerBlob, Ref, RefId};

impl Cache {
    /// The blobs of a record's layers, the lowest first, if all of them are there or can be fetched. Listing them is no use
    /// of the record, and keeps nobody from removing it.
    pub fn known_chain(&self, id: &RefId, options: &Options) -> Option<Vec<LayerBlob>> {
        if !self.may_have_blobs(id) {
            return None;
        }
        let node = self.load(id)?;
        if node.record.read().is_mutable() {
            return None;
        }
        let known = |node| {
            let blob = self.inner.ready(node, options).ok().flatten()?;
            let here =
                blob.provider.is_some() || self.inner.content.contains(&blob.descriptor.digest);
            here.then_some(blob)
        };
        if node.record.read().made_of() == MadeOf::ItsOwn && known(&node).is_none() {
            return None;
        }
        node.layers().iter().map(known).collect()
    }

    /// Whether the layers on top have blobs. Most have none, and then those below need not even be looked at.
    fn may_have_blobs(&self, id: &RefId) -> bool {
        let read = |id: &RefId| record::read(&self.inner.db, id).ok().flatten();
        let lacks = |record: &Record| record.made_of() == MadeOf::ItsOwn && record.blob().is_none();
        let Some(top) = read(id) else { return true };
        let parts: &[RefId] = match top.made_of() {
            MadeOf::AllParents => &top.parents,
            MadeOf::ItsOwn | MadeOf::TheDifference => &[],
        };
        !lacks(&top)
            && !parts
                .iter()
                .rev()
                .any(|part| read(part).as_ref().is_some_and(lacks))
    }
}

impl Ref {
    /// Whether the tree is the parent's with one more layer, rather than put together from several others.
    pub fn is_layer(&self) -> bool {
        self.node().record.read().made_of() == MadeOf::ItsOwn
    }

    /// The records whose layers lie on top of each other to make this one's tree, the lowest first.
    pub fn layer_refs(&self) -> Vec<Self> {
        let layers = self.node().layers().into_iter();
        layers
            .map(|node| Self::new(self.cache().clone(), node))
            .collect()
    }

    /// The blob of this record's own layer, if it is there or can be fetched.
    pub fn known_layer(&self, options: &Options) -> Result<Option<LayerBlob>, Error> {
        let inner = &self.cache().inner;
        let known = inner.ready(self.node(), options)?;
        Ok(known.filter(|blob| {
            blob.provider.is_some() || inner.content.contains(&blob.descriptor.digest)
        }))
    }

    /// The blob of this record's own layer, made if there is none.
    pub async fn own_layer(
        &self,
        cx: &Cx,
        options: &Options,
        progress: &Progress,
    ) -> Result<LayerBlob, Error> {
        let cache = self.cache();
        cache.inner.settle(self.node())?;
        if let Some(ready) = self.known_layer(options)? {
            return Ok(ready);
        }
        cache.make_blob(cx, self.node(), options, progress).await
    }
}
