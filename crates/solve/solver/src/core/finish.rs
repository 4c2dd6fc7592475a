//! Rules 6 and 8: results are loaded, or made and saved; work nobody needs is stopped.

use cachekeys::{Alternative, Found, Key, NodeId, Record, StoreId};

use super::edge::{Content, Finish, Finished, Known, Level, State};
use super::event::{EdgeId, Effect, Handle, Ticket, VertexId};
use super::{Core, Once, Purpose, Vertex};

impl Core {
    /// Rule 5.2.
    pub(super) fn start_load(&mut self, id: EdgeId, at: usize) {
        let vertex = self.edge(id).vertex;
        let (record, key) = self.open_mut(id).records.swap_remove(at);
        let ticket = self.ticket(Purpose::Load(id));
        self.effects.push(Effect::Load {
            ticket,
            vertex,
            key: key.key.clone(),
            record: record.clone(),
        });
        self.open_mut(id).finish = Finish::Load {
            ticket,
            record,
            key,
            stopping: false,
        };
    }

    pub(super) fn loaded(&mut self, ticket: Ticket, value: Option<Handle>) {
        let Some(Purpose::Load(id)) = self.tickets.remove(&ticket) else {
            return;
        };
        let Some(open) = self.edges.get_mut(id.0).and_then(|edge| edge.open_mut()) else {
            return;
        };
        let Finish::Load {
            record,
            key,
            stopping,
            ..
        } = std::mem::replace(&mut open.finish, Finish::Gather)
        else {
            return;
        };
        match value {
            Some(value) => {
                let of_main = record.store == StoreId::MAIN;
                key.key.set_record(record);
                let mut keys = vec![key];
                let edge = self.edge(id);
                if self.vertex(edge.vertex).is_leaf() {
                    // All answers of a leaf name the same thing.
                    let others = edge
                        .keys
                        .iter()
                        .filter(|other| !other.key.same(&keys[0].key));
                    keys.extend(others.cloned().collect::<Vec<_>>());
                    if of_main {
                        let recorded = self.open(id).records.iter().map(|(_, key)| key);
                        let recorded: Vec<_> = recorded.chain(&keys[..1]).cloned().collect();
                        self.alias(id, &keys, &recorded);
                    }
                }
                let renewed = false;
                let state = State::Done(Finished {
                    value,
                    keys,
                    renewed,
                });
                self.end(id, state);
                return;
            }
            None if stopping => open.records.push((record, key)),
            None => open.spent.push(record),
        }
        self.wake(id);
    }

    /// Rule 6: everything the operation needs is there.
    pub(super) fn finish(&mut self, id: EdgeId) {
        let vertex = self.edge(id).vertex;
        match &self.vertex(vertex).run {
            Once::Done(outputs) => {
                let outputs = outputs.clone();
                self.start_save(id, &outputs);
                return;
            }
            Once::Failed(failure) => {
                let failure = failure.clone();
                self.fail(id, failure);
                return;
            }
            Once::Active(_) | Once::Stopping(_) => {
                self.open_mut(id).finish = Finish::Run;
                return;
            }
            Once::Idle => {}
        }
        if let Some(of) = self.index_or_find(vertex, id) {
            self.absorb(vertex, of);
            return;
        }
        if !self.is_renewed(id) && !self.open(id).confirmed {
            let keys = self
                .commit_keys(id)
                .into_iter()
                .map(|known| known.key)
                .collect();
            self.open_mut(id).confirmed = true;
            self.open_mut(id).finish = Finish::Confirm;
            let ticket = self.ticket(Purpose::Confirm(id));
            self.effects.push(Effect::Confirm { ticket, keys });
            return;
        }
        self.open_mut(id).finish = Finish::Run;
        let inputs = self.open(id).inputs.iter();
        let values = inputs.filter_map(|input| self.edge(input.edge).finished());
        let inputs: Vec<_> = values.map(|finished| finished.value.clone()).collect();
        let keys = self.commit_keys(id).into_iter().map(|known| known.key);
        let keys = keys.collect();
        let ticket = self.ticket(Purpose::Run(vertex));
        self.vertex_mut(vertex).run = Once::Active(ticket);
        let ignores_cache = self.vertex(vertex).ignore_cache;
        self.effects.push(Effect::Run {
            ticket,
            vertex,
            inputs,
            keys,
            ignores_cache,
        });
    }

