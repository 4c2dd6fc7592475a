//! Content stores of the client: OCI layouts to build from, folders for caches, targets of exports.

use std::io::{Read, Seek, SeekFrom, Write};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use oci::{Descriptor, Digest};
use progress::Progress;
use proto::content::content_client::ContentClient;
use proto::content::{
    InfoRequest, ReadContentRequest, WriteAction, WriteContentRequest, WriteContentResponse,
};
use tasks::Cx;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

use crate::{Error, Group, MAX_MESSAGE, PART, Session, metadata};

/// Parts that may wait for the connection.
const QUEUE: usize = 4;

/// The first wait for somebody else's write, at most; each further one may be twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(16);
/// No wait is longer.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// A store that sessions of a build offer under a name: `oci:NAME`, `local:DIR` or `export`. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    group: Group,
    id: String,
}

impl Store {
    /// The store of this name, in whichever session has it.
    pub fn new(group: &Group, id: impl Into<String>) -> Self {
        Self {
            group: group.clone(),
            id: id.into(),
        }
    }

    fn request<T>(&self, message: T) -> Result<Request<T>, Error> {
        let mut request = Request::new(message);
        metadata::append_name(request.metadata_mut(), metadata::STORE_ID, &self.id)?;
        Ok(request)
    }

    /// Size of a blob, if it is there.
    pub async fn size(&self, cx: &Cx, digest: &Digest) -> Result<Option<u64>, Error> {
        match self.info(cx, digest).await {
            Ok(size) => Ok(Some(size)),
            Err(err) if err.code() == Some(Code::NotFound) => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// Size of a blob that must be there; else the client's own words for that.
    pub async fn info(&self, cx: &Cx, digest: &Digest) -> Result<u64, Error> {
        let answer = self
            .group
            .any(cx, async |session| {
                let request = self.request(InfoRequest {
                    digest: digest.to_string(),
                })?;
                session.call(cx, client(&session).info(request)).await
            })
            .await?;
        let info = answer.into_inner().info.unwrap_or_default();
        Ok(u64::try_from(info.size).unwrap_or(0))
    }

    /// The whole of a small blob: an index, a manifest, a config. It is verified.
    pub async fn read(&self, cx: &Cx, digest: &Digest) -> Result<Bytes, Error> {
        self.group
            .any(cx, async |session| {
                let mut whole = Vec::new();
                let mut parts = self.open(cx, &session, digest).await?;
                while let Some(part) = session.call(cx, parts.message()).await? {
                    whole.extend_from_slice(&part.data);
                }
                let actual = Digest::of(&whole);
                if actual != *digest {
                    return Err(Error::Mismatch {
                        expected: digest.clone(),
                        actual,
                    });
                }
                Ok(Bytes::from(whole))
            })
            .await
    }

    async fn open(
        &self,
        cx: &Cx,
        session: &Session,
        digest: &Digest,
    ) -> Result<Streaming<proto::content::ReadContentResponse>, Error> {
        let request = self.request(ReadContentRequest {
            digest: digest.to_string(),
            offset: 0,
            size: 0,
        })?;
        let parts = session.call(cx, client(session).read(request)).await?;
        Ok(parts.into_inner())
    }

    /// Sends a blob, if the client does not have it.
    pub async fn push(
        &self,
        cx: &Cx,
        blob: &Descriptor,
        from: &content::Store,
    ) -> Result<(), Error> {
        self.write(cx, blob, Source::Store(from.clone())).await
    }

    /// Sends a blob from memory, if the client does not have it.
    pub async fn put(&self, cx: &Cx, blob: &Descriptor, bytes: Bytes) -> Result<(), Error> {
        self.write(cx, blob, Source::Memory(bytes)).await
    }

    async fn write(&self, cx: &Cx, blob: &Descriptor, from: Source) -> Result<(), Error> {
        let mut longest = FIRST_WAIT;
        // The targets of one bake are sessions of one machine, and stores of one folder do not know of each other.
        let turns = self.group.manager().turns();
        let _turn = match self.id.starts_with("local:") {
            true => Some(turns.take(cx, &self.id, &blob.digest).await?),
            false => None,
        };
        loop {
            let answer = self
                .group
                .any(cx, async |session| {
                    self.write_into(cx, &session, blob, from.clone()).await
                })
                .await;
            match answer {
                Err(err) if err.code() == Some(Code::AlreadyExists) => return Ok(()),
                Err(err) if is_locked(&err) => {
                    tracing::debug!(digest = %blob.digest, "somebody else writes the blob, waiting");
                    let wait = rand::random_range(Duration::ZERO..longest);
                    cx.run(tokio::time::sleep(wait)).await?;
                    longest = (longest * 2).min(LONGEST_WAIT);
                }
                answer => return answer,
            }
        }
    }

    /// Runs one write: says what will come, sends it, commits. Answers are read meanwhile.
    async fn write_into(
        &self,
        cx: &Cx,
        session: &Session,
        blob: &Descriptor,
        from: Source,
    ) -> Result<(), Error> {
        let message = |action: WriteAction| WriteContentRequest {
            action: action.into(),
            r#ref: format!("{}-{}", ref_kind(&blob.media_type), blob.digest),
            total: blob.size,
            expected: blob.digest.to_string(),
            ..WriteContentRequest::default()
        };
        let (sender, receiver) = mpsc::channel(QUEUE);
        // There is room for the first one.
        let _ = sender.try_send(message(WriteAction::Stat));
        let request = self.request(ReceiverStream::new(receiver))?;
        let call = session.call(cx, async { client(session).write(request).await });
        let mut answers = call.await?.into_inner();
        let begun = session.call(cx, next(&mut answers)).await?;
        let offset = u64::try_from(begun.offset).unwrap_or(0);

        let (write, commit) = (message(WriteAction::Write), message(WriteAction::Commit));
        let digest = blob.digest.clone();
        let send = tasks::blocking(move || {
            let mut at = offset;
            from.parts(&digest, offset, &mut |data| {
                let mut part = write.clone();
                part.offset = i64::try_from(at).unwrap_or(i64::MAX);
                at += data.len() as u64;
                part.data = data;
                sender.blocking_send(part).is_ok()
            })?;
            let mut commit = commit;
            commit.offset = i64::try_from(at).unwrap_or(i64::MAX);
            // A client that hung up has said why in its answer.
            let _ = sender.blocking_send(commit);
            Ok::<_, Error>(())
        });
        let receive = session.call(cx, async {
            loop {
                let answer = next(&mut answers).await?;
                if answer.action() == WriteAction::Commit {
                    return Ok(());
                }
            }
        });
        let (sent, received) = futures::future::join(send, receive).await;
        received.and(sent)
    }
}

/// Where the bytes of a blob are.
#[derive(Clone)]
enum Source {
    Store(content::Store),
    Memory(Bytes),
}

impl Source {
    /// Gives the blob to `send` from `offset` on, until that wants no more.
    fn parts(
        self,
        digest: &Digest,
        offset: u64,
        send: &mut dyn FnMut(Bytes) -> bool,
    ) -> Result<(), Error> {
        match self {
            Self::Store(store) => {
                let mut file = store.open_blob(digest)?;
                file.seek(SeekFrom::Start(offset)).map_err(unreadable)?;
                loop {
                    let mut part = Vec::with_capacity(PART);
                    let read = (&file).take(PART as u64).read_to_end(&mut part);
                    read.map_err(unreadable)?;
                    if part.is_empty() || !send(part.into()) {
                        return Ok(());
                    }
                }
            }
            Self::Memory(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let mut rest = bytes.slice(start.min(bytes.len())..);
                while !rest.is_empty() && send(rest.split_to(rest.len().min(PART))) {}
                Ok(())
            }
        }
    }
}

/// Whether another write of the same blob goes on. When that is done the blob is there.
fn is_locked(err: &Error) -> bool {
    err.code() == Some(Code::Unavailable) && err.to_string().contains(" locked for ")
}

fn unreadable(source: std::io::Error) -> Error {
    Error::Blob {
        reason: source.to_string(),
    }
}

async fn next(
    answers: &mut Streaming<WriteContentResponse>,
) -> Result<WriteContentResponse, Status> {
    let ended = || Status::unavailable("the client ended a write before it was committed");
    answers.message().await?.ok_or_else(ended)
}

fn client(session: &Session) -> ContentClient<Channel> {
    ContentClient::new(session.channel())
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
}

/// What writes of a blob are called by.
fn ref_kind(media_type: &str) -> &'static str {
    if media_type.contains("index") || media_type.contains("manifest.list") {
        "index"
    } else if media_type.contains("manifest") {
        "manifest"
    } else if media_type.contains("config") || media_type.contains("container.image.v1+json") {
        "config"
    } else {
        "layer"
    }
}

#[async_trait]
impl content::Provider for Store {
    async fn fetch(
        &self,
        cx: &Cx,
        blob: &Descriptor,
        store: &content::Store,
        progress: &Progress,
    ) -> Result<(), content::Error> {
        if store.contains(&blob.digest) {
            return Ok(());
        }
        let fetched = self
            .group
            .any(cx, async |session| {
                let mut status = progress.status(blob.digest.as_str(), "");
                let mut parts = self.open(cx, &session, &blob.digest).await?;
                let mut writer = store.writer(Some(&blob.digest))?;
                let (sender, mut queue) = mpsc::channel::<Bytes>(QUEUE);
                let write = tasks::blocking(move || {
                    while let Some(part) = queue.blocking_recv() {
                        writer.write_all(&part).map_err(unreadable)?;
                    }
                    Ok::<_, Error>(writer)
                });
                let read = async {
                    let mut current = 0;
                    while let Some(part) = session.call(cx, parts.message()).await? {
                        current += part.data.len() as i64;
                        status.set(current, blob.size);
                        if sender.send(part.data).await.is_err() {
                            break;
                        }
                    }
                    drop(sender);
                    Ok::<_, Error>(())
                };
                let (read, written) = futures::future::join(read, write).await;
                read?;
                let writer = written?;
                tasks::blocking(move || writer.commit()).await?;
                Ok(())
            })
            .await;
        fetched.map_err(|err| content::Error::provider(&err))
    }
}
