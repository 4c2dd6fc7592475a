//! What operations do, as tasks: each ends with the event that answers its ticket.

use std::sync::Arc;
use std::time::SystemTime;

use cachekeys::{Key, Record, ResultId, StoreId, Stored};
use diagnostics::{Detail, Failure};
use fault::Class;
use parking_lot::Mutex;
use progress::{Progress, Sink};
use tasks::Cx;
use tokio::sync::mpsc;

use super::{Entry, Message, Shared};
use crate::core::{Event, Handle, MapAnswer, MapInput, Ticket};
use crate::fanout::Fanout;
use crate::op::{CacheMap, Operation};

/// One task's worth of an operation.
pub(super) struct Step<O: Operation> {
    pub(super) shared: Arc<Shared<O>>,
    pub(super) entry: Arc<Entry<O>>,
    pub(super) cx: Cx,
}

impl<O: Operation> Step<O> {
    pub(super) async fn map(self, ticket: Ticket, index: usize) -> Event {
        let work = self.entry.work(&self.cx);
        // Only sources show that they are asked for a key.
        let started = self.entry.leaf.then(|| self.entry.fanout.started());
        let answer = self.cx.run(self.entry.op.cache_map(&work, index)).await;
        let answer = answer.unwrap_or_else(|stopped| Err(Failure::cancelled(&*stopped.cause)));
        if let Some(started) = started {
            self.completed(started, answer.as_ref().err());
        }
        match answer {
            Ok(map) => Event::Map {
                ticket,
                answer: map_answer(map),
            },
            Err(failure) => {
                let failure = self.named(failure).context("failed to load cache key");
                self.failed(ticket, failure)
            }
        }
    }

    pub(super) async fn content(
        self,
        ticket: Ticket,
        input: usize,
        from: Arc<Entry<O>>,
        value: Handle,
        flags: MapInput,
    ) -> Event {
        let Some(value) = value.payload::<O::Value>() else {
            return self.lost(ticket);
        };
        let op = &self.entry.op;
        let begun = SystemTime::now();
        let answer = self.cx.run(async {
            if flags.prepare {
                let shown = Arc::new(OnDemand::new(from.fanout.clone()));
                let mut work = self.entry.work(&self.cx);
                work.progress = Progress::new(shown.clone(), from.digest.as_str());
                let prepared = op.prepare_input(&work, input, value).await;
                shown.completed(prepared.as_ref().err());
                prepared?;
            }
            if flags.content {
                return op
                    .content_key(&self.entry.work(&self.cx), input, value)
                    .await;
            }
            Ok(None)
        });
        match answer.await {
            Ok(Ok(digest)) => Event::Content { ticket, digest },
            Ok(Err(failure)) => {
                // It never ran, so nothing can be said of those inputs that were not needed so far.
                self.completed(begun, Some(&failure));
                let failure = self.named(failure).context("failed to compute cache key");
                self.failed(ticket, failure)
            }
            Err(stopped) => self.failed(ticket, Failure::cancelled(&*stopped.cause)),
        }
    }

    pub(super) async fn run(
        self,
        ticket: Ticket,
        inputs: Vec<Handle>,
        about: crate::op::Step,
    ) -> Event {
        let mut values = Vec::with_capacity(inputs.len());
        for input in &inputs {
            match input.payload::<O::Value>() {
                Some(value) => values.push(value.clone()),
                None => return self.lost(ticket),
            }
        }
        let _permit = match &self.shared.permits {
            Some(permits) if self.entry.op.limited() => {
                match self.cx.run(permits.acquire()).await {
                    Ok(permit) => Some(permit),
                    Err(stopped) => {
                        return self.failed(ticket, Failure::cancelled(&*stopped.cause));
                    }
                }
            }
            _ => None,
        };
        let started = self.entry.fanout.started();
        let mut work = self.entry.work(&self.cx);
        work.step = Some(Arc::new(about));
        // Not dropped when stopped: a step cleans up after itself.
        let answer = self.entry.op.run(&work, &values).await;
        self.completed(started, answer.as_ref().err());
        match answer {
            Ok(outputs) => {
                let outputs = outputs
                    .into_iter()
                    .map(|value| self.shared.handle(value))
                    .collect();
                Event::Ran { ticket, outputs }
            }
            Err(failure) => {
                let failure = self.named(failure);
                self.failed(ticket, failure)
            }
        }
    }

    pub(super) async fn load(self, ticket: Ticket, key: Key, record: Record) -> Event {
        let started = SystemTime::now();
        let loaded = match self.cx.run(self.load_value(&key, &record)).await {
            Ok(loaded) => loaded,
            Err(_) => {
                return Event::Loaded {
                    ticket,
                    value: None,
                };
            }
        };
        match loaded {
            Ok(Some(value)) => {
                self.entry.fanout.completed(started, true, "");
                Event::Loaded {
                    ticket,
                    value: Some(self.shared.handle(value)),
                }
            }
            Ok(None) => {
                tracing::debug!(result = %record.result, "a cached result is gone");
                Event::Loaded {
                    ticket,
                    value: None,
                }
            }
            Err(failure) => {
                let result = &record.result;
                tracing::warn!(%result, error = failure.text(), "failed to load cache");
                Event::Loaded {
                    ticket,
                    value: None,
                }
            }
        }
    }

