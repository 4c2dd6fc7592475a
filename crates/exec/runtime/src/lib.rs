//! Running steps without any external binary.
//!
//! Each container has a thread. The thread takes namespaces of its own (all but the process namespace), puts the file
//! system together in ordinary code, and clones one child that shares memory with the daemon for the moment between
//! clone and exec, so that starting a step costs the same however large the daemon is. What the child does in that
//! moment is in `child`: raw system calls on prepared data, nothing else. The thread then leaves its namespaces, waits
//! for the child, and cleans up. The program is process 1 of its process namespace: everything it started dies with it.
//!
//! What a container looks like is said by the specification from `executor`, and should not differ from what runc makes
//! of it; the tests run both. Needs Linux 5.12.

#![warn(unsafe_op_in_unsafe_fn)]

mod attached;
mod cgroup;
mod child;
mod container;
mod control;
mod devices;
mod errors;
mod exec;
mod mounts;
mod options;
mod output;
mod plan;
mod protect;
mod seccomp;
mod streams;
mod sweep;
mod sys;
mod template;
mod trees;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use async_trait::async_trait;
use executor::prepare::Shared;
use executor::{Attach, Error, ExecProcess, Executor, Output, Settings, Step};
use parking_lot::Mutex;
use progress::Stream;
use rustix::fs::{Mode, OFlags};
use tasks::Cx;
use tokio::sync::{oneshot, watch};

pub use protect::protect_program;

use crate::attached::Attached;
use crate::container::{Ended, Job};
use crate::control::{Control, KillOnDrop};
use crate::exec::Running;
use crate::streams::Streams;

/// Stack of a container's thread.
const STACK: usize = 512 * 1024;

/// The embedded runtime.
#[derive(Debug, Clone)]
pub struct Runtime {
    inner: Arc<Inner>,
}

/// What containers share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub shared: Shared,
    pub hierarchies: cgroup::Hierarchies,
    pub programs: seccomp::Programs,
    pub overlays: trees::SharedOverlays,
    /// What containers' mount namespaces are copied from.
    pub template: template::Template,
    /// Which containers run.
    pub notes: Arc<sweep::Notes>,
    /// Removes control groups.
    pub janitor: sweep::Janitor,
    /// The daemon's mount namespace.
    pub mount_namespace: OwnedFd,
    /// Containers somebody may run more in, by id; empty until their first process runs.
    pub running: Mutex<HashMap<String, Listed>>,
    /// Whether the daemon's memory may be dumped.
    pub dumpable: Option<rustix::process::DumpableBehavior>,
}

/// Where a container says that it runs. Its end closes the channel.
pub(crate) type Listed = watch::Receiver<Option<Arc<Running>>>;

/// A container could not be set up: what was tried, and why it failed.
#[derive(Debug)]
pub(crate) struct Setup {
    text: String,
}

impl Setup {
    #[allow(clippy::needless_pass_by_value, reason = "made for map_err")]
    pub(crate) fn new(doing: String, error: std::io::Error) -> Self {
        Self {
            text: format!("{doing}: {}", errors::text(&error)),
        }
    }

    pub(crate) fn because(text: String) -> Self {
        Self { text }
    }
}

impl std::fmt::Display for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl Runtime {
    /// A runtime working in `settings.root`; sweeps what an earlier one left there. Blocking.
    pub fn new(settings: Settings) -> std::io::Result<Self> {
        let shared = Shared::new(settings)?;
        let hierarchies = cgroup::Hierarchies::probe();
        sweep::sweep(&shared.settings.root, &hierarchies);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let mount_namespace = rustix::fs::open("/proc/thread-self/ns/mnt", flags, Mode::empty())?;
        let notes = Arc::new(sweep::Notes::new(&shared.settings.root)?);
        let janitor = sweep::Janitor::new()?;
        let in_namespace = shared.host.user_namespace;
        let template =
            template::Template::new(&shared.settings.root.join(sweep::ROOT), in_namespace)?;
        let overlays = trees::SharedOverlays::new(
            shared.host.kernel,
            shared.settings.root.join(sweep::OVERLAYS),
        );
        Ok(Self {
            inner: Arc::new(Inner {
                shared,
                hierarchies,
                programs: seccomp::Programs::default(),
                overlays,
                template,
                notes,
                janitor,
                mount_namespace,
                running: Mutex::default(),
                dumpable: rustix::process::dumpable_behavior().ok(),
            }),
        })
    }
}

/// How a thread of a container tells its end.
type Done = oneshot::Receiver<Result<Ended, Error>>;

/// Does something in a thread of its own.
fn in_thread(work: impl FnOnce() -> Result<Ended, Error> + Send + 'static) -> Result<Done, Error> {
    let (done, ended) = oneshot::channel();
    std::thread::Builder::new()
        .name("container".to_owned())
        .stack_size(STACK)
        .spawn(move || {
            // Nobody listens any more when the caller is gone; the container was killed then.
            let _ = done.send(work());
        })
        .map_err(|err| Error::start_io("failed to start a thread", err))?;
    Ok(ended)
}

