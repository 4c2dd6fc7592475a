//! Keys: what a result is known by.

use std::fmt;
use std::sync::{Arc, OnceLock};

use oci::{Digest, Hasher};
use parking_lot::Mutex;

use crate::store::{NodeId, Record, StoreId};

/// The output number of content keys.
const CONTENT: i32 = -1;

/// How a result came about. Cheap to clone; two clones are the same object.
///
/// A key is immutable but for its notes: under which node each store has it, and which record its result was loaded
/// from or saved as.
#[derive(Clone)]
pub struct Key(Arc<Inner>);

struct Inner {
    digest: Digest,
    output: i32,
    inputs: Vec<Vec<Alternative>>,
    vertex: Option<Digest>,
    root: OnceLock<NodeId>,
    notes: Mutex<Notes>,
}

#[derive(Default)]
struct Notes {
    nodes: Vec<(StoreId, NodeId)>,
    record: Option<Record>,
    secondary: Vec<(usize, Alternative)>,
}

/// One way an input may be known: by a definition key with the input's selector, or by a content key without.
#[derive(Clone, Debug)]
pub struct Alternative {
    /// The input's key.
    pub key: Key,
    /// Which part of the input counts.
    pub selector: Option<Digest>,
}

impl Key {
    /// The key of something without inputs.
    pub fn root(digest: Digest, output: usize) -> Self {
        Self::with_inputs(digest, output, Vec::new(), None)
    }

    /// The key of content with this digest, however it came about.
    pub fn content(digest: Digest) -> Self {
        Self::build(digest, CONTENT, Vec::new(), None)
    }

    /// Output `output` of an operation with the digest `digest` on `inputs`. `vertex` tells where it was met.
    pub fn with_inputs(
        digest: Digest,
        output: usize,
        inputs: Vec<Vec<Alternative>>,
        vertex: Option<Digest>,
    ) -> Self {
        let output = i32::try_from(output).unwrap_or(i32::MAX);
        Self::build(digest, output, inputs, vertex)
    }

    fn build(
        digest: Digest,
        output: i32,
        inputs: Vec<Vec<Alternative>>,
        vertex: Option<Digest>,
    ) -> Self {
        Self(Arc::new(Inner {
            digest,
            output,
            inputs,
            vertex,
            root: OnceLock::new(),
            notes: Mutex::default(),
        }))
    }

    /// D: the digest of the operation or of the content.
    pub fn digest(&self) -> &Digest {
        &self.0.digest
    }

    /// n: the output, -1 for content.
    pub fn output(&self) -> i32 {
        self.0.output
    }

    /// For every input the keys it may be known by. Empty for roots.
    pub fn inputs(&self) -> &[Vec<Alternative>] {
        &self.0.inputs
    }

    /// The vertex whose operation this key is about, as far as known.
    pub fn vertex(&self) -> Option<&Digest> {
        self.0.vertex.as_ref()
    }

    /// Whether there are no inputs, so that the key has a digest of its own.
    pub fn is_root(&self) -> bool {
        self.0.inputs.is_empty()
    }

    /// Whether this is the key of content, however it came about.
    pub fn is_content(&self) -> bool {
        self.0.output == CONTENT
    }

    /// Whether this must never leave the daemon.
    pub fn is_random(&self) -> bool {
        self.0.digest.is_random()
    }

    /// K(D, n): the digest by which documents know this key.
    pub fn key_digest(&self) -> Digest {
        key_digest(&self.0.digest, self.0.output)
    }

    /// The node every store has a root under. Only for roots.
    fn root_node(&self) -> NodeId {
        self.0
            .root
            .get_or_init(|| NodeId::new(self.key_digest().as_str()))
            .clone()
    }

    /// The node `store` has this key under, as far as known.
    pub fn node(&self, store: StoreId) -> Option<NodeId> {
        if self.is_root() {
            return Some(self.root_node());
        }
        let notes = self.0.notes.lock();
        notes
            .nodes
            .iter()
            .find(|(of, _)| *of == store)
            .map(|(_, node)| node.clone())
    }

    /// Notes that `store` has this key under `node`.
    pub fn bind(&self, store: StoreId, node: NodeId) {
        if self.is_root() {
            return;
        }
        let mut notes = self.0.notes.lock();
        match notes.nodes.iter_mut().find(|(of, _)| *of == store) {
            Some(known) => known.1 = node,
            None => notes.nodes.push((store, node)),
        }
    }

    /// The record the result under this key was loaded from or saved as.
    pub fn record(&self) -> Option<Record> {
        self.0.notes.lock().record.clone()
    }

    /// Notes that record.
    pub fn set_record(&self, record: Record) {
        self.0.notes.lock().record = Some(record);
    }

    /// Further ways inputs were known, learnt from an equal step of another build: (input, way).
    pub fn secondary(&self) -> Vec<(usize, Alternative)> {
        self.0.notes.lock().secondary.clone()
    }

    /// Notes such a way.
    pub fn add_secondary(&self, input: usize, way: Alternative) {
        self.0.notes.lock().secondary.push((input, way));
    }

    /// Whether both are one object.
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// A number that is unique among the keys alive.
    pub fn address(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}@{}({})",
            self.0.digest,
            self.0.output,
            self.0.inputs.len()
        )
    }
}

impl Drop for Inner {
    // Chains may be a hundred thousand keys long, which the compiler's own recursion would not survive.
    fn drop(&mut self) {
        let mut left = std::mem::take(&mut self.inputs);
        let notes = std::mem::take(self.notes.get_mut());
        left.push(notes.secondary.into_iter().map(|(_, way)| way).collect());
        while let Some(ways) = left.pop() {
            for way in ways {
                if let Some(mut inner) = Arc::into_inner(way.key.0) {
                    left.append(&mut inner.inputs);
                    let notes = std::mem::take(inner.notes.get_mut());
                    if !notes.secondary.is_empty() {
                        left.push(notes.secondary.into_iter().map(|(_, way)| way).collect());
                    }
                }
            }
        }
    }
}

/// K(D, n): what documents know output `output` of an operation with the digest `digest` by.
pub fn key_digest(digest: &Digest, output: i32) -> Digest {
    if digest.is_random() {
        return digest.clone();
    }
    Digest::of(format!("{digest}@{output}"))
}

/// C: one digest from the answers to all content queries of an input, in the order of the queries.
pub fn content_digest<'a>(answers: impl IntoIterator<Item = &'a Digest>) -> Digest {
    let mut hasher = Hasher::new();
    for (at, answer) in answers.into_iter().enumerate() {
        if at > 0 {
            hasher.update([0]);
        }
        hasher.update(answer.as_str());
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_of_a_hundred_thousand_keys_can_be_dropped() {
        let mut key = Key::root(Digest::of("base"), 0);
        for _ in 0..100_000 {
            let way = Alternative {
                key: key.clone(),
                selector: None,
            };
            let next = Key::with_inputs(Digest::of("step"), 0, vec![vec![way]], None);
            next.add_secondary(
                0,
                Alternative {
                    key,
                    selector: None,
                },
            );
            key = next;
        }
        drop(key);
    }

    #[test]
    fn a_random_key_is_its_own_node() {
        let random = Digest::of("session").into_random();
        let key = Key::root(random.clone(), 3);
        assert_eq!(key.key_digest(), random);
        assert_eq!(key.node(StoreId::MAIN), Some(NodeId::new(random.as_str())));
    }
}
