//! The daemon's side of a process somebody talks to: waits for its end, carries signals, serves its terminal.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use executor::Error;
use executor::attach::{self, Attach, Request};
use executor::terminal::{Program, Terminal};
use tasks::{Cancelled, Cx};
use tokio::sync::{mpsc, oneshot, watch};

use crate::container::Ended;
use crate::control::{Control, KillOnDrop};
use crate::streams::Streams;

/// One process as the daemon sees it.
pub(crate) struct Attached {
    control: Arc<Control>,
    requests: Option<mpsc::UnboundedReceiver<Request>>,
    terminal: Option<Terminal>,
}

impl Attached {
    /// Splits the wires: what the container's thread gets, and what stays here.
    pub(crate) fn new(attach: Attach, tty: bool) -> io::Result<(Self, Streams)> {
        let Attach {
            stdin,
            stdout,
            stderr,
            started,
            requests,
        } = attach;
        let control = Arc::new(Control::telling(started));
        let or_null = |fd: Option<OwnedFd>| fd.map_or_else(attach::null, Ok);
        if !tty {
            let stdin = match stdin {
                Some(stdin) => stdin,
                None => attach::pipe()?.0,
            };
            let streams = Streams {
                stdin,
                stdout: or_null(stdout)?,
                stderr: or_null(stderr)?,
                terminal: None,
            };
            let attached = Self {
                control,
                requests,
                terminal: None,
            };
            return Ok((attached, streams));
        }
        let (sender, master) = oneshot::channel();
        let complaints = stdout.as_ref().map(OwnedFd::try_clone).transpose()?;
        let streams = Streams {
            stdin: attach::null()?,
            stdout: attach::null()?,
            stderr: or_null(complaints)?,
            terminal: Some(sender),
        };
        let terminal = Terminal::new(master, stdin, stdout)?;
        let attached = Self {
            control,
            requests,
            terminal: Some(terminal),
        };
        Ok((attached, streams))
    }

    /// What the container's thread shares with us.
    pub(crate) fn control(&self) -> Arc<Control> {
        self.control.clone()
    }

    /// Waits for the end of the process. Cancelled, it kills it first.
    pub(crate) async fn wait(
        self,
        cx: &Cx,
        ended: oneshot::Receiver<Result<Ended, Error>>,
    ) -> Result<(Ended, Option<Cancelled>), Error> {
        let Self {
            control,
            mut requests,
            terminal,
        } = self;
        let guard = KillOnDrop::new(control.clone());
        let (sizes, new_sizes) = watch::channel(None);
        let (program, state) = watch::channel(Program::Running);
        let attend = async {
            tokio::pin!(ended);
            let mut cancelled = None;
            let ended = loop {
                tokio::select! {
                    biased;
                    ended = &mut ended => break ended,
                    why = cx.cancelled(), if cancelled.is_none() => {
                        guard.kill();
                        cancelled = Some(why);
                    }
                    request = attach::next(&mut requests) => match request {
                        Request::Signal(number) => control.signal(number),
                        Request::Resize(size) => {
                            sizes.send_replace(Some(size));
                        }
                    },
                }
            };
            program.send_replace(Program::over(cancelled.is_some()));
            (ended, cancelled)
        };
        let serve = async {
            if let Some(terminal) = terminal {
                terminal.serve(new_sizes, state).await;
            }
        };
        let ((ended, cancelled), ()) = tokio::join!(attend, serve);
        guard.disarm();
        let ended = ended.map_err(|_| Error::start("the container's thread died"))?;
        Ok((ended?, cancelled))
    }
}
