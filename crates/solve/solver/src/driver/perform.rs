//! Effects are carried out: questions at once, work as tasks.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use cachekeys::{Key, NodeId, Record, ResultId, Stores};
use diagnostics::Failure;

use super::work::{Answer, Step, broken};
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
                if let Some((reply, vertex)) = self.wants.remove(&want) {
                    let (stores, _) = self.stores(vertex);
                    // Whoever asked may have gone.
                    let _ = reply.send(open_outcome(outcome, stores));
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
                let event = self.shared.failed(ticket, failure);
                self.events.push_back(event);
            }
            Effect::Teach { keys } => {
                for key in keys {
                    cachekeys::teach(self.shared.keys.as_ref(), &key);
                }
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
        let (mut stores, opening) = self.stores(vertex);
        if opening.is_empty() {
            self.events.push_back(ask(&stores));
            return;
        }
        let cx = self.cx.clone();
        let work = async move {
            for imported in opening {
                if let Some(store) = imported.open(&cx).await {
                    stores.attach(imported.id, store);
                }
            }
            ask(&stores)
        };
        self.spawn("ask imported caches", vertex, ticket, self.cx.child(), work);
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
                let leaf = step.entry.leaf;
                let work = Box::pin(step.map(ticket, index));
                if leaf {
                    self.spawn("cache map", vertex, ticket, cx, work);
                } else {
                    self.try_now("cache map", vertex, ticket, cx, work);
                }
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
                    vertex,
                    ticket,
                    cx,
                    step.content(ticket, input, from, value, flags),
                );
            }
            Effect::Run {
                ticket,
                inputs,
                keys,
                ignores_cache,
                ..
            } => {
                let about = crate::op::Step {
                    name: step.entry.fanout.name().to_owned(),
                    keys,
                    ignores_cache,
                };
                let work = step.run(ticket, inputs, about);
                self.spawn("run", vertex, ticket, cx, work);
            }
            Effect::Load {
                ticket,
                key,
                record,
                ..
            } => {
                self.spawn(
                    "load result",
                    vertex,
                    ticket,
                    cx,
                    step.load(ticket, key, record),
                );
            }
            Effect::Save {
                ticket,
                keys,
                value,
                ..
            } => {
                self.spawn(
                    "save result",
                    vertex,
                    ticket,
                    cx,
                    step.save(ticket, keys, value),
                );
            }
            _ => {}
        }
    }

    /// Like [`Self::spawn`], for work that as a rule only computes: it is tried here first.
    fn try_now(
        &mut self,
        name: &'static str,
        vertex: VertexId,
        ticket: Ticket,
        cx: tasks::Cx,
        mut work: Pin<Box<dyn Future<Output = Event> + Send>>,
    ) {
        let mut context = Context::from_waker(Waker::noop());
        let first = AssertUnwindSafe(|| work.as_mut().poll(&mut context));
        match std::panic::catch_unwind(first) {
            Ok(Poll::Ready(event)) => self.events.push_back(event),
            Ok(Poll::Pending) => self.spawn(name, vertex, ticket, cx, work),
            Err(_) => {
                let event = self.shared.failed(ticket, broken());
                self.events.push_back(event);
            }
        }
    }

    pub(super) fn spawn(
        &mut self,
        name: &'static str,
        vertex: VertexId,
        ticket: Ticket,
        cx: tasks::Cx,
        work: impl Future<Output = Event> + Send + 'static,
    ) {
        let answer = Answer::new(ticket, self.sender.clone(), self.shared.clone());
        let task = tasks::spawn(name, async move {
            let event = work.await;
            answer.send(event);
        });
        let since = tokio::time::Instant::now();
        let running = Running {
            cx,
            name,
            vertex,
            since,
            _task: task,
        };
        self.running.insert(ticket, running);
    }
}

fn open_outcome<V: Clone + 'static>(outcome: Outcome, stores: Stores) -> Result<Built<V>, Failure> {
    match outcome {
        Outcome::Built { value, keys } => match value.payload::<V>() {
            Some(value) => Ok(Built {
                value: value.clone(),
                keys,
                stores,
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
    pub(super) fn work(&self, cx: &tasks::Cx) -> crate::op::Work {
        crate::op::Work {
            cx: cx.clone(),
            progress: self.progress.clone(),
            sessions: self.sessions.clone(),
            step: None,
        }
    }
}
