//! Rules 3 to 5: an edge wakes up, takes in what is new, and decides what it needs.

use cachekeys::{Alternative, Found, Key, Record};
use oci::Digest;

use super::edge::{Content, Finish, Input, Known, Level, Plan, State};
use super::event::{EdgeId, Effect, Handle, MapAnswer, Question, Ticket, VertexId};
use super::{Core, Looked, Once, Purpose};

impl Core {
    pub(super) fn advance(&mut self, id: EdgeId) {
        let Some(edge) = self.edges.get_mut(id.0) else {
            return;
        };
        edge.queued = false;
        if edge.open().is_none() {
            self.answer(id);
            return;
        }
        let goal = edge.goal();
        if goal == Level::Unknown {
            self.rest(id);
            return;
        }
        if goal < Level::Done {
            self.stop_finishing(id);
        }
        if let Some(failure) = self.take_in(id) {
            self.fail(id, failure);
            return;
        }
        self.publish_common(id);
        if self.open(id).questions > 0 {
            // Rule 3.5, but the definition key does not depend on any question.
            return;
        }
        self.raise(id);
        self.decide(id, goal);
    }

    /// Rules 3.1 to 3.3.
    fn take_in(&mut self, id: EdgeId) -> Option<Handle> {
        if self.vertex(self.edge(id).vertex).is_leaf() {
            return self.take_in_answers(id);
        }
        let vertex = self.edge(id).vertex;
        if let Once::Failed(failure) = &self.vertex(vertex).map {
            return Some(failure.clone());
        }
        let mapped = self.vertex(vertex).is_mapped();
        let ignore = self.vertex(vertex).ignore_cache;
        let dirty = std::mem::take(&mut self.open_mut(id).dirty);
        for at in dirty {
            let input = &mut self.open_mut(id).inputs[at];
            input.dirty = false;
            let asked = input.ask > Level::Unknown;
            let from = input.edge;
            if let State::Failed(failure) = &self.edge(from).state
                && asked
            {
                return Some(failure.clone());
            }
            if mapped && !ignore {
                self.look_up_keys(id, at);
            }
            if let Some(failure) = self.look_up_content(id, at, ignore) {
                return Some(failure);
            }
            let flags = self.vertex(vertex).map_input(at);
            let level = self.edge(from).level();
            let settled = matches!(self.open(id).inputs[at].content, Content::Known(_));
            let ready =
                mapped && level == Level::Done && (settled || !(flags.content || flags.prepare));
            self.open_mut(id).classify(at, level, flags.content, ready);
        }
        None
    }

    /// Rule 3.4 for leaves: every answer is a key.
    fn take_in_answers(&mut self, id: EdgeId) -> Option<Handle> {
        let (vertex, output) = (self.edge(id).vertex, self.edge(id).output);
        let seen = self.open(id).answers;
        let state = self.vertex(vertex);
        if let Once::Failed(failure) = &state.map {
            return Some(failure.clone());
        }
        let digests: Vec<Digest> = state.answers[seen..]
            .iter()
            .map(|answer| answer.digest.clone())
            .collect();
        let (ignore, name) = (state.ignore_cache, state.given.clone());
        self.open_mut(id).answers += digests.len();
        for digest in digests {
            if !ignore {
                let key = Key::with_inputs(digest, output as usize, Vec::new(), Some(name.clone()));
                self.publish(id, Known::root(key));
            }
        }
        None
    }

    /// Rule 3.2.
    fn look_up_keys(&mut self, id: EdgeId, at: usize) {
        let (vertex, output) = (self.edge(id).vertex, self.edge(id).output);
        let Input {
            edge: from, seen, ..
        } = self.open(id).inputs[at];
        let flags = self.vertex(vertex).map_input(at);
        let way = |known: &Known| Alternative {
            key: known.key.clone(),
            selector: flags.selector.clone(),
        };
        let ways: Vec<_> = self.edge(from).keys[seen..].iter().map(way).collect();
        if ways.is_empty() {
            return;
        }
        let Some(digest) = self.vertex(vertex).map_digest().cloned() else {
            return;
        };
        // All answers of a leaf name the same thing, so what follows from one follows from the others.
        let leaf = self.vertex(self.edge(from).vertex).is_leaf();
        let open = self.open_mut(id);
        let known = &open.inputs[at].ways;
        let taught = if leaf { known.clone() } else { Vec::new() };
        open.inputs[at].seen += ways.len();
        open.inputs[at].add_ways(&ways);
        open.questions += 1;
        let question = Question {
            ways: ways.clone(),
            taught,
            input: at,
            output: output as usize,
            digest,
        };
        let ticket = self.ticket(Purpose::Query(id, at, ways, Looked::Definitions));
        self.effects.push(Effect::Query {
            ticket,
            vertex,
            question,
        });
    }