fn not_run(cancelled: tasks::Cancelled) -> Error {
    Error::Cancelled {
        code: 255,
        cancelled,
    }
}

fn no_pipe(err: std::io::Error) -> Error {
    Error::start_io("failed to make a pipe", err)
}

#[async_trait]
impl Executor for Runtime {
    async fn run(&self, cx: &Cx, step: Step, output: Output) -> Result<(), Error> {
        cx.check().map_err(not_run)?;
        let pipe = || executor::attach::pipe().map_err(no_pipe);
        let (stdin, _) = pipe()?;
        let (stdout, stdout_end) = pipe()?;
        let (stderr, stderr_end) = pipe()?;
        let control = Arc::new(Control::default());
        let valid = step.process.valid_exit_codes.clone();
        let usage = step.usage.clone();
        let job = Job {
            inner: self.inner.clone(),
            step,
            streams: Streams {
                stdin,
                stdout: stdout_end,
                stderr: stderr_end,
                terminal: None,
            },
            control: control.clone(),
            listed: None,
        };
        let ended = in_thread(move || container::run(job))?;
        let guard = KillOnDrop::new(control);
        let stdout = output::pump(stdout, Stream::Stdout, &output)?;
        let stderr = output::pump(stderr, Stream::Stderr, &output)?;
        let work = async { tokio::join!(stdout, stderr, ended).2 };
        tokio::pin!(work);
        let (ended, cancelled) = tokio::select! {
            biased;
            ended = &mut work => (ended, None),
            cancelled = cx.cancelled() => {
                guard.kill();
                (work.await, Some(cancelled))
            }
            never = executor::usage::watch(usage.as_deref()) => match never {},
        };
        guard.disarm();
        let ended = ended.map_err(|_| Error::start("the container's thread died"))?;
        verdict(ended?, cancelled, &valid)
    }

    async fn run_attached(&self, cx: &Cx, step: Step, attach: Attach) -> Result<(), Error> {
        cx.check().map_err(not_run)?;
        let (attached, streams) = Attached::new(attach, step.process.tty).map_err(no_pipe)?;
        let (listed, receiver) = watch::channel(None);
        let _entry = self.list(&step.id, receiver)?;
        let valid = step.process.valid_exit_codes.clone();
        let job = Job {
            inner: self.inner.clone(),
            step,
            streams,
            control: attached.control(),
            listed: Some(listed),
        };
        let ended = in_thread(move || container::run(job))?;
        let (ended, cancelled) = attached.wait(cx, ended).await?;
        verdict(ended, cancelled, &valid)
    }

    async fn exec(
        &self,
        cx: &Cx,
        id: &str,
        process: ExecProcess,
        attach: Attach,
    ) -> Result<(), Error> {
        cx.check().map_err(not_run)?;
        let listed = self.inner.running.lock().get(id).cloned();
        let mut listed = listed.ok_or_else(|| Error::start(format!("container {id} not found")))?;
        let runs = async {
            let running = listed.wait_for(Option::is_some).await;
            running.ok().and_then(|running| running.clone())
        };
        let running = cx.run(runs).await.map_err(not_run)?;
        let container =
            running.ok_or_else(|| Error::start(format!("container {id} has stopped")))?;
        let (attached, streams) = Attached::new(attach, process.tty).map_err(no_pipe)?;
        let job = exec::Job {
            inner: self.inner.clone(),
            id: id.to_owned(),
            container,
            process,
            streams,
            control: attached.control(),
        };
        let ended = in_thread(move || exec::run(job))?;
        let (ended, cancelled) = attached.wait(cx, ended).await?;
        verdict(ended, cancelled, &[])
    }
}

impl Runtime {
    /// Lets others find a container for as long as the result lives.
    fn list(&self, id: &str, listed: Listed) -> Result<Entry<'_>, Error> {
        let mut running = self.inner.running.lock();
        if running.contains_key(id) {
            return Err(Error::start(format!("container {id} already exists")));
        }
        running.insert(id.to_owned(), listed);
        Ok(Entry {
            inner: &self.inner,
            id: id.to_owned(),
        })
    }
}

/// A container's place in the list.
struct Entry<'a> {
    inner: &'a Inner,
    id: String,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.inner.running.lock().remove(&self.id);
    }
}

/// What the end of a container means for its step.
fn verdict(ended: Ended, cancelled: Option<tasks::Cancelled>, valid: &[i32]) -> Result<(), Error> {
    let Err(error) = Error::from_exit(ended.code, valid) else {
        return Ok(());
    };
    Err(match cancelled {
        Some(cancelled) => Error::Cancelled {
            code: ended.code,
            cancelled,
        },
        None if ended.out_of_memory => Error::OutOfMemory { code: ended.code },
        None => error,
    })
}
