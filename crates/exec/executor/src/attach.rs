//! A process somebody talks to while it runs: its standard streams as pipes, signals, the size of its terminal.

use std::io;
use std::os::fd::OwnedFd;

use rustix::pipe::PipeFlags;
use tokio::sync::{mpsc, oneshot};

use crate::rootfs::Root;
use crate::{Error, ExecProcess, spec, user};

/// The wires of one process.
#[derive(Debug, Default)]
pub struct Attach {
    /// What it reads; absent: a pipe nobody writes to.
    pub stdin: Option<OwnedFd>,
    /// Where its output goes; absent: nowhere. All of a terminal's comes here.
    pub stdout: Option<OwnedFd>,
    /// Where its errors go; absent: nowhere.
    pub stderr: Option<OwnedFd>,
    /// Told when the program runs. Dropped untold when it never does.
    pub started: Option<oneshot::Sender<()>>,
    /// What is asked of it while it runs.
    pub requests: Option<mpsc::UnboundedReceiver<Request>>,
}

/// Something asked of a running process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Send it this signal.
    Signal(i32),
    /// Its terminal has another size now.
    Resize(WinSize),
}

/// The size of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct WinSize {
    pub rows: u16,
    pub columns: u16,
}

/// A pipe: what can be read from, and what can be written to. Neither survives an exec.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?)
}

/// A descriptor that swallows everything, and has nothing to read.
pub fn null() -> io::Result<OwnedFd> {
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    Ok(rustix::fs::open(
        "/dev/null",
        flags,
        rustix::fs::Mode::empty(),
    )?)
}

/// The next request; never comes when nobody can ask.
pub async fn next(requests: &mut Option<mpsc::UnboundedReceiver<Request>>) -> Request {
    if let Some(receiver) = requests {
        if let Some(request) = receiver.recv().await {
            return request;
        }
        *requests = None;
    }
    std::future::pending().await
}

impl spec::Process {
    /// The same process doing something else.
    pub fn with(&self, wanted: &ExecProcess, root: &Root) -> Result<Self, Error> {
        let mut process = self.clone();
        process.terminal = wanted.tty;
        process.args.clone_from(&wanted.args);
        if !wanted.env.is_empty() {
            process.env.clone_from(&wanted.env);
        }
        if !wanted.cwd.is_empty() {
            process.cwd.clone_from(&wanted.cwd);
        }
        if !wanted.user.is_empty() {
            let user = user::resolve(root, &wanted.user)
                .map_err(|err| Error::start(fault::chain(&err)))?;
            process.user = spec::User {
                uid: user.uid,
                gid: user.gid,
                additional_gids: user.all_groups(),
            };
        }
        Ok(process)
    }
}