    /// Rule 3.3.
    fn look_up_content(&mut self, id: EdgeId, at: usize, ignore: bool) -> Option<Handle> {
        let (vertex, output) = (self.edge(id).vertex, self.edge(id).output);
        if !matches!(self.open(id).inputs[at].content, Content::Unknown) {
            return None;
        }
        let key = match &self.vertex(vertex).contents[at] {
            Once::Done(key) => key.clone(),
            Once::Failed(failure) if self.open(id).inputs[at].ask == Level::Done => {
                return Some(failure.clone());
            }
            _ => return None,
        };
        let digest = self.vertex(vertex).map_digest().cloned();
        let (Some(key), Some(digest), false) = (key.clone(), digest, ignore) else {
            self.open_mut(id).inputs[at].content = Content::Known(key);
            return None;
        };
        let open = self.open_mut(id);
        open.inputs[at].content = Content::Looking;
        open.questions += 1;
        let ways = vec![Alternative {
            key,
            selector: None,
        }];
        let question = Question {
            ways: ways.clone(),
            taught: open.inputs[at].ways.clone(),
            input: at,
            output: output as usize,
            digest,
        };
        let ticket = self.ticket(Purpose::Query(id, at, ways, Looked::Content));
        self.effects.push(Effect::Query {
            ticket,
            vertex,
            question,
        });
        None
    }

    pub(super) fn found(&mut self, ticket: Ticket, nodes: Vec<Found>) {
        let Some(Purpose::Query(id, at, ways, looked)) = self.tickets.remove(&ticket) else {
            return;
        };
        self.wake(id);
        let Some(open) = self.edges.get_mut(id.0).and_then(|edge| edge.open_mut()) else {
            return;
        };
        open.questions -= 1;
        open.mark(at);
        if looked == Looked::Content {
            open.inputs[at].content = Content::Known(ways.first().map(|way| way.key.clone()));
            // What the content leads to, the definition keys have been taught by now.
            let mut all = ways;
            if !nodes.is_empty() {
                all.extend(open.inputs[at].ways.iter().cloned());
            }
            open.learn(at, &all, nodes);
        } else {
            open.learn(at, &ways, nodes);
        }
    }

    /// Rule 3.4.
    fn publish_common(&mut self, id: EdgeId) {
        let vertex = self.edge(id).vertex;
        let output = self.edge(id).output;
        while let Some(node) = self.open_mut(id).common.pop_front() {
            let Some(digest) = self.vertex(vertex).map_digest().cloned() else {
                return;
            };
            let name = self.vertex(vertex).given.clone();
            let key = self.open(id).key_of(&node, digest, output, name);
            self.publish(
                id,
                Known {
                    key,
                    node: Some(node),
                },
            );
        }
    }

    fn publish(&mut self, id: EdgeId, known: Known) {
        let vertex = self.edge(id).vertex;
        self.ask_records(id, vertex, known.clone());
        self.edge_mut(id).keys.push(known);
        self.notify(id);
    }

    fn ask_records(&mut self, id: EdgeId, vertex: VertexId, known: Known) {
        self.open_mut(id).questions += 1;
        let key = known.key.clone();
        let ticket = self.ticket(Purpose::Records(id, known));
        self.effects.push(Effect::Records {
            ticket,
            vertex,
            key,
        });
    }

    pub(super) fn recorded(&mut self, ticket: Ticket, records: Vec<Record>) {
        let Some(Purpose::Records(id, key)) = self.tickets.remove(&ticket) else {
            return;
        };
        self.wake(id);
        let Some(open) = self.edges.get_mut(id.0).and_then(|edge| edge.open_mut()) else {
            return;
        };
        open.questions -= 1;
        open.add_records(records, &key);
    }

    /// Rule 4.
    fn raise(&mut self, id: EdgeId) {
        let edge = self.edge(id);
        let vertex = self.vertex(edge.vertex);
        let open = self.open(id);
        let counts = &open.counts;
        let level = if vertex.ignore_cache {
            Level::Slow
        } else if vertex.is_leaf() {
            match (vertex.is_mapped(), open.answers) {
                (true, _) => Level::Slow,
                (false, 0) => Level::Unknown,
                (false, _) => Level::Fast,
            }
        } else if !vertex.is_mapped() {
            Level::Unknown
        } else if counts.is_exhausted() || self.is_answered(id) {
            Level::Slow
        } else if counts.unknown == 0 || counts.bare > 0 {
            Level::Fast
        } else {
            Level::Unknown
        };
        if level > open.level {
            self.open_mut(id).level = level;
            self.notify(id);
        }
    }

