//! A toy world for the solver: operations that make texts out of texts.
#![allow(dead_code, missing_docs, clippy::type_complexity)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use cachekeys::{Key, KeyStore, Memory, Record};
use diagnostics::Failure;
use oci::Digest;
use parking_lot::Mutex;
use progress::Event;
use solver::*;

/// What happens when an operation runs.
#[derive(Clone, Default)]
pub enum Deed {
    /// Joins the inputs' texts and its own name.
    #[default]
    Join,
    /// The same after some time; stops when told to.
    Slow(Duration),
    /// Never ends unless told to stop.
    Forever,
    /// Does not stop when told to.
    Stubborn,
    Fail(&'static str),
    /// Breaks down.
    Panic,
    /// Builds something else first.
    Nested(Edge<Toy>, Solver<Toy>),
    /// Says whom it may ask.
    Sessions,
    /// Says something.
    Say(String),
    /// Is stopped, though not by the solver, the first time.
    Spoilt,
    /// Reports something.
    Log(&'static str),
}

#[derive(Default)]
pub struct Toy {
    pub name: String,
    pub deed: Deed,
    pub inputs: usize,
    pub content: bool,
    pub prepare: bool,
    pub map_fails: Option<&'static str>,
    /// How long finding the definition key takes.
    pub map_takes: Duration,
    pub content_fails: Option<&'static str>,
    pub random: bool,
    pub answers: usize,
    /// What the first answer says, if not the name.
    pub first: Option<String>,
    pub maps: AtomicUsize,
    pub unlimited: bool,
    pub runs: Arc<AtomicUsize>,
    pub active: Arc<Mutex<(usize, usize)>>,
}

#[async_trait]
impl Operation for Toy {
    type Value = String;

    async fn cache_map(&self, _work: &Work, index: usize) -> Result<CacheMap, Failure> {
        if let Some(text) = self.map_fails {
            return Err(Failure::user(text));
        }
        self.maps.fetch_add(1, Ordering::Relaxed);
        if !self.map_takes.is_zero() {
            tokio::time::sleep(self.map_takes).await;
        }
        let first = self.first.as_ref().filter(|_| index == 0);
        let digest = Digest::of(format!("{} {index}", first.unwrap_or(&self.name)));
        let input = InputMap {
            selector: Some(Digest::of("/")),
            content: self.content,
            prepare: self.prepare,
        };
        Ok(CacheMap {
            digest: if self.random {
                digest.into_random()
            } else {
                digest
            },
            inputs: vec![input; self.inputs],
            done: index + 1 >= self.answers,
        })
    }

    async fn prepare_input(&self, work: &Work, _: usize, value: &String) -> Result<(), Failure> {
        drop(work.progress.status(value, "unpacking"));
        Ok(())
    }

    async fn content_key(
        &self,
        _: &Work,
        _: usize,
        value: &String,
    ) -> Result<Option<Digest>, Failure> {
        match self.content_fails {
            Some(text) => Err(Failure::user(text)),
            None => Ok(Some(Digest::of(value))),
        }
    }

    fn limited(&self) -> bool {
        !self.unlimited
    }

    async fn run(&self, work: &Work, inputs: &[String]) -> Result<Vec<String>, Failure> {
        self.runs.fetch_add(1, Ordering::Relaxed);
        {
            let mut active = self.active.lock();
            active.0 += 1;
            active.1 = active.1.max(active.0);
        }
        let outcome = self.act(work, inputs).await;
        self.active.lock().0 -= 1;
        outcome
    }
}

impl Toy {
    async fn act(&self, work: &Work, inputs: &[String]) -> Result<Vec<String>, Failure> {
        let stopped = |_| Failure::cancelled("stopped: context canceled");
        match &self.deed {
            Deed::Join => {}
            Deed::Slow(time) => work
                .cx
                .run(tokio::time::sleep(*time))
                .await
                .map_err(stopped)?,
            Deed::Forever => {
                let why = work.cx.cancelled().await;
                // Cleaning up takes a while.
                tokio::time::sleep(Duration::from_secs(1)).await;
                return Err(stopped(why));
            }
            Deed::Stubborn => std::future::pending().await,
            Deed::Fail(text) => return Err(Failure::user(*text)),
            Deed::Panic => panic!("as told"),
            Deed::Nested(edge, solver) => {
                let built = solver.nested("inner", work).build(&work.cx, edge).await?;
                return Ok(vec![format!("nested {}", built.value)]);
            }
            Deed::Say(text) => return Ok(vec![text.clone()]),
            Deed::Spoilt if self.runs.load(Ordering::Relaxed) == 1 => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                return Err(Failure::cancelled("session gone"));
            }
            Deed::Spoilt => {}
            Deed::Sessions => return Ok(vec![(work.sessions)().join(" ")]),
            Deed::Log(text) => work.progress.log(progress::Stream::Stdout, (*text).into()),
        }
        Ok(vec![format!("{}({})", self.name, inputs.join(" "))])
    }
}

/// Results in memory.
#[derive(Default)]
pub struct Shelf {
    results: Mutex<BTreeMap<String, String>>,
}

impl Shelf {
    pub fn clear(&self) {
        self.results.lock().clear();
    }
}

#[async_trait]
impl ResultStore<String> for Shelf {
    async fn save(&self, value: &String) -> Result<String, Failure> {
        let mut results = self.results.lock();
        let id = format!("shelf::{}", results.len());
        results.insert(id.clone(), value.clone());
        Ok(id)
    }

