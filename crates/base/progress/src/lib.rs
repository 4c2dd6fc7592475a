//! What a build tells about itself while it runs, and the sink it tells it to.
//!
//! Events are plain data; who shows, stores or sends them is not known here. Vertices are named by their digest text.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A vertex was announced, started, or ended.
    Vertex(Arc<Vertex>),
    /// Something inside a vertex moved on.
    Status(Status),
    /// Output of a step.
    Log(Log),
    /// A finding about the user's input.
    Warning(Warning),
}

impl From<Vertex> for Event {
    fn from(vertex: Vertex) -> Self {
        Self::Vertex(Arc::new(vertex))
    }
}

/// A vertex as it stands now. `started` and `completed` absent: announced only.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Vertex {
    /// `sha256:…`.
    pub digest: String,
    /// Digests of the vertices it reads.
    pub inputs: Vec<String>,
    /// What users see.
    pub name: String,
    /// Came from the cache.
    pub cached: bool,
    /// When work began.
    pub started: Option<SystemTime>,
    /// When work ended.
    pub completed: Option<SystemTime>,
    /// Why it failed; empty on success.
    pub error: String,
    /// Shown as one line together with others.
    pub group: Option<Group>,
}

/// A progress group.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Group {
    /// Identity.
    pub id: String,
    /// Shown instead of the members' names.
    pub name: String,
    /// Stays hidden until a member that is not weak starts.
    pub weak: bool,
}

/// A counter or a named sub-step of a vertex.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Status {
    /// Unique within the vertex.
    pub id: String,
    /// Digest of the vertex.
    pub vertex: String,
    /// Action word, often empty.
    pub name: String,
    /// Bytes so far.
    pub current: i64,
    /// Bytes in all, 0 when unknown.
    pub total: i64,
    /// When this was reported.
    pub timestamp: Option<SystemTime>,
    /// When it began.
    pub started: Option<SystemTime>,
    /// When it ended.
    pub completed: Option<SystemTime>,
}

/// Which output of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// 1
    Stdout,
    /// 2
    Stderr,
}

/// Whom a piece of output is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Audience {
    /// Everybody.
    #[default]
    All,
    /// Who follows the build: that something is not shown to them, and the end of it once the step failed.
    Followers,
    /// The record of the build: what is too much to follow. Whoever keeps events in memory passes it on.
    Record,
    /// Builds that asked why their steps run.
    Curious,
}

/// Raw output, not split at lines.
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// Digest of the vertex.
    pub vertex: String,
    /// Which output.
    pub stream: Stream,
    /// The bytes.
    pub data: Bytes,
    /// When they came.
    pub timestamp: SystemTime,
    /// Whom it is for.
    pub audience: Audience,
}

/// A finding about the user's input.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Warning {
    /// Digest of the vertex it belongs to.
    pub vertex: String,
    /// 1 by default.
    pub level: i64,
    /// One line.
    pub short: String,
    /// Further lines.
    pub detail: Vec<String>,
    /// Where to read more.
    pub url: String,
    /// The source file and the places in it.
    pub source: Option<Arc<SourceExcerpt>>,
}

/// A source file with marked ranges.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SourceExcerpt {
    /// Name as the user gave it.
    pub filename: String,
    /// Whole text.
    pub data: Bytes,
    /// `Dockerfile`, …
    pub language: String,
    /// Definition the file came from, serialised `pb.Definition`; empty when unknown.
    pub definition: Bytes,
    /// Marked ranges: (start line, start column, end line, end column), lines from 1.
    pub ranges: Vec<(i32, i32, i32, i32)>,
}

/// Takes events. Must not block and must not fail: a slow reader is the sink's problem.
pub trait Sink: Send + Sync {
    /// Takes one event.
    fn emit(&self, event: Event);
}

impl<F: Fn(Event) + Send + Sync> Sink for F {
    fn emit(&self, event: Event) {
        self(event);
    }
}

/// A sink bound to one vertex: what an operation, a source or an exporter reports through.
#[derive(Clone)]
pub struct Progress {
    sink: Arc<dyn Sink>,
    vertex: Arc<str>,
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Progress")
            .field("vertex", &self.vertex)
            .finish_non_exhaustive()
    }
}

impl Progress {
    /// Reports about `vertex` into `sink`.
    pub fn new(sink: Arc<dyn Sink>, vertex: &str) -> Self {
        Self {
            sink,
            vertex: Arc::from(vertex),
        }
    }

    /// Swallows everything.
    pub fn none() -> Self {
        Self::new(Arc::new(|_: Event| {}), "")
    }

    /// The vertex this reports about.
    pub fn vertex(&self) -> &str {
        &self.vertex
    }

    /// The sink behind it.
    pub fn sink(&self) -> &Arc<dyn Sink> {
        &self.sink
    }

    /// Output of a step.
    pub fn log(&self, stream: Stream, data: Bytes) {
        self.log_for(Audience::All, stream, data);
    }

    /// Output for some only.
    pub fn log_for(&self, audience: Audience, stream: Stream, data: Bytes) {
        self.sink.emit(Event::Log(Log {
            vertex: self.vertex.to_string(),
            stream,
            data,
            timestamp: SystemTime::now(),
            audience,
        }));
    }

    /// Tells users of something that went not quite as they may expect.
    pub fn warn(&self, short: impl Into<String>) {
        self.sink.emit(Event::Warning(Warning {
            vertex: self.vertex.to_string(),
            level: 1,
            short: short.into(),
            ..Warning::default()
        }));
    }

    /// Starts a sub-step. It counts as ended when the guard is dropped.
    pub fn status(&self, id: &str, name: &str) -> StatusGuard {
        let now = SystemTime::now();
        let guard = StatusGuard {
            progress: self.clone(),
            status: Status {
                id: id.to_owned(),
                vertex: self.vertex.to_string(),
                name: name.to_owned(),
                timestamp: Some(now),
                started: Some(now),
                ..Status::default()
            },
        };
        guard.send(guard.status.clone());
        guard
    }
}

/// A sub-step in progress.
#[derive(Debug)]
pub struct StatusGuard {
    progress: Progress,
    status: Status,
}

impl StatusGuard {
    /// Sets the counters and tells, at most every 100 ms.
    pub fn set(&mut self, current: i64, total: i64) {
        self.status.current = current;
        self.status.total = total;
        let now = SystemTime::now();
        let due = self.status.timestamp.is_none_or(|last| {
            now.duration_since(last)
                .is_ok_and(|gone| gone.as_millis() >= 100)
        });
        if due {
            self.status.timestamp = Some(now);
            self.send(self.status.clone());
        }
    }

    /// The counters as they stand.
    pub fn current(&self) -> i64 {
        self.status.current
    }

    fn send(&self, status: Status) {
        self.progress.sink.emit(Event::Status(status));
    }
}

impl Drop for StatusGuard {
    fn drop(&mut self) {
        let now = SystemTime::now();
        self.status.timestamp = Some(now);
        self.status.completed = Some(now);
        self.send(self.status.clone());
    }
}
