//! A key store that survives the daemon.
//!
//! Four tables, whose keys are texts joined by zero bytes: links by source, links by target, records by node, records
//! by result. Whatever concerns `random:` nodes is kept in memory only, and of those only the youngest: they belong to
//! a client's session, and nobody asks for them again once it is over.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use db::{Batch, Db, Table};
use parking_lot::RwLock;

use crate::memory::Graph;
use crate::{KeyStore, Link, NodeId, ResultId, Stored};

const LINKS: Table = Table::new("keys-links");
const SOURCES: Table = Table::new("keys-sources");
const RECORDS: Table = Table::new("keys-records");
const RESULTS: Table = Table::new("keys-results");

/// How many nodes that belong to sessions are kept.
const SESSION_NODES: usize = 512;

/// Keeps keys in a database.
#[derive(Debug)]
pub struct Persistent {
    db: Db,
    session: RwLock<Session>,
}

/// What is forgotten when the daemon ends.
#[derive(Debug, Default)]
struct Session {
    graph: Graph,
    /// Nodes in the order they came.
    order: VecDeque<NodeId>,
}

impl Session {
    fn note(&mut self, node: &NodeId) {
        if self.graph.contains(node) {
            return;
        }
        self.order.push_back(node.clone());
        if self.order.len() > SESSION_NODES
            && let Some(oldest) = self.order.pop_front()
        {
            self.graph.remove_node(&oldest);
        }
    }
}

impl Persistent {
    /// Uses tables of `db`; nobody else may write to them.
    pub fn new(db: Db) -> Self {
        Self {
            db,
            session: RwLock::default(),
        }
    }

    /// What follows `prefix` in the keys that start with it. A database that cannot be read counts as empty.
    fn scan(&self, table: Table, prefix: &[u8]) -> Vec<(String, Vec<u8>)> {
        let pairs = self.db.prefix(table, prefix).unwrap_or_else(|err| {
            tracing::warn!(table = table.name(), error = %fault::chain(&err), "cache keys cannot be read");
            Vec::new()
        });
        let tail = |key: Vec<u8>| String::from_utf8(key.get(prefix.len()..)?.to_vec()).ok();
        pairs
            .into_iter()
            .filter_map(|(key, value)| Some((tail(key)?, value)))
            .collect()
    }

    fn has(&self, table: Table, prefix: &[u8]) -> bool {
        let next = self.db.range(
            table,
            std::ops::Bound::Included(prefix),
            std::ops::Bound::Unbounded,
            1,
        );
        next.is_ok_and(|pairs| {
            pairs
                .first()
                .is_some_and(|(key, _)| key.starts_with(prefix))
        })
    }

    fn commit(&self, batch: Batch) {
        if batch.is_empty() {
            return;
        }
        if let Err(err) = self.db.commit(batch) {
            tracing::warn!(error = %fault::chain(&err), "cache keys cannot be written");
        }
    }
}

/// Whether a link must be forgotten when the daemon ends.
fn is_of_session(source: &NodeId, link: &Link) -> bool {
    let random = |digest: &oci::Digest| digest.is_random();
    source.is_random() || random(&link.digest) || link.selector.as_ref().is_some_and(random)
}

fn key(parts: &[&str]) -> Vec<u8> {
    parts.join("\0").into_bytes()
}

/// The key up to and with the separator.
fn prefix(parts: &[&str]) -> Vec<u8> {
    let mut text = parts.join("\0");
    text.push('\0');
    text.into_bytes()
}

fn two(text: &str) -> Option<(&str, &str)> {
    text.split_once('\0')
}

fn time_bytes(time: SystemTime) -> Vec<u8> {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let mut bytes = since.as_secs().to_be_bytes().to_vec();
    bytes.extend(since.subsec_nanos().to_be_bytes());
    bytes
}

fn bytes_time(bytes: &[u8]) -> Option<SystemTime> {
    let (secs, nanos) = bytes.split_first_chunk::<8>()?;
    let nanos = u32::from_be_bytes(*nanos.first_chunk::<4>()?);
    SystemTime::UNIX_EPOCH
        .checked_add(Duration::from_secs(u64::from_be_bytes(*secs)))?
        .checked_add(Duration::from_nanos(nanos.into()))
}

impl KeyStore for Persistent {
    fn contains(&self, node: &NodeId) -> bool {
        if self.session.read().graph.contains(node) {
            return true;
        }
        let prefix = prefix(&[node.as_str()]);
        [LINKS, RECORDS, SOURCES]
            .into_iter()
            .any(|table| self.has(table, &prefix))
    }

    fn targets(&self, source: &NodeId, link: &Link) -> Vec<NodeId> {
        if is_of_session(source, link) {
            return self.session.read().graph.targets(source, link);
        }
        let found = self.scan(LINKS, &prefix(&[source.as_str(), &link.to_json()]));
        found
            .into_iter()
            .map(|(target, _)| NodeId::from(target))
            .collect()
    }

    fn links(&self, source: &NodeId) -> Vec<(Link, NodeId)> {
        let mut links = self.session.read().graph.links(source);
        for (text, _) in self.scan(LINKS, &prefix(&[source.as_str()])) {
            if let Some((link, target)) = two(&text)
                && let Ok(link) = Link::from_json(link)
            {
                links.push((link, NodeId::new(target)));
            }
        }
        links.sort();
        links
    }

