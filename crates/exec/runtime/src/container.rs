//! The life of one container, told by its thread.

#![allow(unsafe_code)]

use std::cell::OnceCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use executor::prepare::Prepared;
use executor::rootfs::{Make, Root};
use executor::spec::{NamespaceKind, Spec};
use executor::{Error, Step};
use rustix::fs::{Mode, OFlags};
use rustix::process::DumpableBehavior;
use tokio::sync::watch;

use crate::cgroup::{self, Group};
use crate::control::Control;
use crate::exec::Running;
use crate::mounts::{self, LateMounts};
use crate::plan::{self, Parts, has};
use crate::streams::Streams;
use crate::sweep::Note;
use crate::sys::{self, Child, Exit};
use crate::trees::{self, Held};
use crate::{Inner, Setup, child, template};

/// Exit code of a container whose program could not be started, as runc has it.
const NOT_STARTED: i32 = 1;
/// Stack of a child between clone and exec.
const CHILD_STACK: usize = 64 * 1024;

/// A container to run.
#[derive(Debug)]
pub(crate) struct Job {
    pub inner: Arc<Inner>,
    pub step: Step,
    pub streams: Streams,
    pub control: Arc<Control>,
    /// Where the container can be found by those who want to run more in it.
    pub listed: Option<watch::Sender<Option<Arc<Running>>>>,
}

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    /// 128+n for signal n.
    pub code: i32,
    /// The kernel killed something in it for memory.
    pub out_of_memory: bool,
}

/// Runs a container from beginning to end.
pub(crate) fn run(job: Job) -> Result<Ended, Error> {
    sys::block_signals();
    // Changing the mount namespace changes root and working directory, which threads share at first.
    sys::unshare(libc::CLONE_FS)
        .map_err(|err| Error::start_io("failed to separate a thread", err))?;
    let Job {
        inner,
        step,
        streams,
        control,
        listed,
    } = job;
    let root = step
        .root
        .movable()
        .map_err(|err| Error::start_io("failed to mount the root filesystem", err))?;
    let root = Root::new(root);
    let root_path = inner.shared.settings.root.join(&step.id).join("rootfs");
    let prepared = inner.shared.prepare(&step, &root, &root_path)?;
    plan::refuse(&prepared.spec)?;
    let container = Container {
        inner: &inner,
        step: &step,
        root: &root,
        prepared: &prepared,
        control: &control,
        listed,
        writable: OnceCell::new(),
    };
    let ended = container.run(streams);
    let writable = container.writable.into_inner();
    prepared.finish(writable.as_ref().unwrap_or(&root));
    ended
}

/// What the stages of a container's life work on.
struct Container<'a> {
    inner: &'a Inner,
    step: &'a Step,
    root: &'a Root,
    prepared: &'a Prepared,
    control: &'a Control,
    listed: Option<watch::Sender<Option<Arc<Running>>>>,
    /// The root for us, when the container's is read-only.
    writable: OnceCell<Root>,
}

