//! The daemon sends results to the client: a tree, or one file.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, stream};
use prost::Message;
use proto::filesync::BytesMessage;
use proto::fsutil::Packet;
use session::{MAX_MESSAGE, PART, Session, metadata};
use tasks::{Cx, Task};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::send::{QUEUE, send_batches};
use crate::{Error, Incoming, Listing};

/// The method that must be offered.
pub const METHOD: &str = "/moby.filesync.v1.FileSend/DiffCopy";

fn check(session: &Session) -> Result<(), Error> {
    if session.supports(METHOD) {
        return Ok(());
    }
    // Compat: upstream names the method as it looks it up.
    Err(session::Error::Unsupported {
        method: "/moby.filesync.v1.FileSend/diffcopy".to_owned(),
    }
    .into())
}

fn address(headers: &mut MetadataMap, exporter: usize) {
    metadata::append(headers, metadata::EXPORTER_ID, &exporter.to_string());
}

/// Sends a tree to the exporter with this index. `multi_platform` says that the tree has all platforms in it.
pub async fn directory(
    cx: &Cx,
    session: &Session,
    exporter: usize,
    multi_platform: bool,
    listing: impl Listing,
    progress: impl FnMut(u64) + Send,
) -> Result<(), Error> {
    check(session)?;
    let (out, batches) = mpsc::channel::<Result<Vec<Packet>, Status>>(QUEUE);
    let packets = ReceiverStream::new(batches)
        .filter_map(|batch| std::future::ready(batch.ok()))
        .flat_map(stream::iter);
    let mut request = Request::new(packets);
    address(request.metadata_mut(), exporter);
    if multi_platform {
        metadata::append(request.metadata_mut(), metadata::MULTI_PLATFORM, "1");
    }
    // The service declares another type for its messages; with a tree they are packets.
    let mut grpc = tonic::client::Grpc::new(session.channel())
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let call = async move {
        let ready = grpc.ready().await;
        ready.map_err(|err| Status::unavailable(fault::chain(&err)))?;
        let codec = ProstCodec::<Packet, Packet>::default();
        let path = http::uri::PathAndQuery::from_static(METHOD);
        grpc.streaming(request, path, codec).await
    };
    // A stock client answers the call with its first request for a file, so the listing must not wait for the answer.
    let answered = stream::once(call).map(|response| match response {
        Ok(response) => response.into_inner().left_stream(),
        Err(status) => stream::iter([Err(status)]).right_stream(),
    });
    let mut incoming: Incoming = Box::pin(answered.flatten());
    let sent = send_batches(cx, listing, &mut incoming, &out, progress).await;
    drop(out);
    match sent {
        Ok(()) => {
            // How the client ends says whether it has everything.
            let rest = async {
                while let Some(packet) = incoming.next().await {
                    packet?;
                }
                Ok(())
            };
            Ok(session.call(cx, rest).await?)
        }
        Err(Error::Call(_) | Error::Eof) if session.cx().is_cancelled() => {
            Err(session.cx().cancelled().await.into())
        }
        Err(err) => Err(err),
    }
}

/// How a file ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The client has it.
    Sent,
    /// The client said that it has it already.
    Declined,
}

/// A file on its way to the client. Dropped before [`FileUpload::finish`] the client sees it break off.
#[derive(Debug)]
pub struct FileUpload {
    parts: mpsc::Sender<Bytes>,
    complete: Arc<AtomicBool>,
    call: Task<Result<Outcome, Error>>,
}

/// Begins to send a file to the exporter with this index, with facts about it.
pub fn file(
    cx: &Cx,
    session: &Session,
    exporter: usize,
    facts: &BTreeMap<String, String>,
) -> Result<FileUpload, Error> {
    check(session)?;
    let (parts, queue) = mpsc::channel(QUEUE);
    let complete = Arc::new(AtomicBool::new(false));
    let mut request = Request::new(messages(queue, complete.clone()));
    address(request.metadata_mut(), exporter);
    for (name, value) in facts {
        let key = format!("{}{}", metadata::EXPORTER_FACT, name.to_lowercase());
        metadata::append(request.metadata_mut(), &key, value);
    }
    let (cx, session) = (cx.clone(), session.clone());
    let call = async move {
        let mut grpc = tonic::client::Grpc::new(session.channel())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let whole = async {
            let ready = grpc.ready().await;
            ready.map_err(|err| Status::unavailable(fault::chain(&err)))?;
            let path = http::uri::PathAndQuery::from_static(METHOD);
            let response = grpc.streaming(request, path, PartCodec).await?;
            let mut incoming = response.into_inner();
            while incoming.message().await?.is_some() {}
            Ok(())
        };
        match session.call(&cx, whole).await {
            Ok(()) => Ok(Outcome::Sent),
            Err(err) if err.code() == Some(Code::AlreadyExists) => Ok(Outcome::Declined),
            Err(err) => Err(Error::from(err)),
        }
    };
    Ok(FileUpload {
        parts,
        complete,
        call: tasks::spawn("send file to client", call),
    })
}

/// What goes into the body of the call.
enum Part {
    Data(Bytes),
    /// The file is not complete and never will be. A call can only say so by breaking off.
    Broken,
}

fn messages(
    queue: mpsc::Receiver<Bytes>,
    complete: Arc<AtomicBool>,
) -> impl Stream<Item = Part> + Send + 'static {
    let end = stream::once(std::future::ready(())).filter_map(move |()| {
        let complete = complete.load(Ordering::Acquire);
        std::future::ready((!complete).then_some(Part::Broken))
    });
    ReceiverStream::new(queue).map(Part::Data).chain(end)
}

/// Writes [`Part`]s as the messages of the service.
#[derive(Debug, Clone, Copy, Default)]
struct PartCodec;

impl Codec for PartCodec {
    type Encode = Part;
    type Decode = BytesMessage;
    type Encoder = Self;
    type Decoder = <ProstCodec<BytesMessage, BytesMessage> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        *self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<BytesMessage, BytesMessage>::default().decoder()
    }
}

impl Encoder for PartCodec {
    type Item = Part;
    type Error = Status;

    fn encode(&mut self, part: Part, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let Part::Data(data) = part else {
            return Err(Status::aborted("the file is incomplete"));
        };
        let written = BytesMessage { data }.encode(out);
        written.map_err(|err| Status::internal(err.to_string()))
    }
}

impl FileUpload {
    /// Sends more of the file. An error says only that the client wants no more; `finish` says why.
    pub async fn send(&self, mut bytes: Bytes) -> io::Result<()> {
        while !bytes.is_empty() {
            let part = bytes.split_to(bytes.len().min(PART));
            let sent = self.parts.send(part).await;
            sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        }
        Ok(())
    }

    /// A writer for a blocking thread. Flush it at the end, and drop it before the file is finished.
    pub fn writer(&self) -> FileWriter {
        FileWriter {
            parts: self.parts.clone(),
            buffer: BytesMut::with_capacity(PART),
        }
    }

    /// Ends the file and waits until the client has it.
    pub async fn finish(self) -> Result<Outcome, Error> {
        self.complete.store(true, Ordering::Release);
        drop(self.parts);
        self.call.await
    }
}

/// Writes a file to the client from a blocking thread.
#[derive(Debug)]
pub struct FileWriter {
    parts: mpsc::Sender<Bytes>,
    buffer: BytesMut,
}

impl io::Write for FileWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len().min(PART - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..len]);
        if self.buffer.len() == PART {
            self.flush()?;
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.buffer, BytesMut::with_capacity(PART));
        let sent = self.parts.blocking_send(full.freeze());
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}
