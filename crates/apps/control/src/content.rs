//! `containerd.services.content.v1.Content`: the blobs of the daemon, to look at but not to change.

use std::io::{self, Read, Seek as _, SeekFrom};
use std::pin::Pin;

use diagnostics::Failure;
use futures::Stream;
use oci::Digest;
use prost_types::Timestamp;
use proto::content as wire;
use proto::content::content_server::Content;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{Services, WithTask};

/// What a message carries of a blob.
const CHUNK: usize = 1 << 20;

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn read_only<T>() -> Result<T, Status> {
    Err(Status::unknown("read-only content store"))
}

fn digest(text: &str) -> Result<Digest, Status> {
    text.parse()
        .map_err(|_| Status::invalid_argument(format!("{text:?} failed validation")))
}

fn missing(digest: &Digest) -> Status {
    Status::not_found(format!("content digest {digest}: not found"))
}

fn failed(digest: &Digest, err: &content::Error) -> Status {
    match err {
        content::Error::NotFound { .. } => missing(digest),
        other => Failure::from_error(other).to_status(),
    }
}

fn message(info: &content::Info) -> wire::Info {
    let created = Timestamp::from(info.created);
    wire::Info {
        digest: info.digest.to_string(),
        size: i64::try_from(info.size).unwrap_or(i64::MAX),
        created_at: Some(created),
        updated_at: Some(created),
        ..wire::Info::default()
    }
}

/// A blob of a build on record.
fn on_record(info: history::BlobInfo) -> content::Info {
    content::Info {
        digest: info.digest,
        size: info.size,
        disk: info.size,
        used: info.created,
        created: info.created,
    }
}

/// Opens a blob at an offset.
fn open(
    store: &content::Store,
    history: &history::History,
    digest: &Digest,
    offset: u64,
) -> Result<Box<dyn Read + Send>, Status> {
    let failed_io = |err: io::Error| Status::internal(err.to_string());
    match store.open_blob(digest) {
        Ok(mut file) => {
            file.seek(SeekFrom::Start(offset)).map_err(failed_io)?;
            Ok(Box::new(file))
        }
        Err(content::Error::NotFound { .. }) => {
            let mut blob = history
                .open_blob(digest)
                .map_err(|err| Failure::from_error(&err).to_status())?;
            // It is compressed: what is skipped must be read.
            io::copy(&mut blob.by_ref().take(offset), &mut io::sink()).map_err(failed_io)?;
            Ok(Box::new(blob))
        }
        Err(err) => Err(failed(digest, &err)),
    }
}

impl Services {
    /// Where blobs are looked for, in this order.
    fn stores(&self) -> (content::Store, history::History) {
        let store = self.cache.content().clone();
        (store, self.builder.machinery().history.clone())
    }
}

#[async_trait::async_trait]
impl Content for Services {
    type ListStream = Replies<wire::ListContentResponse>;
    type ReadStream = Replies<wire::ReadContentResponse>;
    type WriteStream = Replies<wire::WriteContentResponse>;

    async fn info(
        &self,
        request: Request<wire::InfoRequest>,
    ) -> Result<Response<wire::InfoResponse>, Status> {
        let digest = digest(&request.into_inner().digest)?;
        let (store, history) = self.stores();
        let info = tasks::blocking(move || match store.info(&digest) {
            Err(content::Error::NotFound { .. }) => history
                .blob(&digest)
                .map(on_record)
                .map_err(|err| Failure::from_error(&err).to_status()),
            other => other.map_err(|err| failed(&digest, &err)),
        })
        .await?;
        Ok(Response::new(wire::InfoResponse {
            info: Some(message(&info)),
        }))
    }

