//! Vertices: operations that all builds share, and which jobs have them.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use cachekeys::{Alternative, Found, Key};
use oci::Digest;

use super::event::{
    EdgeId, Effect, Entry, Handle, JobId, LoadedVertex, MapAnswer, MapInput, Ticket, VertexId,
};
use super::{Core, Edge};

/// Work that is done once per vertex. Attempts that were stopped are forgotten.
#[derive(Debug)]
pub(super) enum Once<T> {
    Idle,
    Active(Ticket),
    Stopping(Ticket),
    Done(T),
    Failed(Handle),
}

impl<T> Once<T> {
    fn busy(&self) -> Option<(Ticket, bool)> {
        match self {
            Self::Active(ticket) => Some((*ticket, false)),
            Self::Stopping(ticket) => Some((*ticket, true)),
            _ => None,
        }
    }
}

/// An operation with its inputs.
#[derive(Debug)]
pub(super) struct Vertex {
    pub(super) digest: Digest,
    /// The digest that whoever loaded it knows: another one for a twin.
    pub(super) given: Digest,
    pub(super) inputs: Vec<EdgeId>,
    pub(super) ignore_cache: bool,
    /// Who has it, and whether because they asked for it.
    pub(super) jobs: BTreeMap<JobId, bool>,
    /// Vertices that need this one: those it is an input of and those it absorbed.
    pub(super) users: BTreeSet<VertexId>,
    /// Greater than that of its inputs, and not smaller than that of whoever absorbed it.
    pub(super) order: usize,
    pub(super) edges: BTreeMap<u32, EdgeId>,
    pub(super) answers: Vec<MapAnswer>,
    pub(super) map: Once<()>,
    /// Per input: prepared, and the content key if there is one.
    pub(super) contents: Vec<Once<Option<Key>>>,
    pub(super) run: Once<Vec<Handle>>,
    /// The vertex that does the work of this one.
    pub(super) absorbed_by: Option<VertexId>,
    /// Further ways inputs are known by, learnt from absorbed vertices.
    pub(super) secondary: Vec<(usize, Alternative)>,
    /// What they are, so that each is learnt once.
    pub(super) learnt: HashSet<(usize, Found)>,
    /// Work of it was repeated because somebody else's end had spoilt it.
    pub(super) retried: bool,
    /// Whether the index of vertices that are about to run knows this one.
    pub(super) indexed: bool,
}

impl Vertex {
    pub(super) fn is_leaf(&self) -> bool {
        self.inputs.is_empty()
    }

    /// Whether the last answer about the definition key has come.
    pub(super) fn is_mapped(&self) -> bool {
        matches!(self.map, Once::Done(()))
    }

    /// D, once known. Leaves may have several.
    pub(super) fn map_digest(&self) -> Option<&Digest> {
        self.answers.first().map(|answer| &answer.digest)
    }

    /// What the definition key says about an input.
    pub(super) fn map_input(&self, input: usize) -> MapInput {
        let answer = self.answers.first();
        answer
            .and_then(|answer| answer.inputs.get(input))
            .cloned()
            .unwrap_or_default()
    }
}

impl Core {
    pub(super) fn load(&mut self, job: JobId, entries: Vec<Entry>) {
        let mut loaded: Vec<LoadedVertex> = Vec::with_capacity(entries.len());
        let first = self.effects.len();
        for entry in entries {
            let (id, fresh) = match entry {
                Entry::Known(id) => (id, false),
                Entry::New {
                    digest,
                    inputs,
                    ignore_cache,
                } => {
                    let inputs: Vec<_> = inputs
                        .into_iter()
                        .filter_map(|(at, output)| Some((loaded.get(at as usize)?.id, output)))
                        .collect();
                    self.find_or_open(digest, &inputs, ignore_cache)
                }
            };
            loaded.push(LoadedVertex {
                id,
                digest: self.vertex(id).digest.clone(),
                fresh,
            });
            self.join(id, job, true);
        }
        self.effects.insert(
            first,
            Effect::Loaded {
                job,
                vertices: loaded,
            },
        );
    }