    async fn load_value(&self, key: &Key, record: &Record) -> Result<Option<O::Value>, Failure> {
        if record.store == StoreId::MAIN {
            return self.shared.results.load(record.result.as_str()).await;
        }
        let imports = self.entry.imports.lock().clone();
        let Some(imported) = imports.iter().find(|known| known.id == record.store) else {
            return Ok(None);
        };
        let work = self.entry.work(&self.cx);
        let Some(loaded) = imported.import.load(&work, key, record).await? else {
            return Ok(None);
        };
        let mut first = None;
        for (key, record, value) in loaded {
            let result = self.shared.results.save(&value).await?;
            let stored = Stored {
                result: ResultId::new(&result),
                created: record.created,
            };
            cachekeys::save(self.shared.keys.as_ref(), &key, &stored);
            first.get_or_insert(value);
        }
        Ok(first)
    }

    pub(super) async fn save(self, ticket: Ticket, keys: Vec<Key>, value: Handle) -> Event {
        let Some(value) = value.payload::<O::Value>() else {
            return self.lost(ticket);
        };
        let result = match self.shared.results.save(value).await {
            Ok(result) => ResultId::new(&result),
            Err(failure) => {
                let digest = &self.entry.digest;
                tracing::warn!(%digest, error = failure.text(), "a result could not be saved for later builds");
                return Event::Saved {
                    ticket,
                    nodes: Vec::new(),
                    record: None,
                };
            }
        };
        let created = SystemTime::now();
        let stored = Stored {
            result: result.clone(),
            created,
        };
        let store = self.shared.keys.as_ref();
        let nodes = keys
            .iter()
            .map(|key| cachekeys::save(store, key, &stored))
            .collect();
        Event::Saved {
            ticket,
            nodes,
            record: Some(Record {
                store: StoreId::MAIN,
                result,
                created,
            }),
        }
    }

    fn completed(&self, started: SystemTime, failure: Option<&Failure>) {
        self.entry
            .fanout
            .completed(started, false, failure.map_or("", Failure::text));
    }

    /// Says which vertex failed.
    fn named(&self, failure: Failure) -> Failure {
        failure.with(Detail::Vertex {
            digest: self.entry.original.to_string(),
        })
    }

    fn failed(&self, ticket: Ticket, failure: Failure) -> Event {
        self.shared.failed(ticket, failure)
    }

    fn lost(&self, ticket: Ticket) -> Event {
        self.failed(
            ticket,
            Failure::new(Class::Internal, "a result has the wrong type"),
        )
    }
}

fn map_answer(map: CacheMap) -> MapAnswer {
    let inputs = map.inputs.into_iter().map(|input| MapInput {
        selector: input.selector,
        content: input.content,
        prepare: input.prepare,
    });
    MapAnswer {
        digest: map.digest,
        inputs: inputs.collect(),
        done: map.done,
    }
}

/// Shows a vertex as working only once something is reported about it.
struct OnDemand {
    fanout: Arc<Fanout>,
    started: Mutex<Option<SystemTime>>,
}

impl OnDemand {
    fn new(fanout: Arc<Fanout>) -> Self {
        Self {
            fanout,
            started: Mutex::default(),
        }
    }

    fn completed(&self, failure: Option<&Failure>) {
        if let Some(started) = self.started.lock().take() {
            self.fanout
                .completed(started, false, failure.map_or("", Failure::text));
        }
    }
}

impl Sink for OnDemand {
    fn emit(&self, event: progress::Event) {
        self.started
            .lock()
            .get_or_insert_with(|| self.fanout.started());
        self.fanout.emit(event);
    }
}

impl Drop for OnDemand {
    fn drop(&mut self) {
        self.completed(Some(&Failure::cancelled("context canceled")));
    }
}

/// An operation panicked.
pub(super) fn broken() -> Failure {
    Failure::new(
        Class::Internal,
        "the operation broke down; the log has more",
    )
}

/// Makes sure that a ticket is answered, whatever becomes of the task.
pub(super) struct Answer<O: Operation> {
    ticket: Option<Ticket>,
    sender: mpsc::WeakUnboundedSender<Message<O>>,
    shared: Arc<Shared<O>>,
}

impl<O: Operation> Answer<O> {
    pub(super) fn new(
        ticket: Ticket,
        sender: mpsc::WeakUnboundedSender<Message<O>>,
        shared: Arc<Shared<O>>,
    ) -> Self {
        Self {
            ticket: Some(ticket),
            sender,
            shared,
        }
    }

    pub(super) fn send(mut self, event: Event) {
        self.ticket = None;
        self.emit(event);
    }

    fn emit(&self, event: Event) {
        if let Some(sender) = self.sender.upgrade() {
            // The owner may be gone.
            let _ = sender.send(Message::Event(event));
        }
    }
}

impl<O: Operation> Drop for Answer<O> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            let failure = broken();
            self.emit(self.shared.failed(ticket, failure));
        }
    }
}
