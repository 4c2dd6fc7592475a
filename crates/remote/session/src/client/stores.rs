//! Lets the daemon read and write blobs in folders of the user that are laid out as OCI says.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures::Stream;
use oci::{Digest, Hasher};
use prost_types::Timestamp;
use proto::content::content_server::{Content, ContentServer};
use proto::content::{
    AbortRequest, DeleteContentRequest, Info, InfoRequest, InfoResponse, ListContentRequest,
    ListContentResponse, ListStatusesRequest, ListStatusesResponse, ReadContentRequest,
    ReadContentResponse, StatusRequest, StatusResponse, UpdateRequest, UpdateResponse, WriteAction,
    WriteContentRequest, WriteContentResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{MAX_MESSAGE, PART, metadata};

/// The methods of the service.
pub const METHODS: &[&str] = &[
    "Info",
    "Update",
    "List",
    "Delete",
    "Read",
    "Status",
    "ListStatuses",
    "Write",
    "Abort",
];

const QUEUE: usize = 4;

/// Folders by the names the daemon asks for: `oci:NAME`, `local:DIR`, `export`.
#[derive(Debug, Clone, Default)]
pub struct Stores(Arc<BTreeMap<String, PathBuf>>);

type Reply<T> = Result<Response<T>, Status>;
type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Stores {
    /// Offers these.
    pub fn new(folders: BTreeMap<String, PathBuf>) -> Self {
        Self(Arc::new(folders))
    }

    /// The service over them.
    pub fn service(&self) -> ContentServer<impl Content + use<>> {
        ContentServer::new(self.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    fn folder<T>(&self, request: &Request<T>) -> Result<PathBuf, Status> {
        let key = metadata::STORE_ID;
        let id = metadata::text(request.metadata(), key)
            .ok_or_else(|| Status::invalid_argument(format!("request lacks metadata {key:?}")))?;
        let folder = self.0.get(id).cloned();
        folder.ok_or_else(|| Status::not_found(format!("unknown store {id}")))
    }
}

fn parse(digest: &str) -> Result<Digest, Status> {
    let parsed = digest.parse();
    parsed.map_err(|_| Status::invalid_argument(format!("{digest:?} failed validation")))
}

fn blob(folder: &Path, digest: &Digest) -> PathBuf {
    folder
        .join("blobs")
        .join(digest.algorithm())
        .join(digest.hex())
}

fn missing(digest: &Digest) -> Status {
    Status::not_found(format!("content {digest}: not found"))
}

fn failed(err: io::Error) -> Status {
    Status::unknown(err.to_string())
}

fn info(folder: &Path, digest: &Digest) -> Result<Info, Status> {
    let meta = match std::fs::metadata(blob(folder, digest)) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Err(missing(digest)),
        meta => meta.map_err(failed)?,
    };
    let time = meta.modified().ok().map(Timestamp::from);
    Ok(Info {
        digest: digest.to_string(),
        size: i64::try_from(meta.len()).unwrap_or(i64::MAX),
        created_at: time,
        updated_at: time,
        labels: BTreeMap::new(),
    })
}

fn list(folder: &Path) -> Result<Vec<Info>, Status> {
    let mut all = Vec::new();
    let algorithms = match std::fs::read_dir(folder.join("blobs")) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(all),
        algorithms => algorithms.map_err(failed)?,
    };
    for algorithm in algorithms {
        let algorithm = algorithm.map_err(failed)?;
        for entry in std::fs::read_dir(algorithm.path()).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let text = format!(
                "{}:{}",
                algorithm.file_name().to_string_lossy(),
                name.to_string_lossy()
            );
            // Files with other names are not ours.
            if let Ok(digest) = parse(&text) {
                all.push(info(folder, &digest)?);
            }
        }
    }
    all.sort_by(|a, b| a.digest.cmp(&b.digest));
    Ok(all)
}

/// Sends what a blocking reader gives.
fn stream<T: Send + 'static>(
    work: impl FnOnce(&mut dyn FnMut(Result<T, Status>) -> bool) + Send + 'static,
) -> Messages<T> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let work = tasks::blocking(move || work(&mut |item| sender.blocking_send(item).is_ok()));
    let task = tasks::spawn("serve content", work);
    Box::pin(futures::StreamExt::map(
        ReceiverStream::new(receiver),
        move |item| {
            // Nobody reads for a stream that is gone.
            let _ = &task;
            item
        },
    ))
}

