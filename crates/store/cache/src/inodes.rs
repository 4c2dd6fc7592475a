//! Files that trees share: which inodes a tree was given further names of, and where they come from.
//!
//! One inode has at most one name in a tree, but for links that the user made. Whoever copies into a tree sees to it
//! with what is kept here. A merge brings trees together that were made without knowing of each other: there, a layer
//! that shares with another one of the same tree gets a copy of its own, once.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fstree::Root;
use snapshot::Key;
use tasks::Cx;

use crate::fresh::Fresh;
use crate::node::{Node, Placed};
use crate::record::MadeOf;
use crate::{Cache, Error, Inner, MutableRef, Ref};

/// Under this key a record keeps which inodes it and the records below it share.
const INODES: &str = "shared-inodes";
/// Under this key it keeps which snapshots they come from.
const ORIGINS: &str = "shared-from";
/// Under this key a layer of a merge keeps that its snapshot there has inodes of its own.
const ALONE: &str = "own-inodes";

/// What trees share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shares {
    /// The inodes, as whoever keeps them writes them; of each tree that stands for itself.
    pub inodes: Vec<Vec<u8>>,
    /// The snapshots they come from, also by way of others; `None` if that is not known.
    pub origins: Option<BTreeSet<u64>>,
}

impl Shares {
    fn nothing() -> Self {
        Self {
            inodes: Vec::new(),
            origins: Some(BTreeSet::new()),
        }
    }

    /// What has been kept for a record, if something was.
    fn add(&mut self, inodes: Vec<u8>, origins: Option<Vec<u8>>) {
        self.inodes.push(inodes);
        let known = origins.as_deref().and_then(numbers);
        match (&mut self.origins, known) {
            (Some(origins), Some(known)) => origins.extend(known),
            (origins, _) => *origins = None,
        }
    }
}

impl Ref {
    /// What this tree shares with others.
    pub fn shares(&self) -> Shares {
        let mut found = Shares::nothing();
        self.cache().inner.shares(self.node(), &mut found);
        found
    }

    /// The snapshots that this tree consists of.
    pub fn snapshots(&self) -> BTreeSet<u64> {
        homes(&self.node().placed())
    }
}

impl MutableRef {
    /// What this tree, with all below it, shares with others.
    pub fn shares(&self) -> Shares {
        let mut found = Shares::nothing();
        match self.meta(INODES) {
            Some(inodes) => found.add(inodes, self.meta(ORIGINS)),
            None => {
                for parent in &self.node().parents {
                    self.cache().inner.shares(parent, &mut found);
                }
            }
        }
        found
    }

    /// Keeps what it shares from now on, with all below it.
    pub fn set_shares(&self, inodes: &[u8], origins: Option<&BTreeSet<u64>>) -> Result<(), Error> {
        if let Some(origins) = origins {
            let origins: Vec<u8> = origins.iter().flat_map(|key| key.to_le_bytes()).collect();
            self.set_meta(ORIGINS, &origins)?;
        }
        self.set_meta(INODES, inodes)
    }
}

impl Inner {
    /// Adds what a tree shares. A record that keeps something keeps it for all below it.
    fn shares(&self, node: &Arc<Node>, found: &mut Shares) {
        let mut left = vec![node];
        while let Some(at) = left.pop() {
            if let Some(inodes) = self.meta(&at.id, INODES) {
                found.add(inodes, self.meta(&at.id, ORIGINS));
                continue;
            }
            match at.record.read().made_of() {
                MadeOf::ItsOwn => left.extend(at.parents.first()),
                MadeOf::AllParents => left.extend(&at.parents),
                MadeOf::TheDifference => left.extend(at.parents.get(1)),
            }
        }
    }

    /// Whether a layer shares nothing where it lies on others than those it was made on.
    fn has_own_inodes(&self, node: &Node) -> bool {
        let kept = self.meta(&node.id, ALONE);
        let kept = kept.as_deref().and_then(numbers).unwrap_or_default();
        let elsewhere = node.record.read().elsewhere();
        elsewhere.is_some_and(|key| kept.contains(&key.0))
    }
}

impl Cache {
    /// Gives layers files of their own where another layer of the same tree has the same inode.
    pub(crate) async fn part(
        &self,
        cx: &Cx,
        node: &Arc<Node>,
        placed: &[Placed],
    ) -> Result<(), Error> {
        if node.parted.load(Ordering::Acquire) {
            return Ok(());
        }
        for (layer, taken) in self.inner.in_conflict(placed) {
            cx.check()?;
            self.copy_out(cx, &layer, &taken).await?;
        }
        node.parted.store(true, Ordering::Release);
        Ok(())
    }

