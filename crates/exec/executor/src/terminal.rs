//! Carrying what goes through a terminal to and from the pipes of whoever watches.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::{oneshot, watch};

use crate::WinSize;

/// How long a terminal must be silent after the end of its program, when others still have it open.
const SILENCE: Duration = Duration::from_millis(100);
/// Largest piece carried at once.
const PIECE: usize = 32 * 1024;

/// A terminal and the pipes it is connected with.
#[derive(Debug)]
pub struct Terminal {
    master: oneshot::Receiver<OwnedFd>,
    stdin: Option<Receiver>,
    stdout: Option<Sender>,
}

fn reader(fd: OwnedFd) -> io::Result<Receiver> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    Receiver::from_owned_fd(fd)
}

fn writer(fd: OwnedFd) -> io::Result<Sender> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    Sender::from_owned_fd(fd)
}

impl Terminal {
    /// The terminal whose end comes through `master`.
    pub fn new(
        master: oneshot::Receiver<OwnedFd>,
        stdin: Option<OwnedFd>,
        stdout: Option<OwnedFd>,
    ) -> io::Result<Self> {
        Ok(Self {
            master,
            stdin: stdin.map(reader).transpose()?,
            stdout: stdout.map(writer).transpose()?,
        })
    }

    /// Carries everything both ways until nobody has the other end open any more, or the program is `over`
    /// and silent.
    pub async fn serve(self, sizes: watch::Receiver<Option<WinSize>>, over: watch::Receiver<bool>) {
        // Nothing comes when the program was never started.
        let Ok(master) = self.master.await else {
            return;
        };
        let ends = split(&master);
        let (from, to) = match ends {
            Ok(ends) => ends,
            Err(err) => {
                tracing::warn!(error = %err, "terminal of a process lost");
                return;
            }
        };
        tokio::select! {
            () = output(from, self.stdout, over) => {}
            () = input(to, self.stdin) => {}
            () = resize(&master, sizes) => {}
        }
    }
}

/// A terminal is read and written like a pipe.
fn split(master: &OwnedFd) -> io::Result<(Receiver, Sender)> {
    rustix::io::ioctl_fionbio(master, true)?;
    let from = Receiver::from_owned_fd_unchecked(master.try_clone()?)?;
    let to = Sender::from_owned_fd_unchecked(master.try_clone()?)?;
    Ok((from, to))
}

async fn resize(master: &OwnedFd, mut sizes: watch::Receiver<Option<WinSize>>) {
    loop {
        let size = *sizes.borrow_and_update();
        if let Some(size) = size {
            let size = Winsize {
                ws_row: size.rows,
                ws_col: size.columns,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            if let Err(err) = tcsetwinsize(master.as_fd(), size) {
                tracing::debug!(error = %err, "terminal keeps its size");
            }
        }
        if sizes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Never ends: the end of the input is not the end of the program.
async fn input(mut to: Sender, stdin: Option<Receiver>) {
    if let Some(mut stdin) = stdin {
        let mut buffer = vec![0; PIECE];
        while let Ok(read @ 1..) = stdin.read(&mut buffer).await {
            if to.write_all(&buffer[..read]).await.is_err() {
                break;
            }
        }
    }
    std::future::pending().await
}

async fn output(mut from: Receiver, mut stdout: Option<Sender>, mut over: watch::Receiver<bool>) {
    let mut buffer = vec![0; PIECE];
    loop {
        let silence = async {
            // A closed channel means that it is over as well.
            let _ = over.wait_for(|over| *over).await;
            tokio::time::sleep(SILENCE).await;
        };
        let read = tokio::select! {
            biased;
            read = from.read(&mut buffer) => read,
            () = silence => return,
        };
        // Compat: the kernel calls it an I/O error when nobody has the other end open.
        let Ok(read @ 1..) = read else {
            return;
        };
        let gone = match &mut stdout {
            Some(stdout) => stdout.write_all(&buffer[..read]).await.is_err(),
            None => false,
        };
        if gone {
            stdout = None;
        }
    }
}
