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
/// How long whoever watches a program that was killed may take to read the rest.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Largest piece carried at once.
const PIECE: usize = 32 * 1024;

/// What became of the program of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// It runs, or will.
    Running,
    /// It has ended; whoever watches gets the rest of its output.
    Over,
    /// It was killed; nothing waits for those who watch.
    Killed,
}

impl Program {
    /// A program that is over.
    pub fn over(killed: bool) -> Self {
        if killed { Self::Killed } else { Self::Over }
    }
}

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

    /// Carries everything both ways until nobody has the other end open any more, or the program is over and silent.
    /// A reader may take its time, unless the program was killed.
    pub async fn serve(
        self,
        sizes: watch::Receiver<Option<WinSize>>,
        program: watch::Receiver<Program>,
    ) {
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
            () = output(from, self.stdout, program.clone()) => {}
            () = killed(program) => {}
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

/// Ends a while after the program was killed, so that what it wrote last can still be carried to whoever reads.
async fn killed(mut program: watch::Receiver<Program>) {
    let killed = program.wait_for(|program| *program == Program::Killed);
    if killed.await.is_err() {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(LAST_WORDS).await;
}

async fn output(
    mut from: Receiver,
    mut stdout: Option<Sender>,
    mut program: watch::Receiver<Program>,
) {
    let mut buffer = vec![0; PIECE];
    loop {
        let silence = async {
            // A closed channel means that it is over as well.
            let _ = program
                .wait_for(|program| *program != Program::Running)
                .await;
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

#[cfg(test)]
mod tests {
    use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};

    use super::*;

    /// A terminal nobody reads the output of, with more written to it than fits into a pipe: the other end, the
    /// reading end of the pipe, and how it goes on.
    async fn clogged(last: Program) -> bool {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).expect("a terminal");
        unlockpt(&master).expect("unlocked");
        let slave = ioctl_tiocgptpeer(&master, flags).expect("its other end");
        let (_reader, writer) = crate::attach::pipe().expect("a pipe");
        rustix::pipe::fcntl_setpipe_size(&writer, 4096).expect("a small pipe");
        let (sender, receiver) = oneshot::channel();
        sender.send(master).expect("it is waited for");
        let terminal = Terminal::new(receiver, None, Some(writer)).expect("a terminal");
        let (_sizes, new_sizes) = watch::channel(None);
        let (program, state) = watch::channel(Program::Running);
        let serving = terminal.serve(new_sizes, state);
        let writing = tasks::blocking(move || {
            // Others keep a terminal open that the program has left.
            for _ in 0..4 {
                rustix::io::write(&slave, &[b'x'; 2000]).expect("written");
            }
            slave
        });
        let over = async {
            let slave = writing.await;
            program.send_replace(last);
            std::future::pending::<()>().await;
            drop(slave);
        };
        tokio::select! {
            () = serving => true,
            () = over => false,
            () = tokio::time::sleep(Duration::from_secs(20)) => false,
        }
    }

    #[tokio::test]
    async fn nothing_waits_for_the_reader_of_a_program_that_was_killed() {
        assert!(clogged(Program::Killed).await);
    }

    #[tokio::test]
    async fn a_reader_may_take_its_time_when_a_program_ends_by_itself() {
        let ended = tokio::time::timeout(Duration::from_millis(500), clogged(Program::Over)).await;
        assert!(ended.is_err(), "it still waits");
    }
}
