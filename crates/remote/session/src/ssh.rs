//! Agents of the client, as sockets that a step can use.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use proto::sshforward::ssh_client::SshClient;
use proto::sshforward::{BytesMessage, CheckAgentRequest};
use tasks::{Cx, Task};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request};

use crate::{Error, Group, Session, metadata};

const CHUNK: usize = 32 << 10;

/// Owner and mode of the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketOptions {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

/// A socket behind which an agent of the client answers, until this is dropped.
#[derive(Debug)]
pub struct Forward {
    path: PathBuf,
    _task: Task<()>,
}

impl Forward {
    /// Where the socket is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        // The folder it is in goes away with its owner anyway.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The first session that has the agent `id`.
pub async fn check(cx: &Cx, group: &Group, id: &str) -> Result<Session, Error> {
    let answer = group
        .any(cx, async |session| {
            let request = CheckAgentRequest { id: id.to_owned() };
            let mut client = SshClient::new(session.channel());
            session.call(cx, client.check_agent(request)).await?;
            Ok(session)
        })
        .await;
    answer.map_err(|err| {
        if err.code() == Some(Code::Unimplemented) {
            Error::NoAgent { id: id.to_owned() }
        } else {
            err
        }
    })
}

/// Listens at `path` and connects everybody who comes to the agent `id` of `session`.
pub fn forward(
    cx: &Cx,
    session: Session,
    id: &str,
    path: &Path,
    options: SocketOptions,
) -> Result<Forward, Error> {
    let listen = || -> io::Result<UnixListener> {
        let listener = UnixListener::bind(path)?;
        chown(path, Some(options.uid), Some(options.gid))?;
        std::fs::set_permissions(path, Permissions::from_mode(options.mode & 0o7777))?;
        Ok(listener)
    };
    let listener = listen().map_err(|err| Error::Socket {
        reason: err.to_string(),
    })?;
    let id = if id.is_empty() { "default" } else { id }.to_owned();
    let serve = accept(cx.clone(), listener, session, id);
    Ok(Forward {
        path: path.to_owned(),
        _task: tasks::spawn("ssh agent socket", serve),
    })
}

async fn accept(cx: Cx, listener: UnixListener, session: Session, id: String) {
    let mut open = FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => open.push(relay(&cx, &session, &id, stream)),
                Err(err) => {
                    tracing::debug!(error = %err, "agent socket failed");
                    return;
                }
            },
            Some(ended) = open.next(), if !open.is_empty() => {
                if let Err(err) = ended {
                    tracing::debug!(error = %fault::chain(&err), "agent connection failed");
                }
            }
            _ = cx.cancelled() => return,
        }
    }
}

/// Copies between a socket and one stream of the agent. Half-closes pass through, both ways.
async fn relay(cx: &Cx, session: &Session, id: &str, stream: UnixStream) -> Result<(), Error> {
    let (mut from_socket, mut to_socket) = stream.into_split();
    let (sender, receiver) = mpsc::channel::<BytesMessage>(4);
    let mut request = Request::new(ReceiverStream::new(receiver));
    metadata::append_name(request.metadata_mut(), metadata::SSH_ID, id)?;
    let mut client = SshClient::new(session.channel());

    let upward = async {
        let mut buffer = BytesMut::with_capacity(CHUNK);
        // An error of the socket is its end.
        while from_socket
            .read_buf(&mut buffer)
            .await
            .is_ok_and(|len| len > 0)
        {
            let data = buffer.split().freeze();
            if sender.send(BytesMessage { data }).await.is_err() {
                break;
            }
            buffer.reserve(CHUNK);
        }
        drop(sender);
    };
    let downward = async {
        let copied = async {
            // A stock client answers the call when its agent has said something, which it does when it was asked.
            let response = session.call(cx, client.forward_agent(request)).await?;
            let mut incoming = response.into_inner();
            while let Some(message) = session.call(cx, incoming.message()).await? {
                if to_socket.write_all(&message.data).await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        let copied = copied.await;
        // The peer may be gone already.
        let _ = to_socket.shutdown().await;
        copied
    };
    // When the agent has ended there is nobody left to send to.
    tokio::pin!(upward, downward);
    tokio::select! {
        ended = &mut downward => ended,
        () = &mut upward => downward.await,
    }
}
