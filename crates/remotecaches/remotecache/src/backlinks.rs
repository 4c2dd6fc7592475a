//! Other ways to what a build knows, learnt by its stores from other builds.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cachekeys::{KeyStore, NodeId, StoreId, key_digest};
use oci::Digest;

use crate::graph::{Alternative, Graph, ItemId};
use crate::store::imported;

/// The ways that stores know, without results.
#[derive(Default)]
pub(crate) struct Backlinks {
    /// The items of each node; `None` while those above it are being followed.
    known: HashMap<(StoreId, NodeId), Option<Vec<ItemId>>>,
}

/// For each digest a node is reached by, and each input of that, the ways.
type Ways = BTreeMap<Digest, Vec<Vec<(Option<Digest>, NodeId)>>>;

impl Backlinks {
    /// Adds to `graph` whatever leads to `node` of a store.
    pub(crate) fn add(
        &mut self,
        graph: &mut Graph,
        id: StoreId,
        store: &Arc<dyn KeyStore>,
        node: &NodeId,
    ) {
        let mut stack: Vec<(NodeId, Option<Ways>)> = vec![(node.clone(), None)];
        while let Some((top, ways)) = stack.last_mut() {
            if ways.is_none() {
                let key = (id, top.clone());
                if self.known.contains_key(&key) {
                    stack.pop();
                    continue;
                }
                self.known.insert(key, None);
                let found = sources(store, top);
                let above: Vec<NodeId> = found
                    .values()
                    .flatten()
                    .flatten()
                    .map(|(_, node)| node.clone())
                    .filter(|node| !self.known.contains_key(&(id, node.clone())))
                    .collect();
                *ways = Some(found);
                stack.extend(above.into_iter().map(|node| (node, None)));
                continue;
            }
            let Some((top, Some(ways))) = stack.pop() else {
                break;
            };
            let items = self.items(graph, id, &top, ways);
            self.known.insert((id, top), Some(items));
        }
    }

    fn items(&self, graph: &mut Graph, id: StoreId, node: &NodeId, ways: Ways) -> Vec<ItemId> {
        if ways.is_empty() {
            let digest = node.as_str().parse::<Digest>().ok();
            return digest
                .and_then(|digest| graph.add(&digest, &[], []))
                .into_iter()
                .collect();
        }
        let mut items = Vec::new();
        for (digest, inputs) in ways {
            let inputs: Vec<Vec<Alternative>> = inputs
                .into_iter()
                .map(|ways| {
                    ways.into_iter()
                        .flat_map(|(selector, node)| {
                            let known = self.known.get(&(id, node));
                            let items = known.and_then(Option::as_ref).cloned().unwrap_or_default();
                            items.into_iter().map(move |item| Alternative {
                                selector: selector.clone(),
                                item,
                            })
                        })
                        .collect()
                })
                .collect();
            // Refused when an input cannot be known by anything that may leave the daemon.
            items.extend(graph.add(&digest, &inputs, []));
        }
        items
    }
}

fn sources(store: &Arc<dyn KeyStore>, node: &NodeId) -> Ways {
    // Compat: links of a document have digest and output in one digest already.
    let folded = imported(store).is_some();
    let mut ways = Ways::new();
    for (source, link) in store.sources(node) {
        let digest = if folded {
            link.digest.clone()
        } else {
            key_digest(&link.digest, link.output)
        };
        let inputs = ways.entry(digest).or_default();
        let input = usize::try_from(link.input).unwrap_or(usize::MAX);
        // No operation has more inputs than that; a store that says so is damaged.
        if input > 1 << 16 {
            continue;
        }
        if inputs.len() <= input {
            inputs.resize(input + 1, Vec::new());
        }
        inputs[input].push((link.selector, source));
    }
    ways
}
