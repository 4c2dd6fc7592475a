//! Records that are in use.
//!
//! A node is in memory exactly as long as somebody holds it: a [`crate::Ref`], a [`crate::MutableRef`], or a node that
//! stands on it. So "is there a node" is the answer to "is it in use", and a build that is over costs no memory.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, OnceLock, Weak};

use content::Provider;
use contenthash::Records;
use layer::Listing;
use mount::{Mount, Tree};
use parking_lot::{Mutex, RwLock};
use snapshot::{Chain, Key, Snapshotter};
use tasks::Cx;

use crate::checksum::Linked;
use crate::record::{Body, MadeOf, Record};
use crate::{Error, RefId};

/// A record in use.
pub(crate) struct Node {
    pub(crate) id: RefId,
    /// What it stands on, the lowest first.
    pub(crate) parents: Vec<Arc<Node>>,
    /// For a view: the mutable it shows.
    pub(crate) owner: Option<Arc<Node>>,
    pub(crate) record: RwLock<Record>,
    /// For a mutable: its tree now belongs to an immutable record.
    pub(crate) given_away: AtomicBool,
    /// None of its layers belongs to a mutable; that never changes again.
    pub(crate) settled: AtomicBool,
    /// No two of its layers have names of one inode.
    pub(crate) parted: AtomicBool,
    /// Refs that name this node directly.
    pub(crate) users: AtomicUsize,
    /// Where the blob can be had.
    pub(crate) provider: Mutex<Option<Arc<dyn Provider>>>,
    /// Held while the blob is fetched and unpacked, or a blob is made.
    pub(crate) working: Arc<tokio::sync::Mutex<()>>,
    /// What is known of the tree's checksums. Locked while files are hashed.
    pub(crate) records: Mutex<Option<Records>>,
    /// Whose checksums are known elsewhere.
    pub(crate) linked: Mutex<Option<Linked>>,
    /// Metadata of a record that is not kept yet.
    pub(crate) pending: Mutex<BTreeMap<String, Vec<u8>>>,
    /// What a layer has in it, once somebody compared with it.
    listing: OnceLock<Arc<Listing>>,
    /// The tree, once somebody looked inside. Locked while it is being mounted.
    tree: tokio::sync::Mutex<Option<Arc<Tree>>>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("id", &self.id)
            .field("record", &self.record.read())
            .finish_non_exhaustive()
    }
}

impl Node {
    pub(crate) fn new(id: RefId, record: Record, parents: Vec<Arc<Self>>) -> Self {
        Self {
            id,
            parents,
            owner: None,
            record: RwLock::new(record),
            given_away: AtomicBool::new(false),
            settled: AtomicBool::new(false),
            parted: AtomicBool::new(false),
            users: AtomicUsize::new(0),
            provider: Mutex::new(None),
            working: Arc::default(),
            records: Mutex::new(None),
            linked: Mutex::new(None),
            pending: Mutex::new(BTreeMap::new()),
            listing: OnceLock::new(),
            tree: tokio::sync::Mutex::new(None),
        }
    }

    /// What a layer that never changes has in its own snapshot. Blocks.
    pub(crate) fn listing(&self, snapshots: &dyn Snapshotter) -> Result<Arc<Listing>, Error> {
        if let Some(known) = self.listing.get() {
            return Ok(known.clone());
        }
        let made = Arc::new(listing(snapshots, self.shown()?)?);
        Ok(self.listing.get_or_init(|| made).clone())
    }

    /// The nodes whose trees lie on top of each other to make this one's, the lowest first.
    pub(crate) fn layers(self: &Arc<Self>) -> Vec<Arc<Self>> {
        self.placed().into_iter().map(|layer| layer.node).collect()
    }

    /// The same, with where they lie.
    pub(crate) fn placed(self: &Arc<Self>) -> Vec<Placed> {
        let mut found = Vec::new();
        self.collect_layers(false, &mut found);
        found.reverse();
        found
    }

    /// Appends the layers, the topmost first.
    fn collect_layers(self: &Arc<Self>, elsewhere: bool, found: &mut Vec<Placed>) {
        let mut at = self;
        loop {
            let made_of = at.record.read().made_of();
            match made_of {
                MadeOf::ItsOwn => found.push(Placed {
                    node: at.clone(),
                    elsewhere,
                }),
                MadeOf::AllParents => {
                    for (index, parent) in at.parents.iter().enumerate().rev() {
                        parent.collect_layers(elsewhere || index > 0, found);
                    }
                    return;
                }
                MadeOf::TheDifference => {
                    if let [lower, upper] = at.parents.as_slice() {
                        let mut layers = Vec::new();
                        upper.collect_layers(true, &mut layers);
                        layers.truncate(layers.len().saturating_sub(lower.layers().len()));
                        found.append(&mut layers);
                    }
                    return;
                }
            }
            match at.parents.first() {
                Some(parent) => at = parent,
                None => return,
            }
        }
    }

    /// Whether the tree is mounted or otherwise open.
    pub(crate) fn is_open(&self) -> bool {
        self.tree.try_lock().is_ok_and(|tree| tree.is_some())
    }

