//! What names stood for when a registry was asked last, for builds that cannot or need not ask again.

use cache::Cache;
use db::{Batch, Table};
use oci::{Descriptor, Reference};

const TABLE: Table = Table::new("image-names");

/// Remembers; survives a restart.
pub(crate) struct Names(Cache);

impl Names {
    pub(crate) fn new(cache: Cache) -> Self {
        Self(cache)
    }

    /// What the name stood for, if that is still here.
    pub(crate) fn find(&self, reference: &Reference) -> Option<Descriptor> {
        let key = reference.with_default_tag().to_string();
        let row = self.0.db().value(TABLE, key.as_bytes()).ok()??;
        let known: Descriptor = serde_json::from_slice(&row).ok()?;
        self.0.content().contains(&known.digest).then_some(known)
    }

    pub(crate) fn set(&self, reference: &Reference, root: &Descriptor) {
        let key = reference.with_default_tag().to_string();
        let row = serde_json::to_vec(root).expect("descriptors always serialise");
        if matches!(self.0.db().value(TABLE, key.as_bytes()), Ok(Some(known)) if known == row) {
            return;
        }
        let mut batch = Batch::new();
        batch.put(TABLE, key, row);
        if let Err(err) = self.0.db().commit(batch) {
            tracing::warn!(error = %fault::chain(&err), "name of an image cannot be remembered");
        }
    }
}
