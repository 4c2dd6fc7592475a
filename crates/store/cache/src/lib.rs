//! The trees of builds: what steps made, what images brought, what clients sent, and how they stand on each other.
//!
//! A record is *mutable* (one holder writes to its tree), a *layer* (a tree that never changes, on top of one parent at
//! most, perhaps still only a blob in a registry), a *merge* or a *diff* of others, or a *view* of a mutable nobody
//! writes to. [`Ref`] and [`MutableRef`] keep a record in use; everything else about it stands in the database.
//!
//! How it survives:
//!
//! 1. A record is written (one batch, one `write` call) after its files are; no step waits for the disk. A killed
//!    daemon loses nothing, because the page cache stays.
//! 2. Every few seconds the filesystem is synced in the background and only then do the records of before go into the
//!    database file. After a power cut the records since the last sync are gone, and so is what they named.
//! 3. What no record names is swept at start.
//!
//! Invariant: the tree of a committed record never changes.
//!
//! What is thrown away is decided by rules that others give ([`Cache::prune`], [`Cache::keep`]).

mod base;
mod chain;
mod checksum;
mod combine;
mod elsewhere;
mod error;
mod fresh;
#[cfg(test)]
mod fuzz;
mod gc;
mod image;
mod inodes;
mod keeper;
mod layers;
mod mutable;
mod node;
mod open;
mod reaper;
mod record;
mod refs;
mod remove;
mod repair;
mod types;
mod unpack;
mod usage;
mod verify;

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use content::Store;
use db::{Batch, Db};
use parking_lot::Mutex;
use snapshot::Snapshotter;
use tasks::Cx;

pub use checksum::Linked;
pub use error::Error;
pub use gc::{Disk, Pruned, Rule, disk};
pub use inodes::Shares;
pub use keeper::{Keeper, limit};
pub use mutable::MutableRef;
pub use open::{Options, SnapshotterKind};
pub use refs::Ref;
pub use types::{ImageLayer, LayerBlob, RecordOptions, RecordType, RefId, Usage};
pub use verify::{Depth, Problem, Report};

use fresh::Fresh;
use node::{Node, Nodes};
use reaper::Reaper;
use record::{Body, MadeOf, Record, second_id, to_nanos};

/// The cache. Clones share it.
#[derive(Clone)]
pub struct Cache {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    root: PathBuf,
    db: Db,
    content: Store,
    snapshots: Arc<dyn Snapshotter>,
    clock: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    /// Taken before the database writes, never the other way round, and never over an await.
    nodes: Mutex<Nodes>,
    next_key: AtomicU64,
    /// Keys below this are reserved.
    reserved: Mutex<u64>,
    reaper: Reaper,
    /// Held while everything is measured; never under another lock.
    surveying: Mutex<()>,
    room: keeper::Room,
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("root", &self.inner.root)
            .finish_non_exhaustive()
    }
}

impl Cache {
    /// The blobs.
    pub fn content(&self) -> &Store {
        &self.inner.content
    }

    /// The database, for those who keep something that must be consistent with the records.
    pub fn db(&self) -> &Db {
        &self.inner.db
    }

