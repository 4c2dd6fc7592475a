//! Sends a listing and the files that are asked for.
//!
//! One thread lists, a few read. What they make goes through one bounded queue, several packets at a time: small files
//! are sent together, large ones in large parts.

mod read;
mod tree;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use proto::fsutil::packet::PacketType;
use proto::fsutil::{Packet, Stat};
use tasks::Cx;
use tokio::sync::mpsc;

use crate::Error;
use crate::packet::{self, Batches, Incoming};
use read::Files;

pub use tree::Tree;

/// Where the bytes of a file come from.
#[derive(Debug, Clone)]
pub enum Content {
    /// There are none: no regular file.
    None,
    /// A file of a tree.
    File {
        /// The tree.
        root: fstree::Root,
        /// Path in it.
        path: std::path::PathBuf,
    },
    /// These.
    Bytes(bytes::Bytes),
}

/// One entry to send.
#[derive(Debug, Clone)]
pub struct Item {
    /// The entry.
    pub stat: Stat,
    /// What is in it.
    pub content: Content,
}

/// Takes entries one after the other. An error means that nobody wants more.
pub type Emit<'a> = &'a mut dyn FnMut(Item) -> Result<(), Error>;

/// Something that can be listed in the order of the protocol: depth first, each directory in byte order of names.
pub trait Listing: Send + 'static {
    /// Gives every entry to `emit` and passes its errors on. Blocking.
    fn list(self, emit: Emit<'_>) -> Result<(), Error>;
}

