//! The daemon fetches a directory of the client.

use fstree::Root;
use futures::StreamExt;
use progress::Progress;
use proto::filesync::file_sync_client::FileSyncClient;
use session::{MAX_MESSAGE, Session, metadata};
use tasks::Cx;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Request;

use crate::receive::{self, Observer, Options, Received};
use crate::{Error, Incoming};

/// The method that must be offered.
pub const METHOD: &str = "/moby.filesync.v1.FileSync/DiffCopy";

/// Keys under which a client finds what is wanted.
pub(crate) const DIR_NAME: &str = "dir-name";
pub(crate) const INCLUDE: &str = "include-patterns";
pub(crate) const EXCLUDE: &str = "exclude-patterns";
pub(crate) const FOLLOW: &str = "followpaths";

/// Which directory, and what of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Name the client gave the directory.
    pub name: String,
    /// Only what matches these.
    pub include: Vec<String>,
    /// Not what matches these.
    pub exclude: Vec<String>,
    /// Paths to include with all links on the way.
    pub follow: Vec<String>,
}

/// Makes `root` equal to what is wanted of the client's directory.
pub async fn pull<O: Observer + 'static>(
    cx: &Cx,
    session: &Session,
    wanted: &Wanted,
    root: Root,
    options: Options,
    observer: Option<O>,
    progress: &Progress,
) -> Result<(Received, Option<O>), Error> {
    if !session.supports(METHOD) {
        return Err(Error::NoLocalSources);
    }
    let (replies, outgoing) = mpsc::unbounded_channel();
    let packets = UnboundedReceiverStream::new(outgoing)
        .filter_map(|packet| std::future::ready(Result::ok(packet)));
    let mut request = Request::new(packets);
    let headers = request.metadata_mut();
    let name = std::slice::from_ref(&wanted.name);
    metadata::append_list(headers, DIR_NAME, name);
    metadata::append_list(headers, INCLUDE, &wanted.include);
    metadata::append_list(headers, EXCLUDE, &wanted.exclude);
    metadata::append_list(headers, FOLLOW, &wanted.follow);
    let mut client = FileSyncClient::new(session.channel())
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let response = session.call(cx, client.diff_copy(request)).await?;
    let incoming: Incoming = Box::pin(response.into_inner());

    let mut status = progress.status(&format!("transferring {}:", wanted.name), "transferring");
    let tell = |bytes: u64| status.set(i64::try_from(bytes).unwrap_or(i64::MAX), 0);
    let received = receive::receive(cx, incoming, replies, root, options, observer, tell).await;
    match received {
        // A connection that broke has a better reason to tell.
        Err(Error::Call(_) | Error::Eof) if session.cx().is_cancelled() => {
            Err(session.cx().cancelled().await.into())
        }
        received => received,
    }
}