    /// The snapshots that make up this record's tree; an error when one is not unpacked.
    pub(crate) fn chain(self: &Arc<Self>) -> Result<Chain, Error> {
        {
            let record = self.record.read();
            if let (MadeOf::AllParents | MadeOf::TheDifference, Some(key)) =
                (record.made_of(), record.snapshot())
            {
                return Ok(Chain {
                    keys: vec![key],
                    cut: false,
                });
            }
        }
        let layers = self.placed();
        let mut keys = Vec::with_capacity(layers.len());
        let mut seen = HashSet::with_capacity(layers.len());
        for layer in layers.iter().rev() {
            // A layer that occurs twice in a merge hides its lower occurrence.
            if !layer.node.is_unchanged() && seen.insert(&layer.node.id) {
                keys.push(layer.shown()?);
            }
        }
        let lowest = layers.first().ok_or_else(|| Error::NotFound {
            id: self.id.clone(),
        })?;
        if keys.is_empty() {
            keys.push(lowest.node.shown()?);
        }
        let lowest = &lowest.node;
        Ok(Chain {
            keys,
            cut: !lowest.parents.is_empty(),
        })
    }

    /// The snapshot of this node alone.
    fn shown(&self) -> Result<Key, Error> {
        self.record.read().snapshot().ok_or_else(|| Error::Lazy {
            id: self.id.clone(),
        })
    }

    /// Whether mounts can leave this layer out.
    pub(crate) fn is_unchanged(&self) -> bool {
        matches!(
            self.record.read().body,
            Body::Layer {
                snapshot: Some(_),
                unchanged: true,
                ..
            }
        )
    }

    /// A read-only mount of an immutable record.
    pub(crate) fn view(self: &Arc<Self>, snapshots: &dyn Snapshotter) -> Result<Mount, Error> {
        Ok(snapshots.view(&self.chain()?))
    }

    /// The tree; `mount` describes it for the first who asks.
    pub(crate) async fn tree(
        &self,
        cx: &Cx,
        mount: impl FnOnce() -> Result<Mount, Error>,
    ) -> Result<Arc<Tree>, Error> {
        let mut tree = cx.run(self.tree.lock()).await?;
        if let Some(tree) = tree.as_ref() {
            return Ok(tree.clone());
        }
        let mount = mount()?;
        let opened = tasks::blocking(move || mount.detached()).await;
        let opened = Arc::new(opened.map_err(Error::io("mount a tree"))?);
        *tree = Some(opened.clone());
        Ok(opened)
    }

    /// Lets go of the tree, so that the next one who asks gets a new mount.
    pub(crate) async fn close_tree(&self) {
        *self.tree.lock().await = None;
    }

    /// The chain below a mutable record.
    pub(crate) fn below(&self) -> Result<Option<Chain>, Error> {
        self.parents.first().map(Self::chain).transpose()
    }
}

/// What is in a snapshot. Blocks.
pub(crate) fn listing(snapshots: &dyn Snapshotter, key: Key) -> Result<Listing, Error> {
    let listed = Listing::of(snapshots.directory(key), snapshots.overlay_options());
    listed.map_err(Error::io("look through a layer"))
}

/// A layer of a tree.
pub(crate) struct Placed {
    pub(crate) node: Arc<Node>,
    /// It lies on others than those it was made on.
    pub(crate) elsewhere: bool,
}

impl Placed {
    fn shown(&self) -> Result<Key, Error> {
        if !self.elsewhere {
            return self.node.shown();
        }
        let record = self.node.record.read();
        // What still belongs to a mutable has no other shape; whoever builds on it settles it first.
        let key = match record.body {
            Body::Layer { elsewhere, .. } => elsewhere.map(Key),
            _ => record.snapshot(),
        };
        key.ok_or_else(|| Error::Lazy {
            id: self.node.id.clone(),
        })
    }
}

/// The nodes there are.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    map: HashMap<RefId, Weak<Node>>,
    /// Entries of nodes that are gone are removed when the map has grown to this size.
    clean_at: usize,
    /// Merges and differences that are known to be made of unpacked trees: some of those that are.
    pub(crate) unpacked: HashSet<RefId>,
}

/// How many merges and differences are remembered.
const UNPACKED: usize = 8192;

impl Nodes {
    pub(crate) fn find(&self, id: &RefId) -> Option<Arc<Node>> {
        self.map.get(id)?.upgrade()
    }

    pub(crate) fn add(&mut self, node: Node) -> Arc<Node> {
        let node = Arc::new(node);
        if self.map.len() >= self.clean_at.max(64) {
            self.map.retain(|_, node| node.strong_count() > 0);
            self.clean_at = self.map.len() * 2;
        }
        self.map.insert(node.id.clone(), Arc::downgrade(&node));
        node
    }

    pub(crate) fn note_unpacked(&mut self, ids: HashSet<RefId>) {
        if self.unpacked.len() + ids.len() > UNPACKED {
            self.unpacked.clear();
        }
        self.unpacked.extend(ids);
    }

    pub(crate) fn forget(&mut self, id: &RefId) {
        self.map.remove(id);
        self.unpacked.remove(id);
    }

    pub(crate) fn all(&self) -> Vec<Arc<Node>> {
        self.map.values().filter_map(Weak::upgrade).collect()
    }
}
