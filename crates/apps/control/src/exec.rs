//! Processes of containers that clients drive: one stream carries many of them.
//!
//! Order of what is said about one process: that it has started, its output, how it ended, the ends of its streams, that
//! nothing more comes. A client that closes its half gives up what runs; it then hears only that nothing more comes.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use builder::Gateway;
use bytes::Bytes;
use frontend::{Container, Ended, Start, WinSize, Wires, Wish};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt as _};
use proto::gateway as wire;
use proto::gateway::exec_message::Input;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::{WithTask, signals};

/// Largest piece of output in one message.
const PIECE: usize = 32 * 1024;
/// Messages in flight.
const QUEUE: usize = 16;
/// Exit code where there is none.
const NO_CODE: u32 = 255;

type Messages = mpsc::Sender<Result<wire::ExecMessage, Status>>;

/// Serves one stream.
pub(crate) fn serve(
    gateway: Arc<Gateway>,
    incoming: Streaming<wire::ExecMessage>,
) -> impl Stream<Item = Result<wire::ExecMessage, Status>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let task = tasks::spawn("processes of a client", async move {
        let mut serving = Serving {
            gateway,
            sender: sender.clone(),
            processes: HashMap::new(),
            running: FuturesUnordered::new(),
        };
        if let Err(status) = serving.serve(incoming).await {
            // The client may be gone.
            let _ = sender.send(Err(status)).await;
        }
    });
    WithTask::new(ReceiverStream::new(receiver), task)
}

struct Serving {
    gateway: Arc<Gateway>,
    sender: Messages,
    processes: HashMap<String, Process>,
    running: FuturesUnordered<BoxFuture<'static, ()>>,
}

/// The ways to a process.
struct Process {
    stdin: Option<mpsc::Sender<Bytes>>,
    writable: bool,
    wishes: mpsc::UnboundedSender<Wish>,
}

impl Serving {
    async fn serve(&mut self, mut incoming: Streaming<wire::ExecMessage>) -> Result<(), Status> {
        loop {
            tokio::select! {
                message = incoming.message() => match message {
                    Ok(Some(message)) => self.take(message).await?,
                    Ok(None) => break,
                    Err(status) => return Err(status),
                },
                Some(()) = self.running.next() => {}
                _ = self.gateway.cx.cancelled() => break,
                () = self.sender.closed() => return Ok(()),
            }
        }
        // Dropped, they are killed.
        self.running.clear();
        for id in self.processes.keys() {
            send(&self.sender, id, Input::Done(wire::DoneMessage {})).await;
        }
        Ok(())
    }

    async fn take(&mut self, message: wire::ExecMessage) -> Result<(), Status> {
        let id = message.process_id;
        if id.is_empty() {
            return Err(Status::invalid_argument("ProcessID required"));
        }
        let Some(input) = message.input else {
            return Ok(());
        };
        if let Input::Init(init) = input {
            if self.processes.contains_key(&id) {
                return Err(Status::already_exists(format!(
                    "Process {id} already exists"
                )));
            }
            return self.start(id, init).await;
        }
        let Some(process) = self.processes.get_mut(&id) else {
            return match input {
                Input::File(_) | Input::Resize(_) | Input::Signal(_) => Err(Status::not_found(
                    format!("IO for process {id:?} not found"),
                )),
                _ => Ok(()),
            };
        };
        match input {
            Input::File(file) => process.write(file).await?,
            Input::Resize(size) => {
                let side = |size: u32| u16::try_from(size).unwrap_or(u16::MAX);
                process.wish(Wish::Resize(WinSize {
                    rows: side(size.rows),
                    columns: side(size.cols),
                }));
            }
            Input::Signal(signal) => {
                let Some(number) = signals::number(&signal.name) else {
                    let text = format!("Unknown signal {}", signal.name);
                    return Err(Status::invalid_argument(text));
                };
                process.wish(Wish::Signal(number));
            }
            _ => {}
        }
        Ok(())
    }

    async fn start(&mut self, id: String, init: wire::InitMessage) -> Result<(), Status> {
        let Some(container) = self.gateway.container(&init.container_id) else {
            return Err(Status::not_found(format!(
                "container {:?} previously released or not created",
                init.container_id
            )));
        };
        let failed = |err: io::Error| Status::internal(format!("failed to make a pipe: {err}"));
        let (process, started, running) =
            start(&container, id.clone(), init, self.sender.clone()).map_err(failed)?;
        // What comes next may be for this process, or for another in its container.
        let _ = started.await;
        self.processes.insert(id.clone(), process);
        send(&self.sender, &id, Input::Started(wire::StartedMessage {})).await;
        self.running.push(running);
        Ok(())
    }
}

impl Process {
    fn wish(&self, wish: Wish) {
        // It may have ended.
        let _ = self.wishes.send(wish);
    }

