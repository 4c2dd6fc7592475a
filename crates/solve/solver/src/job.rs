//! What the rest of the daemon sees of the solver.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

use async_trait::async_trait;
use cachekeys::{Key, KeyStore, Record, Stores};
use diagnostics::Failure;
use progress::Sink;
use tasks::{Cx, Task};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::core::{JobId, WantId};
use crate::driver::{Message, Owner, Shared};
use crate::fanout::{Member, Sessions};
use crate::op::{Edge, Operation, ResultStore, Work};
use crate::stream::Stream;

/// How long a build that was cancelled waits for its steps to clean up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Takes the lines of the scheduler's log.
pub type Recorder = Arc<dyn Fn(&str) + Send + Sync>;

/// What a solver is made of.
pub struct Options<V> {
    /// Keys and records of earlier builds.
    pub keys: Arc<dyn KeyStore>,
    /// The results the records name.
    pub results: Arc<dyn ResultStore<V>>,
    /// How many limited operations may run at once. `None`: as many as there are.
    pub parallelism: Option<NonZeroUsize>,
    /// Is given every line of the scheduler's log: see [`crate::replay`]. Costs time.
    pub record: Option<Recorder>,
}

/// A cache of somebody else's, read only.
#[async_trait]
pub trait Import<V>: Send + Sync + 'static {
    /// Two imports of the same id are one.
    fn id(&self) -> &str;
    /// Its keys. Called once, in the background; `None` when it could not be read, which counts as empty.
    async fn open(&self, cx: &Cx) -> Option<Arc<dyn KeyStore>>;
    /// The result of a record, and whatever else came with it: keys whose results are part of the loaded one.
    /// All of them go into the local store. The record asked for comes first; `None` when it is gone.
    async fn load(
        &self,
        work: &Work,
        key: &Key,
        record: &Record,
    ) -> Result<Option<Vec<(Key, Record, V)>>, Failure>;
}

/// A result, and what a cache export needs to know about where it came from.
#[derive(Debug, Clone)]
pub struct Built<V> {
    /// The result.
    pub value: V,
    /// The keys it is known by. They hold all keys above them, and the record each was loaded from or saved as.
    pub keys: Vec<Key>,
    /// The stores that know these keys: the daemon's own and those the job imported.
    pub stores: Stores,
}

/// One shared graph for all builds. Cheap to clone.
pub struct Solver<O: Operation>(Arc<Inner<O>>);

struct Inner<O: Operation> {
    sender: mpsc::UnboundedSender<Message<O>>,
    shared: Arc<Shared<O>>,
    _owner: Task<()>,
}

impl<O: Operation> Clone for Solver<O> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<O: Operation> Solver<O> {
    /// Starts the solver's own task; must be called within a runtime.
    pub fn new(options: Options<O::Value>) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            keys: options.keys,
            results: options.results,
            permits: options.parallelism.map(|limit| Semaphore::new(limit.get())),
            next: AtomicU64::new(1),
            next_store: AtomicU32::new(1),
        });
        let owner = Owner::new(shared.clone(), sender.downgrade(), options.record);
        let task = tasks::spawn("solver", owner.serve(receiver));
        Self(Arc::new(Inner {
            sender,
            shared,
            _owner: task,
        }))
    }

    /// A job. Events of its vertices go to `sink`; `sessions` are whom its operations may ask.
    pub fn job(&self, id: &str, sink: Arc<dyn Sink>, sessions: Vec<String>) -> Job<O> {
        self.make_job(id, sink, Sessions::Fixed(sessions))
    }

    /// A job for what an operation builds while it works: shown and asked for by everybody who has the operation.
    pub fn nested(&self, id: &str, work: &Work) -> Job<O> {
        self.make_job(
            id,
            work.progress.sink().clone(),
            Sessions::Of(work.sessions.clone()),
        )
    }

    fn make_job(&self, id: &str, sink: Arc<dyn Sink>, sessions: Sessions) -> Job<O> {
        let job = JobId(self.0.shared.number());
        let stream = Arc::new(Stream::new(sink));
        let _ = self.0.sender.send(Message::Join(Member {
            job,
            stream: stream.clone(),
            sessions,
        }));
        Job(Arc::new(JobInner {
            id: id.to_owned(),
            job,
            stream,
            solver: self.clone(),
        }))
    }

    /// Waits until what jobs that were dropped held is let go of.
    pub async fn settled(&self) {
        let (reply, answer) = oneshot::channel();
        let _ = self.0.sender.send(Message::Settled(reply));
        // Without an answer the solver is going away, and everything with it.
        let _ = answer.await;
    }

    /// What the scheduler is doing, for people: every vertex that has not ended and what it waits for.
    pub async fn describe(&self) -> String {
        let (reply, answer) = oneshot::channel();
        let _ = self.0.sender.send(Message::Describe(reply));
        answer.await.unwrap_or_default()
    }
}