    async fn list(
        &self,
        request: Request<wire::ListContentRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let filters = request.into_inner().filters;
        if filters.iter().any(|filter| !filter.is_empty()) {
            let text = "unimplemented: filters of content lists";
            return Err(Status::unimplemented(text));
        }
        let (store, history) = self.stores();
        let all = tasks::blocking(move || {
            let mut all = store
                .list()
                .map_err(|err| Failure::from_error(&err).to_status())?;
            let kept = history
                .blobs()
                .map_err(|err| Failure::from_error(&err).to_status())?;
            all.extend(kept.into_iter().map(on_record));
            all.sort_by(|a, b| a.digest.cmp(&b.digest));
            all.dedup_by(|a, b| a.digest == b.digest);
            Ok::<_, Status>(all)
        })
        .await?;
        let batches: Vec<_> = all
            .chunks(100)
            .map(|batch| {
                Ok(wire::ListContentResponse {
                    info: batch.iter().map(message).collect(),
                })
            })
            .collect();
        Ok(Response::new(Box::pin(futures::stream::iter(batches))))
    }

    async fn read(
        &self,
        request: Request<wire::ReadContentRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let digest = digest(&request.digest)?;
        let (Ok(offset), Ok(size)) = (u64::try_from(request.offset), u64::try_from(request.size))
        else {
            return Err(Status::invalid_argument("negative offset or size"));
        };
        let (store, history) = self.stores();
        let mut file = tasks::blocking(move || {
            let size = if size == 0 { u64::MAX } else { size };
            Ok::<_, Status>(open(&store, &history, &digest, offset)?.take(size))
        })
        .await?;
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        let task = tasks::spawn("content-read", async move {
            let mut offset = request.offset;
            loop {
                let (back, chunk) = tasks::blocking(move || {
                    let mut data = Vec::with_capacity(CHUNK);
                    let limit = u64::try_from(CHUNK).unwrap_or(u64::MAX);
                    let read = file.by_ref().take(limit).read_to_end(&mut data);
                    (file, read.map(|_| data))
                })
                .await;
                file = back;
                let reply = match chunk {
                    Ok(data) if data.is_empty() => return,
                    Ok(data) => {
                        let at = offset;
                        offset += i64::try_from(data.len()).unwrap_or(i64::MAX);
                        Ok(wire::ReadContentResponse {
                            offset: at,
                            data: data.into(),
                        })
                    }
                    Err(err) => Err(Status::internal(err.to_string())),
                };
                let ends = reply.is_err();
                if sender.send(reply).await.is_err() || ends {
                    return;
                }
            }
        });
        let stream = WithTask::new(ReceiverStream::new(receiver), task);
        Ok(Response::new(Box::pin(stream)))
    }

    async fn status(
        &self,
        request: Request<wire::StatusRequest>,
    ) -> Result<Response<wire::StatusResponse>, Status> {
        let name = request.into_inner().r#ref;
        let text = format!("could not get status for ref {name:?}: reference {name}: not found");
        Err(Status::not_found(text))
    }

    async fn list_statuses(
        &self,
        _: Request<wire::ListStatusesRequest>,
    ) -> Result<Response<wire::ListStatusesResponse>, Status> {
        Ok(Response::new(wire::ListStatusesResponse::default()))
    }

    async fn update(
        &self,
        _: Request<wire::UpdateRequest>,
    ) -> Result<Response<wire::UpdateResponse>, Status> {
        read_only()
    }

    async fn delete(&self, _: Request<wire::DeleteContentRequest>) -> Result<Response<()>, Status> {
        read_only()
    }

    async fn write(
        &self,
        _: Request<Streaming<wire::WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        read_only()
    }

    async fn abort(&self, _: Request<wire::AbortRequest>) -> Result<Response<()>, Status> {
        read_only()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_that_is_none_is_a_wrong_argument() {
        let status = digest("garbage").unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert_eq!(status.message(), "\"garbage\" failed validation");
    }

    #[test]
    fn a_blob_that_is_not_there_is_named() {
        let wanted = Digest::of("x");
        let status = missing(&wanted);
        assert_eq!(status.code(), tonic::Code::NotFound);
        let text = format!("content digest {wanted}: not found");
        assert_eq!(status.message(), text);
    }
}
