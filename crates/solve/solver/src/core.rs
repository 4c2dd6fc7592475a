//! The scheduler: which step of which build does what next.
//!
//! Pure data. [`Core::step`] takes one event and says what to do; nothing here waits, looks at a clock or takes a
//! lock, so every run can be written down as a list of events and replayed. The rules, to which the code refers by
//! number:
//!
//! **1. Vertices.** Builds load graphs. A vertex whose digest is known already is that vertex, with its state and its
//! work, for all builds. One that must ignore the cache is a twin of a plain one, under a digest of its own; plain
//! ones loaded later join the twin if it is there. A vertex lives while a job has it, or a living vertex uses or
//! absorbed it.
//!
//! **2. Wishes.** An *edge* is one output of a vertex. Jobs want its result; edges that use it as an input ask for a
//! level: *fast* (all keys that follow from definitions), *slow* (all keys that can be found without running the
//! operation) or *done* (the result). The highest wish is the edge's goal. Without a goal an edge gives up everything it
//! started, and keeps what it knows.
//!
//! **3. Waking up.** An edge looks at itself when its goal changes, when an input it asks something of changes, or
//! when work it waits for ends. It takes in what is new:
//!
//! 1. An input that failed is this edge's failure.
//! 2. New keys of an input, once the definition key is known, are looked up in the stores: which nodes of this edge
//!    follow from them? These are the input's *candidates*.
//! 3. The content key of an input is looked up the same way. What it finds is taught to the definition keys.
//! 4. A node that is a candidate of every input gives a key. It is published for consumers, and its records are
//!    fetched. A leaf's keys are the digests its operation answered.
//! 5. While questions to stores are open, nothing below happens.
//!
//! **4. Level.** A leaf is at *slow* after its last answer, at *fast* after an earlier one. Another edge is at *fast*
//! when all inputs are, or when one of them is and leads nowhere, since then nothing can follow from fast keys. It is
//! at *slow* when an input leads nowhere and has nothing more to offer (the case is *hopeless*), when all inputs have
//! offered everything, or when there is a record and no open candidate could become common to all inputs that need no
//! content key: whoever asks gets the key of the record, and whole side branches stay untouched.
//!
//! **5. Plan.** While the goal is not reached:
//!
//! 1. Without the definition key: it is requested, and the inputs' fast keys are.
//! 2. If the result is wanted and there is a record: the newest is loaded, all wishes are withdrawn. A record that
//!    fails to load is not tried again, and things go on.
//! 3. Inputs that lead nowhere climb: fast keys, slow keys, result and content key. Inputs that lead somewhere rest
//!    meanwhile.
//! 4. When all lead somewhere: slow keys of all; then content keys.
//! 5. When hopeless, or when everything was tried, all inputs are needed. Once an edge gave up hope it keeps asking
//!    for results, so that running inputs are not stopped; a record that turns up nevertheless is used.
//! 6. An input that is done and whose result was wanted is prepared, and its content key computed, once per vertex.
//!
//! **6. Finishing.** When all inputs are done, prepared and their content keys known:
//!
//! 1. If an equal step, by any of its keys, is about to run or has run in another living vertex, this vertex is
//!    absorbed by that one: the other answers all its edges from now on, and its keys learn what the inputs were known
//!    by. Both have complete inputs or results, so neither can depend on the other being finished. A step that ignores
//!    the cache is only absorbed by another such, and none by what is made from it.
//! 2. The main store is asked once more: an equal step may have been saved since.
//! 3. The operation runs, once per vertex for all outputs. The result is saved under a root key per answer, or under
//!    one key with all the ways every input's result is known by. Then these keys are published too.
//!
//! **7. Ignoring the cache.** Such an edge asks no store, has no keys for consumers and is hopeless from the start.
//! Its result is saved like any other. It is *renewed*, and so is whatever is made from it without a content key that
//! tells what it has in common with an older one: such results have no keys for consumers either, are not looked for
//! in the store (6.2), and are equal only to what is made from the very same input (6.1).
//!
//! **8. Stopping.** Work is stopped when the last edge that needs it gave it up, and not before everything that
//! follows from the last news has been thought through: an edge that has found all its keys rests until it is asked for
//! its result, which may be the next thing that happens. Until work has ended nothing starts in its place; if it
//! succeeded nevertheless, the success counts, and a failure does not. Work that says it was
//! stopped though it was not may have been for a build that is going away: if there are others, it is tried once more.
//!
//! Progress: an edge with an unreached goal always has an open question, running work, or an unreached wish at an
//! input; graphs have no loops, and absorbing adds no waiting edge to an unfinished one (6.1). So nothing stalls.