    /// Copies a layer. From the snapshots `taken` others share already.
    async fn copy_out(
        &self,
        cx: &Cx,
        node: &Arc<Node>,
        taken: &BTreeSet<u64>,
    ) -> Result<(), Error> {
        let working = cx.run(node.working.clone().lock_owned()).await?;
        let Some(from) = node.record.read().elsewhere() else {
            return Ok(());
        };
        if self.inner.has_own_inodes(node) && !taken.contains(&from.0) {
            return Ok(());
        }
        let (cache, node) = (self.clone(), node.clone());
        tasks::blocking(move || {
            let _working = working;
            let inner = &cache.inner;
            let directory = |key: Key| {
                let opened = Root::open(inner.snapshots.directory(key));
                opened.map_err(Error::io("open a tree"))
            };
            let fresh = Fresh::prepare(inner, None)?;
            fstree::copy::tree(&directory(from)?, &directory(fresh.key())?, false)
                .map_err(layer::Error::from)?;
            inner.snapshots.adopt(fresh.key())?;
            inner.set_meta(&node.id, ALONE, &fresh.key().0.to_le_bytes())?;
            cache.set_shape(&node, fresh.key().0)?;
            fresh.keep();
            Ok(())
        })
        .await
    }
}

/// Layers that stand on each other as they do everywhere.
struct Branch<'p> {
    layers: Vec<&'p Placed>,
    inodes: HashSet<[u8; 16]>,
    origins: Option<BTreeSet<u64>>,
    homes: BTreeSet<u64>,
}

impl Branch<'_> {
    /// Whether both may have names of the same inode.
    fn shares_with(&self, other: &Self) -> bool {
        let from = |origins: &Option<BTreeSet<u64>>, homes: &BTreeSet<u64>| match origins {
            Some(origins) => !origins.is_disjoint(homes),
            None => true,
        };
        from(&self.origins, &other.homes)
            || from(&other.origins, &self.homes)
            || !self.inodes.is_disjoint(&other.inodes)
    }
}

impl Inner {
    /// The layers that may share with others below them that they do not stand on everywhere; with the snapshots that
    /// those share from.
    fn in_conflict(&self, placed: &[Placed]) -> Vec<(Arc<Node>, BTreeSet<u64>)> {
        let branches = self.branches(placed);
        let mut found = Vec::new();
        for (index, branch) in branches.iter().enumerate() {
            let below = &branches[..index];
            if !branch.layers[0].elsewhere || !below.iter().any(|it| branch.shares_with(it)) {
                continue;
            }
            let taken = below.iter().filter_map(|it| it.origins.as_ref()).flatten();
            let taken: BTreeSet<u64> = taken.copied().collect();
            let changed = branch.layers.iter().filter(|it| !it.node.is_unchanged());
            found.extend(changed.map(|layer| (layer.node.clone(), taken.clone())));
        }
        found
    }

    fn branches<'p>(&self, placed: &'p [Placed]) -> Vec<Branch<'p>> {
        let goes_on = |below: &Placed, layer: &Placed| {
            let parent = layer.node.parents.first();
            below.elsewhere == layer.elsewhere
                && parent.is_some_and(|parent| Arc::ptr_eq(parent, &below.node))
        };
        let runs = placed.chunk_by(goes_on);
        runs.map(|run| {
            let alone = run[0].elsewhere && run.iter().all(|it| self.has_own_inodes(&it.node));
            let mut shares = Shares::nothing();
            if let Some(top) = run.last().filter(|_| !alone) {
                self.shares(&top.node, &mut shares);
            }
            let inodes = shares.inodes.iter().flat_map(|kept| kept.as_chunks().0);
            Branch {
                layers: run.iter().collect(),
                inodes: inodes.copied().collect(),
                origins: shares.origins,
                homes: homes(run),
            }
        })
        .collect()
    }
}

/// The snapshots of layers, in every shape.
fn homes(layers: &[Placed]) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    for layer in layers {
        let record = layer.node.record.read();
        found.extend(record.snapshot().map(|key| key.0));
        found.extend(record.elsewhere().map(|key| key.0));
    }
    found
}

fn numbers(bytes: &[u8]) -> Option<BTreeSet<u64>> {
    let (numbers, rest) = bytes.as_chunks();
    rest.is_empty().then(|| {
        numbers
            .iter()
            .map(|bytes| u64::from_le_bytes(*bytes))
            .collect()
    })
}
