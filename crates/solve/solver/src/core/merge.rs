//! Rule 6.1: equal steps of different vertices are done once.

use std::collections::{BTreeSet, HashMap};

use cachekeys::{Alternative, Found};
use oci::Digest;

use super::event::{ByNumber, EdgeId, Effect, VertexId};
use super::{Core, Level, Once, State};

/// Vertices that are about to run or have run, by what leads to them.
#[derive(Debug, Default)]
pub(super) struct Index {
    vertices: HashMap<Way, BTreeSet<VertexId>>,
    ways: ByNumber<VertexId, Vec<Way>>,
}

/// One way an input may be known, and what is done with it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Way {
    digest: Digest,
    input: usize,
    selector: Option<Digest>,
    from: From,
}

/// What an input is known to be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum From {
    /// There is none.
    Nothing,
    /// Anything that has this key.
    Key(Found),
    /// This very result, since it is new by command.
    Edge(EdgeId),
}

impl Core {
    /// A vertex that does the same and is already about to run, or has. Without one, `vertex` is from now on found
    /// by others. `edge` is one of its edges; all their inputs are complete.
    pub(super) fn index_or_find(&mut self, vertex: VertexId, edge: EdgeId) -> Option<VertexId> {
        if self.vertex(vertex).indexed {
            return None;
        }
        let inputs = self.ways(vertex, edge);
        if let Some(of) = self.find_equal(vertex, &inputs) {
            return Some(of);
        }
        let ways: Vec<_> = inputs.into_iter().flatten().collect();
        for way in &ways {
            self.index
                .vertices
                .entry(way.clone())
                .or_default()
                .insert(vertex);
        }
        self.index.ways.insert(vertex, ways);
        self.vertex_mut(vertex).indexed = true;
        None
    }

    pub(super) fn unindex(&mut self, vertex: VertexId) {
        for way in self.index.ways.remove(&vertex).unwrap_or_default() {
            if let Some(known) = self.index.vertices.get_mut(&way) {
                known.remove(&vertex);
                if known.is_empty() {
                    self.index.vertices.remove(&way);
                }
            }
        }
        self.vertex_mut(vertex).indexed = false;
    }

    /// For every input, all the ways it is known by. A leaf counts as having one input.
    fn ways(&self, vertex: VertexId, edge: EdgeId) -> Vec<Vec<Way>> {
        let state = self.vertex(vertex);
        if state.is_leaf() {
            let answers = state.answers.iter();
            let way = |digest: &Digest| Way {
                digest: digest.clone(),
                input: 0,
                selector: None,
                from: From::Nothing,
            };
            return vec![answers.map(|answer| way(&answer.digest)).collect()];
        }
        let Some(digest) = state.map_digest() else {
            return Vec::new();
        };
        let of_input = |input: usize| {
            let way = |from: From, selector: Option<Digest>| Way {
                digest: digest.clone(),
                input,
                selector,
                from,
            };
            let source = self.resolve(state.inputs[input]);
            let very = way(From::Edge(source), state.map_input(input).selector);
            if self.input_renewed(state, input) {
                return vec![very];
            }
            // A content key says more than a definition key, which may stand for several runs.
            let mut ways = self.result_ways(edge, input);
            if ways.iter().any(|(known, _)| known.key.is_content()) {
                ways.retain(|(known, _)| known.key.is_content());
            }
            let keys = ways
                .into_iter()
                .map(|(known, selector)| way(From::Key(known.identity()), selector));
            std::iter::once(very).chain(keys).collect()
        };
        (0..state.inputs.len()).map(of_input).collect()
    }

    fn find_equal(&self, vertex: VertexId, inputs: &[Vec<Way>]) -> Option<VertexId> {
        let mut common: Option<BTreeSet<VertexId>> = None;
        for ways in inputs {
            let known = ways.iter().filter_map(|way| self.index.vertices.get(way));
            let here: BTreeSet<_> = known.flatten().copied().collect();
            let left: BTreeSet<_> = match common {
                None => here,
                Some(before) => before.intersection(&here).copied().collect(),
            };
            if left.is_empty() {
                return None;
            }
            common = Some(left);
        }
        let ignore = self.vertex(vertex).ignore_cache;
        common?.into_iter().find(|id| {
            let other = self.vertex(*id);
            *id != vertex
                && other.absorbed_by.is_none()
                && (other.ignore_cache || !ignore)
                && other.inputs.len() == self.vertex(vertex).inputs.len()
                && !matches!(other.run, Once::Failed(_))
                && !self.needs(*id, vertex)
        })
    }

