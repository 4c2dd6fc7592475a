//! The questions to key stores, and the lessons taught to the daemon's own.
//!
//! 1. *Query*: which nodes follow from an input known by these keys? Every store answers for itself: apart from
//!    roots no node is the same in two stores, so a chain matches within one store. What the main store finds is
//!    taught back: the link is added from every alternative that lacked it. That is how a match by content teaches
//!    the definition key, so that next time no checksum is needed.
//! 2. *Records*: which results are there under this key, in whatever store?
//! 3. *Save*: the node of a key is the one it is bound to; else one that, for every input, the content key links to, or
//!    where there is none, some alternative; else a new one. (A definition key alone does not tell which of two runs of
//!    a step that is not reproducible is meant.) Alternatives that are not in the store yet are placed the same way
//!    first. Then every missing link and the record are added, and links from the further ways that equal steps knew
//!    their inputs by, which do not search.
//! 4. *Release*: a result that is gone is taken off all nodes; a node with neither records nor links out of it goes,
//!    and so on upward. A key without any record but with links to surviving nodes stays: partial chains are wanted.

use std::collections::BTreeSet;
use std::sync::Arc;

use oci::Digest;

use crate::store::{KeyStore, NodeId, Record, ResultId, StoreId, Stored};
use crate::{Alternative, Key, Link};

/// The daemon's own store and the imported ones a vertex may use.
#[derive(Clone)]
pub struct Stores {
    main: Arc<dyn KeyStore>,
    imported: Vec<(StoreId, Arc<dyn KeyStore>)>,
}

impl std::fmt::Debug for Stores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "main and {} imported", self.imported.len())
    }
}

/// A node that a query led to.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct Found {
    /// The store.
    pub store: StoreId,
    /// The node in it.
    pub node: NodeId,
}

impl Stores {
    /// Only the daemon's own.
    pub fn new(main: Arc<dyn KeyStore>) -> Self {
        Self {
            main,
            imported: Vec::new(),
        }
    }

    /// Adds an imported one. Its id must not be used twice.
    pub fn attach(&mut self, id: StoreId, store: Arc<dyn KeyStore>) {
        self.imported.push((id, store));
    }

    /// The daemon's own.
    pub fn main(&self) -> &Arc<dyn KeyStore> {
        &self.main
    }

    /// A store by its id.
    pub fn by_id(&self, id: StoreId) -> Option<&Arc<dyn KeyStore>> {
        if id == StoreId::MAIN {
            return Some(&self.main);
        }
        self.imported
            .iter()
            .find(|(known, _)| *known == id)
            .map(|(_, store)| store)
    }

    /// All of them, the daemon's own first.
    pub fn iter(&self) -> impl Iterator<Item = (StoreId, &Arc<dyn KeyStore>)> {
        let imported = self.imported.iter().map(|(id, store)| (*id, store));
        std::iter::once((StoreId::MAIN, &self.main)).chain(imported)
    }
}

/// The nodes that follow from an input known by `ways`, for input `input` of output `output` of an operation with the
/// digest `digest`. `taught` are further ways the same input is known by: they learn the links but do not search.
pub fn query(
    stores: &Stores,
    ways: &[Alternative],
    taught: &[Alternative],
    input: usize,
    output: usize,
    digest: &Digest,
) -> Vec<Found> {
    let mut found = BTreeSet::new();
    for (id, store) in stores.iter() {
        for way in ways {
            let Some(source) = way.key.node(id) else {
                continue;
            };
            let targets = store.targets(&source, &link(digest, input, output, way));
            found.extend(targets.into_iter().map(|node| Found { store: id, node }));
        }
    }
    let main = stores.main.as_ref();
    for target in found.iter().filter(|found| found.store == StoreId::MAIN) {
        if ways.len() + taught.len() < 2 {
            break;
        }
        for way in ways.iter().chain(taught) {
            let source = place(main, &way.key);
            add_missing(
                main,
                &source,
                &link(digest, input, output, way),
                &target.node,
            );
        }
    }
    found.into_iter().collect()
}

/// The records under `key`, in all stores. `exists` tells whether a result of the main store is still there; those
/// that are gone are released on the way.
pub fn records(stores: &Stores, key: &Key, exists: &dyn Fn(&ResultId) -> bool) -> Vec<Record> {
    let mut records = Vec::new();
    for (id, store) in stores.iter() {
        let Some(node) = key.node(id) else { continue };
        for stored in store.records(&node) {
            if id == StoreId::MAIN && !exists(&stored.result) {
                release(store.as_ref(), &stored.result);
                continue;
            }
            records.push(Record {
                store: id,
                result: stored.result,
                created: stored.created,
            });
        }
    }
    records
}

/// The node `save` would use for `key`, with its records, if it has any: was an equal step saved by somebody else?
/// Then `key` is that step's too, and what it is known by leads there from now on.
pub fn find(
    store: &dyn KeyStore,
    key: &Key,
    exists: &dyn Fn(&ResultId) -> bool,
) -> Option<(NodeId, Vec<Record>)> {
    let nodes = match key.node(StoreId::MAIN) {
        Some(node) => vec![node],
        None => common_targets(store, key),
    };
    nodes.into_iter().find_map(|node| {
        let stored = store
            .records(&node)
            .into_iter()
            .filter(|stored| exists(&stored.result));
        let records: Vec<_> = stored
            .map(|stored| Record {
                store: StoreId::MAIN,
                result: stored.result,
                created: stored.created,
            })
            .collect();
        if records.is_empty() {
            return None;
        }
        add_links(store, key, &node);
        Some((node, records))
    })
}

