//! References to records that are written.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use db::Batch;
use mount::{Attached, Mount, Tree};
use parking_lot::Mutex;
use tasks::Cx;

use crate::node::Node;
use crate::record::{Body, INDEX, INDEXED, META, Record, erase_index, pair, to_nanos};
use crate::{Cache, Error, RecordType, Ref, RefId};

/// Whether a record outlives its holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Removed when dropped.
    No,
    /// In the database.
    Yes,
    /// Taken over by an immutable record.
    Committed,
}

/// A tree that is written, by its only holder. Dropping it removes the tree, unless it has an index key.
#[derive(Debug)]
pub struct MutableRef {
    cache: Cache,
    node: Arc<Node>,
    kept: Mutex<Kept>,
    /// Where the tree is mounted when several steps write to it at a time.
    shared: Mutex<Option<(Attached, PathBuf)>>,
}

impl MutableRef {
    pub(crate) fn new(cache: Cache, node: Arc<Node>, kept: Kept) -> Self {
        node.users.fetch_add(1, Ordering::Relaxed);
        cache.inner.note_writer();
        Self {
            cache,
            node,
            kept: Mutex::new(kept),
            shared: Mutex::new(None),
        }
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    pub(crate) fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The name of the record; a commit keeps it.
    pub fn id(&self) -> &RefId {
        &self.node.id
    }

    /// What the tree stands on.
    pub fn parent(&self) -> Option<Ref> {
        let parent = self.node.parents.first()?;
        Some(Ref::new(self.cache.clone(), parent.clone()))
    }

    /// What is mounted to write to the tree.
    ///
    /// For a cache mount with something below it the tree is mounted once, and this is a bind mount of that: several
    /// steps may use it at a time. Any other tree is to be mounted once at a time.
    pub fn mount(&self) -> Result<Mount, Error> {
        let below = self.node.below()?;
        let Some(key) = self.node.record.read().snapshot() else {
            return Err(Error::NotFound {
                id: self.node.id.clone(),
            });
        };
        let mount = self.cache.inner.snapshots.edit(key, below.as_ref());
        let several = self.node.record.read().record_type == RecordType::CacheMount;
        match mount {
            Mount::Overlay { .. } if several => self.share(&mount),
            other => Ok(other),
        }
    }

    fn share(&self, mount: &Mount) -> Result<Mount, Error> {
        let mut shared = self.shared.lock();
        if let Some((_, path)) = shared.as_ref() {
            return Ok(Mount::writable(path.clone()));
        }
        let path = self
            .cache
            .inner
            .root
            .join("mounts")
            .join(self.id().as_str());
        std::fs::create_dir_all(&path).map_err(Error::io("make a mount point"))?;
        let attached = mount.attach(&path).map_err(Error::io("mount a tree"))?;
        *shared = Some((attached, path.clone()));
        Ok(Mount::writable(path))
    }

    /// The tree, for reading and writing. Not to be used together with [`MutableRef::mount`].
    pub async fn tree(&self, cx: &Cx) -> Result<Arc<Tree>, Error> {
        self.node.tree(cx, || self.mount()).await
    }

    /// Makes the next [`MutableRef::tree`] a new mount, for those who changed the layer beside the old one.
    pub async fn look_again(&self) {
        self.node.close_tree().await;
    }

    /// The directory that takes what is written to the tree, for those who share files between trees instead of copying
    /// them. What is below is not seen there.
    pub fn layer_directory(&self) -> Result<PathBuf, Error> {
        let key = self.node.record.read().snapshot();
        let key = key.ok_or_else(|| Error::NotFound {
            id: self.id().clone(),
        })?;
        Ok(self.cache.inner.snapshots.directory(key))
    }

    /// Turns the tree into an immutable record with the same id. Nobody may write to it any more.
    pub async fn commit(self, cx: &Cx, description: &str) -> Result<Ref, Error> {
        cx.check()?;
        let view = self.view();
        if let Some(view) = &view
            && self.cache.inner.nodes.lock().find(view).is_some()
        {
            return Err(Error::InUse { id: view.clone() });
        }
        self.unshare();
        let below = self.node.below()?;
        let key = self.node.record.read().snapshot();
        let unchanged = match (key, below) {
            (Some(key), Some(below)) => {
                let snapshots = self.cache.inner.snapshots.clone();
                tasks::blocking(move || snapshots.is_unchanged(key, &below)).await?
            }
            _ => false,
        };
        let inner = &self.cache.inner;
        let mut batch = Batch::new();
        let was_kept = *self.kept.lock() == Kept::Yes;
        if was_kept {
            erase_index(self.id(), &inner.db, &mut batch)?;
        }
        if let Some(view) = view
            && let Some(shown) = crate::record::read(&inner.db, &view)?
        {
            shown.erase(&view, &inner.db, &mut batch)?;
        }
        let record = Record {
            body: Body::Layer {
                snapshot: key.map(|key| key.0),
                unchanged,
                elsewhere: None,
                blob: None,
            },
            description: description.to_owned(),
            ..self.node.record.read().clone()
        };
        record.put(self.id(), &mut batch);
        self.put_pending(&mut batch);
        let checksums = inner.hand_over_checksums(&self.node, self.id(), &record, &mut batch);
        inner.db.commit(batch)?;
        *self.kept.lock() = Kept::Committed;
        // The mount that wrote must be gone before the tree lies below others; a new node opens it anew.
        let node = Node::new(self.id().clone(), record, self.node.parents.clone());
        *node.records.lock() = checksums;
        *node.linked.lock() = self.node.linked.lock().take();
        let node = inner.nodes.lock().add(node);
        Ok(Ref::new(self.cache.clone(), node))
    }

    /// Shows the tree as it is now as an immutable record, without giving it up: once this ref and the view are gone,
    /// [`Cache::find_mutable`] finds the tree again. Nobody may write to it until then.
    ///
    /// A view that something is built on keeps the tree for good.
    pub async fn freeze(&self, cx: &Cx) -> Result<Ref, Error> {
        cx.check()?;
        let inner = &self.cache.inner;
        let mut batch = Batch::new();
        let id = RefId::random();
        let mut record = self.node.record.read().clone();
        let old = match &mut record.body {
            Body::Mutable { open, view, .. } => {
                *open = false;
                view.replace(id.clone())
            }
            _ => None,
        };
        let Some(snapshot) = record.snapshot() else {
            return Err(Error::NotFound {
                id: self.node.id.clone(),
            });
        };
        let view = Record {
            parents: record.parents.clone(),
            body: Body::View {
                snapshot: snapshot.0,
                of: self.id().clone(),
            },
            created: to_nanos((inner.clock)()),
            ..record.clone()
        };
        let mut nodes = inner.nodes.lock();
        if let Some(old) = old
            && let Some(replaced) = crate::record::read(&inner.db, &old)?
        {
            replaced.erase(&old, &inner.db, &mut batch)?;
            nodes.forget(&old);
        }
        record.put(self.id(), &mut batch);
        self.put_pending(&mut batch);
        view.put(&id, &mut batch);
        let checksums = inner.hand_over_checksums(&self.node, &id, &view, &mut batch);
        inner.db.commit(batch)?;
        *self.node.record.write() = record;
        *self.kept.lock() = Kept::Yes;
        let mut node = Node::new(id, view, self.node.parents.clone());
        node.owner = Some(self.node.clone());
        *node.records.lock() = checksums;
        let node = nodes.add(node);
        drop(nodes);
        Ok(Ref::new(self.cache.clone(), node))
    }

    /// Removes record and tree, also from the index.
    pub fn discard(self) {
        *self.kept.lock() = Kept::No;
    }

    /// Keeps the record when this ref is dropped, to be found by [`Cache::find_mutable`]. May have several keys.
    pub fn set_index(&self, key: &str) -> Result<(), Error> {
        let mut batch = Batch::new();
        self.node.record.read().put(self.id(), &mut batch);
        self.put_pending(&mut batch);
        batch.put(INDEX, pair(key, self.id().as_str()), "");
        batch.put(INDEXED, pair(self.id().as_str(), key), "");
        self.cache.inner.db.commit(batch)?;
        *self.kept.lock() = Kept::Yes;
        Ok(())
    }

    /// What was kept under `key` with this record.
    pub fn meta(&self, key: &str) -> Option<Vec<u8>> {
        if let Some(value) = self.node.pending.lock().get(key) {
            return Some(value.clone());
        }
        self.cache.inner.meta(self.id(), key)
    }

    /// Keeps something with this record, as long as it is kept itself.
    pub fn set_meta(&self, key: &str, value: &[u8]) -> Result<(), Error> {
        if *self.kept.lock() == Kept::No {
            self.node
                .pending
                .lock()
                .insert(key.to_owned(), value.to_vec());
            return Ok(());
        }
        self.cache.inner.set_meta(self.id(), key, value)
    }

    /// Adds the metadata of a record that is going to be kept.
    fn put_pending(&self, batch: &mut Batch) {
        for (key, value) in std::mem::take(&mut *self.node.pending.lock()) {
            batch.put(META, pair(self.id().as_str(), &key), value);
        }
    }

    /// The record that shows this tree.
    fn view(&self) -> Option<RefId> {
        match &self.node.record.read().body {
            Body::Mutable { view, .. } => view.clone(),
            _ => None,
        }
    }

    fn unshare(&self) {
        if let Some((attached, path)) = self.shared.lock().take() {
            drop(attached);
            // An empty directory that cannot be removed hurts nobody.
            let _ = std::fs::remove_dir(path);
        }
    }

    /// Marks the record as closed, so that the next start trusts it.
    fn close(&self) -> Result<(), Error> {
        self.cache.inner.change(&self.node, |record| {
            if let Body::Mutable { open, .. } = &mut record.body {
                *open = false;
            }
        })
    }

    fn remove(&self) -> Result<(), Error> {
        let inner = &self.cache.inner;
        let record = self.node.record.read().clone();
        let view = self.view();
        if let Some(view) = view.and_then(|id| inner.nodes.lock().find(&id)) {
            // Somebody reads the tree through its view.
            return inner.settle(&view);
        }
        let mut batch = Batch::new();
        record.erase(self.id(), &inner.db, &mut batch)?;
        if let Body::Mutable {
            view: Some(view), ..
        } = &record.body
            && let Some(shown) = crate::record::read(&inner.db, view)?
        {
            shown.erase(view, &inner.db, &mut batch)?;
        }
        inner.db.commit(batch)?;
        if let Some(key) = record.snapshot() {
            inner.reaper.remove(key);
        }
        Ok(())
    }
}

impl Drop for MutableRef {
    fn drop(&mut self) {
        self.unshare();
        self.node.users.fetch_sub(1, Ordering::Relaxed);
        let writers = &self.cache.inner.room.writers;
        writers.fetch_sub(1, Ordering::Relaxed);
        if self.node.given_away.load(Ordering::Relaxed) {
            return;
        }
        let kept = *self.kept.lock();
        let result = match kept {
            Kept::No => self.remove(),
            Kept::Yes => self
                .close()
                .and_then(|()| self.cache.inner.note_use(self.id())),
            Kept::Committed => Ok(()),
        };
        if let Err(err) = result {
            tracing::warn!(id = %self.id(), error = %fault::chain(&err), "record not put in order");
        }
    }
}