    /// `of` does the work of `vertex` from now on, and answers its edges.
    pub(super) fn absorb(&mut self, vertex: VertexId, of: VertexId) {
        self.learn_ways(vertex, of);
        for edge in self.open_edges(vertex) {
            let output = self.edge(edge).output;
            let target = self.edge_of(of, output);
            self.share_names(edge, target);
            self.rest(edge);
            self.stop_load(edge);
            self.move_wishes(edge, target);
            self.edge_mut(edge).state = State::Absorbed(target);
        }
        self.vertex_mut(vertex).absorbed_by = Some(of);
        self.link(vertex, of);
        self.effects.push(Effect::Absorb { vertex, of });
        let jobs: Vec<_> = self.vertex(vertex).jobs.keys().copied().collect();
        for job in jobs {
            self.join(of, job, false);
        }
    }

    fn move_wishes(&mut self, from: EdgeId, to: EdgeId) {
        let edge = self.edge_mut(from);
        let wants = std::mem::take(&mut edge.wants);
        let consumers = std::mem::take(&mut edge.consumers);
        for want in wants {
            self.edge_mut(from).change_ask(Level::Done, Level::Unknown);
            self.edge_mut(to).change_ask(Level::Unknown, Level::Done);
            self.edge_mut(to).wants.insert(want);
            if let Some((_, edge)) = self.wants.get_mut(&want) {
                *edge = to;
            }
        }
        for (consumer, at) in consumers {
            let level = self.open(consumer).inputs[at].ask;
            self.edge_mut(from).change_ask(level, Level::Unknown);
            self.edge_mut(to).change_ask(Level::Unknown, level);
            self.edge_mut(to).consumers.insert((consumer, at));
            let open = self.open_mut(consumer);
            open.inputs[at].edge = to;
            open.inputs[at].seen = 0;
            open.mark(at);
            self.wake(consumer);
        }
        self.wake(to);
    }

    /// The edge that answers for another.
    pub(super) fn resolve(&self, mut edge: EdgeId) -> EdgeId {
        while let State::Absorbed(by) = self.edge(edge).state {
            edge = by;
        }
        edge
    }

    /// The answers of an absorbed leaf name what the other one's name: stores shall find it by all of them.
    fn share_names(&mut self, absorbed: EdgeId, by: EdgeId) {
        if !self.vertex(self.edge(absorbed).vertex).is_leaf() {
            return;
        }
        let names = self.commit_keys(absorbed);
        let known = self.commit_keys(by);
        self.alias(by, &names, &known);
        self.save_aliases(by);
    }

    /// Ways an input of the absorbed vertex is known by: stores and exports of the other's keys shall contain them as
    /// well, so that the next build finds the step by them at once.
    fn learn_ways(&mut self, vertex: VertexId, of: VertexId) {
        let edges = |id: VertexId| self.vertex(id).edges.values().next().copied();
        let (Some(from), Some(to)) = (self.open_edges(vertex).first().copied(), edges(of)) else {
            return;
        };
        let mut ways = Vec::new();
        for input in 0..self.vertex(vertex).inputs.len() {
            let known: Vec<_> = self
                .result_ways(to, input)
                .into_iter()
                .map(|(known, _)| known.identity())
                .collect();
            for (way, selector) in self.result_ways(from, input) {
                let identity = way.identity();
                if !known.contains(&identity)
                    && self.vertex_mut(of).learnt.insert((input, identity))
                {
                    ways.push((
                        input,
                        Alternative {
                            key: way.key,
                            selector,
                        },
                    ));
                }
            }
        }
        let edges: Vec<_> = self.vertex(of).edges.values().copied().collect();
        for edge in edges {
            let keys = self.edge(edge).finished().map(|done| done.keys.clone());
            self.teach(&keys.unwrap_or_default(), &ways);
        }
        self.vertex_mut(of).secondary.extend(ways);
    }
}
