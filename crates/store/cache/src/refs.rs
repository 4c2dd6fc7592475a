//! References to immutable records.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use db::Batch;
use mount::{Mount, Tree};
use progress::Progress;
use tasks::Cx;

use crate::node::Node;
use crate::record::{BLOBS, META, Record, USAGE, Used, pair, to_nanos};
use crate::{Cache, Error, RecordType, RefId};

/// An immutable tree. The record is in use while a clone lives.
#[derive(Clone)]
pub struct Ref {
    held: Arc<Held>,
}

/// One use of a record. When the last one ends, that is written down.
struct Held {
    cache: Cache,
    node: Arc<Node>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.node.users.fetch_sub(1, Ordering::Relaxed) > 1 {
            return;
        }
        if let Err(err) = self.cache.inner.note_use(&self.node.id) {
            tracing::warn!(id = %self.node.id, error = %fault::chain(&err), "use of a record not noted");
        }
    }
}

impl fmt::Debug for Ref {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ref").field(self.id()).finish()
    }
}

impl Ref {
    pub(crate) fn new(cache: Cache, node: Arc<Node>) -> Self {
        node.users.fetch_add(1, Ordering::Relaxed);
        Self {
            held: Arc::new(Held { cache, node }),
        }
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.held.node
    }

    /// The name of the record.
    pub fn id(&self) -> &RefId {
        &self.held.node.id
    }

    /// The cache it belongs to.
    pub fn cache(&self) -> &Cache {
        &self.held.cache
    }

    /// What it is for.
    pub fn record_type(&self) -> RecordType {
        self.node().record.read().record_type
    }

    /// For users.
    pub fn description(&self) -> String {
        self.node().record.read().description.clone()
    }

    /// When it was made.
    pub fn created(&self) -> SystemTime {
        self.node().record.read().created()
    }

    /// The record this one was made on top of; none for merges and for the lowest.
    pub fn parent(&self) -> Option<Self> {
        match self.node().parents.as_slice() {
            [one] => Some(Self::new(self.held.cache.clone(), one.clone())),
            _ => None,
        }
    }

    /// The tree, for reading. Mounted at most once, and not at all when it is a single directory.
    pub async fn tree(&self, cx: &Cx) -> Result<Arc<Tree>, Error> {
        self.node().tree(cx, || self.mount()).await
    }

    /// A read-only mount. Its layers must be here: `ensure` first.
    pub fn mount(&self) -> Result<Mount, Error> {
        self.node().view(self.held.cache.inner.snapshots.as_ref())
    }

    /// Fetches and unpacks what is missing.
    pub async fn ensure(&self, cx: &Cx, progress: &Progress) -> Result<(), Error> {
        self.held.cache.ensure(cx, self.node(), progress).await
    }

    /// Whether the tree is here.
    pub fn is_unpacked(&self) -> bool {
        self.node().chain().is_ok()
    }

    /// The directories of the layers of this tree, nearest first, for those who share files between trees instead of
    /// copying them. Nobody may write there, and deletions are overlayfs marks.
    pub fn layer_directories(&self) -> Result<Vec<PathBuf>, Error> {
        let chain = self.node().chain()?;
        let snapshots = &self.held.cache.inner.snapshots;
        let keys = if snapshots.is_layered() {
            chain.keys.as_slice()
        } else {
            &chain.keys[..1]
        };
        Ok(keys.iter().map(|key| snapshots.directory(*key)).collect())
    }

    /// What was kept under `key` with this record.
    pub fn meta(&self, key: &str) -> Option<Vec<u8>> {
        self.held.cache.inner.meta(self.id(), key)
    }

    /// Keeps something with this record.
    pub fn set_meta(&self, key: &str, value: &[u8]) -> Result<(), Error> {
        self.held.cache.inner.set_meta(self.id(), key, value)
    }

    /// Changes what it is for.
    pub fn set_record_type(&self, record_type: RecordType) -> Result<(), Error> {
        self.held
            .cache
            .inner
            .change(self.node(), |record| record.record_type = record_type)
    }

    /// Changes what users see.
    pub fn set_description(&self, text: &str) -> Result<(), Error> {
        self.held.cache.inner.change(self.node(), |record| {
            text.clone_into(&mut record.description)
        })
    }
}

impl crate::Inner {
    pub(crate) fn meta(&self, id: &RefId, key: &str) -> Option<Vec<u8>> {
        self.db
            .value(META, &pair(id.as_str(), key))
            .unwrap_or_else(|err| {
                tracing::warn!(%id, key, error = %fault::chain(&err), "metadata cannot be read");
                None
            })
    }

    pub(crate) fn set_meta(&self, id: &RefId, key: &str, value: &[u8]) -> Result<(), Error> {
        let mut batch = Batch::new();
        batch.put(META, pair(id.as_str(), key), value);
        Ok(self.db.commit(batch)?)
    }

    /// Changes a record in memory and in the database.
    pub(crate) fn change(&self, node: &Node, edit: impl FnOnce(&mut Record)) -> Result<(), Error> {
        let mut record = node.record.write();
        let mut changed = record.clone();
        edit(&mut changed);
        if changed != *record {
            let mut batch = Batch::new();
            changed.put(&node.id, &mut batch);
            if let Some(old) = record.blob().map(|blob| &blob.descriptor.digest)
                && !self.blobs_of(&node.id, &changed)?.contains(old)
            {
                batch.remove(BLOBS, pair(old.as_str(), node.id.as_str()));
            }
            self.db.commit(batch)?;
            *record = changed;
        }
        Ok(())
    }

    pub(crate) fn note_use(&self, id: &RefId) -> Result<(), Error> {
        self.room.ended.fetch_add(1, Ordering::Relaxed);
        let now = to_nanos((self.clock)());
        self.db.transaction(|tx| {
            // A record that was removed meanwhile leaves nothing behind.
            if tx.contains(crate::record::RECORDS, id.as_str().as_bytes())? {
                let old = tx.value(USAGE, id.as_str().as_bytes())?;
                let old = old.as_deref().and_then(Used::parse).unwrap_or_default();
                let used = Used {
                    last: now,
                    count: old.count + 1,
                };
                tx.put(USAGE, id.as_str(), used.bytes());
            }
            Ok(())
        })
    }
}
