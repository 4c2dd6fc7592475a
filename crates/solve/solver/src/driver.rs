//! The task that owns the scheduler, and carries out what it says.
//!
//! Everybody else sends messages. Questions to stores are answered on the spot; whatever can take long runs as a task
//! of its own and sends its answer as an event. The owner never waits for anything but the next message.

mod load;
mod perform;
mod work;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Weak};

use cachekeys::{KeyStore, StoreId, Stores};
use diagnostics::Failure;
use oci::Digest;
use parking_lot::Mutex;
use progress::Progress;
use tasks::{Cx, Task};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::core::{
    ByNumber, Core, Effect, Event, Handle, JobId, Ticket, VertexId, WantId, effect_line, event_line,
};
use crate::fanout::{Fanout, Member};
use crate::job::{Built, Import, Recorder};
use crate::op::{Edge, Operation, ResultStore, Vertex};

/// What the owner is told.
pub(crate) enum Message<O: Operation> {
    Join(Member),
    Load(JobId, Edge<O>),
    Want {
        job: JobId,
        want: WantId,
        edge: Edge<O>,
        reply: Reply<O::Value>,
    },
    /// The wish is withdrawn; the sender waits for what is stopped by that.
    Unwant(WantId, Option<oneshot::Sender<()>>),
    Import(JobId, Arc<dyn Import<O::Value>>),
    JobGone(JobId),
    Event(Event),
    /// An imported cache can be asked.
    Opened,
    Describe(oneshot::Sender<String>),
    /// Is answered once everything sent before it was done.
    Settled(oneshot::Sender<()>),
}

pub(crate) type Reply<V> = oneshot::Sender<Result<Built<V>, Failure>>;

/// What all tasks share.
pub(crate) struct Shared<O: Operation> {
    pub(crate) keys: Arc<dyn KeyStore>,
    pub(crate) results: Arc<dyn ResultStore<O::Value>>,
    pub(crate) permits: Option<Semaphore>,
    pub(crate) next: AtomicU64,
    pub(crate) next_store: AtomicU32,
}

/// A cache of somebody else's, opened in the background.
pub(crate) struct Imported<V> {
    id: StoreId,
    import: Arc<dyn Import<V>>,
    store: tokio::sync::OnceCell<Option<Arc<dyn KeyStore>>>,
}

impl<V: 'static> Imported<V> {
    async fn open(&self, cx: &Cx) -> Option<Arc<dyn KeyStore>> {
        self.store
            .get_or_init(|| self.import.open(cx))
            .await
            .clone()
    }
}

/// What the owner knows about a vertex besides the scheduler's state.
pub(crate) struct Entry<O: Operation> {
    op: Arc<O>,
    /// The digest it is shown under.
    digest: Digest,
    /// The digest errors name.
    original: Digest,
    leaf: bool,
    fanout: Arc<Fanout>,
    progress: Progress,
    sessions: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    imports: Mutex<Vec<Arc<Imported<O::Value>>>>,
}

struct Job<O: Operation> {
    member: Member,
    /// What it loaded, by the digest it knows.
    vertices: HashMap<(Digest, bool), Held>,
    imports: Vec<Arc<Imported<O::Value>>>,
}

/// A vertex of a job.
#[derive(Clone, Copy)]
struct Held {
    id: VertexId,
    /// How many imported caches the job had when it loaded the vertex.
    imports: usize,
}

struct Running {
    cx: Cx,
    name: &'static str,
    vertex: VertexId,
    since: tokio::time::Instant,
    _task: Task<()>,
}

/// Somebody who withdrew a wish and waits until what that stopped has ended.
struct Leaving {
    tickets: HashSet<Ticket>,
    done: oneshot::Sender<()>,
}

pub(crate) struct Owner<O: Operation> {
    core: Core,
    shared: Arc<Shared<O>>,
    cx: Cx,
    sender: mpsc::WeakUnboundedSender<Message<O>>,
    record: Option<Recorder>,
    vertices: ByNumber<VertexId, Arc<Entry<O>>>,
    jobs: HashMap<JobId, Job<O>>,
    wants: HashMap<WantId, (Reply<O::Value>, VertexId)>,
    running: ByNumber<Ticket, Running>,
    leaving: Vec<Leaving>,
    imports: HashMap<String, Weak<Imported<O::Value>>>,
    opening: Vec<Task<()>>,
    events: VecDeque<Event>,
    /// The graph being loaded, inputs first.
    loading: Vec<Arc<Vertex<O>>>,
}

impl<O: Operation> Owner<O> {
    pub(crate) fn new(
        shared: Arc<Shared<O>>,
        sender: mpsc::WeakUnboundedSender<Message<O>>,
        record: Option<Recorder>,
    ) -> Self {
        Self {
            core: Core::default(),
            shared,
            cx: Cx::root(),
            sender,
            record,
            vertices: ByNumber::default(),
            jobs: HashMap::new(),
            wants: HashMap::new(),
            running: ByNumber::default(),
            leaving: Vec::new(),
            imports: HashMap::new(),
            opening: Vec::new(),
            events: VecDeque::new(),
            loading: Vec::new(),
        }
    }

    pub(crate) async fn serve(mut self, mut messages: mpsc::UnboundedReceiver<Message<O>>) {
        while let Some(message) = messages.recv().await {
            self.take(message);
            self.think();
        }
        self.cx.cancel("context canceled");
    }

