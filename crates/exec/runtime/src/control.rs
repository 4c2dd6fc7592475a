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
    /// Signals asked for before there was a process.
    early: Vec<Signal>,
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

    /// Sends a signal to the process, now or as soon as there is one.
    pub(crate) fn signal(&self, number: i32) {
        let Some(signal) = Signal::from_named_raw(number) else {
            tracing::debug!(number, "no such signal");
            return;
        };
        let mut state = self.state.lock();
        match &state.process {
            Some(process) => send(process, signal),
            None => state.early.push(signal),
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
        for signal in state.early.drain(..) {
            send(&process, signal);
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

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command};

    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    fn sleeper() -> (Child, OwnedFd) {
        let child = Command::new("sleep").arg("100").spawn().expect("it starts");
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).expect("it runs");
        (child, pidfd)
    }

    #[test]
    fn a_signal_that_comes_before_the_process_is_not_lost() {
        let control = Control::default();
        control.signal(libc::SIGTERM);
        let (mut child, pidfd) = sleeper();
        control.started(pidfd);
        let early = child.wait().expect("it ends").signal();
        assert_eq!(early, Some(libc::SIGTERM));
    }

    #[test]
    fn whoever_was_killed_before_it_began_does_not_live() {
        let control = Control::default();
        control.kill();
        let (mut child, pidfd) = sleeper();
        control.started(pidfd);
        let status = child.wait().expect("it ends");
        assert_eq!(status.signal(), Some(libc::SIGKILL));
    }
}