impl Container<'_> {
    fn spec(&self) -> &Spec {
        &self.prepared.spec
    }

    fn run(&self, streams: Streams) -> Result<Ended, Error> {
        let linux = &self.spec().linux;
        let note = Note::begin(&self.inner.notes, &linux.cgroups_path)
            .map_err(|err| Error::start_io("failed to note the container", err))?;
        let held = self
            .inner
            .overlays
            .hold(&self.step.mounts)
            .map_err(|err| Error::start_io("failed to mount a cache directory", err))?;
        let resources = linux.resources.as_ref();
        let group = Group::create(&self.inner.hierarchies, &linux.cgroups_path, resources)
            .map_err(|err| Error::start_io("failed to create a control group", err))?;
        let usage = self.step.usage.as_deref();
        if let Some(usage) = usage {
            usage.begin(&cgroup::relative(&linux.cgroups_path));
        }
        let ended = self.run_in(&group, &held, streams);
        usage.inspect(|usage| usage.end());
        self.inner.janitor.remove(group, note);
        ended
    }

    fn run_in(
        &self,
        group: &Group,
        held: &[Option<Held>],
        mut streams: Streams,
    ) -> Result<Ended, Error> {
        let started = self.assemble(group, held).and_then(|late| {
            streams.open_terminal(self.root, self.spec().process.user.uid)?;
            self.launch(group, &late, &streams)
        });
        // From here on the host's paths mean what they say again, and nothing but the child keeps the mounts.
        let back = sys::setns(self.inner.mount_namespace.as_fd(), libc::CLONE_NEWNS);
        let ended = match started {
            Err(setup) => {
                streams.complain(&setup.to_string());
                Ended {
                    code: NOT_STARTED,
                    out_of_memory: false,
                }
            }
            Ok(child) => {
                drop(streams);
                let exit = sys::wait(&child)
                    .map_err(|err| Error::start_io("failed to wait for the container", err))?;
                if !has(self.spec(), NamespaceKind::Pid) {
                    // Nothing else ends what the program left behind.
                    group.kill();
                }
                let code = match exit {
                    Exit::Code(code) => code,
                    Exit::Signal(signal) => 128 + signal,
                };
                Ended {
                    code,
                    out_of_memory: code != 0 && group.out_of_memory(),
                }
            }
        };
        back.map_err(|err| {
            Error::start_io("failed to leave the container's mount namespace", err)
        })?;
        Ok(ended)
    }

    /// Enters the container's namespaces and puts its file system together.
    fn assemble(&self, group: &Group, held: &[Option<Held>]) -> Result<LateMounts, Setup> {
        let spec = self.spec();
        let io = |doing: &'static str| move |err| Setup::new(doing.to_owned(), err);
        let may_make_devices = !self.inner.shared.host.user_namespace;
        let trees = trees::gather(spec, &self.step.mounts, held, group, may_make_devices)?;
        enter_namespaces(spec)?;
        self.inner
            .template
            .enter()
            .map_err(io("make a mount namespace"))?;
        // Modes of what is made are meant literally; only this thread is concerned.
        rustix::process::umask(Mode::empty());
        template::take_root(self.root).map_err(io("attach the root filesystem"))?;
        if spec.root.readonly {
            let writable =
                trees::clone_fd(self.root.fd(), false).map_err(io("clone the root filesystem"))?;
            self.writable.get_or_init(|| Root::new(writable));
        }
        let late = mounts::build(self.root, spec, trees, group)?;
        mounts::mount_point(self.root, Path::new(&spec.process.cwd), Make::Dir)
            .map_err(io("create working directory"))?;
        mounts::protect(self.root, spec)?;
        rustix::process::umask(Mode::from_raw_mode(0o022));
        Ok(late)
    }

    /// Starts the program.
    fn launch(&self, group: &Group, late: &LateMounts, streams: &Streams) -> Result<Child, Setup> {
        let spec = self.spec();
        let io = |doing: &'static str| move |err| Setup::new(doing.to_owned(), err);
        streams
            .give_to(spec.process.user.uid)
            .map_err(io("give output to the user"))?;
        let filter = spec
            .linux
            .seccomp
            .as_ref()
            .map(|filter| self.inner.programs.of(filter));
        let filter = filter
            .transpose()
            .map_err(|err| Setup::new("assemble seccomp filter".into(), io::Error::other(err)))?;
        let parts = Parts {
            id: &self.step.id,
            home: &self.prepared.home,
            cgroups: group.to_join(),
            join: None,
            late,
            filter: filter.clone(),
            stdio: streams.stdio(),
        };
        let plan = plan::plan(spec, parts)?;
        if self.control.is_killed() {
            return Err(Setup::because("killed".to_owned()));
        }
        let flags = if has(spec, NamespaceKind::Pid) {
            libc::CLONE_NEWPID
        } else {
            0
        };
        let child = spawn(&plan, flags, group.to_clone_into(), self.inner.dumpable)?;
        if let Some(failure) = plan.failure() {
            // It ended before it became the program; nobody else will reap it.
            let _ = sys::wait(&child);
            return Err(Setup::because(plan::explain(&failure, spec)));
        }
        let process = child
            .pidfd
            .try_clone()
            .map_err(io("duplicate a descriptor"))?;
        if let Some(listed) = &self.listed {
            let running = Running {
                spec: spec.clone(),
                entries: group.entries().map_err(io("duplicate a descriptor"))?,
                process: process.try_clone().map_err(io("duplicate a descriptor"))?,
                filter,
            };
            listed.send_replace(Some(Arc::new(running)));
        }
        self.control.started(process);
        Ok(child)
    }
}

/// Namespaces other than those of mounts, processes, and control groups.
fn enter_namespaces(spec: &Spec) -> Result<(), Setup> {
    let mut flags = 0;
    for namespace in &spec.linux.namespaces {
        flags |= match (namespace.kind, &namespace.path) {
            (NamespaceKind::Ipc, None) => libc::CLONE_NEWIPC,
            (NamespaceKind::Uts, None) => libc::CLONE_NEWUTS,
            (NamespaceKind::Network, None) => libc::CLONE_NEWNET,
            // The child's own: clone makes the first, the child the second. The third comes from the template.
            (NamespaceKind::Pid | NamespaceKind::Cgroup | NamespaceKind::Mount, None) => 0,
            (NamespaceKind::Ipc | NamespaceKind::Uts | NamespaceKind::Network, Some(path)) => {
                join(path).map_err(|err| Setup::new(format!("join namespace {path}"), err))?;
                0
            }
            (kind, _) => {
                let unsupported = io::Error::from(io::ErrorKind::Unsupported);
                return Err(Setup::new(format!("{kind:?} namespace"), unsupported));
            }
        };
    }
    sys::unshare(flags).map_err(|err| Setup::new("unshare namespaces".into(), err))?;
    if flags & libc::CLONE_NEWNET != 0 {
        sys::loopback_up().map_err(|err| Setup::new("bring up lo".into(), err))?;
    }
    if flags & libc::CLONE_NEWUTS != 0 {
        rustix::system::sethostname(spec.hostname.as_bytes())
            .map_err(|errno| Setup::new("set hostname".into(), errno.into()))?;
    }
    Ok(())
}

fn join(path: &str) -> io::Result<()> {
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    sys::setns(fd.as_fd(), 0)
}

/// Makes the process of a plan.
pub(crate) fn spawn(
    plan: &child::Plan,
    flags: libc::c_int,
    group: Option<BorrowedFd<'_>>,
    dumpable: Option<DumpableBehavior>,
) -> Result<Child, Setup> {
    let mut stack = Vec::<u8>::with_capacity(CHILD_STACK);
    let plan = std::ptr::from_ref(plan).cast_mut().cast();
    // SAFETY: `plan` points to a plan that lives until the child no longer uses this memory, and `child::main` does
    // nothing but raw system calls on it.
    let child = unsafe { sys::spawn(flags, group, stack.spare_capacity_mut(), child::main, plan) };
    // A change of user in the child marked the shared memory as not dumpable, and with it the daemon.
    if let Some(dumpable) = dumpable
        && let Err(err) = rustix::process::set_dumpable_behavior(dumpable)
    {
        tracing::debug!(error = %err, "cannot restore dumpable mark");
    }
    child.map_err(|err| Setup::new("clone".into(), err))
}
