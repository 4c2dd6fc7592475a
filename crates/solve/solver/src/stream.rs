//! One build's progress, completed by what a display wants to know.
//!
//! Vertices report only what they do. A stream adds what follows from it: when a vertex starts, inputs that never ran
//! came from the cache; and when the build is over, what was started and has not ended is closed. Inputs of a vertex
//! that failed before it ran were skipped, and nothing is said of them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use progress::{Event, Sink, Vertex};

/// A sink in front of a build's own.
pub(crate) struct Stream {
    sink: Arc<dyn Sink>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    closed: bool,
    vertices: HashMap<String, Arc<Vertex>>,
    /// Ended by having been cached, or an ancestor of something cached.
    cached: HashSet<String>,
}

impl Stream {
    pub(crate) fn new(sink: Arc<dyn Sink>) -> Self {
        Self {
            sink,
            state: Mutex::default(),
        }
    }

    /// Closes what is open. Whatever comes later is swallowed.
    pub(crate) fn finish(&self) {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.closed, true) {
            return;
        }
        let now = SystemTime::now();
        let mut open: Vec<_> = std::mem::take(&mut state.vertices)
            .into_values()
            .filter(|vertex| vertex.started.is_some() && vertex.completed.is_none())
            .collect();
        open.sort_by(|a, b| (a.started, &a.digest).cmp(&(b.started, &b.digest)));
        for mut vertex in open {
            let ended = Arc::make_mut(&mut vertex);
            ended.completed = Some(now);
            if ended.error.is_empty() && !state.cached.contains(&ended.digest) {
                ended.error = "context canceled".to_owned();
            }
            self.sink.emit(Event::Vertex(vertex));
        }
    }
}

impl State {
    /// The inputs of a vertex that started, as far as they never ran: from the cache, at that moment.
    fn unused_inputs(&mut self, vertex: &Vertex) -> Vec<Arc<Vertex>> {
        let mut left: Vec<String> = Vec::new();
        self.add_unused(&vertex.inputs, &mut left);
        let mut found = Vec::new();
        while let Some(digest) = left.pop() {
            let Some(input) = self
                .vertices
                .get_mut(&digest)
                .filter(|input| is_unused(input))
            else {
                continue;
            };
            let unused = Arc::make_mut(input);
            unused.cached = true;
            unused.started = vertex.started;
            unused.completed = vertex.started;
            let input = input.clone();
            self.add_unused(&input.inputs, &mut left);
            found.push(input);
            self.cached.insert(digest);
        }
        found.reverse();
        found
    }

    fn add_unused(&self, inputs: &[String], left: &mut Vec<String>) {
        let unused = |digest: &&String| self.vertices.get(*digest).is_some_and(is_unused);
        left.extend(inputs.iter().filter(unused).cloned());
    }

    fn mark_cached(&mut self, digest: &str) {
        let mut left = vec![digest.to_owned()];
        while let Some(digest) = left.pop() {
            let inputs = self
                .vertices
                .get(&digest)
                .map_or(&[][..], |vertex| &vertex.inputs);
            left.extend(
                inputs
                    .iter()
                    .filter(|input| !self.cached.contains(*input))
                    .cloned(),
            );
            self.cached.insert(digest);
        }
    }

    fn note(&mut self, vertex: &Arc<Vertex>) {
        match self.vertices.get_mut(&vertex.digest) {
            Some(known) => known.clone_from(vertex),
            None => {
                self.vertices.insert(vertex.digest.clone(), vertex.clone());
            }
        }
    }
}

fn is_unused(vertex: &Arc<Vertex>) -> bool {
    !vertex.cached && vertex.completed.is_none() && vertex.started.is_none()
}

impl Sink for Stream {
    fn emit(&self, event: Event) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        if let Event::Vertex(vertex) = &event {
            if vertex.started.is_some() && vertex.error.is_empty() {
                for input in state.unused_inputs(vertex) {
                    self.sink.emit(Event::Vertex(input));
                }
            }
            state.note(vertex);
            if vertex.cached {
                state.mark_cached(&vertex.digest);
            }
        }
        self.sink.emit(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(events: Vec<Vertex>) -> String {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        let stream = Stream::new(Arc::new(move |event: Event| {
            if let Event::Vertex(v) = event {
                let times = match (v.started, v.completed) {
                    (None, _) => "announced",
                    (Some(_), None) => "started",
                    (Some(a), Some(b)) if a == b => "at once",
                    _ => "completed",
                };
                let cached = if v.cached { " cached" } else { "" };
                sink.lock().push(
                    format!("{} {times}{cached} {}", v.digest, v.error)
                        .trim()
                        .to_owned(),
                );
            }
        }));
        for event in events {
            stream.emit(Event::from(event));
        }
        stream.finish();
        stream.emit(Event::from(vertex("late", &[])));
        std::mem::take(&mut *seen.lock()).join("\n")
    }

    fn vertex(digest: &str, inputs: &[&str]) -> Vertex {
        Vertex {
            digest: digest.to_owned(),
            inputs: inputs.iter().map(|&input| input.to_owned()).collect(),
            ..Vertex::default()
        }
    }

    fn started(vertex: Vertex) -> Vertex {
        Vertex {
            started: Some(SystemTime::UNIX_EPOCH),
            ..vertex
        }
    }

    fn cached(vertex: Vertex) -> Vertex {
        let at = Some(SystemTime::UNIX_EPOCH);
        Vertex {
            started: at,
            completed: at,
            cached: true,
            ..vertex
        }
    }

    #[test]
    fn inputs_of_what_starts_came_from_the_cache() {
        let chain = [vertex("a", &[]), vertex("b", &["a"]), vertex("c", &["b"])];
        let mut events = chain.to_vec();
        events.push(started(vertex("c", &["b"])));
        assert_eq!(
            run(events),
            "a announced\nb announced\nc announced\na at once cached\nb at once cached\nc started\n\
             c completed context canceled"
        );
    }

    #[test]
    fn inputs_of_what_could_not_start_did_not_come_from_the_cache() {
        let mut failed = started(vertex("b", &["a"]));
        failed.completed = failed.started;
        failed.error = "no such file".to_owned();
        assert_eq!(
            run(vec![vertex("a", &[]), vertex("b", &["a"]), failed]),
            "a announced\nb announced\nb at once no such file"
        );
    }

    #[test]
    fn what_led_to_something_cached_was_not_cancelled() {
        let events = vec![
            vertex("a", &[]),
            vertex("b", &["a"]),
            started(vertex("a", &[])),
            cached(vertex("b", &["a"])),
        ];
        assert_eq!(
            run(events),
            "a announced\nb announced\na started\nb at once cached\na completed"
        );
    }
}
