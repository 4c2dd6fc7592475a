//! Containers somebody talks to, and further processes in them.
//!
//! A terminal is made on the host; the runtime, in the foreground, carries between it and the one in the container.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{OptionalActions, Winsize, tcgetattr, tcsetattr};
use tasks::Cx;
use tokio::process::Child;
use tokio::sync::{mpsc, oneshot, watch};

use super::bundle::Bundle;
use super::{KILL_AGAIN, NO_CODE, Runc, command};
use crate::attach::{self, Attach, Request};
use crate::rootfs::Root;
use crate::spec;
use crate::terminal::{Program, Terminal};
use crate::{Error, ExecProcess};

/// Between looks at a container that is about to run.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Containers one can run more in, by id.
pub(super) type Containers = Arc<Mutex<HashMap<String, Container>>>;

/// What further processes of a container start from.
#[derive(Debug, Clone)]
pub(super) struct Container {
    process: spec::Process,
    bundle: PathBuf,
}

/// A container's place in the list.
struct Entry<'a> {
    list: &'a Containers,
    id: &'a str,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.list.lock().remove(self.id);
    }
}

/// What is to be done with a process of the runtime.
struct Wires {
    stdio: [Stdio; 3],
    terminal: Option<Terminal>,
    /// The terminal, for its size.
    master: Option<OwnedFd>,
    requests: Option<mpsc::UnboundedReceiver<Request>>,
    started: Option<oneshot::Sender<()>>,
}

/// How a process is killed for good.
enum Victim<'a> {
    Container(&'a str),
    /// The file its process id is in.
    Process(PathBuf),
}

impl Wires {
    fn new(attach: Attach, tty: bool) -> std::io::Result<Self> {
        let Attach {
            stdin,
            stdout,
            stderr,
            started,
            requests,
        } = attach;
        let stdio = |fd: Option<OwnedFd>| fd.map_or_else(Stdio::null, Stdio::from);
        if !tty {
            return Ok(Self {
                stdio: [stdin, stdout, stderr].map(stdio),
                terminal: None,
                master: None,
                requests,
                started,
            });
        }
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        unlockpt(&master)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = ioctl_tiocgptpeer(&master, flags)?;
        // The runtime does this as well, but begins to write before: lines would end twice.
        let mut modes = tcgetattr(&slave)?;
        modes.make_raw();
        tcsetattr(&slave, OptionalActions::Now, &modes)?;
        let (sender, receiver) = oneshot::channel();
        let terminal = Terminal::new(receiver, stdin, stdout)?;
        // The receiver is in our own hands.
        let _ = sender.send(master.try_clone()?);
        Ok(Self {
            stdio: [slave.try_clone()?, slave.try_clone()?, slave].map(Stdio::from),
            terminal: Some(terminal),
            master: Some(master),
            requests,
            started,
        })
    }
}

impl Runc {
    /// Runs a bundle with somebody at the other end of its streams.
    pub(super) async fn attend_bundle(
        &self,
        cx: &Cx,
        bundle: &Bundle,
        attach: Attach,
        tty: bool,
    ) -> Result<i32, Error> {
        let failed = |err| Error::start_io("failed to start the runtime", err);
        let mut wires = Wires::new(attach, tty).map_err(failed)?;
        let container = Container {
            process: bundle.process().cloned().unwrap_or_default(),
            bundle: bundle.path().to_owned(),
        };
        self.running
            .lock()
            .insert(bundle.id().to_owned(), container);
        let _entry = Entry {
            list: &self.running,
            id: bundle.id(),
        };
        let stdio = std::mem::replace(&mut wires.stdio, nothing());
        let child = self.runtime.run_attached(bundle.path(), bundle.id(), stdio);
        self.attend(
            cx,
            child.map_err(failed)?,
            wires,
            Victim::Container(bundle.id()),
        )
        .await
    }

    /// Runs one more process in a container.
    pub(super) async fn exec_in(
        &self,
        cx: &Cx,
        id: &str,
        process: ExecProcess,
        attach: Attach,
    ) -> Result<i32, Error> {
        let failed = |err| Error::start_io("failed to start the runtime", err);
        let container = self.wait_for(cx, id).await?;
        let name = identity::new_id();
        let file = container.bundle.join(format!("{name}.json"));
        let pid_file = container.bundle.join(format!("{name}.pid"));
        let _files = Files([file.clone(), pid_file.clone()]);
        let mut wires = Wires::new(attach, process.tty).map_err(failed)?;
        let (written, tty) = (file.clone(), process.tty);
        tasks::blocking(move || write(&container, &process, &written)).await?;
        let stdio = std::mem::replace(&mut wires.stdio, nothing());
        let child = self.runtime.exec(&file, &pid_file, id, stdio);
        tracing::trace!(id, tty, "one more process");
        self.attend(cx, child.map_err(failed)?, wires, Victim::Process(pid_file))
            .await
    }

