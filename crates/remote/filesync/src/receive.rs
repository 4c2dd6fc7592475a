//! Makes a folder equal to what is sent.
//!
//! Three parties work at the same time. The reader takes packets apart and never waits for anything but bytes in
//! flight. The *applier*, one thread, merges the listing with the tree that is there, makes everything but the content
//! of files, and asks for that. The *writers*, a few threads, write and hash content; a file belongs to one of them.
//!
//! 1. An entry that did not change is left alone.
//! 2. Content goes into a new inode, which takes the place of an old one when it is complete.
//! 3. When all content is there: hard links, then times (and closed modes) of directories, then FIN.

mod apply;
mod files;
mod place;

use std::collections::VecDeque;
use std::sync::Arc;

use fstree::{Patterns, Root};
use futures::stream::Fuse;
use futures::{FutureExt, StreamExt};
use prost::Message;
use proto::fsutil::packet::PacketType;
use proto::fsutil::{Packet, Stat};
use tasks::Cx;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::Status;

use crate::Error;
use crate::packet::{self, Incoming, Replies};
use apply::Applier;
use files::{Chunk, Shared};

/// When an entry that is there already counts as unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Differ {
    /// When its metadata is the same.
    #[default]
    Metadata,
    /// Never.
    None,
}

/// Which files are fetched when otherwise only the listing is wanted.
#[derive(Debug, Clone)]
pub struct Exceptions(pub Patterns);

/// How a tree is received.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What counts as unchanged.
    pub differ: Differ,
    /// Leave alone what is there and is not sent.
    pub merge: bool,
    /// Write the listing to a file instead of making the tree, except for what matches.
    pub metadata_only: Option<Exceptions>,
    /// Everything belongs to this user and group, whatever the listing says.
    pub owner: Option<(u32, u32)>,
}

/// Is told what changes, in an order in which each change makes sense.
pub trait Observer: Send {
    /// Something was made or changed. The record is of the entry as sent.
    fn changed(&mut self, path: &[u8], change: contenthash::Change<'_>);
    /// Something was removed, with everything below.
    fn removed(&mut self, path: &[u8]);
}

impl Observer for contenthash::Records {
    fn changed(&mut self, path: &[u8], change: contenthash::Change<'_>) {
        self.insert(path, change);
    }

    fn removed(&mut self, path: &[u8]) {
        self.remove(path);
    }
}

/// What a transfer amounted to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Received {
    /// Bytes of all packets.
    pub bytes: u64,
    /// Entries of the listing.
    pub entries: u32,
    /// Files whose content was fetched.
    pub files: u32,
}

/// Bytes of content that may wait to be written.
const IN_FLIGHT: usize = 2 << 20;
/// Packets that are looked at together if they are there.
const AT_ONCE: usize = 256;
/// Bytes of content after which no more packets are gathered: what waits here is not counted as in flight.
const BYTES_AT_ONCE: usize = 512 << 10;

/// Receives a tree into `root`. `progress` is called with the bytes so far.
///
/// After an error `root` is somewhere between before and after.
pub async fn receive<O: Observer + 'static>(
    cx: &Cx,
    incoming: Incoming,
    replies: Replies,
    root: Root,
    options: Options,
    observer: Option<O>,
    progress: impl FnMut(u64) + Send,
) -> Result<(Received, Option<O>), Error> {
    let shared = Arc::new(Shared::new(root, observer));
    let received = run(cx, incoming, &replies, options, &shared, progress).await;
    let shared = Arc::into_inner(shared);
    match received {
        Ok(received) => Ok((received, shared.and_then(Shared::into_observer))),
        Err(err) => {
            // The sender may be gone.
            let _ = replies.send(Ok(packet::error(&fault::chain(&err))));
            Err(err)
        }
    }
}

