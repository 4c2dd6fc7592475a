//! An imported cache as a store of keys that the solver asks.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use cache::ImageLayer;
use cachekeys::{Key, KeyStore, Link, NodeId, Record, ResultId, StoreId, Stored, key_digest};

use oci::Digest;
use parking_lot::Mutex;

use crate::graph::{Graph, Item, ItemId, Step};
use crate::layers::{Blob, LayerId, Now, Whence, missing};
use crate::{Error, Work};

/// A cache that was read.
pub struct Imported {
    graph: Graph,
    /// Blobs that were there when they were looked for.
    seen: Mutex<HashSet<Digest>>,
}

/// A result that can be had by loading another one: it is part of that.
#[derive(Debug, Clone)]
pub struct Found {
    /// What it is known by.
    pub key: Key,
    /// Its record.
    pub record: Record,
    /// How many of the layers are its.
    pub height: usize,
}

impl Imported {
    /// Answers questions about `graph`.
    pub fn new(graph: Graph) -> Self {
        Self {
            graph,
            seen: Mutex::default(),
        }
    }

    /// What was read.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    fn node(&self, id: ItemId) -> NodeId {
        let item = &self.graph.items[id.0];
        if item.inputs.is_empty() {
            return NodeId::new(item.digest.as_str());
        }
        NodeId::from(format!("item {}", id.0))
    }

    fn item(&self, node: &NodeId) -> Option<(ItemId, &Item)> {
        let id = match node.as_str().strip_prefix("item ") {
            Some(number) => ItemId(number.parse().ok()?),
            None => *self.graph.roots.get(&node.as_str().parse().ok()?)?,
        };
        Some((id, self.graph.items.get(id.0)?))
    }

    /// The layer that a result ends with.
    pub fn layer(&self, result: &ResultId) -> Option<LayerId> {
        result
            .as_str()
            .strip_prefix("layer ")?
            .parse()
            .ok()
            .map(LayerId)
    }

    /// The layers of a result, the lowest first, which these sessions can have fetched.
    pub fn layers(&self, result: &ResultId, sessions: &Now) -> Option<Vec<ImageLayer>> {
        self.graph.layers.image(self.layer(result)?, sessions)
    }

    fn blobs(&self, result: &ResultId) -> impl Iterator<Item = &Blob> {
        let layers = &self.graph.layers;
        let layer = self.layer(result).into_iter();
        layer.flat_map(|layer| layers.blobs_below(layer))
    }

    /// Whether a blob of the result is gone when the client is.
    pub fn ends_with_client(&self, result: &ResultId) -> bool {
        self.blobs(result)
            .any(|blob| matches!(&blob.whence, Whence::Origin(origin) if origin.ends_with_client()))
    }

    /// A blob of the result that nobody has any more.
    pub async fn lost_blob(&self, work: &Work, result: &ResultId) -> Result<Option<Digest>, Error> {
        let unseen: Vec<_> = {
            let seen = self.seen.lock();
            let unseen = |blob: &&Blob| !seen.contains(&blob.descriptor.digest);
            self.blobs(result).filter(unseen).collect()
        };
        let missing = missing(work, unseen.iter().copied()).await?;
        let digests = unseen.iter().map(|blob| &blob.descriptor.digest);
        let (lost, there): (Vec<_>, Vec<_>) = digests.partition(|digest| missing.contains(*digest));
        self.seen.lock().extend(there.into_iter().cloned());
        Ok(lost.into_iter().min().cloned())
    }

    /// The record, and those of the keys above whose results are made of the lowest of its layers.
    pub fn with_parts(&self, store: StoreId, key: &Key, record: &Record) -> Vec<Found> {
        let Some(top) = self.layer(&record.result) else {
            return Vec::new();
        };
        let parts: HashSet<LayerId> = self.graph.layers.downwards(top).collect();
        let mut found = vec![Found {
            key: key.clone(),
            record: record.clone(),
            height: self.graph.layers.height(top),
        }];
        let mut seen = HashSet::from([key.address()]);
        let mut open: Vec<Key> = above(key);
        while let Some(next) = open.pop() {
            if !seen.insert(next.address()) {
                continue;
            }
            open.extend(above(&next));
            let Some((_, item)) = next.node(store).and_then(|node| self.item(&node)) else {
                continue;
            };
            for result in item
                .results
                .iter()
                .filter(|result| parts.contains(&result.layer))
            {
                found.push(Found {
                    key: next.clone(),
                    record: Record {
                        store,
                        result: result_id(result.layer),
                        created: result.created,
                    },
                    height: self.graph.layers.height(result.layer),
                });
            }
        }
        found
    }
}