    async fn write(&mut self, file: wire::FdMessage) -> Result<(), Status> {
        if file.fd != 0 || !self.writable {
            let text = format!("fd {} unavailable to write", file.fd);
            return Err(Status::out_of_range(text));
        }
        if let Some(stdin) = &self.stdin
            && !file.data.is_empty()
        {
            // It may have ended.
            let _ = stdin.send(file.data).await;
        }
        if file.eof {
            self.stdin = None;
            self.writable = false;
        }
        Ok(())
    }
}

async fn send(sender: &Messages, id: &str, input: Input) {
    let message = wire::ExecMessage {
        process_id: id.to_owned(),
        input: Some(input),
    };
    // The client may be gone; then everything ends soon.
    let _ = sender.send(Ok(message)).await;
}

/// Starts a process. The second part comes when it runs or never will; the third carries its output until the end.
fn start(
    container: &Arc<dyn Container>,
    id: String,
    init: wire::InitMessage,
    sender: Messages,
) -> io::Result<(Process, oneshot::Receiver<()>, BoxFuture<'static, ()>)> {
    let connected = |fd: u32| init.fds.contains(&fd);
    let mut wires = Wires::default();
    let (wishes, receiver) = mpsc::unbounded_channel();
    wires.requests = Some(receiver);
    let (running, started) = oneshot::channel();
    wires.started = Some(running);
    let mut stdin = None;
    let mut input = None;
    if connected(0) {
        let (read, write) = io::pipe()?;
        wires.stdin = Some(read.into());
        let (queue, pieces) = mpsc::channel(QUEUE);
        stdin = Some(queue);
        input = Some((to_pipe(write.into())?, pieces));
    }
    let mut outputs = Vec::new();
    for (fd, end) in [(1, &mut wires.stdout), (2, &mut wires.stderr)] {
        if connected(fd) {
            let (read, write) = io::pipe()?;
            *end = Some(write.into());
            outputs.push((fd, from_pipe(read.into())?));
        }
    }
    let process = Process {
        writable: stdin.is_some(),
        stdin,
        wishes,
    };
    let start = Start {
        meta: init.meta.unwrap_or_default(),
        secret_env: init.secretenv,
        tty: init.tty,
        security: init.security,
    };
    let ended = container.start(start, wires);
    let running = attend(id, ended, input, outputs, init.fds, sender);
    Ok((process, started, Box::pin(running)))
}

fn to_pipe(fd: OwnedFd) -> io::Result<pipe::Sender> {
    pipe::Sender::from_owned_fd(fd)
}

fn from_pipe(fd: OwnedFd) -> io::Result<pipe::Receiver> {
    pipe::Receiver::from_owned_fd(fd)
}

/// Carries input and output of a process, then tells how it ended.
async fn attend(
    id: String,
    ended: BoxFuture<'static, Ended>,
    input: Option<(pipe::Sender, mpsc::Receiver<Bytes>)>,
    outputs: Vec<(u32, pipe::Receiver)>,
    fds: Vec<u32>,
    sender: Messages,
) {
    let pump = outputs
        .into_iter()
        .map(|(fd, pipe)| pump(&id, fd, pipe, &sender));
    let work = async { tokio::join!(ended, futures::future::join_all(pump)).0 };
    let ended = tokio::select! {
        ended = work => ended,
        () = feed(input) => return,
    };
    let (code, error) = match ended {
        Ok(()) => (0, None),
        Err(failure) => {
            let code = failure.exit_code().unwrap_or(NO_CODE);
            (code, Some(failure.to_rpc()))
        }
    };
    send(&sender, &id, Input::Exit(wire::ExitMessage { code, error })).await;
    for fd in fds.into_iter().filter(|fd| *fd != 0) {
        let end = wire::FdMessage {
            fd,
            eof: true,
            ..wire::FdMessage::default()
        };
        send(&sender, &id, Input::File(end)).await;
    }
    send(&sender, &id, Input::Done(wire::DoneMessage {})).await;
}

/// Never ends, for the end of the input is not that of the process.
async fn feed(input: Option<(pipe::Sender, mpsc::Receiver<Bytes>)>) {
    if let Some((mut pipe, mut pieces)) = input {
        while let Some(piece) = pieces.recv().await {
            if pipe.write_all(&piece).await.is_err() {
                // Nobody reads any more; the rest is taken and dropped.
                while pieces.recv().await.is_some() {}
            }
        }
    }
    std::future::pending().await
}

async fn pump(id: &str, fd: u32, mut pipe: pipe::Receiver, sender: &Messages) {
    let mut buffer = bytes::BytesMut::new();
    loop {
        buffer.reserve(PIECE);
        match pipe.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let data = wire::FdMessage {
                    fd,
                    eof: false,
                    data: buffer.split().freeze(),
                };
                send(sender, id, Input::File(data)).await;
            }
        }
    }
}