    /// Waits until a container runs.
    async fn wait_for(&self, cx: &Cx, id: &str) -> Result<Container, Error> {
        loop {
            let container = self.running.lock().get(id).cloned();
            let container =
                container.ok_or_else(|| Error::start(format!("container {id} not found")))?;
            match self.runtime.status(id).await.as_deref() {
                Some("running") => return Ok(container),
                Some("stopped") => {
                    return Err(Error::start(format!("container {id} has stopped")));
                }
                _ => {}
            }
            cx.run(tokio::time::sleep(LOOK_AGAIN))
                .await
                .map_err(|cancelled| Error::Cancelled {
                    code: NO_CODE,
                    cancelled,
                })?;
        }
    }

    async fn attend(
        &self,
        cx: &Cx,
        mut child: Child,
        wires: Wires,
        victim: Victim<'_>,
    ) -> Result<i32, Error> {
        if let Some(started) = wires.started {
            // Perhaps nobody wants to know any more.
            let _ = started.send(());
        }
        let runtime = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let (_sizes, new_sizes) = watch::channel(None);
        let (program, state) = watch::channel(Program::Running);
        let mut requests = wires.requests;
        let master = wires.master;
        let attend = async {
            let mut cancelled = None;
            let status = loop {
                tokio::select! {
                    biased;
                    status = child.wait() => break status,
                    why = cx.cancelled(), if cancelled.is_none() => {
                        self.kill(&victim).await;
                        cancelled = Some(why);
                    }
                    () = tokio::time::sleep(KILL_AGAIN), if cancelled.is_some() => {
                        self.kill(&victim).await;
                    }
                    request = attach::next(&mut requests) => match request {
                        Request::Signal(9) => self.kill(&victim).await,
                        Request::Signal(number) => pass_on(runtime, Signal::from_named_raw(number)),
                        Request::Resize(size) => {
                            resize(master.as_ref(), size);
                            pass_on(runtime, Some(Signal::WINCH));
                        }
                    },
                }
            };
            program.send_replace(Program::over(cancelled.is_some()));
            (status, cancelled)
        };
        let serve = async {
            if let Some(terminal) = wires.terminal {
                terminal.serve(new_sizes, state).await;
            }
        };
        let ((status, cancelled), ()) = tokio::join!(attend, serve);
        let code = match status {
            Ok(status) => command::code(status),
            Err(err) => return Err(Error::start_io("failed to wait for the runtime", err)),
        };
        match cancelled {
            Some(cancelled) if code != 0 => Err(Error::Cancelled { code, cancelled }),
            _ => Ok(code),
        }
    }

    async fn kill(&self, victim: &Victim<'_>) {
        match victim {
            Victim::Container(id) => self.runtime.kill(id).await,
            Victim::Process(file) => {
                let text = std::fs::read_to_string(file).unwrap_or_default();
                let pid = text.trim().parse().ok().and_then(Pid::from_raw);
                pass_on(pid, Some(Signal::KILL));
            }
        }
    }
}

fn nothing() -> [Stdio; 3] {
    [Stdio::null(), Stdio::null(), Stdio::null()]
}

fn pass_on(process: Option<Pid>, signal: Option<Signal>) {
    if let (Some(process), Some(signal)) = (process, signal) {
        // It may have ended by itself.
        let _ = kill_process(process, signal);
    }
}

fn resize(master: Option<&OwnedFd>, size: crate::WinSize) {
    let size = Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    if let Some(Err(err)) = master.map(|master| rustix::termios::tcsetwinsize(master.as_fd(), size))
    {
        tracing::debug!(error = %err, "terminal keeps its size");
    }
}

/// Files that go with the process they describe.
struct Files([PathBuf; 2]);

impl Drop for Files {
    fn drop(&mut self) {
        for file in &self.0 {
            // The second is there only when the process was started.
            let _ = std::fs::remove_file(file);
        }
    }
}

/// Writes down a process for the runtime.
fn write(container: &Container, wanted: &ExecProcess, file: &std::path::Path) -> Result<(), Error> {
    let root = Root::open(&container.bundle.join("rootfs"))
        .map_err(|err| Error::start_io("failed to open the root filesystem", err))?;
    let process = container.process.with(wanted, &root)?;
    let failed = |err| Error::start_io("failed to write the process", err);
    let text = serde_json::to_string(&process).map_err(|err| failed(err.into()))?;
    std::fs::write(file, text).map_err(failed)
}
