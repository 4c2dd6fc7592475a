//! What one vertex reports, given to every build that has it.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use parking_lot::Mutex;
use progress::{Audience, Event, Progress, Sink, Status, Vertex};

use crate::core::JobId;
use crate::stream::Stream;

/// How much output of a vertex a build that comes later is shown.
const KEPT_LOG: usize = 64 * 1024;

/// Whom a job's operations may ask.
#[derive(Clone)]
pub(crate) enum Sessions {
    Fixed(Vec<String>),
    Of(Arc<dyn Fn() -> Vec<String> + Send + Sync>),
}

/// A build that has the vertex.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) job: JobId,
    pub(crate) stream: Arc<Stream>,
    pub(crate) sessions: Sessions,
}

/// The progress of one vertex.
pub(crate) struct Fanout {
    template: Arc<Vertex>,
    state: Mutex<State>,
}

/// What changes about a vertex.
#[derive(Clone, Default)]
struct Times {
    started: Option<SystemTime>,
    completed: Option<SystemTime>,
    cached: bool,
    error: String,
}

impl Times {
    fn of(vertex: &Vertex) -> Self {
        Self {
            started: vertex.started,
            completed: vertex.completed,
            cached: vertex.cached,
            error: vertex.error.clone(),
        }
    }
}

#[derive(Default)]
struct State {
    /// In the order they came, and whether they are shown anything.
    members: Vec<(Member, bool)>,
    /// Equal vertices whose work this one does.
    followers: Vec<Weak<Fanout>>,
    last: Option<Times>,
    statuses: Vec<Status>,
    logs: VecDeque<Event>,
    log_size: usize,
}

impl Fanout {
    /// `template` is the vertex as announced.
    pub(crate) fn new(template: Vertex) -> Arc<Self> {
        Arc::new(Self {
            template: Arc::new(template),
            state: Mutex::default(),
        })
    }

    /// What users see.
    pub(crate) fn name(&self) -> &str {
        &self.template.name
    }

    /// A reporter for operations.
    pub(crate) fn progress(self: &Arc<Self>) -> Progress {
        Progress::new(self.clone(), &self.template.digest)
    }

    /// The sessions of all builds that have the vertex.
    pub(crate) fn sessions(&self) -> Vec<String> {
        let members: Vec<_> = self
            .state
            .lock()
            .members
            .iter()
            .map(|(member, _)| member.sessions.clone())
            .collect();
        let mut all: Vec<String> = Vec::new();
        for sessions in members {
            let ids = match sessions {
                Sessions::Fixed(ids) => ids,
                Sessions::Of(ask) => ask(),
            };
            for id in ids {
                if !all.contains(&id) {
                    all.push(id);
                }
            }
        }
        all
    }

    /// A build has the vertex from now on. It is told what happened so far.
    pub(crate) fn join(&self, member: Member, shown: bool) {
        let mut state = self.state.lock();
        match state
            .members
            .iter_mut()
            .find(|(known, _)| known.job == member.job)
        {
            Some((_, before)) => *before = shown,
            None => state.members.push((member.clone(), shown)),
        }
        if !shown {
            return;
        }
        let stream = member.stream;
        stream.emit(Event::Vertex(self.template.clone()));
        if let Some(last) = &state.last {
            stream.emit(self.at(Times {
                completed: None,
                error: String::new(),
                ..last.clone()
            }));
            for status in &state.statuses {
                stream.emit(Event::Status(status.clone()));
            }
            for log in &state.logs {
                stream.emit(log.clone());
            }
            if last.completed.is_some() {
                stream.emit(self.at(last.clone()));
            }
        }
    }

    pub(crate) fn leave(&self, job: JobId) {
        self.state
            .lock()
            .members
            .retain(|(member, _)| member.job != job);
    }

