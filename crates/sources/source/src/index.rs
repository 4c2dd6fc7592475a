//! Trees that a source made before, found by what they were made of.

use cache::{Cache, Ref, RefId};
use db::{Batch, Table};
use oci::Digest;

/// Trees by key, with a note to each. Survives a restart; trees that are gone are forgotten when they are looked for.
pub struct Index {
    cache: Cache,
    table: Table,
}

impl Index {
    /// The index in this table of the cache's database.
    pub fn new(cache: Cache, table: Table) -> Self {
        Self { cache, table }
    }

    /// The trees under `key` that are still there.
    pub fn find(&self, key: &str) -> Vec<(Ref, Vec<u8>)> {
        let prefix = prefix(key);
        let rows = self.cache.db().prefix(self.table, &prefix);
        let rows = rows.unwrap_or_else(|err| {
            tracing::warn!(error = %fault::chain(&err), "index of a source cannot be read");
            Vec::new()
        });
        let mut gone = Batch::new();
        let mut found = Vec::new();
        for (row, note) in rows {
            let id = std::str::from_utf8(&row[prefix.len()..]).ok();
            let tree = id.and_then(RefId::parse).and_then(|id| self.cache.get(&id));
            match tree {
                Some(tree) => found.push((tree, note)),
                None => gone.remove(self.table, row),
            }
        }
        if !gone.is_empty()
            && let Err(err) = self.cache.db().commit(gone)
        {
            tracing::warn!(error = %fault::chain(&err), "index of a source cannot be written");
        }
        found
    }

    /// Remembers a tree. What cannot be remembered is made again.
    pub fn add(&self, key: &str, tree: &Ref, note: impl Into<Vec<u8>>) {
        let mut row = prefix(key);
        row.extend_from_slice(tree.id().as_str().as_bytes());
        let mut batch = Batch::new();
        batch.put(self.table, row, note);
        if let Err(err) = self.cache.db().commit(batch) {
            tracing::warn!(error = %fault::chain(&err), "index of a source cannot be written");
        }
    }
}

/// Keys may be anything, so their digest stands for them.
fn prefix(key: &str) -> Vec<u8> {
    format!("{} ", Digest::of(key)).into_bytes()
}
