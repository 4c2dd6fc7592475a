//! A key store that ends with the process.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::SystemTime;

use parking_lot::RwLock;

use crate::{KeyStore, Link, NodeId, ResultId, Stored};

/// Keeps everything in memory.
#[derive(Debug, Default)]
pub struct Memory {
    graph: RwLock<Graph>,
}

/// The graph itself, without a lock.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    nodes: HashMap<NodeId, Node>,
    by_result: BTreeMap<ResultId, BTreeSet<NodeId>>,
}

#[derive(Debug, Default)]
struct Node {
    links: BTreeMap<Link, BTreeSet<NodeId>>,
    sources: BTreeSet<(NodeId, Link)>,
    records: BTreeMap<ResultId, SystemTime>,
}

impl Node {
    fn is_empty(&self) -> bool {
        self.links.is_empty() && self.sources.is_empty() && self.records.is_empty()
    }
}

impl Graph {
    pub(crate) fn contains(&self, node: &NodeId) -> bool {
        self.nodes.contains_key(node)
    }

    pub(crate) fn targets(&self, source: &NodeId, link: &Link) -> Vec<NodeId> {
        let targets = self.nodes.get(source).and_then(|node| node.links.get(link));
        targets
            .map(|targets| targets.iter().cloned().collect())
            .unwrap_or_default()
    }

    pub(crate) fn links(&self, source: &NodeId) -> Vec<(Link, NodeId)> {
        let Some(node) = self.nodes.get(source) else {
            return Vec::new();
        };
        let links = node.links.iter();
        links
            .flat_map(|(link, to)| to.iter().map(|to| (link.clone(), to.clone())))
            .collect()
    }

    pub(crate) fn sources(&self, target: &NodeId) -> Vec<(NodeId, Link)> {
        let node = self.nodes.get(target);
        node.map(|node| node.sources.iter().cloned().collect())
            .unwrap_or_default()
    }

    pub(crate) fn records(&self, node: &NodeId) -> Vec<Stored> {
        let Some(node) = self.nodes.get(node) else {
            return Vec::new();
        };
        let records = node.records.iter();
        records
            .map(|(result, created)| Stored {
                result: result.clone(),
                created: *created,
            })
            .collect()
    }

    pub(crate) fn nodes(&self, result: &ResultId) -> Vec<NodeId> {
        let nodes = self.by_result.get(result);
        nodes
            .map(|nodes| nodes.iter().cloned().collect())
            .unwrap_or_default()
    }

    pub(crate) fn results(&self) -> Vec<ResultId> {
        self.by_result.keys().cloned().collect()
    }

    /// Whether something changed.
    pub(crate) fn add_link(&mut self, source: &NodeId, link: &Link, target: &NodeId) -> bool {
        let node = self.nodes.entry(source.clone()).or_default();
        let new = node
            .links
            .entry(link.clone())
            .or_default()
            .insert(target.clone());
        if new {
            let node = self.nodes.entry(target.clone()).or_default();
            node.sources.insert((source.clone(), link.clone()));
        }
        new
    }

    /// Whether something changed.
    pub(crate) fn add_record(&mut self, node: &NodeId, record: &Stored) -> bool {
        let records = &mut self.nodes.entry(node.clone()).or_default().records;
        if records
            .get(&record.result)
            .is_some_and(|created| *created <= record.created)
        {
            return false;
        }
        records.insert(record.result.clone(), record.created);
        self.by_result
            .entry(record.result.clone())
            .or_default()
            .insert(node.clone());
        true
    }

    pub(crate) fn remove_record(&mut self, node: &NodeId, result: &ResultId) {
        if let Some(inner) = self.nodes.get_mut(node) {
            inner.records.remove(result);
        }
        self.forget_if_empty(node);
        if let Some(nodes) = self.by_result.get_mut(result) {
            nodes.remove(node);
            if nodes.is_empty() {
                self.by_result.remove(result);
            }
        }
    }

    pub(crate) fn remove_node(&mut self, node: &NodeId) {
        let Some(inner) = self.nodes.remove(node) else {
            return;
        };
        for result in inner.records.keys() {
            if let Some(nodes) = self.by_result.get_mut(result) {
                nodes.remove(node);
                if nodes.is_empty() {
                    self.by_result.remove(result);
                }
            }
        }
        for (source, link) in &inner.sources {
            if let Some(other) = self.nodes.get_mut(source)
                && let Some(targets) = other.links.get_mut(link)
            {
                targets.remove(node);
                if targets.is_empty() {
                    other.links.remove(link);
                }
            }
            self.forget_if_empty(source);
        }
        for (link, targets) in inner.links {
            for target in targets {
                if let Some(other) = self.nodes.get_mut(&target) {
                    other.sources.remove(&(node.clone(), link.clone()));
                }
                self.forget_if_empty(&target);
            }
        }
    }

    fn forget_if_empty(&mut self, node: &NodeId) {
        if self.nodes.get(node).is_some_and(Node::is_empty) {
            self.nodes.remove(node);
        }
    }
}

impl KeyStore for Memory {
    fn contains(&self, node: &NodeId) -> bool {
        self.graph.read().contains(node)
    }

    fn targets(&self, source: &NodeId, link: &Link) -> Vec<NodeId> {
        self.graph.read().targets(source, link)
    }

    fn links(&self, source: &NodeId) -> Vec<(Link, NodeId)> {
        self.graph.read().links(source)
    }

    fn sources(&self, target: &NodeId) -> Vec<(NodeId, Link)> {
        self.graph.read().sources(target)
    }

    fn records(&self, node: &NodeId) -> Vec<Stored> {
        self.graph.read().records(node)
    }

    fn nodes(&self, result: &ResultId) -> Vec<NodeId> {
        self.graph.read().nodes(result)
    }

    fn results(&self) -> Vec<ResultId> {
        self.graph.read().results()
    }

    fn add_link(&self, source: &NodeId, link: &Link, target: &NodeId) {
        self.graph.write().add_link(source, link, target);
    }

    fn add_record(&self, node: &NodeId, record: &Stored) {
        self.graph.write().add_record(node, record);
    }

    fn remove_record(&self, node: &NodeId, result: &ResultId) {
        self.graph.write().remove_record(node, result);
    }

    fn remove_node(&self, node: &NodeId) {
        self.graph.write().remove_node(node);
    }
}
