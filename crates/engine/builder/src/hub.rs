//! The events of one build, kept in order so that any number of readers can follow from the beginning.

use std::sync::Arc;

use parking_lot::Mutex;
use progress::{Event, Sink};
use tokio::sync::Notify;

/// An append-only list of events with waiting readers.
#[derive(Default)]
pub struct Hub {
    state: Mutex<State>,
    more: Notify,
}

#[derive(Default)]
struct State {
    events: Vec<Event>,
    closed: bool,
}

impl Hub {
    /// No more events will come; readers end once they have read all.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.more.notify_waiters();
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
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        state.events.push(event);
        drop(state);
        self.more.notify_waiters();
    }
}

/// Follows a build.
pub struct Reader {
    hub: Arc<Hub>,
    next: usize,
}

impl Reader {
    /// Waits for events not read yet and returns all of them; `None` when the build is over.
    pub async fn next(&mut self) -> Option<Vec<Event>> {
        loop {
            let more = self.hub.more.notified();
            tokio::pin!(more);
            // Registered before looking, so that an event between looking and waiting is not missed.
            more.as_mut().enable();
            {
                let state = self.hub.state.lock();
                if let Some(events) = state.events.get(self.next..)
                    && !events.is_empty()
                {
                    self.next = state.events.len();
                    return Some(events.to_vec());
                }
                if state.closed {
                    return None;
                }
            }
            more.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use progress::Vertex;

    fn event(name: &str) -> Event {
        Event::Vertex(Vertex {
            name: name.to_owned(),
            ..Vertex::default()
        })
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
