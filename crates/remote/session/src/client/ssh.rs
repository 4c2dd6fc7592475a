//! Lets the daemon talk to agents of the user.
//!
//! Unless an agent is forwarded raw, only listing keys and signing pass; everything else is refused here, so that a
//! build step cannot change or lock the user's agent. Who has no agent can hand over files with keys: an agent in
//! memory answers for them.

mod key_file;
mod keyring;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures::Stream;
use proto::sshforward::ssh_server::{Ssh, SshServer};
use proto::sshforward::{BytesMessage, CheckAgentRequest, CheckAgentResponse};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

pub use self::key_file::KeyError;
pub use self::keyring::Keyring;
use crate::metadata;

/// The methods of the service.
pub const METHODS: &[&str] = &["CheckAgent", "ForwardAgent"];

const CHUNK: usize = 32 << 10;
const DIAL_LIMIT: Duration = Duration::from_secs(2);
/// The largest message an agent may be sent.
const MAX_FRAME: usize = 256 << 10;

const REQUEST_IDENTITIES: u8 = 11;
const SIGN_REQUEST: u8 = 13;
/// A message of one byte that says failure.
const FAILURE: &[u8] = &[0, 0, 0, 1, 5];

/// An agent to be forwarded.
#[derive(Debug, Clone)]
pub enum Agent {
    /// One that runs already.
    Socket {
        /// Where it listens.
        path: PathBuf,
        /// Pass all bytes unread.
        raw: bool,
    },
    /// Keys of files.
    Keys(Arc<Keyring>),
}

/// The service over agents by id.
pub fn service(agents: BTreeMap<String, Agent>) -> SshServer<impl Ssh> {
    SshServer::new(Provider { agents })
}

struct Provider {
    agents: BTreeMap<String, Agent>,
}

impl Provider {
    fn agent(&self, id: &str) -> Result<&Agent, Status> {
        let id = if id.is_empty() { "default" } else { id };
        let unset = || Status::unknown(format!("unset ssh forward key {id}"));
        self.agents.get(id).ok_or_else(unset)
    }
}

#[tonic::async_trait]
impl Ssh for Provider {
    type ForwardAgentStream = Pin<Box<dyn Stream<Item = Result<BytesMessage, Status>> + Send>>;

    async fn check_agent(
        &self,
        request: Request<CheckAgentRequest>,
    ) -> Result<Response<CheckAgentResponse>, Status> {
        self.agent(&request.into_inner().id)?;
        Ok(Response::new(CheckAgentResponse {}))
    }