    /// Rule 6.2: an equal step has been saved under this key meanwhile, if there is a record.
    pub(super) fn confirmed(
        &mut self,
        ticket: Ticket,
        hit: Option<(usize, NodeId)>,
        records: Vec<Record>,
    ) {
        let Some(Purpose::Confirm(id)) = self.tickets.remove(&ticket) else {
            return;
        };
        self.wake(id);
        if self.edges.get(id.0).and_then(|edge| edge.open()).is_none() {
            return;
        }
        self.open_mut(id).finish = Finish::Gather;
        let Some((at, node)) = hit else { return };
        let Some(known) = self.commit_keys(id).into_iter().nth(at) else {
            return;
        };
        let known = bound(known.key, node);
        self.open_mut(id).add_records(records, &known);
    }

    /// Rule 6.3: the keys a result is saved under.
    pub(super) fn commit_keys(&self, id: EdgeId) -> Vec<Known> {
        let edge = self.edge(id);
        let vertex = self.vertex(edge.vertex);
        let output = edge.output as usize;
        let name = Some(vertex.given.clone());
        if vertex.is_leaf() {
            if !edge.keys.is_empty() {
                return edge.keys.clone();
            }
            let digests = vertex.answers.iter().map(|answer| answer.digest.clone());
            let key =
                |digest| Known::root(Key::with_inputs(digest, output, Vec::new(), name.clone()));
            return digests.map(key).collect();
        }
        let Some(digest) = vertex.map_digest().cloned() else {
            return Vec::new();
        };
        let inputs = (0..vertex.inputs.len()).map(|at| {
            let ways = self.result_ways(id, at).into_iter();
            ways.map(|(known, way)| Alternative {
                key: known.key,
                selector: way,
            })
            .collect()
        });
        let key = Key::with_inputs(digest, output, inputs.collect(), name);
        vec![Known::root(key)]
    }

    /// Rule 7: whether a result made now is new by command.
    fn is_renewed(&self, id: EdgeId) -> bool {
        let vertex = self.vertex(self.edge(id).vertex);
        let mut inputs = (0..vertex.inputs.len()).map(|at| self.input_renewed(vertex, at));
        vertex.ignore_cache || inputs.any(|renewed| renewed)
    }

    /// Whether an input is new by command, and not known to have the content of an older one.
    pub(super) fn input_renewed(&self, vertex: &Vertex, at: usize) -> bool {
        let source = self.resolve(vertex.inputs[at]);
        let renewed = self
            .edge(source)
            .finished()
            .is_some_and(|finished| finished.renewed);
        renewed && !matches!(vertex.contents[at], Once::Done(Some(_)))
    }

    /// All the ways the result of an input is known by, and the selectors that go with them.
    pub(super) fn result_ways(&self, id: EdgeId, at: usize) -> Vec<(Known, Option<oci::Digest>)> {
        let edge = self.edge(id);
        let vertex = self.vertex(edge.vertex);
        let selector = vertex.map_input(at).selector;
        let source = self.resolve(vertex.inputs[at]);
        let keys = self
            .edge(source)
            .finished()
            .map(|finished| finished.keys.clone());
        let mut ways: Vec<_> = keys
            .unwrap_or_default()
            .into_iter()
            .map(|known| (known, selector.clone()))
            .collect();
        if let Once::Done(Some(content)) = &vertex.contents[at] {
            ways.push((Known::root(content.clone()), None));
        }
        ways
    }