async fn run<O: Observer + 'static>(
    cx: &Cx,
    incoming: Incoming,
    replies: &Replies,
    options: Options,
    shared: &Arc<Shared<O>>,
    progress: impl FnMut(u64) + Send,
) -> Result<Received, Error> {
    let (listing, entries) = mpsc::unbounded_channel();
    let (failures, failed) = mpsc::channel(1);
    let writing = shared.clone();
    let start = move || {
        let (inbox, chunks) = mpsc::unbounded_channel();
        let (shared, failures) = (writing.clone(), failures.clone());
        let write = tasks::blocking(move || {
            if let Err(err) = files::write(&shared, chunks) {
                // Only the first error is looked at.
                let _ = failures.try_send(err);
            }
        });
        (inbox, tasks::spawn("write files", write))
    };
    let applier = {
        let (shared, replies) = (shared.clone(), replies.clone());
        tasks::blocking(move || Applier::new(shared, options, replies)?.run(entries))
    };
    let mut applier = tasks::spawn("apply listing", applier);
    let mut reader = Reader {
        incoming: incoming.fuse(),
        packets: VecDeque::new(),
        listing: Some(listing),
        stats: Vec::new(),
        chunks: (0..files::writers()).map(|_| Vec::new()).collect(),
        inboxes: (0..files::writers()).map(|_| None).collect(),
        writers: Vec::new(),
        start: Box::new(start),
        room: Arc::new(Semaphore::new(IN_FLIGHT)),
        received: Received::default(),
        progress,
        failed,
    };

    let received = match reader.during(cx, &mut applier).await {
        Ok(Ok(applied)) => finish(cx, &mut reader, applied, shared, replies).await,
        Ok(Err(err)) => Err(err),
        Err(err) => {
            // The threads end when nothing more can come; nobody writes after this function.
            reader.hang_up();
            if let Err(late) = applier.await {
                tracing::debug!(error = %fault::chain(&late), "the applier ended late");
            }
            Err(err)
        }
    };
    reader.hang_up();
    futures::future::join_all(std::mem::take(&mut reader.writers)).await;
    received
}

/// What is left when the whole listing was applied.
async fn finish<O: Observer + 'static, P: FnMut(u64) + Send>(
    cx: &Cx,
    reader: &mut Reader<P>,
    applied: apply::Applied,
    shared: &Arc<Shared<O>>,
    replies: &Replies,
) -> Result<Received, Error> {
    reader.during(cx, shared.all_written()).await?;
    let finishing = shared.clone();
    tasks::blocking(move || applied.finish(&finishing)).await?;
    reader.received.files = shared.requested();
    // What happens to the stream after this is no longer our business.
    let _ = replies.send(Ok(packet::fin()));
    let _ = cx.run(reader.drain()).await;
    Ok(reader.received)
}

type Inbox = mpsc::UnboundedSender<Vec<Chunk>>;

/// Takes packets apart.
struct Reader<P> {
    incoming: Fuse<Incoming>,
    /// Read and not taken apart yet.
    packets: VecDeque<Result<Packet, Status>>,
    /// To the applier; gone after the end of the listing.
    listing: Option<mpsc::UnboundedSender<apply::Message>>,
    stats: Vec<Stat>,
    /// Of each writer; there is none before there is something to write: most transfers of a rebuild bring no content.
    inboxes: Vec<Option<Inbox>>,
    writers: Vec<tasks::Task<()>>,
    start: Box<dyn FnMut() -> (Inbox, tasks::Task<()>) + Send>,
    /// What goes to the writers next.
    chunks: Vec<Vec<Chunk>>,
    room: Arc<Semaphore>,
    received: Received,
    progress: P,
    failed: mpsc::Receiver<Error>,
}

impl<P: FnMut(u64) + Send> Reader<P> {
    /// Reads until `work` is done or something is wrong.
    async fn during<T>(&mut self, cx: &Cx, work: impl Future<Output = T>) -> Result<T, Error> {
        let (_, mut failed) = mpsc::channel(1);
        std::mem::swap(&mut failed, &mut self.failed);
        let all = async {
            tokio::select! {
                done = work => Ok(done),
                Some(err) = failed.recv() => Err(err),
                Err(err) = self.read() => Err(err),
            }
        };
        let done = cx.run(all).await;
        self.failed = failed;
        done?
    }

