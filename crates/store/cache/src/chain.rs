//! The layers of a record one at a time, for those who know the ones below already.
//!
//! [`Ref::layers`] lists all layers of one record. Whoever needs those of thousands of records that stand on each
//! other goes from each to its parent instead and looks at every layer once.

use layer::Options;
use progress::Progress;
use tasks::Cx;

use crate::record::MadeOf;
use crate::{Error, LayerBlob, Ref};

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
