//! One more process in a container that runs already.
//!
//! Its thread enters the namespaces of the container's first process and clones a child that joins the control group;
//! everything else the child does is what the first one did. When the container ends, so does the process.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use executor::rootfs::Root;
use executor::spec::{NamespaceKind, Spec};
use executor::{Error, ExecProcess, user};
use rustix::fs::Mode;

use crate::cgroup::Entries;
use crate::container::{Ended, spawn};
use crate::control::Control;
use crate::mounts::LateMounts;
use crate::plan::{self, Parts};
use crate::seccomp::Program;
use crate::streams::Streams;
use crate::sys::{self, Child, Exit};
use crate::{Inner, Setup};

/// Exit code of a program that could not be started, as runc has it for one more process.
const NOT_STARTED: i32 = 255;

/// A container one can run more in.
#[derive(Debug)]
pub(crate) struct Running {
    pub spec: Spec,
    pub entries: Entries,
    /// Its first process.
    pub process: OwnedFd,
    pub filter: Option<Program>,
}

/// A process to run.
#[derive(Debug)]
pub(crate) struct Job {
    pub inner: Arc<Inner>,
    pub id: String,
    pub container: Arc<Running>,
    pub process: ExecProcess,
    pub streams: Streams,
    pub control: Arc<Control>,
}

/// Runs a process from beginning to end.
pub(crate) fn run(job: Job) -> Result<Ended, Error> {
    sys::block_signals();
    // Changing the mount namespace changes root and working directory, which threads share at first.
    sys::unshare(libc::CLONE_FS)
        .map_err(|err| Error::start_io("failed to separate a thread", err))?;
    let Job {
        inner,
        id,
        container,
        process,
        mut streams,
        control,
    } = job;
    enter(&container, &id)?;
    let code = match launch(&inner, &id, &container, &process, &mut streams, &control)? {
        Err(setup) => {
            streams.complain(&setup.to_string());
            NOT_STARTED
        }
        Ok(child) => {
            drop(streams);
            let exit = sys::wait(&child)
                .map_err(|err| Error::start_io("failed to wait for the process", err))?;
            match exit {
                Exit::Code(code) => code,
                Exit::Signal(signal) => 128 + signal,
            }
        }
    };
    Ok(Ended {
        code,
        out_of_memory: false,
    })
}

/// Takes this thread into the container. Its control group namespace is left to the child, which must be in the group
/// before it sees nothing else.
fn enter(container: &Running, id: &str) -> Result<(), Error> {
    let flags = container.spec.linux.namespaces.iter();
    let flags = flags.fold(0, |flags, namespace| {
        flags
            | match namespace.kind {
                NamespaceKind::Pid => libc::CLONE_NEWPID,
                NamespaceKind::Ipc => libc::CLONE_NEWIPC,
                NamespaceKind::Uts => libc::CLONE_NEWUTS,
                NamespaceKind::Mount => libc::CLONE_NEWNS,
                NamespaceKind::Network => libc::CLONE_NEWNET,
                _ => 0,
            }
    });
    sys::setns(container.process.as_fd(), flags).map_err(|err| match err.raw_os_error() {
        Some(libc::ESRCH) => Error::start(format!("container {id} has stopped")),
        _ => Error::start_io(format_args!("failed to enter container {id}"), err),
    })?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    Ok(())
}

/// The outer error is the user's or the container's; the inner one is told like those of the program itself.
fn launch(
    inner: &Inner,
    id: &str,
    container: &Running,
    process: &ExecProcess,
    streams: &mut Streams,
    control: &Control,
) -> Result<Result<Child, Setup>, Error> {
    let root = Root::open(Path::new("/"))
        .map_err(|err| Error::start_io("failed to open the root filesystem", err))?;
    let spec = spec(container, process, &root)?;
    Ok(start(inner, id, container, &spec, &root, streams, control))
}

fn start(
    inner: &Inner,
    id: &str,
    container: &Running,
    spec: &Spec,
    root: &Root,
    streams: &mut Streams,
    control: &Control,
) -> Result<Child, Setup> {
    let io = |doing: &'static str| move |err: io::Error| Setup::new(doing.to_owned(), err);
    let uid = spec.process.user.uid;
    streams
        .make_terminal(root, uid)
        .map_err(io("open a terminal"))?;
    streams
        .give_to(uid)
        .map_err(io("give output to the user"))?;
    let has_group_namespace = plan::has(&container.spec, NamespaceKind::Cgroup);
    let parts = Parts {
        id,
        home: &user::home(root, uid),
        cgroups: container.entries.to_join(),
        join: has_group_namespace.then(|| container.process.as_raw_fd()),
        late: &LateMounts::default(),
        filter: container.filter.clone(),
        stdio: streams.stdio(),
    };
    let plan = plan::plan(spec, parts)?;
    if control.is_killed() {
        return Err(Setup::because("killed".to_owned()));
    }
    let group = container.entries.to_clone_into();
    let child = spawn(&plan, 0, group, inner.dumpable)?;
    if let Some(failure) = plan.failure() {
        // It ended before it became the program; nobody else will reap it.
        let _ = sys::wait(&child);
        return Err(Setup::because(plan::explain(&failure, spec)));
    }
    let process = child
        .pidfd
        .try_clone()
        .map_err(io("duplicate a descriptor"))?;
    control.started(process);
    Ok(child)
}

/// The container's specification with another process, and nothing left to set up.
fn spec(container: &Running, wanted: &ExecProcess, root: &Root) -> Result<Spec, Error> {
    let mut spec = container.spec.clone();
    spec.linux.namespaces.clear();
    spec.linux.readonly_paths.clear();
    spec.linux.masked_paths.clear();
    spec.process = spec.process.with(wanted, root)?;
    Ok(spec)
}