fn read_parts(
    mut file: File,
    request: &ReadContentRequest,
    send: &mut dyn FnMut(Result<ReadContentResponse, Status>) -> bool,
) -> io::Result<()> {
    let mut offset = request.offset;
    file.seek(SeekFrom::Start(u64::try_from(offset).unwrap_or(0)))?;
    let mut left = match u64::try_from(request.size) {
        Ok(size) if size > 0 => size,
        _ => u64::MAX,
    };
    loop {
        let mut part = Vec::with_capacity(PART);
        let room = left.min(PART as u64);
        (&file).take(room).read_to_end(&mut part)?;
        let len = part.len();
        if len == 0 {
            return Ok(());
        }
        left -= len as u64;
        let data = Bytes::from(part);
        if !send(Ok(ReadContentResponse { offset, data })) {
            return Ok(());
        }
        offset += len as i64;
    }
}

/// A blob that is being written, under its own name in the folder for such.
struct Ingest {
    file: File,
    path: PathBuf,
    folder: PathBuf,
    hash: Hasher,
    size: u64,
    begun: SystemTime,
}

impl Ingest {
    fn new(folder: &Path, name: &str) -> io::Result<Self> {
        let ingest = folder.join("ingest");
        std::fs::create_dir_all(&ingest)?;
        let path = ingest.join(format!(
            "{}-{}",
            Digest::of(name.as_bytes()).hex(),
            identity::new_id()
        ));
        Ok(Self {
            file: OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(&path)?,
            path,
            folder: folder.to_owned(),
            hash: Hasher::new(),
            size: 0,
            begun: SystemTime::now(),
        })
    }

    fn write(&mut self, request: &WriteContentRequest) -> Result<(), Status> {
        if request.data.is_empty() {
            return Ok(());
        }
        let expected = i64::try_from(self.size).unwrap_or(i64::MAX);
        // Stock leaves the offset out where it is what it must be anyway.
        if request.offset != 0 && request.offset != expected {
            let text = format!(
                "write @{} must occur at current offset {expected}",
                request.offset
            );
            return Err(Status::out_of_range(text));
        }
        self.file.write_all(&request.data).map_err(failed)?;
        self.hash.update(&request.data);
        self.size += request.data.len() as u64;
        Ok(())
    }

    fn commit(&self, request: &WriteContentRequest) -> Result<(), Status> {
        let actual = self.hash.clone().finish();
        let size = i64::try_from(self.size).unwrap_or(i64::MAX);
        if request.total > 0 && request.total != size {
            let text = format!("unexpected commit size {size}, expected {}", request.total);
            return Err(Status::failed_precondition(text));
        }
        if !request.expected.is_empty() && request.expected != actual.as_str() {
            let text = format!(
                "unexpected commit digest {actual}, expected {}",
                request.expected
            );
            return Err(Status::failed_precondition(text));
        }
        // Compat: blobs never change, and their files say so.
        let mut access = self.file.metadata().map_err(failed)?.permissions();
        access.set_mode(access.mode() & 0o444);
        self.file.set_permissions(access).map_err(failed)?;
        let target = blob(&self.folder, &actual);
        let dir = target.parent().unwrap_or(&self.folder);
        std::fs::create_dir_all(dir).map_err(failed)?;
        std::fs::rename(&self.path, &target).map_err(failed)
    }

