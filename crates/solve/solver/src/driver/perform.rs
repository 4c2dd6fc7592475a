//! Effects are carried out: questions at once, work as tasks.

use std::sync::Arc;

use cachekeys::{Key, NodeId, Record, ResultId, Stores};
use diagnostics::Failure;

use super::work::{Answer, Step};
use super::{Entry, Owner, Running};
use crate::core::{Effect, Event, Handle, Outcome, Question, Ticket, VertexId};
use crate::job::Built;
use crate::op::Operation;

impl<O: Operation> Owner<O> {
    pub(super) fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Loaded { job, vertices } => self.loaded(job, vertices),
            Effect::Join { vertex, job, shown } => {
                if let (Some(entry), Some(job)) = (self.vertices.get(&vertex), self.jobs.get(&job))
                {
                    entry.fanout.join(job.member.clone(), shown);
                }
            }
            Effect::Leave { vertex, job } => {
                if let Some(entry) = self.vertices.get(&vertex) {
                    entry.fanout.leave(job);
                }
            }
            Effect::Absorb { vertex, of } => {
                if let (Some(entry), Some(of)) =
                    (self.vertices.get(&vertex), self.vertices.get(&of))
                {
                    of.fanout.follow(&entry.fanout);
                }
            }
            Effect::Close { vertex } => {
                self.vertices.remove(&vertex);
            }
            Effect::Cancel { ticket } => {
                if let Some(running) = self.running.get(&ticket) {
                    running.cx.cancel("context canceled");
                }
            }
            Effect::Answer { want, outcome } => {
                if let Some(reply) = self.wants.remove(&want) {
                    // Whoever asked may have gone.
                    let _ = reply.send(open_outcome(outcome));
                }
            }
            Effect::Query {
                ticket,
                vertex,
                question,
            } => self.query(ticket, vertex, question),
            Effect::Records {
                ticket,
                vertex,
                key,
            } => self.records(ticket, vertex, key),
            Effect::Confirm { ticket, keys } => self.confirm(ticket, &keys),
            Effect::Missing {
                ticket,
                output,
                outputs,
            } => {
                let failure = Failure::user(format!(
                    "invalid response from exec need {output} index but {outputs} results received"
                ));
                let failure = self.handle(failure);
                self.events.push_back(Event::Failed { ticket, failure });
            }
            Effect::Map { .. }
            | Effect::Content { .. }
            | Effect::Run { .. }
            | Effect::Load { .. }
            | Effect::Save { .. } => self.start(effect),
        }
    }

    fn query(&mut self, ticket: Ticket, vertex: VertexId, question: Question) {
        let ask = move |stores: &Stores| {
            let Question {
                ways,
                taught,
                input,
                output,
                digest,
            } = &question;
            Event::Found {
                ticket,
                nodes: cachekeys::query(stores, ways, taught, *input, *output, digest),
            }
        };
        self.ask(ticket, vertex, ask);
    }

    fn records(&mut self, ticket: Ticket, vertex: VertexId, key: Key) {
        let results = self.shared.results.clone();
        let ask = move |stores: &Stores| {
            let exists = |result: &ResultId| results.exists(result.as_str());
            Event::Records {
                ticket,
                records: cachekeys::records(stores, &key, &exists),
            }
        };
        self.ask(ticket, vertex, ask);
    }

    /// Asks the stores of a vertex: at once, or when those that are still being opened are there.
    fn ask(
        &mut self,
        ticket: Ticket,
        vertex: VertexId,
        ask: impl FnOnce(&Stores) -> Event + Send + 'static,
    ) {
        match self.stores(vertex) {
            Ok(stores) => self.events.push_back(ask(&stores)),
            Err(imports) => {
                let mut stores = Stores::new(self.shared.keys.clone());
                let cx = self.cx.clone();
                self.spawn("ask imported caches", ticket, self.cx.child(), async move {
                    for imported in imports {
                        if let Some(store) = imported.open(&cx).await {
                            stores.attach(imported.id, store);
                        }
                    }
                    ask(&stores)
                });
            }
        }
    }

    fn confirm(&mut self, ticket: Ticket, keys: &[Key]) {
        let results = &self.shared.results;
        let exists = |result: &ResultId| results.exists(result.as_str());
        let mut answer: (Option<(usize, NodeId)>, Vec<Record>) = (None, Vec::new());
        for (at, key) in keys.iter().enumerate() {
            if let Some((node, records)) = cachekeys::find(self.shared.keys.as_ref(), key, &exists)
            {
                answer = (Some((at, node)), records);
                break;
            }
        }
        let (hit, records) = answer;
        self.events.push_back(Event::Confirmed {
            ticket,
            hit,
            records,
        });
    }

    /// Starts a task for work that can take long.
    fn start(&mut self, effect: Effect) {
        let vertex = match &effect {
            Effect::Map { vertex, .. }
            | Effect::Content { vertex, .. }
            | Effect::Run { vertex, .. }
            | Effect::Load { vertex, .. }
            | Effect::Save { vertex, .. } => *vertex,
            _ => return,
        };
        let Some(entry) = self.vertices.get(&vertex).cloned() else {
            return;
        };
        let cx = self.cx.child();
        let step = Step {
            shared: self.shared.clone(),
            entry,
            cx: cx.clone(),
        };
        match effect {
            Effect::Map { ticket, index, .. } => {
                self.spawn("cache map", ticket, cx, step.map(ticket, index));
            }
            Effect::Content {
                ticket,
                input,
                from,
                value,
                flags,
                ..
            } => {
                let Some(from) = self.vertices.get(&from).cloned() else {
                    return;
                };
                self.spawn(
                    "content key",
                    ticket,
                    cx,
                    step.content(ticket, input, from, value, flags),
                );
            }
            Effect::Run { ticket, inputs, .. } => {
                self.spawn("run", ticket, cx, step.run(ticket, inputs));
            }
            Effect::Load {
                ticket,
                key,
                record,
                ..
            } => {
                self.spawn("load result", ticket, cx, step.load(ticket, key, record));
            }
            Effect::Save {
                ticket,
                keys,
                value,
                ..
            } => {
                self.spawn("save result", ticket, cx, step.save(ticket, keys, value));
            }
            _ => {}
        }
    }

    pub(super) fn spawn(
        &mut self,
        name: &'static str,
        ticket: Ticket,
        cx: tasks::Cx,
        work: impl Future<Output = Event> + Send + 'static,
    ) {
        let answer = Answer::new(ticket, self.sender.clone(), self.shared.clone());
        let task = tasks::spawn(name, async move {
            let event = work.await;
            answer.send(event);
        });
        self.running.insert(ticket, Running { cx, _task: task });
    }
}

fn open_outcome<V: Clone + 'static>(outcome: Outcome) -> Result<Built<V>, Failure> {
    match outcome {
        Outcome::Built { value, keys } => match value.payload::<V>() {
            Some(value) => Ok(Built {
                value: value.clone(),
                keys,
            }),
            None => Err(Failure::new(
                fault::Class::Internal,
                "the result has the wrong type",
            )),
        },
        Outcome::Failed(failure) => Err(failure_of(&failure)),
    }
}

pub(super) fn failure_of(handle: &Handle) -> Failure {
    let known = handle.payload::<Failure>().cloned();
    known.unwrap_or_else(|| Failure::new(fault::Class::Internal, "the step failed"))
}

impl<O: Operation> Entry<O> {
    pub(super) fn work(self: &Arc<Self>, cx: &tasks::Cx) -> crate::op::Work {
        let fanout = self.fanout.clone();
        crate::op::Work {
            cx: cx.clone(),
            progress: self.fanout.progress(),
            sessions: Arc::new(move || fanout.sessions()),
        }
    }
}