    /// The directory of the state.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// `overlayfs` or `native`.
    pub fn snapshotter(&self) -> &'static str {
        self.inner.snapshots.name()
    }

    /// Makes a tree that can be written, on top of `parent` or empty. Its layers must be here: `ensure` first.
    ///
    /// The record is kept when it is committed or gets an index key; otherwise dropping it removes the tree.
    pub async fn new_mutable(
        &self,
        cx: &Cx,
        parent: Option<&Ref>,
        options: RecordOptions,
    ) -> Result<MutableRef, Error> {
        cx.check()?;
        self.inner.make_room(cx).await?;
        if let Some(parent) = parent {
            self.inner.settle(parent.node())?;
            self.reshape(cx, parent.node()).await?;
        }
        let below = parent.map(|parent| parent.node().chain()).transpose()?;
        let inner = self.inner.clone();
        let fresh = tasks::blocking(move || Fresh::prepare(&inner, below.as_ref())).await?;
        let record = Record {
            parents: parent.iter().map(|parent| parent.id().clone()).collect(),
            body: Body::Mutable {
                snapshot: fresh.keep().0,
                open: true,
                view: None,
            },
            description: options.description,
            record_type: options.record_type,
            created: to_nanos(options.created.unwrap_or_else(|| (self.inner.clock)())),
        };
        let parents = parent.iter().map(|parent| parent.node().clone()).collect();
        let node = self
            .inner
            .nodes
            .lock()
            .add(Node::new(RefId::random(), record, parents));
        Ok(MutableRef::new(self.clone(), node, mutable::Kept::No))
    }

    /// The immutable record of this id, if there is one and its tree is here or can be had.
    pub fn get(&self, id: &RefId) -> Option<Ref> {
        let node = self.load(id)?;
        if node.record.read().is_mutable() || !self.inner.is_available(&node) {
            return None;
        }
        Some(Ref::new(self.clone(), node))
    }

    /// Whether [`Cache::get`] would find it. Looks at one record only, unless layers of it may be missing.
    pub fn exists(&self, id: &RefId) -> bool {
        let held = self.inner.nodes.lock().find(id);
        if let Some(node) = &held {
            let record = node.record.read();
            if record.is_mutable() || record.snapshot().is_some() {
                return !record.is_mutable();
            }
        }
        let known = match held {
            Some(node) => Some(node.record.read().clone()),
            None => record::read(&self.inner.db, id).unwrap_or_else(|err| {
                tracing::warn!(%id, error = %fault::chain(&err), "record cannot be read");
                None
            }),
        };
        match known {
            None => false,
            Some(record) if record.is_mutable() => false,
            // A tree is made when those below it are there, and they stay as long as it does.
            Some(record) if record.snapshot().is_some() => true,
            Some(_) => {
                let available = |node| self.inner.is_available(&node);
                self.inner.is_unpacked(id) || self.load(id).is_some_and(available)
            }
        }
    }

    fn load(&self, id: &RefId) -> Option<Arc<Node>> {
        let loaded = self.inner.load(&mut self.inner.nodes.lock(), id);
        loaded.unwrap_or_else(|err| {
            tracing::warn!(%id, error = %fault::chain(&err), "record cannot be read");
            None
        })
    }

    /// The first mutable record under this index key that nobody holds, neither itself nor its view.
    ///
    /// Its view, if there was one, is gone from here on: the tree is about to change.
    pub fn find_mutable(&self, index: &str) -> Option<MutableRef> {
        match self.inner.take_mutable(index) {
            Ok(node) => node.map(|node| MutableRef::new(self.clone(), node, mutable::Kept::Yes)),
            Err(err) => {
                tracing::warn!(index, error = %fault::chain(&err), "index cannot be read");
                None
            }
        }
    }
}

impl Inner {
    /// The node of a record, with those it stands on.
    fn load(&self, nodes: &mut Nodes, id: &RefId) -> Result<Option<Arc<Node>>, Error> {
        if let Some(node) = nodes.find(id) {
            return Ok(Some(node));
        }
        // A chain may be long: no recursion along first parents. Bottom of the stack: the record asked for.
        let mut stack: Vec<(RefId, Record)> = Vec::new();
        let mut below = None;
        let mut at = id.clone();
        loop {
            if let Some(node) = nodes.find(&at) {
                below = Some(node);
                break;
            }
            let Some(record) = record::read(&self.db, &at)? else {
                if !stack.is_empty() {
                    tracing::warn!(%id, parent = %at, "record stands on one that is gone");
                }
                return Ok(None);
            };
            let next = record.parents.first().cloned();
            stack.push((at, record));
            match next {
                Some(parent) => at = parent,
                None => break,
            }
        }
        while let Some((id, record)) = stack.pop() {
            let mut parents: Vec<Arc<Node>> = below.take().into_iter().collect();
            for parent in record.parents.iter().skip(1) {
                match self.load(nodes, parent)? {
                    Some(node) => parents.push(node),
                    None => return Ok(None),
                }
            }
            let owner = match &record.body {
                Body::View { of, .. } => match self.load(nodes, of)? {
                    Some(owner) => Some(owner),
                    None => return Ok(None),
                },
                _ => None,
            };
            let mut node = Node::new(id, record, parents);
            node.owner = owner;
            below = Some(nodes.add(node));
        }
        Ok(below)
    }

