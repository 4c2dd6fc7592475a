//! Places where results go at the client.
//!
//! One method serves two kinds of results: packets for a directory, bytes for a file. The kind of exporter decides, so
//! the messages cannot be taken apart before it is known which exporter a call is for.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use diagnostics::Failure;
use fstree::{Root, errno_text};
use futures::{Stream, StreamExt, stream};
use proto::filesync::BytesMessage;
use proto::fsutil::Packet;
use session::{MAX_MESSAGE, metadata};
use tasks::Cx;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::body::Body;
use tonic::metadata::{KeyAndValueRef, MetadataMap};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use super::dirs::Packets;
use super::make::make_all;
use crate::receive::{Differ, Options, receive};

/// The methods of the service.
pub const METHODS: &[&str] = &["DiffCopy"];

/// Opens the file a result goes to, once its facts are known. `None`: the file is there already, nothing is wanted.
pub type FileTarget = Arc<
    dyn Fn(&BTreeMap<String, String>) -> io::Result<Option<Box<dyn io::Write + Send>>>
        + Send
        + Sync,
>;

/// Where the result of one exporter goes.
#[derive(Clone)]
pub enum Target {
    /// A directory.
    Directory {
        /// Where it is; made if it does not exist.
        path: PathBuf,
        /// Remove what is there and not in the result.
        delete: bool,
    },
    /// A file.
    File(FileTarget),
}

/// Targets by the index of the exporter in the request.
#[derive(Clone, Default)]
pub struct Targets(Arc<BTreeMap<usize, Target>>);

impl Targets {
    /// These.
    pub fn new(targets: BTreeMap<usize, Target>) -> Self {
        Self(Arc::new(targets))
    }

    fn of(&self, headers: &http::HeaderMap) -> Result<Target, Status> {
        let value = headers.get(metadata::EXPORTER_ID);
        let value = value.and_then(|value| value.to_str().ok()?.parse().ok());
        let exporter: usize = value.unwrap_or(0);
        let missing = || Status::unknown(format!("exporter {exporter} not found"));
        self.0.get(&exporter).cloned().ok_or_else(missing)
    }
}

impl NamedService for Targets {
    const NAME: &'static str = "moby.filesync.v1.FileSend";
}

impl tower::Service<http::Request<Body>> for Targets {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let targets = self.clone();
        Box::pin(async move {
            if !request
                .uri()
                .path()
                .eq_ignore_ascii_case(crate::push::METHOD)
            {
                return Ok(Status::unimplemented("unknown method").into_http());
            }
            Ok(match targets.of(request.headers()) {
                Ok(Target::Directory { path, delete }) => {
                    let codec = ProstCodec::<Packet, Packet>::default();
                    let target = IntoDirectory { path, delete };
                    let mut grpc = Grpc::new(codec).max_decoding_message_size(MAX_MESSAGE);
                    grpc.streaming(target, request).await
                }
                Ok(Target::File(open)) => {
                    let codec = ProstCodec::<BytesMessage, BytesMessage>::default();
                    let mut grpc = Grpc::new(codec).max_decoding_message_size(MAX_MESSAGE);
                    grpc.streaming(IntoFile(open), request).await
                }
                Err(status) => status.into_http(),
            })
        })
    }
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send>>;

/// Receives a tree.
struct IntoDirectory {
    path: PathBuf,
    delete: bool,
}

impl IntoDirectory {
    fn open(&self, headers: &MetadataMap) -> Result<Root, Status> {
        if self.delete && metadata::text(headers, metadata::MULTI_PLATFORM) != Some("1") {
            return Err(Status::unknown(
                "local exporter mode=delete requires a BuildKit daemon with multi-platform local export support",
            ));
        }
        let shown = self.path.display();
        make_all(&self.path, 0o700).map_err(|err| {
            let text = fault::chain(&err);
            Status::unknown(format!(
                "failed to create synctarget dest dir {shown}: {text}"
            ))
        })?;
        Root::open(&self.path)
            .map_err(|err| Status::unknown(format!("open {shown}: {}", errno_text(&err))))
    }
}

