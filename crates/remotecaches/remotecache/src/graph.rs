//! A cache in memory: items, the links between them, and results.
//!
//! 1. What must not leave a daemon (`random:`) is refused.
//! 2. Items without inputs are one per digest.
//! 3. An item with inputs is the same as one that is there if, for every input, some way already leads to that one. If
//!    several are, they become one.
//! 4. There are no loops: a way that would close one is left out. Items are kept in an order in which every link goes
//!    upwards ([`crate::order`]), so that almost always a comparison shows that there is none.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use oci::Digest;

use crate::document::Document;
use crate::layers::{LayerId, Layers, Origin};
use crate::mounts::{Incoming, Outgoing};

/// An item of one graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemId(pub(crate) usize);

/// One way an input may be known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alternative {
    /// Which part of the input counts.
    pub selector: Option<Digest>,
    /// What is known.
    pub item: ItemId,
}

/// A result: a layer and all below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Placed {
    /// The topmost layer.
    pub layer: LayerId,
    /// When the result was saved first.
    pub created: SystemTime,
}

/// What leads from one item to another.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Step {
    pub(crate) input: usize,
    pub(crate) digest: Digest,
    pub(crate) selector: Option<Digest>,
}

#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) digest: Digest,
    /// For each input the ways it may be known.
    pub(crate) inputs: Vec<BTreeSet<Alternative>>,
    pub(crate) next: HashMap<Step, BTreeSet<ItemId>>,
    pub(crate) results: Vec<Placed>,
    /// Its place in the order.
    pub(crate) rank: usize,
    /// It was found to be the same as another.
    pub(crate) merged: Option<ItemId>,
}

/// A cache in memory.
#[derive(Default)]
pub struct Graph {
    /// What results are made of.
    pub layers: Layers,
    /// Cache mounts that are to go out with it.
    pub mounts: Option<Arc<Outgoing>>,
    /// Cache mounts that came with it.
    pub brought: Vec<Incoming>,
    pub(crate) items: Vec<Item>,
    pub(crate) roots: BTreeMap<Digest, ItemId>,
    /// What the layers were made from: as long as the graph is, they are not removed.
    pub(crate) kept: Vec<cache::Ref>,
}

