//! The container's ends of its standard streams: pipes, or a terminal of its own.

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use executor::rootfs::{Make, Root};
use rustix::fs::{AtFlags, Mode, OFlags, Uid};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use tokio::sync::oneshot;

use crate::Setup;
use crate::mounts::{attach, mount_point};
use crate::trees::clone_fd;

/// Who may use a terminal, besides its owner, is its group.
const TERMINAL_MODE: Mode = Mode::from_raw_mode(0o620);

/// What a program gets as descriptors 0, 1 and 2.
#[derive(Debug)]
pub(crate) struct Streams {
    /// Compat: a pipe nobody writes to, not /dev/null, when there is nothing to read: some programs look for it.
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    /// A terminal is wanted instead; its other end goes here.
    pub terminal: Option<oneshot::Sender<OwnedFd>>,
}

impl Streams {
    /// As the child takes them.
    pub(crate) fn stdio(&self) -> [RawFd; 3] {
        [&self.stdin, &self.stdout, &self.stderr].map(AsRawFd::as_raw_fd)
    }

    /// Tells the user why there is nothing to see.
    pub(crate) fn complain(self, why: &str) {
        let line = format!("unable to start container process: {why}\n");
        // The reader may be gone; then nobody wants to know.
        let _ = std::fs::File::from(self.stderr).write_all(line.as_bytes());
    }

    /// Lets the user open its own output again, through /dev/stdout.
    pub(crate) fn give_to(&self, uid: u32) -> io::Result<()> {
        for fd in [&self.stdin, &self.stdout, &self.stderr] {
            rustix::fs::chownat(fd, "", Some(Uid::from_raw(uid)), None, AtFlags::EMPTY_PATH)?;
        }
        Ok(())
    }

    /// Makes the terminal if one is wanted, in the container this thread is in, and shows it as the console.
    pub(crate) fn open_terminal(&mut self, root: &Root, uid: u32) -> Result<(), Setup> {
        let io = |err| Setup::new("open a terminal".to_owned(), err);
        if let Some(slave) = self.make_terminal(root, uid).map_err(io)? {
            let console = clone_fd(slave.as_fd(), false).map_err(io)?;
            let place = mount_point(root, Path::new("/dev/console"), Make::File).map_err(io)?;
            attach(&console, place.as_fd()).map_err(io)?;
        }
        Ok(())
    }

    /// Makes the terminal if one is wanted; its program's end is the result, and all the streams.
    pub(crate) fn make_terminal(&mut self, root: &Root, uid: u32) -> io::Result<Option<OwnedFd>> {
        let Some(sender) = self.terminal.take() else {
            return Ok(None);
        };
        let flags = OFlags::RDWR | OFlags::NOCTTY;
        let master = root.open_at(Path::new("/dev/pts/ptmx"), flags)?;
        unlockpt(&master)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = ioctl_tiocgptpeer(&master, flags)?;
        rustix::fs::fchown(&slave, Some(Uid::from_raw(uid)), None)?;
        rustix::fs::fchmod(&slave, TERMINAL_MODE)?;
        self.stdin = slave.try_clone()?;
        self.stdout = slave.try_clone()?;
        self.stderr = slave.try_clone()?;
        // Whoever wanted it may be gone; the program then finds its terminal hung up.
        let _ = sender.send(master);
        Ok(Some(slave))
    }
}