impl StreamingService<Packet> for IntoDirectory {
    type Response = Packet;
    type ResponseStream = Packets;
    type Future = Answer<Packets>;

    fn call(&mut self, request: Request<Streaming<Packet>>) -> Self::Future {
        let root = self.open(request.metadata());
        let delete = self.delete;
        Box::pin(async move {
            let options = Options {
                differ: if delete {
                    Differ::None
                } else {
                    Differ::Metadata
                },
                merge: !delete,
                metadata_only: None,
                owner: Some((
                    rustix::process::geteuid().as_raw(),
                    rustix::process::getegid().as_raw(),
                )),
            };
            let root = root?;
            let incoming = Box::pin(request.into_inner());
            let (replies, packets) = mpsc::unbounded_channel();
            let task = tasks::spawn("receive directory", async move {
                let (cx, nobody) = (Cx::root(), None::<contenthash::Records>);
                let to_sender = replies.clone();
                let received = receive(&cx, incoming, to_sender, root, options, nobody, |_| {});
                if let Err(err) = received.await {
                    tracing::debug!(error = %fault::chain(&err), "receiving a directory failed");
                    // The daemon may be gone.
                    let _ = replies.send(Err(Failure::from(err).to_status()));
                }
            });
            let packets = UnboundedReceiverStream::new(packets).map(move |packet| {
                // The work ends with the stream it is for.
                let _ = &task;
                packet
            });
            Ok(Response::new(Box::pin(packets) as Packets))
        })
    }
}

/// Receives bytes.
struct IntoFile(FileTarget);

type Nothing = Pin<Box<dyn Stream<Item = Result<BytesMessage, Status>> + Send>>;

impl StreamingService<BytesMessage> for IntoFile {
    type Response = BytesMessage;
    type ResponseStream = Nothing;
    type Future = Answer<Nothing>;

    fn call(&mut self, request: Request<Streaming<BytesMessage>>) -> Self::Future {
        let open = self.0.clone();
        Box::pin(async move {
            let facts = facts(request.metadata());
            let target = tasks::blocking(move || open(&facts)).await;
            let target = target.map_err(|err| Status::unknown(errno_text(&err)))?;
            let Some(target) = target else {
                return Err(Status::already_exists("target already exists"));
            };
            // The answer begins at once; how it ends says whether the file is complete.
            let whole = stream::once(store(target, request.into_inner()));
            let ended = whole.filter_map(|stored| std::future::ready(stored.err().map(Err)));
            Ok(Response::new(Box::pin(ended) as Nothing))
        })
    }
}

async fn store(
    mut target: Box<dyn io::Write + Send>,
    mut incoming: Streaming<BytesMessage>,
) -> Result<(), Status> {
    let (parts, mut queue) = mpsc::channel::<Bytes>(8);
    let write = tasks::blocking(move || {
        while let Some(part) = queue.blocking_recv() {
            target.write_all(&part)?;
        }
        target.flush()
    });
    let read = async {
        while let Some(message) = incoming.message().await? {
            if parts.send(message.data).await.is_err() {
                break;
            }
        }
        drop(parts);
        Ok::<_, Status>(())
    };
    let (read, written) = futures::future::join(read, write).await;
    written.map_err(|err| Status::unknown(errno_text(&err)))?;
    read
}

/// Facts about a result; several values of one are joined.
fn facts(headers: &MetadataMap) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::<String, String>::new();
    for pair in headers.iter() {
        let KeyAndValueRef::Ascii(key, value) = pair else {
            continue;
        };
        let (Some(name), Ok(value)) = (
            key.as_str().strip_prefix(metadata::EXPORTER_FACT),
            value.to_str(),
        ) else {
            continue;
        };
        facts
            .entry(name.to_owned())
            .and_modify(|all| {
                all.push(',');
                all.push_str(value);
            })
            .or_insert_with(|| value.to_owned());
    }
    facts
}
