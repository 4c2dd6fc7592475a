//! Directories a client offers to the daemon.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use diagnostics::Failure;
use fstree::{FilterOptions, Root, errno_text};
use futures::{Stream, StreamExt, stream};
use proto::filesync::file_sync_server::{FileSync, FileSyncServer};
use proto::fsutil::{Packet, Stat};
use session::{MAX_MESSAGE, metadata};
use tasks::Cx;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::pull::{DIR_NAME, EXCLUDE, FOLLOW, INCLUDE};
use crate::send::{QUEUE, send_batches};
use crate::{Incoming, Tree};

/// The methods of the service.
pub const METHODS: &[&str] = &["DiffCopy", "TarStream"];

/// Directories by the names the daemon asks for.
#[derive(Debug, Clone, Default)]
pub struct Dirs(Arc<BTreeMap<String, PathBuf>>);

impl Dirs {
    /// Offers these.
    pub fn new(dirs: BTreeMap<String, PathBuf>) -> Self {
        Self(Arc::new(dirs))
    }

    /// The service over them.
    pub fn service(&self) -> FileSyncServer<impl FileSync + use<>> {
        FileSyncServer::new(self.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    fn tree(&self, request: &Request<Streaming<Packet>>) -> Result<Tree, Status> {
        let headers = request.metadata();
        let name = metadata::list(headers, DIR_NAME);
        let name = name.first().map_or("", String::as_str);
        let denied = || Status::not_found(format!("no access allowed to dir {name:?}"));
        let path = self.0.get(name).ok_or_else(denied)?;
        let root = Root::open(path).map_err(|err| {
            Status::unknown(format!("open {}: {}", path.display(), errno_text(&err)))
        })?;
        Ok(Tree {
            root,
            filter: FilterOptions {
                include: metadata::list(headers, INCLUDE),
                exclude: metadata::list(headers, EXCLUDE),
                follow: metadata::list(headers, FOLLOW),
            },
            map: Box::new(belong_to_root),
        })
    }
}

/// Whoever builds, the files of a context belong to root.
fn belong_to_root(stat: &mut Stat) {
    (stat.uid, stat.gid) = (0, 0);
}

/// Packets of a call.
pub(super) type Packets = Pin<Box<dyn Stream<Item = Result<Packet, Status>> + Send>>;

#[tonic::async_trait]
impl FileSync for Dirs {
    type DiffCopyStream = Packets;
    type TarStreamStream = Packets;

    async fn diff_copy(
        &self,
        request: Request<Streaming<Packet>>,
    ) -> Result<Response<Packets>, Status> {
        let tree = self.tree(&request)?;
        let mut incoming: Incoming = Box::pin(request.into_inner());
        let (out, batches) = mpsc::channel(QUEUE);
        let task = tasks::spawn("send directory", async move {
            // Dropping the call drops this task; there is nothing else that could cancel it.
            let cx = Cx::root();
            let sent = send_batches(&cx, tree, &mut incoming, &out, |_| {}).await;
            if let Err(err) = sent {
                tracing::debug!(error = %fault::chain(&err), "sending a directory failed");
                // The daemon may be gone.
                let _ = out.send(Err(Failure::from(err).to_status())).await;
            }
        });
        let packets = ReceiverStream::new(batches).flat_map(move |batch| {
            // The work ends with the stream it is for.
            let _ = &task;
            match batch {
                Ok(packets) => stream::iter(packets).map(Ok).boxed(),
                Err(status) => stream::iter([Err(status)]).boxed(),
            }
        });
        Ok(Response::new(Box::pin(packets)))
    }

    async fn tar_stream(&self, _: Request<Streaming<Packet>>) -> Result<Response<Packets>, Status> {
        Err(Status::unimplemented("method TarStream not implemented"))
    }
}
