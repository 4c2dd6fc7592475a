//! Many entries to be copied, on several threads.

use std::num::NonZero;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{JoinHandle, available_parallelism};

use super::links::Links;
use super::task::{Outcome, Task};
use crate::error::Error;

/// Tasks are run when they are about this many entries.
const BATCH: usize = 1024;
/// Or when they hold this many directories open.
const OPEN_DIRS: usize = 128;
/// So many entries are worth a thread.
const PER_THREAD: usize = 24;
const MAX_THREADS: usize = 8;
/// The most tasks a thread takes at once.
const AT_ONCE: usize = 64;

/// Tasks that run when enough have come together, several at once, while more are added.
///
/// No two tasks of a batch may have the same target, and nobody may look for what they make before
/// [`Batch::finish`]. A failed task does not undo others.
#[derive(Debug)]
pub struct Batch {
    tasks: Vec<Item>,
    /// How many entries they are.
    entries: usize,
    open_dirs: usize,
    last_dir: i32,
    threads: usize,
    /// Those that were full before.
    running: Option<Running>,
    /// A file that might have been shared was copied.
    unshared: Arc<AtomicBool>,
}

/// Tasks that run by themselves.
#[derive(Debug)]
struct Running {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<Result<(), Error>>>,
}

impl Default for Batch {
    fn default() -> Self {
        // The system takes ten files to answer, and most copies are of a few files.
        static THREADS: OnceLock<usize> = OnceLock::new();
        let threads = THREADS.get_or_init(|| available_parallelism().map_or(1, NonZero::get));
        Self {
            tasks: Vec::new(),
            entries: 0,
            open_dirs: 0,
            last_dir: -1,
            threads: (*threads).min(MAX_THREADS),
            running: None,
            unshared: Arc::default(),
        }
    }
}

impl Batch {
    /// Nothing to do yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a task, and has all run when there are many. What fails is told later.
    pub fn push(&mut self, task: Task) -> Result<(), Error> {
        self.add(Item::Task(task), 1)
    }

    /// Adds the files of a directory that get further names in another.
    pub fn push_links(&mut self, links: Links) -> Result<(), Error> {
        let entries = links.len();
        self.add(Item::Links(links), entries)
    }

    fn add(&mut self, item: Item, entries: usize) -> Result<(), Error> {
        let dir = item.to_dir().as_raw_fd();
        if dir != self.last_dir {
            self.last_dir = dir;
            self.open_dirs += 1;
        }
        self.tasks.push(item);
        self.entries += entries;
        if self.entries >= BATCH || self.open_dirs >= OPEN_DIRS {
            self.start()?;
        }
        Ok(())
    }

    /// Runs what is left.
    pub fn finish(&mut self) -> Result<(), Error> {
        self.start()?;
        self.wait()
    }

    /// Whether every task of a finished batch that was given a name to share has shared it.
    pub fn all_shared(&self) -> bool {
        !self.unshared.load(Ordering::Relaxed)
    }

    /// Has other threads run what was added, as soon as they have done what was added before.
    fn start(&mut self) -> Result<(), Error> {
        self.wait()?;
        let tasks = std::mem::take(&mut self.tasks);
        let entries = std::mem::take(&mut self.entries);
        self.open_dirs = 0;
        self.last_dir = -1;
        let threads = self.threads.min(entries / PER_THREAD + 1) - 1;
        let queue = Arc::new(Queue {
            tasks: Mutex::new(tasks.into_iter()),
            stop: AtomicBool::new(false),
            unshared: self.unshared.clone(),
        });
        let start = |_| {
            let queue = queue.clone();
            let thread = std::thread::Builder::new().name("copy".to_owned());
            thread.spawn(move || queue.work())
        };
        // With fewer threads, or none, it takes longer: whoever waits works too.
        let threads = (0..threads)
            .map_while(|number| start(number).ok())
            .collect();
        self.running = Some(Running { queue, threads });
        Ok(())
    }

    /// Helps with what runs until all of it is done.
    fn wait(&mut self) -> Result<(), Error> {
        let Some(running) = self.running.take() else {
            return Ok(());
        };
        let mut result = running.queue.work();
        for thread in running.threads {
            let joined = thread.join();
            result = result.and(joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        result
    }
}

impl Drop for Batch {
    /// Nothing is made any more when whoever gave up has gone on.
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.queue.stop.store(true, Ordering::Relaxed);
            for thread in running.threads {
                // What it has to tell is of no interest any more.
                let _ = thread.join();
            }
        }
    }
}

#[derive(Debug)]
enum Item {
    Task(Task),
    Links(Links),
}

impl Item {
    fn to_dir(&self) -> &Arc<OwnedFd> {
        match self {
            Self::Task(task) => &task.to_dir,
            Self::Links(links) => &links.to_dir,
        }
    }

    fn shares(&self) -> bool {
        match self {
            Self::Task(task) => task.share.is_some(),
            Self::Links(_) => true,
        }
    }

    fn run(&self) -> Result<Outcome, Error> {
        match self {
            Self::Task(task) => task.run(),
            Self::Links(links) => links.run(),
        }
    }
}

#[derive(Debug)]
struct Queue {
    tasks: Mutex<std::vec::IntoIter<Item>>,
    stop: AtomicBool,
    unshared: Arc<AtomicBool>,
}

impl Queue {
    /// What comes next in one directory: threads that create in different directories do not wait for each other.
    fn take(&self) -> Vec<Item> {
        let mut tasks = match self.tasks.lock() {
            Ok(tasks) => tasks,
            Err(poisoned) => poisoned.into_inner(),
        };
        let rest = tasks.as_slice();
        let together = rest.iter().take(AT_ONCE);
        let together = together.take_while(|item| Arc::ptr_eq(item.to_dir(), rest[0].to_dir()));
        let len = match rest.first() {
            Some(Item::Links(_)) => 1,
            _ => together.count(),
        };
        tasks.by_ref().take(len).collect()
    }

    fn work(&self) -> Result<(), Error> {
        loop {
            let tasks = self.take();
            if tasks.is_empty() || self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            for task in tasks {
                match task.run() {
                    Ok(Outcome::Copied) if task.shares() => {
                        self.unshared.store(true, Ordering::Relaxed);
                    }
                    Ok(_) => {}
                    Err(err) => {
                        self.stop.store(true, Ordering::Relaxed);
                        return Err(err);
                    }
                }
            }
        }
    }
}