    /// From now on `follower` shows what this vertex does.
    pub(crate) fn follow(&self, follower: &Arc<Self>) {
        let last = {
            let mut state = self.state.lock();
            state.followers.push(Arc::downgrade(follower));
            state.last.clone()
        };
        // What has ended already was not done for the follower; what goes on is.
        if let Some(last) = last.filter(|last| last.completed.is_none()) {
            follower.emit(follower.at(last));
        }
    }

    /// Work begins.
    pub(crate) fn started(&self) -> SystemTime {
        let now = SystemTime::now();
        self.emit(self.at(Times {
            started: Some(now),
            ..Times::default()
        }));
        now
    }

    /// Work that began at `started` has ended.
    pub(crate) fn completed(&self, started: SystemTime, cached: bool, error: &str) {
        self.emit(self.at(Times {
            started: Some(started),
            completed: Some(SystemTime::now()),
            cached,
            error: error.to_owned(),
        }));
    }

    /// The vertex, at a point of its life.
    fn at(&self, times: Times) -> Event {
        let Times {
            started,
            completed,
            cached,
            error,
        } = times;
        Event::from(Vertex {
            started,
            completed,
            cached,
            error,
            ..Vertex::clone(&self.template)
        })
    }

    /// The event as one of this vertex, if it was one of the vertex this one follows.
    fn own(&self, event: Event, of: &str) -> Event {
        if vertex_of(&event) != of {
            return event;
        }
        let digest = || self.template.digest.clone();
        match event {
            Event::Vertex(vertex) => self.at(Times::of(&vertex)),
            Event::Status(status) => Event::Status(Status {
                vertex: digest(),
                ..status
            }),
            Event::Log(log) => Event::Log(progress::Log {
                vertex: digest(),
                ..log
            }),
            Event::Warning(warning) => Event::Warning(progress::Warning {
                vertex: digest(),
                ..warning
            }),
        }
    }
}

fn vertex_of(event: &Event) -> &str {
    match event {
        Event::Vertex(vertex) => &vertex.digest,
        Event::Status(status) => &status.vertex,
        Event::Log(log) => &log.vertex,
        Event::Warning(warning) => &warning.vertex,
    }
}

impl State {
    fn remember(&mut self, event: &Event) {
        match event {
            Event::Vertex(vertex) => {
                if vertex.completed.is_none() {
                    self.statuses.clear();
                    self.logs.clear();
                    self.log_size = 0;
                }
                self.last = Some(Times::of(vertex));
            }
            Event::Status(status) => match self.statuses.iter_mut().find(|s| s.id == status.id) {
                Some(known) => known.clone_from(status),
                None => self.statuses.push(status.clone()),
            },
            // A build that comes later is shown the end of what can be followed; the rest is with those who were there.
            Event::Log(log) if log.audience == Audience::Record => {}
            Event::Log(log) => {
                self.log_size += log.data.len();
                self.logs.push_back(event.clone());
                while self.log_size > KEPT_LOG {
                    match self.logs.pop_front() {
                        Some(Event::Log(old)) => self.log_size -= old.data.len(),
                        Some(_) => {}
                        None => break,
                    }
                }
            }
            Event::Warning(_) => self.logs.push_back(event.clone()),
        }
    }
}

impl Sink for Fanout {
    fn emit(&self, event: Event) {
        let followers = {
            let mut state = self.state.lock();
            state.remember(&event);
            state
                .followers
                .retain(|follower| follower.strong_count() > 0);
            let mut shown = state.members.iter().filter(|(_, shown)| *shown);
            let last = shown.next_back();
            for (member, _) in shown {
                member.stream.emit(event.clone());
            }
            let followers = state.followers.clone();
            let copy = (!followers.is_empty()).then(|| event.clone());
            if let Some((member, _)) = last {
                member.stream.emit(event);
            }
            copy.map(|event| (followers, event))
        };
        let Some((followers, event)) = followers else {
            return;
        };
        for follower in followers.iter().filter_map(Weak::upgrade) {
            follower.emit(follower.own(event.clone(), &self.template.digest));
        }
    }
}
