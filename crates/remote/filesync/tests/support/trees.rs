//! Trees to transfer, and both ends of a transfer wired to each other in memory.
#![allow(dead_code)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use contenthash::{Query, Records};
use filesync::{Error, Incoming, Listing, ReceiveOptions, Received, Tree, receive, send};
use fstree::{HardLinks, Root, Time, Walk};
use futures::stream::{self, StreamExt};
use proto::fsutil::Packet;
use tasks::Cx;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};
use tonic::Status;

/// What both sides said.
#[derive(Debug, Default)]
pub struct Transcript {
    pub sent: Vec<Packet>,
    pub answered: Vec<Packet>,
}

pub struct Outcome {
    pub received: Result<(Received, Option<Records>), Error>,
    pub sent: Result<(), Error>,
    pub transcript: Transcript,
}

type Log = std::sync::Arc<std::sync::Mutex<Vec<Packet>>>;

fn logged(packets: Incoming, log: &Log) -> Incoming {
    let log = log.clone();
    Box::pin(packets.inspect(move |packet| {
        if let Ok(packet) = packet {
            log.lock().expect("one thread").push(packet.clone());
        }
    }))
}

/// Sends `listing` into `to`.
pub async fn transfer_with(
    listing: impl Listing,
    to: &Path,
    options: ReceiveOptions,
    records: Option<Records>,
) -> Outcome {
    let (out, batches) = mpsc::channel::<Result<Vec<Packet>, Status>>(8);
    let (replies, answers) = mpsc::unbounded_channel();
    let (sent_log, answer_log) = (Log::default(), Log::default());
    let to_receiver: Incoming =
        Box::pin(ReceiverStream::new(batches).flat_map(|batch| match batch {
            Ok(packets) => stream::iter(packets).map(Ok).boxed(),
            Err(status) => stream::iter([Err(status)]).boxed(),
        }));
    let to_sender: Incoming = Box::pin(UnboundedReceiverStream::new(answers));
    let cx = Cx::root();
    let root = Root::open(to).expect("the destination");
    let receiving = receive(
        &cx,
        logged(to_receiver, &sent_log),
        replies,
        root,
        options,
        records,
        |_| {},
    );
    let sending = send(&cx, listing, logged(to_sender, &answer_log), out, |_| {});
    let (received, sent) = futures::future::join(receiving, sending).await;
    let take = |log: Log| std::mem::take(&mut *log.lock().expect("one thread"));
    Outcome {
        received,
        sent,
        transcript: Transcript {
            sent: take(sent_log),
            answered: take(answer_log),
        },
    }
}

/// Options under which anybody can receive: everything belongs to whoever runs the test.
pub fn mine() -> ReceiveOptions {
    ReceiveOptions {
        owner: Some((
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        )),
        ..ReceiveOptions::default()
    }
}

/// Sends the directory `from` into `to`.
pub async fn transfer(from: &Path, to: &Path) -> Outcome {
    let tree = Tree::new(Root::open(from).expect("the source"));
    transfer_with(tree, to, mine(), Some(Records::new())).await
}

/// One line for each entry; everything that a transfer keeps.
pub fn describe(dir: &Path) -> Vec<String> {
    let root = Root::open(dir).expect("a directory");
    let mut links = HardLinks::default();
    Walk::new(&root)
        .expect("walk")
        .map(|entry| {
            let entry = entry.expect("entry");
            let first = links.first_name(&entry.meta, &entry.path);
            let content = if entry.meta.is_file() {
                let at = dir.join(&entry.path);
                let hidden = fs::metadata(&at).expect("meta").permissions().mode() & 0o400 == 0;
                if hidden {
                    String::new()
                } else {
                    let bytes = fs::read(&at).expect("read");
                    format!("{} bytes {}", bytes.len(), oci_digest(&bytes))
                }
            } else {
                String::new()
            };
            format!(
                "{} {:o} {} {content} -> {} = {}",
                entry.path.display(),
                entry.meta.mode,
                entry.meta.mtime.nanos(),
                entry.link.display(),
                first.unwrap_or_default().display(),
            )
        })
        .collect()
}

fn oci_digest(bytes: &[u8]) -> String {
    format!("{:?}", contenthash::Sum::of(bytes))
}

/// The digest of everything in a tree as its records say.
pub fn whole(records: &mut Records, dir: &Path) -> String {
    let root = Root::open(dir).expect("a directory");
    let answer = records.query(&Cx::root(), &root, &Query::of("/"));
    answer.expect("a digest").to_string()
}

/// What records say of everything in `dir`.
pub fn each(records: &mut Records, dir: &Path) -> Vec<(String, String)> {
    let root = Root::open(dir).expect("a directory");
    let walk = fstree::Walk::new(&root).expect("a walk");
    walk.map(|entry| {
        let path = entry.expect("an entry").path;
        let query = Query::of(format!("/{}", path.display()));
        let answer = records.query(&Cx::root(), &root, &query);
        (path.display().to_string(), format!("{answer:?}"))
    })
    .collect()
}

/// An entry of a tree to be made.
#[derive(Debug, Clone)]
pub enum Make {
    Dir(u32),
    File(Vec<u8>, u32),
    Symlink(String),
    /// A further name of the first file made.
    Link,
}

/// Whether `path` is below `dir` without a symlink on the way, which could lead anywhere on this machine.
pub fn stays_below(dir: &Path, path: &str) -> bool {
    let mut parents = Path::new(path).ancestors().skip(1);
    !parents.any(|parent| dir.join(parent).is_symlink())
}

/// Makes entries; those that are in each other's way are left out.
pub fn make(dir: &Path, entries: &[(String, Make, i64)]) {
    let mut first: Option<String> = None;
    let below = entries.iter().filter(|(path, _, _)| stays_below(dir, path));
    for (path, entry, _) in below {
        let at = dir.join(path);
        if let Some(parent) = at.parent() {
            let _ = fs::create_dir_all(parent);
        }
        let made = match entry {
            Make::Dir(_) => fs::create_dir_all(&at),
            Make::File(content, _) => {
                // A new inode, as editors do it.
                let _ = fs::remove_file(&at);
                fs::write(&at, content)
            }
            Make::Symlink(target) => symlink(target, &at),
            Make::Link => match &first {
                Some(first) => fs::hard_link(dir.join(first), &at),
                None => continue,
            },
        };
        if made.is_ok() && matches!(entry, Make::File(..)) && first.is_none() {
            first = Some(path.clone());
        }
    }
    // Modes and times last, children before their directories.
    for (path, entry, time) in entries.iter().rev() {
        let at = dir.join(path);
        if !stays_below(dir, path) {
            continue;
        }
        let Ok(meta) = fs::symlink_metadata(&at) else {
            continue;
        };
        match entry {
            Make::Dir(mode) if meta.is_dir() => set_mode(&at, *mode | 0o700),
            Make::File(_, mode) if meta.is_file() => set_mode(&at, *mode | 0o400),
            _ => {}
        }
        set_time(&at, *time);
    }
}

fn set_mode(at: &Path, mode: u32) {
    fs::set_permissions(at, fs::Permissions::from_mode(mode)).expect("chmod");
}

pub fn set_time(at: &Path, nanos: i64) {
    let time = Time::from_nanos(nanos).timespec();
    let both = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(rustix::fs::CWD, at, &both, flags).expect("utimensat");
}