    async fn forward_agent(
        &self,
        request: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<Self::ForwardAgentStream>, Status> {
        let id = metadata::text(request.metadata(), metadata::SSH_ID).unwrap_or_default();
        let agent = self.agent(id)?.clone();
        let backend = match agent {
            Agent::Socket { path, raw: true } => Backend::Raw(dial(&path).await?),
            Agent::Socket { path, raw: false } => Backend::Checked(dial(&path).await?),
            Agent::Keys(keys) => Backend::Keys(keys),
        };
        let (replies, receiver) = mpsc::channel(4);
        let incoming = request.into_inner();
        let work = async move {
            let ended = match backend {
                Backend::Raw(socket) => raw(incoming, socket, &replies).await,
                other => checked(incoming, other, &replies).await,
            };
            if let Err(err) = ended {
                // The daemon may have left already.
                let _ = replies.send(Err(Status::unknown(err.to_string()))).await;
            }
        };
        let task = tasks::spawn("ssh agent", work);
        let messages = futures::StreamExt::map(ReceiverStream::new(receiver), move |message| {
            // The relay ends with this stream.
            let _ = &task;
            message
        });
        Ok(Response::new(Box::pin(messages)))
    }
}

async fn dial(path: &Path) -> Result<UnixStream, Status> {
    tokio::time::timeout(DIAL_LIMIT, UnixStream::connect(path))
        .await
        .map_err(|_| Status::unknown("failed to connect to the agent: i/o timeout"))?
        .map_err(|err| Status::unknown(format!("failed to connect to the agent: {err}")))
}

/// Who answers one connection.
enum Backend {
    Raw(UnixStream),
    Checked(UnixStream),
    Keys(Arc<Keyring>),
}

impl Backend {
    async fn answer(&mut self, request: &[u8]) -> io::Result<Bytes> {
        match self {
            Self::Keys(keys) => Ok(keys.answer(request)),
            Self::Raw(socket) | Self::Checked(socket) => {
                socket.write_all(request).await?;
                read_frame(socket).await
            }
        }
    }
}

type Replies = mpsc::Sender<Result<BytesMessage, Status>>;

/// Passes bytes both ways. Half-closes pass too.
async fn raw(
    mut incoming: Streaming<BytesMessage>,
    socket: UnixStream,
    replies: &Replies,
) -> io::Result<()> {
    let (mut from_socket, mut to_socket) = socket.into_split();
    let upward = async {
        while let Some(message) = incoming.message().await.map_err(io::Error::other)? {
            to_socket.write_all(&message.data).await?;
        }
        to_socket.shutdown().await
    };
    let downward = async {
        let mut buffer = BytesMut::with_capacity(CHUNK);
        while from_socket.read_buf(&mut buffer).await? > 0 {
            let data = buffer.split().freeze();
            if replies.send(Ok(BytesMessage { data })).await.is_err() {
                break;
            }
            buffer.reserve(CHUNK);
        }
        Ok(())
    };
    tokio::pin!(upward, downward);
    tokio::select! {
        ended = &mut downward => ended,
        ended = &mut upward => {
            ended?;
            downward.await
        }
    }
}

/// Passes requests that only read, one at a time, and refuses others.
async fn checked(
    mut incoming: Streaming<BytesMessage>,
    mut backend: Backend,
    replies: &Replies,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    while let Some(message) = incoming.message().await.map_err(io::Error::other)? {
        buffer.extend_from_slice(&message.data);
        while let Some(request) = next_frame(&mut buffer)? {
            let data = match request.get(4) {
                Some(&(REQUEST_IDENTITIES | SIGN_REQUEST)) => backend.answer(&request).await?,
                _ => Bytes::from_static(FAILURE),
            };
            if replies.send(Ok(BytesMessage { data })).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn frame_length(header: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_be_bytes(header) as usize;
    if length == 0 || length > MAX_FRAME {
        return Err(io::Error::other("agent message of invalid length"));
    }
    Ok(length)
}

/// Takes a whole message, length included, from the front of what has arrived.
fn next_frame(buffer: &mut BytesMut) -> io::Result<Option<Bytes>> {
    let Some(header) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = frame_length(*header)?;
    if buffer.remaining() < 4 + length {
        return Ok(None);
    }
    Ok(Some(buffer.split_to(4 + length).freeze()))
}

async fn read_frame(socket: &mut UnixStream) -> io::Result<Bytes> {
    let mut header = [0; 4];
    socket.read_exact(&mut header).await?;
    let mut frame = vec![0; 4 + frame_length(header)?];
    frame[..4].copy_from_slice(&header);
    socket.read_exact(&mut frame[4..]).await?;
    Ok(Bytes::from(frame))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_whole() {
        let mut buffer = BytesMut::from(&[0, 0, 0, 2, 11, 7, 0, 0][..]);
        assert_eq!(
            next_frame(&mut buffer).expect("valid"),
            Some(Bytes::from_static(&[0, 0, 0, 2, 11, 7]))
        );
        assert_eq!(next_frame(&mut buffer).expect("valid"), None);
    }

    #[test]
    fn a_frame_of_unreasonable_length_is_an_error() {
        let mut buffer = BytesMut::from(&[255, 255, 255, 255][..]);
        assert!(next_frame(&mut buffer).is_err());
    }
}