    fn start_save(&mut self, id: EdgeId, outputs: &[Handle]) {
        let (vertex, output) = (self.edge(id).vertex, self.edge(id).output);
        let Some(value) = outputs.get(output as usize).cloned() else {
            let ticket = self.ticket(Purpose::Missing(id));
            self.open_mut(id).finish = Finish::Run;
            self.effects.push(Effect::Missing {
                ticket,
                output,
                outputs: outputs.len(),
            });
            return;
        };
        let known = self.commit_keys(id);
        let keys: Vec<_> = known.iter().map(|known| known.key.clone()).collect();
        let secondary = self.vertex(vertex).secondary.len();
        for (input, way) in self.vertex(vertex).secondary.clone() {
            keys.iter()
                .for_each(|key| key.add_secondary(input, way.clone()));
        }
        let ticket = self.ticket(Purpose::Save(id));
        self.open_mut(id).finish = Finish::Save {
            value: value.clone(),
            keys: known,
            secondary,
        };
        self.effects.push(Effect::Save {
            ticket,
            vertex,
            keys,
            value,
        });
    }

    pub(super) fn saved(&mut self, ticket: Ticket, nodes: Vec<NodeId>, record: Option<Record>) {
        let Some(Purpose::Save(id)) = self.tickets.remove(&ticket) else {
            return;
        };
        let Some(open) = self.edges.get_mut(id.0).and_then(|edge| edge.open_mut()) else {
            return;
        };
        let Finish::Save {
            value,
            keys,
            secondary,
        } = std::mem::replace(&mut open.finish, Finish::Gather)
        else {
            return;
        };
        let mut nodes = nodes.into_iter();
        let keys: Vec<_> = keys
            .into_iter()
            .map(|known| {
                if let Some(record) = &record {
                    known.key.set_record(record.clone());
                }
                match nodes.next() {
                    Some(node) => bound(known.key, node),
                    // A key that could not be saved still needs a name that no other key has.
                    None => Known {
                        key: known.key,
                        node: Some(Found {
                            store: StoreId::MAIN,
                            node: NodeId::new(&format!("unsaved {ticket:?}")),
                        }),
                    },
                }
            })
            .collect();
        let vertex = self.edge(id).vertex;
        // Learnt while it was being saved.
        let late = self.vertex(vertex).secondary[secondary..].to_vec();
        self.teach(&keys, &late);
        let renewed = self.is_renewed(id);
        if !renewed && !self.vertex(vertex).is_leaf() {
            self.edge_mut(id).keys.extend(keys.iter().cloned());
        }
        self.end(
            id,
            State::Done(Finished {
                value,
                keys,
                renewed,
            }),
        );
    }

    /// The result, once it is there, is to be saved under those of `names` that are none of `known`.
    pub(super) fn alias(&mut self, id: EdgeId, names: &[Known], known: &[Known]) {
        let known: Vec<_> = known.iter().map(Known::identity).collect();
        let new = names
            .iter()
            .filter(|name| !known.contains(&name.identity()));
        let new: Vec<_> = new.map(|name| name.key.clone()).collect();
        self.edge_mut(id).aliases.extend(new);
    }

    /// Saves a result under what else it was found to be known by.
    pub(super) fn save_aliases(&mut self, id: EdgeId) {
        let Some(finished) = self.edge(id).finished() else {
            return;
        };
        let value = finished.value.clone();
        let vertex = self.edge(id).vertex;
        let keys = std::mem::take(&mut self.edge_mut(id).aliases);
        if keys.is_empty() {
            return;
        }
        // Nobody waits for it.
        let ticket = self.ticket(Purpose::Save(id));
        self.effects.push(Effect::Save {
            ticket,
            vertex,
            keys,
            value,
        });
    }

