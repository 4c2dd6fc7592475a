//! `tar=false`: blobs go one by one into the content store that the client serves; it writes the index itself.
//!
//! Children go before parents, so that the client's store never has a manifest without what it lists. A blob that the
//! client has is not sent.

use std::io::Read;

use bytes::Bytes;
use content::Store;
use fault::Classify;
use futures::StreamExt;
use oci::{Descriptor, Digest};
use proto::content::content_client::ContentClient;
use proto::content::{WriteAction, WriteContentRequest};
use session::{MAX_MESSAGE, Session, metadata};
use tasks::{Cx, Scope};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request};

use export::Error;

/// The store of outputs.
const STORE: &str = "export";
/// Stock clients take messages of 4 MiB.
const PART: usize = 1 << 20;
/// Parts that may wait for the connection.
const QUEUE: usize = 4;
/// Blobs sent beside each other.
const AT_ONCE: usize = 4;

/// Sends blobs: `leaves` beside each other, then `documents` one after the other.
pub(crate) async fn send(
    cx: &Cx,
    session: &Session,
    store: &Store,
    leaves: Vec<Descriptor>,
    documents: Vec<Descriptor>,
) -> Result<(), Error> {
    let mut waiting = leaves.into_iter();
    loop {
        let some: Vec<Descriptor> = waiting.by_ref().take(AT_ONCE).collect();
        if some.is_empty() {
            break;
        }
        let mut scope: Scope<Error> = Scope::new(cx, "send blobs");
        for blob in some {
            let (cx, session, store) = (scope.cx().clone(), session.clone(), store.clone());
            scope.spawn("send blob", async move {
                send_blob(&cx, &session, &store, &blob).await
            });
        }
        scope.join().await?;
    }
    for blob in documents {
        send_blob(cx, session, store, &blob).await?;
    }
    Ok(())
}

async fn send_blob(
    cx: &Cx,
    session: &Session,
    store: &Store,
    blob: &Descriptor,
) -> Result<(), Error> {
    let (parts, queue) = mpsc::channel(QUEUE);
    let mut request = Request::new(ReceiverStream::new(queue));
    metadata::append(request.metadata_mut(), metadata::STORE_ID, STORE);
    let mut client = ContentClient::new(session.channel())
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let call = async {
        // The first message goes before the answer's headers, so it has to be under way before they are waited for.
        let first = parts.send(message(blob, WriteAction::Stat, 0, Bytes::new()));
        // The queue is open: its other end is in the request.
        let _ = first.await;
        let mut answers = client.write(request).await?.into_inner();
        // Nothing is read before the client said that it wants the blob.
        if answers.next().await.transpose()?.is_none() {
            return Err(tonic::Status::unavailable("content store closed"));
        }
        let (store, whole) = (store.clone(), blob.clone());
        let feeding = async {
            let fed = tasks::blocking(move || feed(&store, &whole, &parts)).await;
            Ok::<_, tonic::Status>(fed)
        };
        let answering = async {
            while let Some(answer) = answers.next().await {
                if answer?.action() == WriteAction::Commit {
                    break;
                }
            }
            Ok(())
        };
        // When the client refuses the blob the feeder is left behind; it ends as soon as the call is gone.
        let (fed, ()) = futures::try_join!(feeding, answering)?;
        Ok(fed)
    };
    match session.call(cx, call).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(err)) => Err(Error::new(&err)),
        Err(err) if err.code() == Some(Code::AlreadyExists) => Ok(()),
        Err(err) => Err(failed(&blob.digest, &err)),
    }
}

fn failed(digest: &Digest, err: &session::Error) -> Error {
    Error {
        message: format!("failed to copy {digest}: {}", fault::chain(err)),
        class: err.class(),
    }
}

fn message(
    blob: &Descriptor,
    action: WriteAction,
    offset: u64,
    data: Bytes,
) -> WriteContentRequest {
    WriteContentRequest {
        action: action.into(),
        r#ref: format!("export-{}", blob.digest),
        total: blob.size,
        expected: blob.digest.to_string(),
        offset: i64::try_from(offset).unwrap_or(i64::MAX),
        data,
        ..WriteContentRequest::default()
    }
}

/// Puts the blob into the queue. When nobody takes it any more, the call says why.
fn feed(
    store: &Store,
    blob: &Descriptor,
    parts: &mpsc::Sender<WriteContentRequest>,
) -> Result<(), content::Error> {
    let mut file = store.open_blob(&blob.digest)?;
    let mut offset = 0;
    loop {
        let mut part = Vec::with_capacity(PART);
        let read = file.by_ref().take(PART as u64).read_to_end(&mut part);
        let len = read.map_err(|source| content::Error::Read {
            digest: blob.digest.clone(),
            source,
        })?;
        let action = if len == 0 {
            WriteAction::Commit
        } else {
            WriteAction::Write
        };
        let sent = parts.blocking_send(message(blob, action, offset, part.into()));
        if sent.is_err() || len == 0 {
            return Ok(());
        }
        offset += len as u64;
    }
}