mod advance;
mod edge;
mod event;
mod finish;
mod merge;
mod order;
mod replay;
mod slab;
mod stop;
#[cfg(test)]
mod tests;
mod vertex;
mod wish;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use oci::Digest;

use edge::{Edge, Level, State};
pub(crate) use event::{
    ByNumber, EdgeId, Effect, Entry, Event, Handle, JobId, LoadedVertex, MapAnswer, MapInput,
    Outcome, Question, Ticket, VertexId, WantId,
};
pub use replay::{ReplayError, replay};
pub(crate) use replay::{effect_line, event_line};
use slab::Slab;
use vertex::{Once, Vertex};

/// What an answer will be about.
#[derive(Debug)]
enum Purpose {
    Map(VertexId),
    Content(VertexId, usize),
    Run(VertexId),
    Load(EdgeId),
    /// An input's ways were looked up.
    Query(EdgeId, usize, Vec<cachekeys::Alternative>, Looked),
    Records(EdgeId, edge::Known),
    Confirm(EdgeId),
    Save(EdgeId),
    Missing(EdgeId),
}

/// Which ways of an input were looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looked {
    Definitions,
    Content,
}

#[derive(Debug, Default)]
struct Job {
    vertices: Vec<VertexId>,
    wants: BTreeSet<WantId>,
}

/// The whole state of the scheduler.
#[derive(Debug, Default)]
pub(crate) struct Core {
    vertices: Slab<Vertex>,
    by_digest: HashMap<Digest, VertexId>,
    /// How many vertices are twins of plain ones.
    twins: usize,
    edges: Slab<Edge>,
    jobs: BTreeMap<JobId, Job>,
    wants: BTreeMap<WantId, (JobId, EdgeId)>,
    tickets: ByNumber<Ticket, Purpose>,
    last_ticket: u64,
    index: merge::Index,
    queue: VecDeque<EdgeId>,
    /// Work that was given up and not looked at since.
    doubts: BTreeSet<stop::Doubt>,
    effects: Vec<Effect>,
    /// How many vertices were looked at to find out which need which.
    #[cfg(test)]
    looks: std::cell::Cell<usize>,
}

impl Core {
    /// The only way the scheduler's state changes.
    pub(crate) fn step(&mut self, event: Event) -> Vec<Effect> {
        self.take(event);
        while let Some(edge) = self.queue.pop_front() {
            self.advance(edge);
        }
        std::mem::take(&mut self.effects)
    }

    /// What is going on, for people: every edge that is wanted and has no result, and what it waits for.
    pub(crate) fn describe(&self) -> Vec<(VertexId, String)> {
        let open = self
            .edges
            .iter()
            .filter(|edge| edge.goal() > Level::Unknown);
        open.filter_map(|edge| {
            let text = edge.describe()?;
            let inputs = edge.open()?.inputs.iter().enumerate();
            let waits = inputs.filter(|(_, input)| input.ask > self.edge(input.edge).level());
            let waits: Vec<_> = waits
                .map(|(at, input)| format!("input {at} {:?}", input.ask))
                .collect();
            Some((
                edge.vertex,
                format!("{text}, asks for [{}]", waits.join(", ")),
            ))
        })
        .collect()
    }