impl Graph {
    /// Whether there is nothing at all.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        self.items
            .iter()
            .filter(|item| item.merged.is_none())
            .count()
    }

    /// Notes the cache mounts that came with a document; their blobs are where its layers are.
    pub fn note_mounts(&mut self, document: &Document, origin: &Arc<dyn Origin>) {
        let brought = document.mounts.iter();
        self.brought
            .extend(brought.map(|list| Incoming::new(list, origin)));
    }

    /// Whether any item has a result.
    pub fn has_results(&self) -> bool {
        self.all().any(|(_, item)| !item.results.is_empty())
    }

    /// Adds what is known by `digest`, which is K of the cache-key rules. `None`: it is refused, or an input cannot be
    /// known by anything.
    pub fn add(
        &mut self,
        digest: &Digest,
        inputs: &[Vec<Alternative>],
        results: impl IntoIterator<Item = Placed>,
    ) -> Option<ItemId> {
        if digest.is_random() {
            return None;
        }
        let inputs: Vec<BTreeSet<Alternative>> =
            inputs.iter().map(|ways| self.usable(ways)).collect();
        if inputs.iter().any(BTreeSet::is_empty) {
            return None;
        }
        let id = if inputs.is_empty() {
            match self.roots.get(digest) {
                Some(known) => *known,
                None => {
                    let id = self.new_item(digest, 0);
                    self.roots.insert(digest.clone(), id);
                    id
                }
            }
        } else {
            match self.same(digest, &inputs) {
                Some(known) => known,
                None => self.new_item(digest, inputs.len()),
            }
        };
        for result in results {
            let known = &mut self.items[id.0].results;
            if !known.contains(&result) {
                known.push(result);
            }
        }
        for (input, ways) in inputs.into_iter().enumerate() {
            for mut way in ways {
                // It may have become one with another just now.
                way.item = self.current(way.item);
                self.link(&way, id, input);
            }
        }
        Some(id)
    }

    /// Ways that may be written down, each once.
    fn usable(&self, ways: &[Alternative]) -> BTreeSet<Alternative> {
        let plain = ways.iter().filter(|way| {
            let random = |selector: &Digest| selector.is_random();
            !way.selector.as_ref().is_some_and(random)
        });
        plain
            .map(|way| Alternative {
                selector: way.selector.clone(),
                item: self.current(way.item),
            })
            .collect()
    }

    fn new_item(&mut self, digest: &Digest, inputs: usize) -> ItemId {
        let id = ItemId(self.items.len());
        self.items.push(Item {
            digest: digest.clone(),
            inputs: vec![BTreeSet::new(); inputs],
            next: HashMap::new(),
            results: Vec::new(),
            rank: id.0,
            merged: None,
        });
        id
    }

    /// The item that stands for this one.
    pub(crate) fn current(&self, mut id: ItemId) -> ItemId {
        while let Some(by) = self.items[id.0].merged {
            id = by;
        }
        id
    }

    /// The item to which, for every input, one of `inputs` leads already.
    fn same(&mut self, digest: &Digest, inputs: &[BTreeSet<Alternative>]) -> Option<ItemId> {
        let mut common: Option<BTreeSet<ItemId>> = None;
        for (input, ways) in inputs.iter().enumerate() {
            let here: BTreeSet<ItemId> = ways
                .iter()
                .filter_map(|way| {
                    let step = Step {
                        input,
                        digest: digest.clone(),
                        selector: way.selector.clone(),
                    };
                    self.items[way.item.0].next.get(&step)
                })
                .flatten()
                .copied()
                .filter(|id| self.items[id.0].inputs.len() == inputs.len())
                .collect();
            let left = match common {
                None => here,
                Some(before) => before.intersection(&here).copied().collect(),
            };
            if left.is_empty() {
                return None;
            }
            common = Some(left);
        }
        let mut all = common?.into_iter();
        let first = all.next()?;
        for other in all {
            self.merge(first, other);
        }
        Some(first)
    }

    /// Makes `other` one with `main`, unless one of them comes from the other.
    fn merge(&mut self, main: ItemId, other: ItemId) {
        if self.reaches(main, other) || self.reaches(other, main) {
            return;
        }
        let taken = &mut self.items[other.0];
        let inputs = std::mem::take(&mut taken.inputs);
        let next = std::mem::take(&mut taken.next);
        let results = std::mem::take(&mut taken.results);
        let digest = taken.digest.clone();
        taken.merged = Some(main);
        for (input, ways) in inputs.into_iter().enumerate() {
            for way in ways {
                let step = Step {
                    input,
                    digest: digest.clone(),
                    selector: way.selector.clone(),
                };
                if let Some(targets) = self.items[way.item.0].next.get_mut(&step) {
                    targets.remove(&other);
                }
                self.link(&way, main, input);
            }
        }
        let mut next: Vec<_> = next.into_iter().collect();
        next.sort();
        for (step, targets) in next {
            let mut way = Alternative {
                selector: step.selector,
                item: other,
            };
            for target in targets {
                let target_inputs = &mut self.items[target.0].inputs;
                if let Some(ways) = target_inputs.get_mut(step.input) {
                    ways.remove(&way);
                }
                way.item = main;
                self.link(&way, target, step.input);
                way.item = other;
            }
        }
        for result in results {
            let known = &mut self.items[main.0].results;
            if !known.contains(&result) {
                known.push(result);
            }
        }
    }

    /// Links `way` to `target` as its input, unless that would close a loop.
    fn link(&mut self, way: &Alternative, target: ItemId, input: usize) {
        if self.items[target.0].inputs[input].contains(way) || !self.raise(way.item, target) {
            return;
        }
        let step = Step {
            input,
            digest: self.items[target.0].digest.clone(),
            selector: way.selector.clone(),
        };
        self.items[way.item.0]
            .next
            .entry(step)
            .or_default()
            .insert(target);
        self.items[target.0].inputs[input].insert(way.clone());
    }

    /// All items that count, in the order they came.
    pub(crate) fn all(&self) -> impl Iterator<Item = (ItemId, &Item)> {
        let items = self.items.iter().enumerate();
        items
            .filter(|(_, item)| item.merged.is_none())
            .map(|(at, item)| (ItemId(at), item))
    }
}

#[cfg(test)]
#[path = "graph_tests.rs"]
mod tests;