/// One build's part of the shared graph. Cheap to clone; when the last clone is dropped, the job's vertices are
/// released and its progress is closed.
pub struct Job<O: Operation>(Arc<JobInner<O>>);

struct JobInner<O: Operation> {
    id: String,
    job: JobId,
    stream: Arc<Stream>,
    solver: Solver<O>,
}

impl<O: Operation> Clone for Job<O> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<O: Operation> Drop for JobInner<O> {
    fn drop(&mut self) {
        let _ = self.solver.0.sender.send(Message::JobGone(self.job));
    }
}

impl<O: Operation> Job<O> {
    /// The name it was given.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// Where the build's other vertices (exports, metadata look-ups) should report: the job's sink, completed by
    /// what a display wants to know (unused inputs are shown as cached, what is left open is closed at the end).
    pub fn sink(&self) -> Arc<dyn Sink> {
        self.0.stream.clone()
    }

    /// Uses a cache of somebody else's for everything this job loads from now on.
    pub fn import(&self, import: Arc<dyn Import<O::Value>>) {
        self.send(Message::Import(self.0.job, import));
    }

    /// Announces the edge's vertex and everything above it, and holds them while the job lives.
    pub fn load(&self, edge: &Edge<O>) {
        self.send(Message::Load(self.0.job, edge.clone()));
    }

    /// Loads and computes an edge. When `cx` stops, the wish is withdrawn, and the call ends once the work that
    /// nobody else wants has stopped.
    pub async fn build(&self, cx: &Cx, edge: &Edge<O>) -> Result<Built<O::Value>, Failure> {
        let (reply, mut answer) = oneshot::channel();
        let want = WantId(self.0.solver.0.shared.number());
        self.send(Message::Want {
            job: self.0.job,
            want,
            edge: edge.clone(),
            reply,
        });
        let mut wish = Wish {
            job: self,
            want: Some(want),
        };
        let stopped = tokio::select! {
            biased;
            built = &mut answer => {
                wish.want = None;
                return built.unwrap_or_else(|_| Err(Failure::cancelled("context canceled")));
            }
            stopped = cx.cancelled() => stopped,
        };
        let (done, left) = oneshot::channel();
        wish.want = None;
        self.send(Message::Unwant(want, Some(done)));
        if tokio::time::timeout(PATIENCE, left).await.is_err() {
            tracing::warn!(job = self.id(), "a step goes on though it was told to stop");
        }
        // The result may have come after all.
        answer
            .try_recv()
            .unwrap_or_else(|_| Err(Failure::cancelled(&*stopped.cause)))
    }

    /// Closes the job's progress: whatever is open is reported as cancelled. Later events are swallowed.
    pub fn finish(&self) {
        self.0.stream.finish();
    }

    /// Without a receiver the solver is going away, and nobody is left to tell.
    fn send(&self, message: Message<O>) {
        let _ = self.0.solver.0.sender.send(message);
    }
}

/// Withdraws a wish when whoever waits for it is dropped.
struct Wish<'a, O: Operation> {
    job: &'a Job<O>,
    want: Option<WantId>,
}

impl<O: Operation> Drop for Wish<'_, O> {
    fn drop(&mut self) {
        if let Some(want) = self.want.take() {
            self.job.send(Message::Unwant(want, None));
        }
    }
}
