//! Child processes that somebody waits for: they end with their context and with the daemon, and so does all they
//! started.
//!
//! A child leads a process group of its own, has the usual umask and nothing to read. What it writes is handed on as it
//! comes and given back as a whole.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::Mode;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use crate::{Cancelled, Cx};

/// How long a child may take to end when it is told to.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long what a child left behind may hold its pipes.
const STRAYS: Duration = Duration::from_secs(2);

/// Where output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A child that ended.
#[derive(Debug)]
pub struct Finished {
    /// How.
    pub status: ExitStatus,
    /// All it wrote to standard output.
    pub stdout: Vec<u8>,
    /// All it wrote to standard error.
    pub stderr: Vec<u8>,
    /// It was told to end.
    pub cancelled: Option<Cancelled>,
}

/// Runs a command to its end. `seen` gets its output as it comes.
pub async fn run(
    cx: &Cx,
    command: Command,
    mut seen: impl FnMut(Output, &[u8]) + Send,
) -> io::Result<Finished> {
    let (started, begun) = oneshot::channel();
    let (exited, gone) = oneshot::channel();
    let (release, released) = mpsc::channel();
    let life = crate::blocking(move || live(command, started, exited, &released));
    let Ok(Begun {
        pid,
        stdout,
        stderr,
    }) = begun.await
    else {
        // It could not be started; the thread says why.
        drop(release);
        let status = life.await?;
        return Err(io::Error::other(format!("child ended with {status}")));
    };
    // Invariant: until `release` is dropped the child is not reaped, so its number names nothing else.
    let group = Group { pid, release };
    let mut outputs = Outputs {
        stdout: Some(pipe::Receiver::from_owned_fd(stdout)?),
        stderr: Some(pipe::Receiver::from_owned_fd(stderr)?),
        read: (Vec::new(), Vec::new()),
    };
    let cancelled = {
        let work = async {
            let mut gone = std::pin::pin!(gone);
            tokio::select! {
                () = outputs.drain(&mut seen) => {
                    // The thread lives as long as the child.
                    let _ = gone.await;
                }
                _ = &mut gone => {
                    let rest = outputs.drain(&mut seen);
                    let _ = tokio::time::timeout(STRAYS, rest).await;
                }
            }
        };
        let mut work = std::pin::pin!(work);
        tokio::select! {
            () = &mut work => None,
            reason = cx.cancelled() => {
                group.signal(Signal::TERM);
                if tokio::time::timeout(PATIENCE, &mut work).await.is_err() {
                    group.signal(Signal::KILL);
                    work.await;
                }
                Some(reason)
            }
        }
    };
    drop(group);
    let status = life.await?;
    let (stdout, stderr) = outputs.read;
    Ok(Finished {
        status,
        stdout,
        stderr,
        cancelled,
    })
}

struct Begun {
    pid: Pid,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

/// Starts the child and waits for it, in one thread: the kernel tells the child when that thread ends. It stays unreaped
/// until nobody needs its number any more.
fn live(
    mut command: Command,
    started: oneshot::Sender<Begun>,
    exited: oneshot::Sender<()>,
    released: &mpsc::Receiver<()>,
) -> io::Result<ExitStatus> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let prepare = || {
        rustix::process::umask(Mode::from_raw_mode(0o022));
        rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
        Ok(())
    };
    // SAFETY: the closure makes two system calls and touches no memory but its own; it neither allocates nor locks.
    unsafe { command.pre_exec(prepare) };
    let mut child = command.spawn()?;
    let pid = Pid::from_child(&child);
    if let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) {
        let begun = Begun {
            pid,
            stdout: stdout.into(),
            stderr: stderr.into(),
        };
        // Whoever went away has left a group behind that kills the child.
        let _ = started.send(begun);
    }
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while let Err(rustix::io::Errno::INTR) = rustix::process::waitid(WaitId::Pid(pid), options) {}
    let _ = exited.send(());
    // Ends when the sender is dropped.
    let _ = released.recv();
    child.wait()
}

/// The processes of a child; killed when this is dropped, for what is left of them then is nobody's.
struct Group {
    pid: Pid,
    #[allow(dead_code, reason = "dropping it lets the child be reaped")]
    release: mpsc::Sender<()>,
}

impl Group {
    fn signal(&self, signal: Signal) {
        // A group that is gone needs no signal.
        let _ = rustix::process::kill_process_group(self.pid, signal);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

struct Outputs {
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
    read: (Vec<u8>, Vec<u8>),
}

impl Outputs {
    /// Reads both to their ends. May be dropped and called again.
    async fn drain(&mut self, seen: &mut (impl FnMut(Output, &[u8]) + Send)) {
        while self.stdout.is_some() || self.stderr.is_some() {
            let (out, err) = (self.read.0.len(), self.read.1.len());
            tokio::select! {
                more = read(&mut self.stdout, &mut self.read.0) => {
                    if more {
                        seen(Output::Stdout, &self.read.0[out..]);
                    } else {
                        self.stdout = None;
                    }
                }
                more = read(&mut self.stderr, &mut self.read.1) => {
                    if more {
                        seen(Output::Stderr, &self.read.1[err..]);
                    } else {
                        self.stderr = None;
                    }
                }
            }
        }
    }
}

async fn read(from: &mut Option<pipe::Receiver>, into: &mut Vec<u8>) -> bool {
    match from {
        Some(pipe) => matches!(pipe.read_buf(into).await, Ok(read) if read > 0),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn output_is_seen_and_kept() {
        let mut seen = Vec::new();
        let cx = Cx::root();
        let script = "echo one; sleep 0.1; echo two >&2; umask; exit 3";
        let done = run(&cx, shell(script), |from, bytes| {
            seen.push((from, bytes.to_vec()))
        })
        .await;
        let done = done.expect("started");
        assert_eq!(done.status.code(), Some(3));
        assert_eq!(done.stdout, b"one\n0022\n");
        assert_eq!(done.stderr, b"two\n");
        assert_eq!(seen.first(), Some(&(Output::Stdout, b"one\n".to_vec())));
        assert!(done.cancelled.is_none());
    }

    #[tokio::test]
    async fn a_missing_program_is_an_error() {
        let cx = Cx::root();
        let failed = run(&cx, Command::new("/nonexistent/program"), |_, _| {}).await;
        let failed = failed.expect_err("nothing to run");
        assert_eq!(failed.kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn cancelling_ends_the_child_and_its_children() {
        let cx = Cx::root();
        let start = Instant::now();
        let script = "sleep 600 & echo begun; sleep 600";
        let done = run(&cx, shell(script), |_, _| cx.cancel("enough")).await;
        let done = done.expect("started");
        assert!(!done.status.success());
        assert_eq!(
            done.cancelled.map(|it| it.cause.to_string()),
            Some("enough".to_owned())
        );
        assert!(start.elapsed() < Duration::from_secs(60));
    }

    #[tokio::test]
    async fn what_a_child_leaves_behind_does_not_keep_anyone_waiting() {
        let cx = Cx::root();
        let start = Instant::now();
        let done = run(&cx, shell("sleep 600 & echo x"), |_, _| {}).await;
        assert_eq!(done.expect("started").stdout, b"x\n");
        assert!(start.elapsed() < Duration::from_secs(60));
    }
}