impl<F> Listing for F
where
    F: FnOnce(Emit<'_>) -> Result<(), Error> + Send + 'static,
{
    fn list(self, emit: Emit<'_>) -> Result<(), Error> {
        self(emit)
    }
}

/// Batches that may wait for the connection.
pub(crate) const QUEUE: usize = 8;
/// How long the end of a call may take to get here after it was closed for what we send.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// Entries in one batch, once the first have gone out.
const ENTRIES_AT_ONCE: usize = 256;

/// Sends a tree. `progress` is called with the bytes of content sent so far.
///
/// Ends when the receiver has everything; `incoming` is not read further.
pub(crate) async fn send_batches<L: Listing>(
    cx: &Cx,
    listing: L,
    incoming: &mut Incoming,
    out: &Batches,
    progress: impl FnMut(u64) + Send,
) -> Result<(), Error> {
    let files = Arc::new(Files::new());
    let (failures, mut failed) = mpsc::channel(1);
    let mut readers = Readers {
        running: Vec::new(),
        files: files.clone(),
        out: out.clone(),
        failures: failures.clone(),
    };
    let lister = {
        let (files, out, failures) = (files.clone(), out.clone(), failures.clone());
        let list = tasks::blocking(move || {
            if let Err(err) = list(listing, &files, &out) {
                let _ = failures.try_send(err);
            }
        });
        tasks::spawn("list tree", list)
    };
    let all = async {
        let mut answered = std::pin::pin!(answer(incoming, &mut readers, progress));
        tokio::select! {
            Some(err) = failed.recv() => match err {
                // Nobody takes what we send: the call is over, and how it ended says why.
                Error::Eof => match tokio::time::timeout(LAST_WORDS, answered).await {
                    Ok(answered) => answered,
                    Err(_) => Err(Error::Eof),
                },
                err => Err(err),
            },
            answered = &mut answered => answered,
        }
    };
    let ended = cx.run(all).await.map_err(Error::from).flatten();
    files.close();
    match &ended {
        Ok(()) => drop(out.send(Ok(vec![packet::fin()])).await),
        // The reader of a file fails the call, anything else is told.
        Err(Error::FromReceiver { .. } | Error::Eof | Error::Cancelled(_)) => {}
        Err(err) => {
            let text = fault::chain(err);
            // A receiver that is gone does not need to know.
            let _ = out.try_send(Ok(vec![packet::error(&text)]));
        }
    }
    if ended.is_ok() {
        futures::future::join(lister, futures::future::join_all(readers.running)).await;
    }
    ended
}

/// Sends a tree over a call of which this is the requesting side or the answering one.
pub async fn send<L: Listing>(
    cx: &Cx,
    listing: L,
    mut incoming: Incoming,
    out: mpsc::Sender<Result<Vec<Packet>, tonic::Status>>,
    progress: impl FnMut(u64) + Send,
) -> Result<(), Error> {
    let sent = send_batches(cx, listing, &mut incoming, &out, progress).await;
    drop(out);
    sent
}

/// Lists everything, in batches that grow.
fn list(listing: impl Listing, files: &Files, out: &Batches) -> Result<(), Error> {
    let mut id = 0;
    let mut at_once = 1;
    let mut batch = Vec::with_capacity(at_once);
    let mut sources = Vec::new();
    let flush = |batch: &mut Vec<Packet>, sources: &mut Vec<(u32, Content)>| {
        // Known here before it can be asked for.
        files.add(sources.drain(..));
        let full = std::mem::replace(batch, Vec::with_capacity(ENTRIES_AT_ONCE));
        out.blocking_send(Ok(full)).map_err(|_| Error::Eof)
    };
    listing.list(&mut |item| {
        if !matches!(item.content, Content::None) {
            sources.push((id, item.content));
        }
        id += 1;
        batch.push(packet::stat(item.stat));
        if batch.len() >= at_once {
            at_once = (at_once * 2).min(ENTRIES_AT_ONCE);
            flush(&mut batch, &mut sources)?;
        }
        Ok(())
    })?;
    batch.push(packet::end_of_list());
    flush(&mut batch, &mut sources)
}

/// The threads that read files. There is none before one is asked for: most transfers of a rebuild send no content.
struct Readers {
    running: Vec<tasks::Task<()>>,
    files: Arc<Files>,
    out: Batches,
    failures: mpsc::Sender<Error>,
}

impl Readers {
    /// So many files are wanted at once.
    fn enough_for(&mut self, wanted: usize) {
        while self.running.len() < wanted.min(read::readers()) {
            let (files, out) = (self.files.clone(), self.out.clone());
            let failures = self.failures.clone();
            let read = tasks::blocking(move || {
                if let Err(err) = read::serve(&files, &out) {
                    // Only the first error is looked at.
                    let _ = failures.try_send(err);
                }
            });
            self.running.push(tasks::spawn("read files", read));
        }
    }
}

/// Takes requests until the receiver has everything.
async fn answer(
    incoming: &mut Incoming,
    readers: &mut Readers,
    mut progress: impl FnMut(u64) + Send,
) -> Result<(), Error> {
    let mut packets = incoming.ready_chunks(ENTRIES_AT_ONCE);
    let mut asked = 0;
    while let Some(packets) = packets.next().await {
        let mut wanted = Vec::new();
        for packet in packets {
            let packet = packet?;
            match packet.r#type() {
                PacketType::PacketReq => wanted.push(packet.id),
                PacketType::PacketFin => return Ok(()),
                PacketType::PacketErr => {
                    return Err(Error::FromReceiver {
                        text: packet::error_text(&packet),
                    });
                }
                PacketType::PacketStat | PacketType::PacketData => {}
            }
        }
        asked += wanted.len();
        readers.files.want(&wanted)?;
        readers.enough_for(asked);
        progress(readers.files.sent());
    }
    Err(Error::Eof)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refusal_is_told_also_when_it_comes_after_the_call_was_closed() {
        let (out, closed) = mpsc::channel(QUEUE);
        drop(closed);
        let refusal = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Err(tonic::Status::permission_denied("not here"))
        };
        let mut incoming: Incoming = Box::pin(futures::stream::once(refusal));
        let listing = |emit: Emit<'_>| {
            emit(Item {
                stat: Stat::default(),
                content: Content::None,
            })
        };
        let sent = send_batches(&Cx::root(), listing, &mut incoming, &out, |_| {}).await;
        let err = sent.expect_err("refused").to_string();
        assert!(err.contains("not here"), "{err}");
    }
}