    /// Rule 4: there is a record, and no open candidate could become common to all inputs that need no content key.
    fn is_answered(&self, id: EdgeId) -> bool {
        let vertex = self.vertex(self.edge(id).vertex);
        let open = self.open(id);
        open.level < Level::Slow
            && !open.records.is_empty()
            && open.counts.waiting == 0
            && !open.has_open_nodes(|input| vertex.map_input(input).content)
    }

    /// Rule 5.
    fn decide(&mut self, id: EdgeId, goal: Level) {
        if !matches!(self.open(id).finish, Finish::Gather) {
            return;
        }
        if goal == Level::Done
            && let Some(best) = self.open(id).best_record()
        {
            self.need_map(id, false);
            self.wish(id, goal, Plan::Nothing);
            self.start_load(id, best);
            return;
        }
        if self.has_run(id) {
            self.finish(id);
            return;
        }
        let plan = self.plan(id, goal);
        let vertex = self.edge(id).vertex;
        let needs_map = plan != Plan::Nothing && !self.vertex(vertex).is_mapped();
        self.need_map(id, needs_map);
        self.wish(id, goal, plan);
        let open = self.open(id);
        let ready = open.counts.ready == open.inputs.len() && self.vertex(vertex).is_mapped();
        if plan == Plan::Everything && goal == Level::Done && ready {
            self.finish(id);
        }
    }

    fn plan(&mut self, id: EdgeId, goal: Level) -> Plan {
        let vertex = self.vertex(self.edge(id).vertex);
        let (mapped, ignore) = (vertex.is_mapped(), vertex.ignore_cache);
        let open = self.open_mut(id);
        if open.level >= goal {
            return Plan::Nothing;
        }
        let counts = &open.counts;
        if ignore || (mapped && counts.dead > 0) {
            open.hopeless = true;
        }
        if open.hopeless {
            Plan::Everything
        } else if !mapped {
            Plan::Unmapped
        } else if counts.waiting > 0 {
            Plan::Missing
        } else if counts.keys_left > 0 {
            Plan::AllKeys
        } else if counts.contents_left > 0 {
            Plan::AllContents
        } else {
            Plan::Everything
        }
    }

    pub(super) fn mapped(&mut self, ticket: Ticket, answer: MapAnswer) {
        let Some(Purpose::Map(id)) = self.tickets.remove(&ticket) else {
            return;
        };
        let Some(vertex) = self.vertices.get_mut(id.0) else {
            return;
        };
        let last = answer.done || !vertex.is_leaf();
        vertex.answers.push(answer);
        vertex.map = if last { Once::Done(()) } else { Once::Idle };
        self.wake_vertex(id);
    }

    /// Has all open edges of a vertex look at everything again.
    pub(super) fn wake_vertex(&mut self, id: VertexId) {
        for edge in self.open_edges(id) {
            self.open_mut(edge).mark_all();
            self.wake(edge);
        }
    }

    /// More stores may be asked from now on: everything is looked up again.
    pub(super) fn refresh(&mut self, id: VertexId) {
        if self
            .vertices
            .get(id.0)
            .is_none_or(|vertex| vertex.ignore_cache)
        {
            return;
        }
        let leaf = self.vertex(id).is_leaf();
        for edge in self.open_edges(id) {
            if leaf {
                for known in self.edge(edge).keys.clone() {
                    self.ask_records(edge, id, known);
                }
                continue;
            }
            let open = self.open_mut(edge);
            for input in &mut open.inputs {
                input.seen = 0;
                if matches!(input.content, Content::Known(Some(_))) {
                    input.content = Content::Unknown;
                }
            }
            open.mark_all();
            self.wake(edge);
        }
    }

    pub(super) fn content_known(&mut self, ticket: Ticket, digest: Option<Digest>) {
        let Some(Purpose::Content(id, at)) = self.tickets.remove(&ticket) else {
            return;
        };
        let Some(vertex) = self.vertices.get_mut(id.0) else {
            return;
        };
        vertex.contents[at] = Once::Done(digest.map(Key::content));
        for edge in self.open_edges(id) {
            self.open_mut(edge).mark(at);
            self.wake(edge);
        }
    }

    /// An edge comes to its end: it wants nothing more, and everybody who waits is told.
    pub(super) fn end(&mut self, id: EdgeId, state: State) {
        self.rest(id);
        self.stop_load(id);
        self.edge_mut(id).state = state;
        self.save_aliases(id);
        self.notify(id);
        self.answer(id);
    }

    pub(super) fn fail(&mut self, id: EdgeId, failure: Handle) {
        if self.edge(id).open().is_some() {
            self.end(id, State::Failed(failure));
        }
    }

    pub(super) fn open(&self, id: EdgeId) -> &super::edge::Open {
        self.edge(id).open().expect("only called for open edges")
    }

    pub(super) fn open_mut(&mut self, id: EdgeId) -> &mut super::edge::Open {
        self.edge_mut(id)
            .open_mut()
            .expect("only called for open edges")
    }
}
