//! From blobs to a directory. Nothing leads out of it, whatever the blobs say.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use content::{Provider, Store};
use fault::Class;
use fstree::{Parent, Root, Time, xattr};
use futures::{StreamExt as _, TryStreamExt as _};
use oci::{Descriptor, Digest};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timestamps, Uid};
use rustix::io::Errno;
use tasks::Cx;
use tokio::sync::mpsc;

use super::tree::{self, Entry, Kind};
use crate::{Error, Work};

/// Chunks fetched beside each other.
const AHEAD: usize = 4;
/// No chunk may be larger than this.
const LARGEST: u64 = 1 << 30;

/// Puts files into a directory. Chunks are fetched into the store of `work` as they are needed.
pub(super) async fn unpack(
    work: &Work,
    provider: Arc<dyn Provider>,
    tree: Bytes,
    chunks: Vec<Descriptor>,
    into: Root,
) -> Result<(), Error> {
    let (ready, queue) = mpsc::channel(1);
    let stream = Chunks {
        queue,
        store: work.store.clone(),
        open: None,
    };
    let cx = work.cx.clone();
    let written = tasks::blocking(move || write(&cx, &tree, stream, &into));
    let fetched = async {
        let fetch = |chunk: Descriptor| {
            let (work, provider) = (work.clone(), provider.clone());
            async move {
                let Work {
                    cx,
                    store,
                    progress,
                    ..
                } = &work;
                provider.fetch(cx, &chunk, store, progress).await?;
                Ok::<_, Error>(chunk.digest)
            }
        };
        let mut fetched = futures::stream::iter(chunks).map(fetch).buffered(AHEAD);
        while let Some(digest) = fetched.try_next().await? {
            // The writer says why it is gone.
            if ready.send(digest).await.is_err() {
                break;
            }
        }
        drop(ready);
        Ok::<_, Error>(())
    };
    let (fetched, written) = tokio::join!(work.cx.run(fetched), written);
    // Who lacks a chunk fails because it did not come.
    fetched??;
    written
}

/// The bytes of all chunks, one after the other.
struct Chunks {
    queue: mpsc::Receiver<Digest>,
    store: Store,
    open: Option<io::Take<Box<dyn Read + Send>>>,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(open) = &mut self.open {
                let read = open.read(buffer)?;
                if read > 0 || buffer.is_empty() {
                    return Ok(read);
                }
                if open.limit() == 0 {
                    return Err(io::Error::other("a chunk is too large"));
                }
            }
            let Some(next) = self.queue.blocking_recv() else {
                return Ok(0);
            };
            let blob = self.store.open_blob(&next).map_err(io::Error::other)?;
            let decoder: Box<dyn Read + Send> = Box::new(zstd::stream::read::Decoder::new(blob)?);
            self.open = Some(decoder.take(LARGEST));
        }
    }
}

fn write(cx: &Cx, tree: &[u8], mut stream: Chunks, root: &Root) -> Result<(), Error> {
    let mut directories = Vec::new();
    for entry in tree::read(tree)? {
        cx.check()?;
        let entry = entry?;
        let path = fstree::path::relative(entry.path.path());
        let done = put(&entry, &path, &mut stream, root);
        done.map_err(|err| failed(&path, &err))?;
        if entry.kind == Kind::Dir {
            directories.push((path, entry.mtime));
        }
    }
    // What was put into them changed their times.
    for (path, mtime) in directories.into_iter().rev() {
        let done = root.parent(&path).and_then(|at| set_time(&at, mtime));
        done.map_err(|err| failed(&path, &err))?;
    }
    Ok(())
}

fn failed(path: &Path, err: &io::Error) -> Error {
    Error::Place {
        text: format!("failed to restore {}: {err}", path.display()),
        class: Class::Unavailable,
    }
}

fn put(entry: &Entry, path: &PathBuf, stream: &mut Chunks, root: &Root) -> io::Result<()> {
    if entry.kind == Kind::Nothing {
        return skip(stream, entry.size);
    }
    let at = root.parent(path)?;
    match entry.kind {
        Kind::Dir => {
            let is_there = at.meta().is_ok_and(|meta| meta.is_dir());
            if !is_there {
                at.remove_all()?;
                rustix::fs::mkdirat(&at.dir, at.name(), Mode::from_raw_mode(0o700))?;
            }
        }
        Kind::File => {
            at.remove_all()?;
            let mut file = create(&at)?;
            let copied = io::copy(&mut stream.by_ref().take(entry.size), &mut file)?;
            if copied < entry.size {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            file.flush()?;
        }
        Kind::Symlink => {
            at.remove_all()?;
            rustix::fs::symlinkat(entry.link.path(), &at.dir, at.name())?;
        }
        Kind::Hardlink => {
            at.remove_all()?;
            let first = root.parent(fstree::path::relative(entry.link.path()))?;
            let flags = AtFlags::empty();
            rustix::fs::linkat(&first.dir, first.name(), &at.dir, at.name(), flags)?;
            return Ok(());
        }
        Kind::Nothing => {}
    }
    dress(entry, &at)
}

/// Owner, attributes, permissions, times, in this order: a change of one undoes some of those after it.
fn dress(entry: &Entry, at: &Parent) -> io::Result<()> {
    // The largest number means nobody.
    let uid = (entry.uid != u32::MAX).then(|| Uid::from_raw(entry.uid));
    let gid = (entry.gid != u32::MAX).then(|| Gid::from_raw(entry.gid));
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    match rustix::fs::chownat(&at.dir, at.name(), uid, gid, flags) {
        // Without rights, or without such a user: the files are the daemon's own then.
        Err(Errno::PERM | Errno::INVAL) => {}
        done => done?,
    }
    for (name, value) in &entry.attributes {
        let name = name.path();
        let name = fstree::path::bytes(&name);
        if let Err(err) = xattr::set_of_entry(&at.dir, at.name().to_bytes(), name, value) {
            tracing::debug!(error = %err, "attribute of a cache mount left out");
        }
    }
    if entry.kind != Kind::Symlink {
        let mode = Mode::from_raw_mode(entry.mode & 0o7777);
        rustix::fs::chmodat(&at.dir, at.name(), mode, AtFlags::empty())?;
    }
    set_time(at, entry.mtime)
}

/// Access counts from the last change on: so it shows when somebody reads the file.
fn set_time(at: &Parent, mtime: i64) -> io::Result<()> {
    let time = Time::from_nanos(mtime).timespec();
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    Ok(rustix::fs::utimensat(
        at.dir.as_fd(),
        at.name(),
        &times,
        flags,
    )?)
}

fn create(at: &Parent) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&at.dir, at.name(), flags, Mode::from_raw_mode(0o600))?;
    Ok(File::from(file))
}

fn skip(stream: &mut Chunks, size: u64) -> io::Result<()> {
    let skipped = io::copy(&mut stream.by_ref().take(size), &mut io::sink())?;
    if skipped < size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}
