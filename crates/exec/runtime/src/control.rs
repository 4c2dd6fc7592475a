//! Killing a container from outside its thread, whatever the thread is doing.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::process::{Signal, pidfd_send_signal};
use tokio::sync::oneshot;

/// Shared by a container's thread and whoever may want to kill it.
#[derive(Debug, Default)]
pub(crate) struct Control {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    killed: bool,
    process: Option<OwnedFd>,
    /// Who wants to know that there is a process.
    waiting: Option<oneshot::Sender<()>>,
}

impl Control {
    /// One that tells when there is a process.
    pub(crate) fn telling(waiting: Option<oneshot::Sender<()>>) -> Self {
        Self {
            state: Mutex::new(State {
                waiting,
                ..State::default()
            }),
        }
    }

    /// Sends a signal to the process if there is one.
    pub(crate) fn signal(&self, number: i32) {
        let Some(signal) = Signal::from_named_raw(number) else {
            tracing::debug!(number, "no such signal");
            return;
        };
        if let Some(process) = &self.state.lock().process {
            send(process, signal);
        }
    }

    /// Kills the container's first process, now or as soon as there is one.
    pub(crate) fn kill(&self) {
        let mut state = self.state.lock();
        state.killed = true;
        if let Some(process) = &state.process {
            kill(process);
        }
    }

    /// Whether somebody wanted it dead.
    pub(crate) fn is_killed(&self) -> bool {
        self.state.lock().killed
    }

    /// There is a process now.
    pub(crate) fn started(&self, process: OwnedFd) {
        let mut state = self.state.lock();
        if state.killed {
            kill(&process);
        }
        state.process = Some(process);
        if let Some(waiting) = state.waiting.take() {
            // Perhaps nobody wants to know any more.
            let _ = waiting.send(());
        }
    }
}

fn kill(process: &OwnedFd) {
    send(process, Signal::KILL);
}

fn send(process: &OwnedFd, signal: Signal) {
    // It may have ended by itself.
    if let Err(err) = pidfd_send_signal(process, signal) {
        tracing::trace!(error = %err, "signal not delivered");
    }
}

/// Kills the container unless told that it has ended.
#[derive(Debug)]
pub(crate) struct KillOnDrop {
    control: Option<Arc<Control>>,
}

impl KillOnDrop {
    pub(crate) fn new(control: Arc<Control>) -> Self {
        Self {
            control: Some(control),
        }
    }

    pub(crate) fn kill(&self) {
        if let Some(control) = &self.control {
            control.kill();
        }
    }

    pub(crate) fn disarm(mut self) {
        self.control = None;
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.kill();
    }
}