    /// Reads until something is wrong. The end of the stream is wrong too.
    ///
    /// May be dropped at any `await` and begun again: what was read and not taken yet stays in `packets`.
    async fn read(&mut self) -> Result<(), Error> {
        loop {
            while let Some(next) = self.packets.front() {
                let size = next.as_ref().map_or(0, |packet| packet.data.len());
                let room = self.room_for(size).await?;
                if let Some(packet) = self.packets.pop_front() {
                    self.take(packet?, room)?;
                }
            }
            self.dispatch();
            (self.progress)(self.received.bytes);
            self.gather().await?;
        }
    }

    /// Waits for a packet and takes what else is there.
    async fn gather(&mut self) -> Result<(), Error> {
        let mut next = self.incoming.next().await;
        if next.is_none() {
            return Err(Error::Eof);
        }
        let mut bytes = 0;
        while let Some(packet) = next {
            bytes += packet.as_ref().map_or(0, |packet| packet.data.len());
            self.packets.push_back(packet);
            if self.packets.len() >= AT_ONCE || bytes >= BYTES_AT_ONCE {
                break;
            }
            next = self.incoming.next().now_or_never().flatten();
        }
        Ok(())
    }

    /// Waits until this many bytes may be handed on.
    async fn room_for(&mut self, size: usize) -> Result<OwnedSemaphorePermit, Error> {
        let weight = size.min(IN_FLIGHT) as u32;
        if let Ok(room) = self.room.clone().try_acquire_many_owned(weight) {
            return Ok(room);
        }
        // What we hold back may be what fills the room.
        self.dispatch();
        let room = self.room.clone().acquire_many_owned(weight);
        room.await.map_err(|_| Error::Eof)
    }

    fn take(&mut self, packet: Packet, room: OwnedSemaphorePermit) -> Result<(), Error> {
        self.received.bytes += packet.encoded_len() as u64;
        match packet.r#type() {
            PacketType::PacketStat => match packet.stat {
                Some(stat) => {
                    self.received.entries += 1;
                    self.stats.push(stat);
                }
                None => {
                    self.dispatch();
                    if let Some(listing) = self.listing.take() {
                        // An applier that is gone has said why.
                        let _ = listing.send(apply::Message::End);
                    }
                }
            },
            PacketType::PacketData => {
                let writer = packet.id as usize % self.chunks.len();
                self.chunks[writer].push(Chunk {
                    id: packet.id,
                    data: packet.data,
                    _room: room,
                });
            }
            PacketType::PacketErr => {
                return Err(Error::FromSender {
                    text: packet::error_text(&packet),
                });
            }
            PacketType::PacketReq | PacketType::PacketFin => {}
        }
        Ok(())
    }

    fn dispatch(&mut self) {
        if !self.stats.is_empty()
            && let Some(listing) = &self.listing
        {
            let _ = listing.send(apply::Message::Entries(std::mem::take(&mut self.stats)));
        }
        for (inbox, chunks) in self.inboxes.iter_mut().zip(&mut self.chunks) {
            if chunks.is_empty() {
                continue;
            }
            let inbox = inbox.get_or_insert_with(|| {
                let (inbox, writer) = (self.start)();
                self.writers.push(writer);
                inbox
            });
            // A writer that is gone has said why.
            let _ = inbox.send(std::mem::take(chunks));
        }
    }

    /// Reads what is left, so that the sender can end in peace.
    async fn drain(&mut self) {
        while let Some(Ok(_)) = self.incoming.next().await {}
    }

    fn hang_up(&mut self) {
        self.listing = None;
        self.inboxes.clear();
    }
}