/// Teaches the main store all the ways the inputs of a key that was saved are known by.
pub fn teach(store: &dyn KeyStore, key: &Key) {
    if let Some(node) = key.node(StoreId::MAIN) {
        add_links(store, key, &node);
    }
}

/// Puts a record under `key` into `store`, which must be the main one, and returns the key's node.
pub fn save(store: &dyn KeyStore, key: &Key, record: &Stored) -> NodeId {
    let node = place(store, key);
    add_links(store, key, &node);
    store.add_record(&node, record);
    key.set_record(Record {
        store: StoreId::MAIN,
        result: record.result.clone(),
        created: record.created,
    });
    node
}

/// Takes a result that is gone off all nodes of `store`.
pub fn release(store: &dyn KeyStore, result: &ResultId) {
    for node in store.nodes(result) {
        let mut above: BTreeSet<NodeId> = store
            .sources(&node)
            .into_iter()
            .map(|(source, _)| source)
            .collect();
        store.remove_record(&node, result);
        if !is_bare(store, &node) {
            continue;
        }
        store.remove_node(&node);
        while let Some(node) = above.pop_first() {
            if is_bare(store, &node) {
                above.extend(store.sources(&node).into_iter().map(|(source, _)| source));
                store.remove_node(&node);
            }
        }
    }
}

/// Releases every result that `exists` does not know any more.
pub fn sweep(store: &dyn KeyStore, exists: &dyn Fn(&ResultId) -> bool) {
    for result in store.results() {
        if !exists(&result) {
            tracing::debug!(%result, "releasing records of a result that is gone");
            release(store, &result);
        }
    }
}

fn is_bare(store: &dyn KeyStore, node: &NodeId) -> bool {
    store.records(node).is_empty() && store.links(node).is_empty()
}

fn link(digest: &Digest, input: usize, output: usize, way: &Alternative) -> Link {
    Link {
        digest: digest.clone(),
        input: u32::try_from(input).unwrap_or(u32::MAX),
        output: i32::try_from(output).unwrap_or(i32::MAX),
        selector: way.selector.clone(),
    }
}

fn own_link(key: &Key, input: usize, way: &Alternative) -> Link {
    Link {
        digest: key.digest().clone(),
        input: u32::try_from(input).unwrap_or(u32::MAX),
        output: key.output(),
        selector: way.selector.clone(),
    }
}

fn add_missing(store: &dyn KeyStore, source: &NodeId, link: &Link, target: &NodeId) {
    if !store.targets(source, link).contains(target) {
        store.add_link(source, link, target);
    }
}

/// The node of `key` in the main store, which is found or made, and with it those of the keys above that have none.
fn place(store: &dyn KeyStore, key: &Key) -> NodeId {
    // Keys above come first; a stack of our own, because chains may be very long.
    let mut stack = vec![key.clone()];
    while let Some(top) = stack.last().cloned() {
        if top.node(StoreId::MAIN).is_some() {
            stack.pop();
            continue;
        }
        let depth = stack.len();
        let ways = top.inputs().iter().flatten();
        stack.extend(
            ways.filter(|way| way.key.node(StoreId::MAIN).is_none())
                .map(|way| way.key.clone()),
        );
        if stack.len() > depth {
            continue;
        }
        let found = common_targets(store, &top).into_iter().next();
        let node = found.unwrap_or_else(NodeId::random);
        top.bind(StoreId::MAIN, node.clone());
        if depth > 1 {
            add_links(store, &top, &node);
        }
        stack.pop();
    }
    key.node(StoreId::MAIN)
        .expect("the loop ends when the key is bound")
}

fn add_links(store: &dyn KeyStore, key: &Key, node: &NodeId) {
    let add = |input: usize, way: &Alternative| {
        let source = place(store, &way.key);
        add_missing(store, &source, &own_link(key, input, way), node);
    };
    for (input, ways) in key.inputs().iter().enumerate() {
        ways.iter().for_each(|way| add(input, way));
    }
    for (input, way) in key.secondary() {
        add(input, &way);
    }
}

/// The nodes that, for every input of `key`, the content key links to, or without one some alternative.
fn common_targets(store: &dyn KeyStore, key: &Key) -> Vec<NodeId> {
    let mut common: Option<BTreeSet<NodeId>> = None;
    for (input, ways) in key.inputs().iter().enumerate() {
        let mut here = BTreeSet::new();
        let by_content = ways.iter().any(|way| way.key.is_content());
        for way in ways
            .iter()
            .filter(|way| way.key.is_content() || !by_content)
        {
            if let Some(source) = way.key.node(StoreId::MAIN) {
                here.extend(store.targets(&source, &own_link(key, input, way)));
            }
        }
        let left = match common {
            None => here,
            Some(before) => before.intersection(&here).cloned().collect(),
        };
        if left.is_empty() {
            return Vec::new();
        }
        common = Some(left);
    }
    common.unwrap_or_default().into_iter().collect()
}

#[cfg(test)]
#[path = "graph_tests.rs"]
mod tests;