    fn sources(&self, target: &NodeId) -> Vec<(NodeId, Link)> {
        let mut sources = self.session.read().graph.sources(target);
        for (text, _) in self.scan(SOURCES, &prefix(&[target.as_str()])) {
            if let Some((source, link)) = two(&text)
                && let Ok(link) = Link::from_json(link)
            {
                sources.push((NodeId::new(source), link));
            }
        }
        sources.sort();
        sources
    }

    fn records(&self, node: &NodeId) -> Vec<Stored> {
        if node.is_random() {
            return self.session.read().graph.records(node);
        }
        let found = self.scan(RECORDS, &prefix(&[node.as_str()]));
        let stored = |(result, created): (String, Vec<u8>)| {
            let created = bytes_time(&created)?;
            Some(Stored {
                result: ResultId::from(result),
                created,
            })
        };
        found.into_iter().filter_map(stored).collect()
    }

    fn nodes(&self, result: &ResultId) -> Vec<NodeId> {
        let mut nodes = self.session.read().graph.nodes(result);
        let found = self.scan(RESULTS, &prefix(&[result.as_str()]));
        nodes.extend(found.into_iter().map(|(node, _)| NodeId::from(node)));
        nodes.sort();
        nodes
    }

    fn results(&self) -> Vec<ResultId> {
        let mut results = self.session.read().graph.results();
        let found = self.scan(RESULTS, b"");
        results.extend(
            found
                .iter()
                .filter_map(|(text, _)| Some(ResultId::new(two(text)?.0))),
        );
        results.sort();
        results.dedup();
        results
    }

    fn add_link(&self, source: &NodeId, link: &Link, target: &NodeId) {
        if is_of_session(source, link) {
            let mut session = self.session.write();
            session.note(source);
            session.graph.add_link(source, link, target);
            return;
        }
        let json = link.to_json();
        let mut batch = Batch::new();
        batch.put(LINKS, key(&[source.as_str(), &json, target.as_str()]), []);
        batch.put(SOURCES, key(&[target.as_str(), source.as_str(), &json]), []);
        self.commit(batch);
    }

    fn add_record(&self, node: &NodeId, record: &Stored) {
        if node.is_random() {
            let mut session = self.session.write();
            session.note(node);
            session.graph.add_record(node, record);
            return;
        }
        let name = key(&[node.as_str(), record.result.as_str()]);
        let known = self.db.value(RECORDS, &name).ok().flatten();
        if known
            .and_then(|bytes| bytes_time(&bytes))
            .is_some_and(|known| known <= record.created)
        {
            return;
        }
        let mut batch = Batch::new();
        batch.put(RECORDS, name, time_bytes(record.created));
        batch.put(RESULTS, key(&[record.result.as_str(), node.as_str()]), []);
        self.commit(batch);
    }

    fn remove_record(&self, node: &NodeId, result: &ResultId) {
        if node.is_random() {
            self.session.write().graph.remove_record(node, result);
            return;
        }
        let mut batch = Batch::new();
        batch.remove(RECORDS, key(&[node.as_str(), result.as_str()]));
        batch.remove(RESULTS, key(&[result.as_str(), node.as_str()]));
        self.commit(batch);
    }

    fn remove_node(&self, node: &NodeId) {
        self.session.write().graph.remove_node(node);
        let mut batch = Batch::new();
        for record in self.records(node) {
            batch.remove(RECORDS, key(&[node.as_str(), record.result.as_str()]));
            batch.remove(RESULTS, key(&[record.result.as_str(), node.as_str()]));
        }
        let mut unlink = |source: &NodeId, link: &Link, target: &NodeId| {
            let json = link.to_json();
            batch.remove(LINKS, key(&[source.as_str(), &json, target.as_str()]));
            batch.remove(SOURCES, key(&[target.as_str(), source.as_str(), &json]));
        };
        for (link, target) in self.links(node) {
            unlink(node, &link, &target);
        }
        for (source, link) in self.sources(node) {
            unlink(&source, &link, node);
        }
        self.commit(batch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::Digest;

    #[test]
    fn times_that_cannot_be_are_none() {
        let time = |secs: u64, nanos: u32| {
            bytes_time(&[&secs.to_be_bytes()[..], &nanos.to_be_bytes()].concat())
        };
        let soon = SystemTime::UNIX_EPOCH + Duration::new(3, 5);
        assert_eq!(time(3, 5), Some(soon));
        assert_eq!(time(u64::MAX, 5), None);
        assert_eq!(time(u64::MAX, u32::MAX), None);
        assert_eq!(bytes_time(&[0; 11]), None);
    }

    #[test]
    fn nodes_of_sessions_are_forgotten_by_age_and_by_the_next_daemon() {
        let dir = tempfile::tempdir().expect("a directory");
        let open = || {
            let db = Db::open(dir.path(), "keys-v1", db::Options::default()).expect("a database");
            Persistent::new(db)
        };
        let link = Link {
            digest: Digest::of("d"),
            input: 0,
            output: 0,
            selector: None,
        };
        let target = NodeId::new("target");
        let node = |at: usize| NodeId::new(Digest::of(at.to_string()).into_random().as_str());
        let store = open();
        for at in 0..SESSION_NODES + 10 {
            store.add_link(&node(at), &link, &target);
        }
        assert!(!store.contains(&node(9)));
        assert_eq!(
            store.targets(&node(10), &link),
            std::slice::from_ref(&target)
        );
        assert_eq!(store.sources(&target).len(), SESSION_NODES);
        drop(store);
        assert!(!open().contains(&node(10)));
        assert!(!open().contains(&target));
    }
}