    fn answer(&self, request: &WriteContentRequest) -> WriteContentResponse {
        WriteContentResponse {
            action: request.action,
            started_at: Some(Timestamp::from(self.begun)),
            updated_at: Some(Timestamp::from(SystemTime::now())),
            offset: i64::try_from(self.size).unwrap_or(i64::MAX),
            total: request.total,
            digest: self.hash.clone().finish().to_string(),
        }
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        // It has another name when it is complete.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Does what the messages of one write say.
fn write(
    folder: &Path,
    mut queue: mpsc::Receiver<WriteContentRequest>,
    send: &mut dyn FnMut(Result<WriteContentResponse, Status>) -> bool,
) -> Result<(), Status> {
    let mut ingest: Option<Ingest> = None;
    let mut total = 0;
    while let Some(mut request) = queue.blocking_recv() {
        let current = match &mut ingest {
            Some(current) => current,
            None => {
                let there =
                    parse(&request.expected).is_ok_and(|digest| blob(folder, &digest).exists());
                if there {
                    let text = format!("content {}: already exists", request.expected);
                    return Err(Status::already_exists(text));
                }
                ingest.insert(Ingest::new(folder, &request.r#ref).map_err(failed)?)
            }
        };
        if request.total == 0 {
            request.total = total;
        }
        total = request.total;
        current.write(&request)?;
        if request.action() == WriteAction::Commit {
            current.commit(&request)?;
        }
        if !send(Ok(current.answer(&request))) || request.action() == WriteAction::Commit {
            return Ok(());
        }
    }
    Ok(())
}

#[tonic::async_trait]
impl Content for Stores {
    type ListStream = Messages<ListContentResponse>;
    type ReadStream = Messages<ReadContentResponse>;
    type WriteStream = Messages<WriteContentResponse>;

    async fn info(&self, request: Request<InfoRequest>) -> Reply<InfoResponse> {
        let folder = self.folder(&request)?;
        let digest = parse(&request.get_ref().digest)?;
        let info = tasks::blocking(move || info(&folder, &digest)).await?;
        Ok(Response::new(InfoResponse { info: Some(info) }))
    }

    async fn update(&self, request: Request<UpdateRequest>) -> Reply<UpdateResponse> {
        let folder = self.folder(&request)?;
        let wanted = request.into_inner().info.unwrap_or_default();
        let digest = parse(&wanted.digest)?;
        // A plain folder has no room for labels.
        let info = tasks::blocking(move || info(&folder, &digest)).await?;
        Ok(Response::new(UpdateResponse { info: Some(info) }))
    }

    async fn list(&self, request: Request<ListContentRequest>) -> Reply<Self::ListStream> {
        let folder = self.folder(&request)?;
        let info = tasks::blocking(move || list(&folder)).await?;
        let message = ListContentResponse { info };
        Ok(Response::new(Box::pin(futures::stream::iter([Ok(
            message,
        )]))))
    }

    async fn delete(&self, request: Request<DeleteContentRequest>) -> Reply<()> {
        self.folder(&request)?;
        Err(Status::unimplemented("blobs of the user are not deleted"))
    }

    async fn read(&self, request: Request<ReadContentRequest>) -> Reply<Self::ReadStream> {
        let folder = self.folder(&request)?;
        let request = request.into_inner();
        let digest = parse(&request.digest)?;
        let file = match File::open(blob(&folder, &digest)) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Err(missing(&digest)),
            file => file.map_err(failed)?,
        };
        Ok(Response::new(stream(move |send| {
            if let Err(err) = read_parts(file, &request, send) {
                send(Err(failed(err)));
            }
        })))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Reply<StatusResponse> {
        self.folder(&request)?;
        let name = &request.get_ref().r#ref;
        Err(Status::not_found(format!(
            "no status for ref {name:?}: not found"
        )))
    }

    async fn list_statuses(
        &self,
        request: Request<ListStatusesRequest>,
    ) -> Reply<ListStatusesResponse> {
        self.folder(&request)?;
        Ok(Response::new(ListStatusesResponse::default()))
    }

    async fn write(
        &self,
        request: Request<Streaming<WriteContentRequest>>,
    ) -> Reply<Self::WriteStream> {
        let folder = self.folder(&request)?;
        let mut incoming = request.into_inner();
        let (sender, queue) = mpsc::channel(QUEUE);
        let read = tasks::spawn("read content", async move {
            // A broken stream ends the write, and what is not committed is forgotten.
            while let Ok(Some(message)) = incoming.message().await {
                if sender.send(message).await.is_err() {
                    break;
                }
            }
        });
        Ok(Response::new(stream(move |send| {
            let _read = read;
            if let Err(status) = write(&folder, queue, send) {
                send(Err(status));
            }
        })))
    }

    async fn abort(&self, request: Request<AbortRequest>) -> Reply<()> {
        // Every write has a file of its own, which goes away with it.
        self.folder(&request)?;
        Ok(Response::new(()))
    }
}