    /// Whether all that a merge or a difference is made of is unpacked; it stays as long as the record does.
    ///
    /// What was found is remembered: each merge of a long chain would be asked for all those below it.
    fn is_unpacked(&self, id: &RefId) -> bool {
        let mut seen = HashSet::new();
        let mut left = vec![id.clone()];
        while let Some(at) = left.pop() {
            if seen.contains(&at) || self.nodes.lock().unpacked.contains(&at) {
                continue;
            }
            match record::read(&self.db, &at) {
                Ok(Some(record)) if record.snapshot().is_some() => {}
                Ok(Some(record)) if record.made_of() != MadeOf::ItsOwn => {
                    left.extend(record.parents);
                    seen.insert(at);
                }
                // Lazy, or not in the database yet.
                _ => return false,
            }
        }
        self.nodes.lock().note_unpacked(seen);
        true
    }

    /// Whether all layers are unpacked, or their blobs are here, or somebody can bring them.
    fn is_available(&self, node: &Arc<Node>) -> bool {
        node.layers().iter().all(|layer| {
            let record = layer.record.read();
            record.snapshot().is_some()
                || layer.provider.lock().is_some()
                || record
                    .blob()
                    .is_some_and(|blob| self.content.contains(&blob.descriptor.digest))
        })
    }

    fn take_mutable(&self, index: &str) -> Result<Option<Arc<Node>>, Error> {
        let mut nodes = self.nodes.lock();
        for (row, _) in self.db.prefix(record::INDEX, &record::pair(index, ""))? {
            let Some(id) = second_id(&row) else {
                continue;
            };
            if nodes.find(&id).is_some() {
                continue;
            }
            let Some(node) = self.load(&mut nodes, &id)? else {
                continue;
            };
            let mut batch = Batch::new();
            Self::forget_size(&id, &mut batch);
            self.withdraw_checksums(&node, &mut batch)?;
            let mut record = node.record.write();
            let Body::Mutable { open, view, .. } = &mut record.body else {
                continue;
            };
            *open = true;
            if let Some(view) = view.take() {
                if let Some(old) = record::read(&self.db, &view)? {
                    old.erase(&view, &self.db, &mut batch)?;
                }
                nodes.forget(&view);
            }
            record.put(&id, &mut batch);
            self.db.commit(batch)?;
            drop(record);
            return Ok(Some(node));
        }
        Ok(None)
    }

    /// A view that something is to stand on takes the tree over from its mutable for good.
    fn settle(&self, node: &Arc<Node>) -> Result<(), Error> {
        let mut settled = Vec::new();
        let mut next = Some(node);
        while let Some(at) = next.filter(|at| !at.settled.load(Ordering::Acquire)) {
            settled.push(at);
            if at.record.read().made_of() == MadeOf::ItsOwn {
                self.settle_own(at)?;
                next = at.parents.first();
            } else {
                for layer in at.layers() {
                    self.settle_own(&layer)?;
                }
                next = None;
            }
        }
        for at in settled {
            at.settled.store(true, Ordering::Release);
        }
        Ok(())
    }

    fn settle_own(&self, layer: &Node) -> Result<(), Error> {
        let Body::View { snapshot, of } = layer.record.read().body.clone() else {
            return Ok(());
        };
        let _nodes = self.nodes.lock();
        if let Some(owner) = &layer.owner
            && owner.given_away.swap(true, Ordering::Relaxed)
        {
            return Ok(());
        }
        let mut batch = Batch::new();
        if let Some(owner) = record::read(&self.db, &of)? {
            owner.erase(&of, &self.db, &mut batch)?;
        }
        let mut record = layer.record.write();
        record.body = Body::Layer {
            snapshot: Some(snapshot),
            unchanged: false,
            elsewhere: None,
            blob: None,
        };
        record.put(&layer.id, &mut batch);
        Ok(self.db.commit(batch)?)
    }
}