fn above(key: &Key) -> Vec<Key> {
    let ways = key.inputs().iter().flatten();
    ways.map(|way| way.key.clone()).collect()
}

fn result_id(layer: LayerId) -> ResultId {
    ResultId::from(format!("layer {}", layer.0))
}

impl KeyStore for Imported {
    fn contains(&self, node: &NodeId) -> bool {
        self.item(node).is_some()
    }

    fn targets(&self, source: &NodeId, link: &Link) -> Vec<NodeId> {
        let Some((_, item)) = self.item(source) else {
            return Vec::new();
        };
        let step = Step {
            input: usize::try_from(link.input).unwrap_or(usize::MAX),
            digest: key_digest(&link.digest, link.output),
            selector: link.selector.clone(),
        };
        let targets = item.next.get(&step).into_iter().flatten();
        targets.map(|target| self.node(*target)).collect()
    }

    // Compat: a document has digest and output of a link in one digest, which stands for both here.
    fn links(&self, source: &NodeId) -> Vec<(Link, NodeId)> {
        let Some((_, item)) = self.item(source) else {
            return Vec::new();
        };
        let mut links: Vec<_> = (item.next.iter())
            .flat_map(|(step, targets)| targets.iter().map(move |target| (step, target)))
            .map(|(step, target)| (link(step), self.node(*target)))
            .collect();
        links.sort();
        links
    }

    fn sources(&self, target: &NodeId) -> Vec<(NodeId, Link)> {
        let Some((_, item)) = self.item(target) else {
            return Vec::new();
        };
        let mut sources = Vec::new();
        for (input, ways) in item.inputs.iter().enumerate() {
            for way in ways {
                let step = Step {
                    input,
                    digest: item.digest.clone(),
                    selector: way.selector.clone(),
                };
                sources.push((self.node(way.item), link(&step)));
            }
        }
        sources.sort();
        sources
    }

    fn records(&self, node: &NodeId) -> Vec<Stored> {
        let mut records: HashMap<ResultId, Stored> = HashMap::new();
        for result in self
            .item(node)
            .into_iter()
            .flat_map(|(_, item)| &item.results)
        {
            let stored = Stored {
                result: result_id(result.layer),
                created: result.created,
            };
            records.entry(stored.result.clone()).or_insert(stored);
        }
        let mut records: Vec<_> = records.into_values().collect();
        records.sort_by(|a, b| a.result.cmp(&b.result));
        records
    }

    fn nodes(&self, result: &ResultId) -> Vec<NodeId> {
        let Some(layer) = self.layer(result) else {
            return Vec::new();
        };
        let with = self
            .graph
            .all()
            .filter(|(_, item)| item.results.iter().any(|result| result.layer == layer));
        let mut nodes: Vec<_> = with.map(|(id, _)| self.node(id)).collect();
        nodes.sort();
        nodes
    }

    fn results(&self) -> Vec<ResultId> {
        let results = self.graph.all().flat_map(|(_, item)| &item.results);
        let mut ids: Vec<_> = results.map(|result| result_id(result.layer)).collect();
        ids.sort();
        ids.dedup();
        ids
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

fn link(step: &Step) -> Link {
    Link {
        digest: step.digest.clone(),
        input: u32::try_from(step.input).unwrap_or(u32::MAX),
        output: 0,
        selector: step.selector.clone(),
    }
}

/// The imported cache behind a store of keys, if it is one.
pub(crate) fn imported(store: &Arc<dyn KeyStore>) -> Option<&Imported> {
    store.as_any()?.downcast_ref()
}