    /// Further ways inputs of a saved result are known by.
    pub(super) fn teach(&mut self, keys: &[Known], ways: &[(usize, Alternative)]) {
        if ways.is_empty() || keys.is_empty() {
            return;
        }
        for (input, way) in ways {
            keys.iter()
                .for_each(|known| known.key.add_secondary(*input, way.clone()));
        }
        let keys = keys.iter().map(|known| known.key.clone()).collect();
        self.effects.push(Effect::Teach { keys });
    }

    pub(super) fn ran(&mut self, ticket: Ticket, outputs: Vec<Handle>) {
        let Some(Purpose::Run(id)) = self.tickets.remove(&ticket) else {
            return;
        };
        self.end_run(id, Once::Done(outputs));
    }

    fn end_run(&mut self, id: VertexId, run: Once<Vec<Handle>>) {
        let Some(vertex) = self.vertices.get_mut(id.0) else {
            return;
        };
        vertex.run = run;
        for edge in self.open_edges(id) {
            let open = self.open_mut(edge);
            if matches!(open.finish, Finish::Run) {
                open.finish = Finish::Gather;
            }
            self.wake(edge);
        }
    }

    /// Rule 8: what was stopped is forgotten, what failed is remembered.
    pub(super) fn failed(&mut self, ticket: Ticket, failure: Handle, stray: bool) {
        match self.tickets.remove(&ticket) {
            Some(Purpose::Map(id)) => {
                let Some(vertex) = self.vertices.get_mut(id.0) else {
                    return;
                };
                let stopped = matches!(vertex.map, Once::Stopping(_));
                vertex.map = vertex.ended_badly(failure, stopped, stray);
                self.wake_vertex(id);
            }
            Some(Purpose::Content(id, at)) => {
                let Some(vertex) = self.vertices.get_mut(id.0) else {
                    return;
                };
                let stopped = matches!(vertex.contents[at], Once::Stopping(_));
                vertex.contents[at] = vertex.ended_badly(failure, stopped, stray);
                self.wake_vertex(id);
            }
            Some(Purpose::Run(id)) => {
                let Some(vertex) = self.vertices.get_mut(id.0) else {
                    return;
                };
                let stopped = matches!(vertex.run, Once::Stopping(_));
                let run = vertex.ended_badly(failure, stopped, stray);
                if matches!(run, Once::Failed(_)) {
                    self.unindex(id);
                }
                self.end_run(id, run);
            }
            Some(purpose @ Purpose::Load(_)) => {
                self.tickets.insert(ticket, purpose);
                self.loaded(ticket, None);
            }
            Some(Purpose::Missing(id)) if self.edges.get(id.0).is_some() => self.fail(id, failure),
            _ => {}
        }
    }

    /// Whether nothing is left to gather: the operation has run already, for another output.
    pub(super) fn has_run(&self, id: EdgeId) -> bool {
        let edge = self.edge(id);
        let inputs_known =
            |at: usize| !matches!(self.open(id).inputs[at].content, Content::Looking);
        matches!(self.vertex(edge.vertex).run, Once::Done(_))
            && edge.goal() == Level::Done
            && (0..self.open(id).inputs.len()).all(inputs_known)
    }
}

impl Vertex {
    /// What becomes of work that has failed or was stopped. If it was stopped, though not by us, it may have been for a
    /// build that is going away; when there are other builds, it is tried once more.
    fn ended_badly<T>(&mut self, failure: Handle, stopped: bool, stray: bool) -> Once<T> {
        let again = stray && self.jobs.len() > 1 && !self.retried;
        if stopped {
            return Once::Idle;
        }
        if again {
            self.retried = true;
            return Once::Idle;
        }
        Once::Failed(failure)
    }
}

fn bound(key: Key, node: NodeId) -> Known {
    if key.is_root() {
        return Known::root(key);
    }
    key.bind(StoreId::MAIN, node.clone());
    Known {
        key,
        node: Some(Found {
            store: StoreId::MAIN,
            node,
        }),
    }
}
