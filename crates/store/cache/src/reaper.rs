//! Removes trees where nobody waits for it: not in the directory in which others make theirs, and behind those who build
//! when there is not enough of the machine for all.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use db::Db;
use parking_lot::Mutex;
use snapshot::{Key, Snapshotter};

use crate::open::sweep;

/// Trees that are removed at a time, and by how many threads.
const BATCH: usize = 256;
const THREADS: usize = 4;
/// How much nicer than others they are. Not as nice as could be: somebody may wait for the room.
const NICE: i32 = 5;

pub(crate) enum Job {
    Remove(Key),
    Sweep { below: u64 },
    Tell(tokio::sync::oneshot::Sender<()>),
}

/// Removes trees in the order in which they come, a few at a time.
pub(crate) struct Reaper {
    snapshots: Arc<dyn Snapshotter>,
    db: Db,
    /// Where trees wait for their removal. The next start removes what is left in there.
    trash: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<(Sender<Job>, JoinHandle<()>)>>,
}

impl Reaper {
    /// Moves trees to `trash` first, which need not be there.
    pub(crate) fn new(snapshots: Arc<dyn Snapshotter>, db: Db, trash: PathBuf) -> Self {
        Self {
            snapshots,
            db,
            trash,
            stop: Arc::default(),
            thread: Mutex::new(None),
        }
    }

    /// Removes a tree whose record is gone.
    pub(crate) fn remove(&self, key: Key) {
        self.send(Job::Remove(key));
    }

    pub(crate) fn send(&self, job: Job) {
        let mut thread = self.thread.lock();
        if self.stop.load(Ordering::Relaxed) {
            return;
        }
        if thread.is_none() {
            *thread = self.start();
        }
        if let Some((jobs, _)) = thread.as_ref() {
            // A thread that is gone has said so; the next start sweeps.
            let _ = jobs.send(job);
        }
    }

    fn start(&self) -> Option<(Sender<Job>, JoinHandle<()>)> {
        let (send, receive) = channel();
        let (snapshots, db, stop) = (self.snapshots.clone(), self.db.clone(), self.stop.clone());
        let trash = self.trash.clone();
        let started = std::thread::Builder::new()
            .name("cache reaper".to_owned())
            .spawn(move || {
                be_nice();
                reap(&receive, snapshots.as_ref(), &db, &trash, &stop);
                // Unless trees are left in it.
                let _ = std::fs::remove_dir(&trash);
            });
        match started {
            Ok(thread) => Some((send, thread)),
            Err(err) => {
                tracing::warn!(error = %err, "trees are not removed before the next start");
                None
            }
        }
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some((jobs, thread)) = self.thread.lock().take() {
            drop(jobs);
            if thread.join().is_err() {
                tracing::error!("the thread that removes trees panicked");
            }
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.stop();
    }
}

/// For this thread alone.
fn be_nice() {
    if let Err(err) = rustix::process::nice(NICE) {
        tracing::debug!(error = %err, "trees are removed at the usual priority");
    }
}

fn reap(
    jobs: &Receiver<Job>,
    snapshots: &dyn Snapshotter,
    db: &Db,
    trash: &Path,
    stop: &AtomicBool,
) {
    let mut next = None;
    while let Some(job) = next.take().or_else(|| jobs.recv().ok()) {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        match job {
            Job::Remove(key) => {
                let mut keys = vec![key];
                while keys.len() < BATCH
                    && let Ok(job) = jobs.try_recv()
                {
                    match job {
                        Job::Remove(key) => keys.push(key),
                        other => {
                            next = Some(other);
                            break;
                        }
                    }
                }
                remove_all(&keys, snapshots, trash, stop);
            }
            Job::Sweep { below } => {
                if let Err(err) = sweep(db, snapshots, below, stop) {
                    tracing::warn!(error = %fault::chain(&err), "trees left behind");
                }
            }
            Job::Tell(waiting) => {
                // Whoever asked may have gone.
                let _ = waiting.send(());
            }
        }
    }
}

/// Removes trees, several at a time: mostly that is waiting for the journal of the filesystem.
fn remove_all(keys: &[Key], snapshots: &dyn Snapshotter, trash: &Path, stop: &AtomicBool) {
    if let Err(err) = std::fs::create_dir_all(trash) {
        tracing::warn!(error = %err, "no directory for trees that are removed");
    }
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(key) = keys.get(next.fetch_add(1, Ordering::Relaxed))
            && !stop.load(Ordering::Relaxed)
        {
            if let Err(err) = snapshots.remove_through(*key, trash) {
                tracing::warn!(error = %fault::chain(&err), "tree left behind");
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..THREADS.min(keys.len() / 4 + 1) {
            scope.spawn(work);
        }
        work();
    });
}