    async fn load(&self, id: &str) -> Result<Option<String>, Failure> {
        Ok(self.results.lock().get(id).cloned())
    }

    fn exists(&self, id: &str) -> bool {
        self.results.lock().contains_key(id)
    }
}

/// Another daemon's cache.
pub struct Theirs {
    pub keys: Arc<Memory>,
    pub shelf: Arc<Shelf>,
}

#[async_trait]
impl Import<String> for Theirs {
    fn id(&self) -> &str {
        "theirs"
    }

    async fn open(&self, _: &tasks::Cx) -> Option<Arc<dyn KeyStore>> {
        tokio::time::sleep(Duration::from_secs(3)).await;
        Some(self.keys.clone())
    }

    async fn load(
        &self,
        _: &Work,
        key: &Key,
        record: &Record,
    ) -> Result<Option<Vec<(Key, Record, String)>>, Failure> {
        let value = self.shelf.load(record.result.as_str()).await?;
        Ok(value.map(|value| vec![(key.clone(), record.clone(), value)]))
    }
}

pub struct Bench {
    pub keys: Arc<Memory>,
    pub shelf: Arc<Shelf>,
    pub solver: Solver<Toy>,
    pub log: Arc<Mutex<Vec<String>>>,
}

impl Bench {
    pub fn new() -> Self {
        Self::with(Arc::default(), Arc::default(), None)
    }

    pub fn with(keys: Arc<Memory>, shelf: Arc<Shelf>, parallelism: Option<usize>) -> Self {
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let lines = log.clone();
        let solver = Solver::new(Options {
            keys: keys.clone() as Arc<dyn KeyStore>,
            results: shelf.clone(),
            parallelism: parallelism.and_then(std::num::NonZeroUsize::new),
            record: Some(Arc::new(move |line: &str| {
                lines.lock().push(line.to_owned())
            })),
        });
        Self {
            keys,
            shelf,
            solver,
            log,
        }
    }

    /// A new daemon with the old disk.
    pub fn restarted(self) -> Self {
        Self::with(self.keys, self.shelf, None)
    }

    /// A job that notes what it is shown.
    pub fn job(&self, session: &str) -> (Job<Toy>, Seen) {
        let seen = Seen::default();
        let job = self.solver.job(
            "job",
            Arc::new(seen.clone().sink()),
            vec![session.to_owned()],
        );
        (job, seen)
    }

    /// Repeats the log.
    pub fn check_log(&self) {
        let log = self.log.lock();
        if let Err(err) = replay(log.iter().map(String::as_str)) {
            panic!("{err}");
        }
    }
}

/// What a build was shown, one line per event. Names instead of digests.
#[derive(Clone, Default)]
pub struct Seen(Arc<Mutex<(BTreeMap<String, String>, Vec<String>)>>);

impl Seen {
    fn sink(self) -> impl Fn(Event) + Send + Sync {
        move |event| {
            let mut state = self.0.lock();
            let line = match event {
                Event::Vertex(v) => {
                    state.0.insert(v.digest.clone(), v.name.clone());
                    let what = match (v.started, v.completed, v.error.as_str()) {
                        (None, None, _) => "announced".to_owned(),
                        (_, None, _) => "started".to_owned(),
                        (_, _, "") => "completed".to_owned(),
                        (_, _, error) => format!("error: {error}"),
                    };
                    format!("{} {what}{}", v.name, if v.cached { " cached" } else { "" })
                }
                Event::Status(s) => {
                    let done = if s.completed.is_some() { " done" } else { "" };
                    format!("{} status {}{done}", state.0[&s.vertex], s.id)
                }
                Event::Log(l) => {
                    format!(
                        "{} log {}",
                        state.0[&l.vertex],
                        String::from_utf8_lossy(&l.data)
                    )
                }
                Event::Warning(w) => format!("{} warning", state.0[&w.vertex]),
            };
            state.1.push(line);
        }
    }

    /// All lines so far but announcements.
    pub fn lines(&self) -> Vec<String> {
        let lines = self.0.lock().1.clone();
        lines
            .into_iter()
            .filter(|line| !line.ends_with(" announced"))
            .collect()
    }

    pub fn announced(&self) -> usize {
        self.0
            .lock()
            .1
            .iter()
            .filter(|line| line.ends_with(" announced"))
            .count()
    }
}

/// A vertex of the operation on the first outputs of others.
pub fn vertex(toy: Toy, inputs: &[&Edge<Toy>]) -> Edge<Toy> {
    let above: Vec<_> = inputs.iter().map(|edge| format!("{edge:?}")).collect();
    let digest = Digest::of(format!("{} {above:?}", toy.name));
    let name = toy.name.clone();
    named(digest, name, toy, inputs, false)
}

pub fn named(
    digest: Digest,
    name: String,
    toy: Toy,
    inputs: &[&Edge<Toy>],
    ignore_cache: bool,
) -> Edge<Toy> {
    let vertex = Vertex {
        digest,
        original: None,
        name,
        inputs: inputs.iter().map(|&edge| edge.clone()).collect(),
        op: Arc::new(Toy {
            inputs: inputs.len(),
            ..toy
        }),
        ignore_cache,
        group: None,
    };
    Edge {
        vertex: Arc::new(vertex),
        index: 0,
    }
}

pub fn toy(name: &str) -> Toy {
    Toy {
        name: name.to_owned(),
        ..Toy::default()
    }
}

pub fn doing(name: &str, deed: Deed) -> Toy {
    Toy { deed, ..toy(name) }
}