    /// Rule 1: which vertex a loaded one is.
    fn find_or_open(
        &mut self,
        digest: Digest,
        inputs: &[(VertexId, u32)],
        ignore_cache: bool,
    ) -> (VertexId, bool) {
        let twin = || Digest::of(format!("{digest}-ignorecache"));
        if self.twins > 0
            && let Some(id) = self.by_digest.get(&twin())
        {
            return (*id, false);
        }
        let mut name = digest.clone();
        if let Some(id) = self.by_digest.get(&name) {
            if !ignore_cache || self.vertex(*id).ignore_cache {
                return (*id, false);
            }
            name = twin();
            self.twins += 1;
        }
        let mut edges = Vec::with_capacity(inputs.len());
        for (vertex, output) in inputs {
            edges.push(self.edge_of(*vertex, *output));
        }
        let above: Vec<_> = edges.iter().map(|edge| self.edge(*edge).vertex).collect();
        let id = VertexId(self.vertices.insert(Vertex {
            digest: name.clone(),
            given: digest,
            contents: edges.iter().map(|_| Once::Idle).collect(),
            inputs: edges,
            ignore_cache,
            jobs: BTreeMap::new(),
            users: BTreeSet::new(),
            order: 0,
            edges: BTreeMap::new(),
            answers: Vec::new(),
            map: Once::Idle,
            run: Once::Idle,
            absorbed_by: None,
            secondary: Vec::new(),
            learnt: HashSet::new(),
            retried: false,
            indexed: false,
        }));
        self.by_digest.insert(name, id);
        above.into_iter().for_each(|used| self.link(id, used));
        (id, true)
    }

    /// The edge of an output, which is made if need be. That of whoever absorbed the vertex, if somebody did.
    pub(super) fn edge_of(&mut self, mut vertex: VertexId, output: u32) -> EdgeId {
        while let Some(of) = self.vertex(vertex).absorbed_by {
            vertex = of;
        }
        if let Some(edge) = self.vertex(vertex).edges.get(&output) {
            return *edge;
        }
        let inputs = self.vertex(vertex).inputs.clone();
        let edge = EdgeId(self.edges.insert(Edge::new(vertex, output, inputs)));
        self.vertex_mut(vertex).edges.insert(output, edge);
        edge
    }

    /// Gives a vertex to a job, and with it the one that does its work and everything that one needs.
    pub(super) fn join(&mut self, vertex: VertexId, job: JobId, shown: bool) {
        let mut left = vec![(vertex, shown)];
        while let Some((id, shown)) = left.pop() {
            let vertex = self.vertex_mut(id);
            let before = vertex.jobs.get(&job).copied();
            if before.is_some_and(|known| known || !shown) {
                continue;
            }
            vertex.jobs.insert(job, shown);
            let absorbed_by = vertex.absorbed_by;
            self.effects.push(Effect::Join {
                vertex: id,
                job,
                shown,
            });
            self.jobs.entry(job).or_default().vertices.push(id);
            if before.is_some() {
                continue;
            }
            left.extend(absorbed_by.map(|of| (of, false)));
            // Mostly known already; but the vertex may have other inputs than the one the job loaded under its name.
            let inputs = self.vertex(id).inputs.clone();
            left.extend(
                inputs
                    .into_iter()
                    .map(|edge| (self.edge(edge).vertex, false)),
            );
        }
    }

    pub(super) fn job_gone(&mut self, job: JobId) {
        let Some(state) = self.jobs.remove(&job) else {
            return;
        };
        for want in state.wants {
            self.unwant(want);
        }
        let mut left = Vec::new();
        for id in state.vertices {
            let Some(vertex) = self.vertices.get_mut(id.0) else {
                continue;
            };
            if vertex.jobs.remove(&job).is_some() {
                self.effects.push(Effect::Leave { vertex: id, job });
                left.push(id);
            }
        }
        // Users before what they use, so that most of it is dropped at the first look.
        while let Some(id) = left.pop() {
            self.drop_if_unused(id, &mut left);
        }
    }

    fn drop_if_unused(&mut self, id: VertexId, left: &mut Vec<VertexId>) {
        let unused = self
            .vertices
            .get(id.0)
            .is_some_and(|v| v.jobs.is_empty() && v.users.is_empty());
        if !unused {
            return;
        }
        self.unindex(id);
        let edges: Vec<_> = self.vertex(id).edges.values().copied().collect();
        for edge in &edges {
            self.rest(*edge);
            self.stop_load(*edge);
        }
        edges
            .iter()
            .for_each(|edge| drop(self.edges.remove(edge.0)));
        let Some(vertex) = self.vertices.remove(id.0) else {
            return;
        };
        for (ticket, stopping) in vertex.tickets() {
            self.tickets.remove(&ticket);
            if !stopping {
                self.effects.push(Effect::Cancel { ticket });
            }
        }
        self.by_digest.remove(&vertex.digest);
        self.twins -= usize::from(vertex.digest != vertex.given);
        self.effects.push(Effect::Close { vertex: id });
        let above = vertex.inputs.iter().map(|edge| self.edge(*edge).vertex);
        let above: Vec<_> = above.chain(vertex.absorbed_by).collect();
        for used in above {
            self.vertex_mut(used).users.remove(&id);
            left.push(used);
        }
    }
}

impl Vertex {
    /// Work that has not ended, and whether it was told to.
    fn tickets(&self) -> Vec<(Ticket, bool)> {
        let contents = self.contents.iter().filter_map(Once::busy);
        [self.map.busy(), self.run.busy()]
            .into_iter()
            .flatten()
            .chain(contents)
            .collect()
    }
}