    fn take(&mut self, message: Message<O>) {
        match message {
            Message::Join(member) => {
                let job = Job {
                    member,
                    vertices: HashMap::new(),
                    imports: Vec::new(),
                };
                self.jobs.insert(job.member.job, job);
            }
            Message::Load(job, edge) => {
                self.load(job, &edge);
            }
            Message::Want {
                job,
                want,
                edge,
                reply,
            } => {
                let Some(vertex) = self.load(job, &edge) else {
                    return;
                };
                self.wants.insert(want, (reply, vertex));
                let output = u32::try_from(edge.index).unwrap_or(u32::MAX);
                self.step(Event::Want {
                    want,
                    job,
                    vertex,
                    output,
                });
            }
            Message::Unwant(want, done) => self.unwant(want, done),
            Message::Import(job, import) => self.import(job, import),
            Message::JobGone(job) => {
                if let Some(job) = self.jobs.remove(&job) {
                    self.step(Event::JobGone {
                        job: job.member.job,
                    });
                    job.member.stream.finish();
                }
            }
            Message::Event(event) => {
                if let Some(ticket) = ticket_of(&event) {
                    self.running.remove(&ticket);
                    for leaving in &mut self.leaving {
                        leaving.tickets.remove(&ticket);
                    }
                }
                self.events.push_back(event);
                self.let_leave();
            }
            Message::Opened => {}
            // Whoever asked may have gone.
            Message::Describe(reply) => drop(reply.send(self.describe())),
            Message::Settled(reply) => drop(reply.send(())),
        }
    }

    /// Tells the scheduler, and writes down what it says.
    fn effects_of(&mut self, event: Event) -> Vec<Effect> {
        let Some(record) = &self.record else {
            return self.core.step(event);
        };
        record(&event_line(&event));
        let effects = self.core.step(event);
        effects
            .iter()
            .for_each(|effect| record(&effect_line(effect)));
        effects
    }

    fn step(&mut self, event: Event) {
        for effect in self.effects_of(event) {
            self.perform(effect);
        }
    }

    fn describe(&self) -> String {
        let name = |vertex: &VertexId| {
            self.vertices
                .get(vertex)
                .map_or_else(String::new, |entry| entry.fanout.name().to_owned())
        };
        let mut lines = Vec::new();
        for (vertex, text) in self.core.describe() {
            lines.push(format!("{}: {text}", name(&vertex)));
        }
        for running in self.running.values() {
            let vertex = name(&running.vertex);
            let since = running.since.elapsed().as_secs_f32();
            lines.push(format!("{vertex}: {} since {since:.1} s", running.name));
        }
        lines.sort();
        lines.join("\n")
    }

    /// Goes on until nothing more follows, then has what nobody needs stopped. Answers what that is.
    fn think(&mut self) -> HashSet<Ticket> {
        let mut stopped = HashSet::new();
        loop {
            while let Some(event) = self.events.pop_front() {
                self.step(event);
            }
            if !self.core.has_doubts() {
                return stopped;
            }
            for effect in self.effects_of(Event::Quiet) {
                if let Effect::Cancel { ticket } = effect
                    && self.running.contains_key(&ticket)
                {
                    stopped.insert(ticket);
                }
                self.perform(effect);
            }
        }
    }

    fn unwant(&mut self, want: WantId, done: Option<oneshot::Sender<()>>) {
        self.wants.remove(&want);
        // What others gave up before is not waited for.
        self.think();
        self.step(Event::Unwant { want });
        let tickets = self.think();
        if let Some(done) = done {
            self.leaving.push(Leaving { tickets, done });
        }
        self.let_leave();
    }

    fn let_leave(&mut self) {
        let ended = self
            .leaving
            .extract_if(.., |leaving| leaving.tickets.is_empty());
        for leaving in ended {
            // Whoever waited may have gone.
            let _ = leaving.done.send(());
        }
    }

    /// The stores a vertex may use, and the imported ones of them that are still being opened.
    fn stores(&self, vertex: VertexId) -> (Stores, Vec<Arc<Imported<O::Value>>>) {
        let mut stores = Stores::new(self.shared.keys.clone());
        let mut opening = Vec::new();
        let Some(entry) = self.vertices.get(&vertex) else {
            return (stores, opening);
        };
        for imported in entry.imports.lock().iter() {
            match imported.store.get() {
                Some(Some(store)) => stores.attach(imported.id, store.clone()),
                Some(None) => {}
                None => opening.push(imported.clone()),
            }
        }
        (stores, opening)
    }
}

impl<O: Operation> Shared<O> {
    pub(crate) fn number(&self) -> u64 {
        self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    }

    fn handle<T: Send + Sync + 'static>(&self, payload: T) -> Handle {
        Handle::new(self.number(), payload)
    }

    fn failed(&self, ticket: Ticket, failure: Failure) -> Event {
        Event::Failed {
            ticket,
            stray: failure.is_cancelled(),
            failure: self.handle(failure),
        }
    }
}

fn ticket_of(event: &Event) -> Option<Ticket> {
    match event {
        Event::Map { ticket, .. }
        | Event::Content { ticket, .. }
        | Event::Ran { ticket, .. }
        | Event::Loaded { ticket, .. }
        | Event::Failed { ticket, .. }
        | Event::Found { ticket, .. }
        | Event::Records { ticket, .. }
        | Event::Confirmed { ticket, .. }
        | Event::Saved { ticket, .. } => Some(*ticket),
        Event::Load { .. }
        | Event::Refresh { .. }
        | Event::Want { .. }
        | Event::Unwant { .. }
        | Event::JobGone { .. }
        | Event::Quiet => None,
    }
}
