//! The events of one build, kept in order so that any number of readers can follow from the beginning.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use progress::{Audience, Event, Sink};
use tokio::sync::Notify;

/// An append-only list of events with waiting readers.
#[derive(Default)]
pub struct Hub {
    state: Mutex<State>,
    more: Notify,
    /// Whether the build asked why its steps run.
    curious: bool,
    /// Takes what is for the record only.
    overflow: OnceLock<Arc<dyn Sink>>,
}

#[derive(Default)]
struct State {
    events: Vec<Event>,
    closed: bool,
}

impl Hub {
    /// Of a build that asked why its steps run, or did not.
    pub fn new(curious: bool) -> Self {
        Self {
            curious,
            ..Self::default()
        }
    }

    /// Says what takes events that are for the record only; without it nobody gets them.
    pub fn overflow(&self, sink: Arc<dyn Sink>) {
        let first = self.overflow.set(sink);
        debug_assert!(first.is_ok(), "a build has one record");
    }

    /// All events so far, what is outdated left out.
    pub fn events(&self) -> Vec<Event> {
        latest(&self.state.lock().events)
    }

    /// No more events will come; readers end once they have read all.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.more.notify_waiters();
    }

    async fn wait_closed(&self) {
        loop {
            let more = self.more.notified();
            tokio::pin!(more);
            more.as_mut().enable();
            if self.state.lock().closed {
                return;
            }
            more.await;
        }
    }

    /// A reader that starts at the first event.
    pub fn reader(self: &Arc<Self>) -> Reader {
        Reader {
            hub: self.clone(),
            next: 0,
        }
    }
}

impl Sink for Hub {
    fn emit(&self, event: Event) {
        let audience = match &event {
            Event::Log(log) => log.audience,
            _ => Audience::All,
        };
        match audience {
            Audience::All | Audience::Followers => {}
            Audience::Curious if self.curious => {}
            Audience::Curious => return,
            Audience::Record => {
                if let Some(overflow) = self.overflow.get() {
                    overflow.emit(event);
                }
                return;
            }
        }
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        if let Event::Warning(warning) = &event {
            // Compat: upstream's client prints a warning only beside news of its step.
            let of_step = |event: &&Event| matches!(event, Event::Vertex(vertex) if vertex.digest == warning.vertex);
            let step = state.events.iter().rev().find(of_step).cloned();
            state.events.extend(step);
        }
        state.events.push(event);
        drop(state);
        self.more.notify_waiters();
    }
}

/// How long a reader waits for events that belong together.
const GATHER: std::time::Duration = std::time::Duration::from_millis(10);

/// Follows a build.
pub struct Reader {
    hub: Arc<Hub>,
    next: usize,
}

impl Reader {
    /// Waits for events not read yet and returns all of them, what is outdated within them left out; `None` when the
    /// build is over.
    pub async fn next(&mut self) -> Option<Vec<Event>> {
        self.wait().await?;
        // A build that ends does not wait; one that goes on has more to tell in a moment.
        let closed = self.hub.wait_closed();
        let _ = tokio::time::timeout(GATHER, closed).await;
        let state = self.hub.state.lock();
        let events = latest(state.events.get(self.next..).unwrap_or_default());
        self.next = state.events.len();
        Some(events)
    }

    /// Waits until there is something to read; `None` when there never will be.
    async fn wait(&mut self) -> Option<()> {
        loop {
            let more = self.hub.more.notified();
            tokio::pin!(more);
            // Registered before looking, so that an event between looking and waiting is not missed.
            more.as_mut().enable();
            {
                let state = self.hub.state.lock();
                if state.events.len() > self.next {
                    return Some(());
                }
                if state.closed {
                    return None;
                }
            }
            more.await;
        }
    }
}

/// The events without states that a later event of the same span or counter replaces.
fn latest(events: &[Event]) -> Vec<Event> {
    let mut seen: HashSet<Name<'_>> = HashSet::with_capacity(events.len());
    let mut latest = Vec::with_capacity(events.len());
    for event in events.iter().rev() {
        if name(event).is_none_or(|name| seen.insert(name)) {
            latest.push(event.clone());
        }
    }
    latest.reverse();
    latest
}

type Name<'a> = (&'a str, &'a str, Option<std::time::SystemTime>);

/// What an event is about, if a later one about the same replaces it.
fn name(event: &Event) -> Option<Name<'_>> {
    match event {
        Event::Vertex(vertex) => Some((&vertex.digest, "", vertex.started)),
        Event::Status(status) => Some((&status.vertex, &status.id, None)),
        Event::Log(_) | Event::Warning(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use progress::Vertex;

    fn event(name: &str) -> Event {
        Event::from(Vertex {
            digest: name.to_owned(),
            ..Vertex::default()
        })
    }

    #[tokio::test]
    async fn outdated_states_within_a_batch_are_left_out() {
        let hub = Arc::new(Hub::default());
        let mut vertex = Vertex {
            digest: "v".to_owned(),
            started: Some(std::time::SystemTime::UNIX_EPOCH),
            ..Vertex::default()
        };
        hub.emit(Event::from(vertex.clone()));
        hub.emit(event("other"));
        vertex.completed = Some(std::time::SystemTime::UNIX_EPOCH);
        hub.emit(Event::from(vertex.clone()));
        let expected = Some(vec![event("other"), Event::from(vertex)]);
        assert_eq!(hub.reader().next().await, expected);
    }

    #[tokio::test]
    async fn a_warning_comes_with_its_step() {
        let hub = Arc::new(Hub::default());
        let mut reader = hub.reader();
        hub.emit(event("a"));
        hub.emit(event("b"));
        reader.next().await.expect("both");
        let warning = Event::Warning(progress::Warning {
            vertex: "a".to_owned(),
            short: "hm".to_owned(),
            ..progress::Warning::default()
        });
        hub.emit(warning.clone());
        assert_eq!(reader.next().await, Some(vec![event("a"), warning]));
    }

    #[test]
    fn who_did_not_ask_is_not_told_why() {
        let log = |audience| {
            Event::Log(progress::Log {
                vertex: "v".to_owned(),
                stream: progress::Stream::Stderr,
                data: "why".into(),
                timestamp: std::time::SystemTime::UNIX_EPOCH,
                audience,
            })
        };
        for (curious, expected) in [(false, 0), (true, 1)] {
            let hub = Hub::new(curious);
            hub.emit(log(Audience::Curious));
            hub.emit(log(Audience::Record));
            assert_eq!(hub.events().len(), expected);
        }
    }

    #[tokio::test]
    async fn a_late_reader_sees_everything_and_then_the_end() {
        let hub = Arc::new(Hub::default());
        hub.emit(event("a"));
        hub.emit(event("b"));
        let mut reader = hub.reader();
        assert_eq!(reader.next().await, Some(vec![event("a"), event("b")]));
        hub.emit(event("c"));
        hub.close();
        hub.emit(event("too late"));
        assert_eq!(reader.next().await, Some(vec![event("c")]));
        assert_eq!(reader.next().await, None);
    }
}