    /// How much there is: vertices, edges, tickets, jobs, wishes.
    #[cfg(test)]
    pub(crate) fn sizes(&self) -> [usize; 5] {
        let tickets = self.tickets.len();
        [
            self.vertices.len(),
            self.edges.len(),
            tickets,
            self.jobs.len(),
            self.wants.len(),
        ]
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Load { job, entries } => self.load(job, entries),
            Event::Refresh { vertices } => {
                vertices.into_iter().for_each(|vertex| self.refresh(vertex));
            }
            Event::Want {
                want,
                job,
                vertex,
                output,
            } => self.want(want, job, vertex, output),
            Event::Unwant { want } => self.unwant(want),
            Event::JobGone { job } => self.job_gone(job),
            Event::Map { ticket, answer } => self.mapped(ticket, answer),
            Event::Content { ticket, digest } => self.content_known(ticket, digest),
            Event::Ran { ticket, outputs } => self.ran(ticket, outputs),
            Event::Loaded { ticket, value } => self.loaded(ticket, value),
            Event::Failed {
                ticket,
                failure,
                stray,
            } => self.failed(ticket, failure, stray),
            Event::Found { ticket, nodes } => self.found(ticket, nodes),
            Event::Records { ticket, records } => self.recorded(ticket, records),
            Event::Confirmed {
                ticket,
                hit,
                records,
            } => self.confirmed(ticket, hit, records),
            Event::Saved {
                ticket,
                nodes,
                record,
            } => self.saved(ticket, nodes, record),
            Event::Quiet => self.quiet(),
        }
    }

    fn want(&mut self, want: WantId, job: JobId, vertex: VertexId, output: u32) {
        if self.vertices.get(vertex.0).is_none() || !self.jobs.contains_key(&job) {
            return;
        }
        let edge = self.edge_of(vertex, output);
        self.wants.insert(want, (job, edge));
        self.jobs.entry(job).or_default().wants.insert(want);
        let state = self.edge_mut(edge);
        state.wants.insert(want);
        state.change_ask(Level::Unknown, Level::Done);
        self.wake(edge);
    }

    fn unwant(&mut self, want: WantId) {
        let Some((job, edge)) = self.wants.remove(&want) else {
            return;
        };
        if let Some(job) = self.jobs.get_mut(&job) {
            job.wants.remove(&want);
        }
        let state = self.edge_mut(edge);
        state.wants.remove(&want);
        if state.change_ask(Level::Done, Level::Unknown) {
            self.wake(edge);
        }
    }

    /// Answers all wishes of jobs for an edge that has come to an end.
    fn answer(&mut self, id: EdgeId) {
        let edge = self.edge(id);
        let outcome = match &edge.state {
            State::Done(finished) => Outcome::Built {
                value: finished.value.clone(),
                keys: finished
                    .keys
                    .iter()
                    .map(|known| known.key.clone())
                    .collect(),
            },
            State::Failed(failure) => Outcome::Failed(failure.clone()),
            State::Open(_) | State::Absorbed(_) => return,
        };
        for want in edge.wants.clone() {
            self.effects.push(Effect::Answer {
                want,
                outcome: outcome.clone(),
            });
            self.unwant(want);
        }
    }

    fn vertex(&self, id: VertexId) -> &Vertex {
        self.vertices
            .get(id.0)
            .expect("vertices outlive whatever names them")
    }

    fn vertex_mut(&mut self, id: VertexId) -> &mut Vertex {
        self.vertices
            .get_mut(id.0)
            .expect("vertices outlive whatever names them")
    }

    fn edge(&self, id: EdgeId) -> &Edge {
        self.edges
            .get(id.0)
            .expect("edges live as long as their vertices")
    }

    fn edge_mut(&mut self, id: EdgeId) -> &mut Edge {
        self.edges
            .get_mut(id.0)
            .expect("edges live as long as their vertices")
    }

    /// Has an edge look at itself before the step ends.
    fn wake(&mut self, id: EdgeId) {
        if let Some(edge) = self.edges.get_mut(id.0)
            && !edge.queued
        {
            edge.queued = true;
            self.queue.push_back(id);
        }
    }

    /// Tells everybody who asks something of an edge that it changed.
    fn notify(&mut self, id: EdgeId) {
        let consumers: Vec<_> = self.edge(id).consumers.iter().copied().collect();
        for (consumer, input) in consumers {
            if let Some(open) = self.edge_mut(consumer).open_mut() {
                open.mark(input);
            }
            self.wake(consumer);
        }
    }

    fn ticket(&mut self, purpose: Purpose) -> Ticket {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.tickets.insert(ticket, purpose);
        ticket
    }

    /// The edges of a vertex that have no result yet.
    fn open_edges(&self, vertex: VertexId) -> Vec<EdgeId> {
        let edges = self.vertex(vertex).edges.values().copied();
        edges
            .filter(|edge| self.edge(*edge).open().is_some())
            .collect()
    }
}
