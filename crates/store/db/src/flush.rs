//! The thread that flushes in the background.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::store::{Dirty, Store};
use crate::{Error, Options};

/// After a failed flush.
const RETRY: Duration = Duration::from_secs(30);

/// The store and the thread that looks after it. Sleeps without waking while there is nothing to do.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) store: Arc<Store>,
    signal: Arc<Signal>,
    flush_after: Duration,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Signal {
    wanted: Mutex<Wanted>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Wanted {
    flush_at: Option<Instant>,
    stop: bool,
}

impl Handle {
    pub(crate) fn open(dir: &Path, name: &str, options: Options) -> Result<Arc<Self>, Error> {
        let flush_after = options.flush_after;
        let store = Arc::new(Store::open(dir, name, options)?);
        let dirty = store.dirty();
        let handle = Arc::new(Self {
            store,
            signal: Arc::default(),
            flush_after,
            thread: Mutex::new(None),
        });
        handle.tell(dirty);
        Ok(handle)
    }

    /// Notes that there is something to flush.
    pub(crate) fn tell(&self, dirty: Dirty) {
        let delay = match dirty {
            Dirty::No => return,
            Dirty::Some => self.flush_after,
            Dirty::Much => Duration::ZERO,
        };
        let mut wanted = self.signal.wanted.lock();
        if wanted.flush_at.is_some() && dirty == Dirty::Some {
            return;
        }
        wanted.flush_at = Some(Instant::now() + delay);
        drop(wanted);
        self.signal.changed.notify_one();
        self.start();
    }

    /// Starts the thread with the first change: a daemon that only reads needs none.
    fn start(&self) {
        let mut thread = self.thread.lock();
        if thread.is_some() {
            return;
        }
        let (store, signal) = (self.store.clone(), self.signal.clone());
        let started = std::thread::Builder::new()
            .name("db flush".to_owned())
            .spawn(move || run(&store, &signal));
        match started {
            Ok(handle) => *thread = Some(handle),
            Err(err) => tracing::warn!(error = %err, "cannot start the flush thread"),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.signal.wanted.lock().stop = true;
        self.signal.changed.notify_one();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the flush thread panicked");
        }
    }
}

fn run(store: &Store, signal: &Signal) {
    let mut wanted = signal.wanted.lock();
    while !wanted.stop {
        match wanted.flush_at {
            None => signal.changed.wait(&mut wanted),
            Some(at) if at > Instant::now() => {
                signal.changed.wait_until(&mut wanted, at);
            }
            Some(_) => {
                wanted.flush_at = None;
                drop(wanted);
                let result = store.flush();
                wanted = signal.wanted.lock();
                if let Err(err) = result {
                    tracing::warn!(error = %fault::chain(&err), "flush failed, retrying later");
                    wanted.flush_at = Some(Instant::now() + RETRY);
                }
            }
        }
    }
}
