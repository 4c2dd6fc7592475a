//! Reads what records do not know yet: lists directories, hashes files on several threads.

use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use fstree::dir::{Listed, Listing};
use fstree::{Kind, Meta, Root, xattr};
use parking_lot::Mutex;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Mode, OFlags};
use tasks::Cx;

use crate::Error;
use crate::header::{FileHasher, FileHeader, Sum};
use crate::records::{Dir, Miss, Node};

/// Fewer files than this are hashed by the caller alone.
const WORTH_THREADS: usize = 32;
/// The most threads that hash for one query.
const MAX_THREADS: usize = 8;
const BUFFER: usize = 128 << 10;

/// The tree behind the records, or none.
pub(crate) struct Disk<'a> {
    tree: Option<(&'a Cx, &'a Root)>,
    read: Cell<bool>,
}

/// A record to be computed.
pub(crate) struct Job<'a> {
    /// Relative to the root.
    pub path: PathBuf,
    pub slot: &'a mut Option<Sum>,
}

impl<'a> Disk<'a> {
    pub fn of(cx: &'a Cx, tree: &'a Root) -> Self {
        Self {
            tree: Some((cx, tree)),
            read: Cell::new(false),
        }
    }

    pub fn none() -> Self {
        Self {
            tree: None,
            read: Cell::new(false),
        }
    }

    pub fn is_none(&self) -> bool {
        self.tree.is_none()
    }

    /// Whether anything was read, so that the records know more than before.
    pub fn was_read(&self) -> bool {
        self.read.get()
    }

    fn tree(&self) -> Result<(&'a Cx, &'a Root), Miss> {
        self.read.set(self.tree.is_some());
        self.tree.ok_or(Miss::Unknown)
    }

    /// Completes the children of a directory.
    pub fn list(&self, dir: &mut Dir, at: &Path) -> Result<(), Miss> {
        if dir.listed {
            return Ok(());
        }
        let (cx, tree) = self.tree()?;
        cx.check()?;
        let failed = |op, path: &Path, err: io::Error| {
            fstree::Error::new(op, fstree::path::rooted(path), err)
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let fd = tree
            .open_with(at, flags, Mode::empty())
            .map_err(|err| failed("open", at, err))?;
        let entries = Listing::of(&fd).map_err(|err| failed("readdirent", at, err))?;
        let known = !dir.children.is_empty();
        let mut found = Vec::with_capacity(entries.iter().len());
        for Listed { name, kind, .. } in entries.iter() {
            if known && dir.children.contains_key(name.to_bytes()) {
                continue;
            }
            let node = match kind {
                Kind::Dir => Node::Dir(Dir::default()),
                Kind::Symlink => {
                    let target = rustix::fs::readlinkat(&fd, name, Vec::new()).map_err(|err| {
                        failed(
                            "readlink",
                            &fstree::path::join(at, name.to_bytes()),
                            err.into(),
                        )
                    })?;
                    Node::Symlink {
                        target: target.as_bytes().into(),
                        sum: None,
                    }
                }
                _ => Node::File { sum: None },
            };
            found.push((name.to_bytes().into(), node));
        }
        if known {
            dir.children.extend(found);
        } else {
            dir.children = found.into_iter().collect();
        }
        dir.listed = true;
        Ok(())
    }

    /// Fills all slots.
    pub fn hash(&self, jobs: Vec<Job<'_>>) -> Result<(), Miss> {
        if jobs.is_empty() {
            return Ok(());
        }
        let (cx, tree) = self.tree()?;
        let threads = (jobs.len() / WORTH_THREADS + 1)
            .min(MAX_THREADS)
            .min(tasks::cores());
        let work = Work {
            cx,
            tree,
            jobs: Mutex::new(jobs.into_iter()),
            stop: AtomicBool::new(false),
        };
        let first_failure = std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(|| work.run())).collect();
            let mut result = work.run();
            for other in others {
                let theirs = other
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                result = result.and(theirs);
            }
            result
        });
        Ok(first_failure?)
    }
}

/// What the threads of one query share.
struct Work<'a, 'j> {
    cx: &'a Cx,
    tree: &'a Root,
    jobs: Mutex<std::vec::IntoIter<Job<'j>>>,
    stop: AtomicBool,
}

impl Work<'_, '_> {
    fn run(&self) -> Result<(), Error> {
        let mut hands = Hands {
            tree: self.tree,
            buffer: vec![0; BUFFER],
            dir: None,
        };
        while !self.stop.load(Ordering::Relaxed) {
            let Some(job) = self.jobs.lock().next() else {
                return Ok(());
            };
            let sum = self.cx.check().map_err(Error::from).and_then(|()| {
                hands.entry(&job.path).map_err(|(op, err)| {
                    fstree::Error::new(op, fstree::path::rooted(&job.path), err).into()
                })
            });
            match sum {
                Ok(sum) => *job.slot = Some(sum),
                Err(err) => {
                    self.stop.store(true, Ordering::Relaxed);
                    return Err(err);
                }
            }
        }
        Ok(())
    }
}

type Failed = (&'static str, io::Error);

/// What one thread keeps from file to file.
struct Hands<'a> {
    tree: &'a Root,
    buffer: Vec<u8>,
    /// The directory of the last entry; the next one is mostly in it too.
    dir: Option<(PathBuf, OwnedFd)>,
}

impl Hands<'_> {
    /// The record of one entry on disk; links are not followed.
    fn entry(&mut self, path: &Path) -> Result<Sum, Failed> {
        let above = path.parent().unwrap_or(Path::new(""));
        let dir = match self.dir.take() {
            Some((known, dir)) if known == above => dir,
            _ => {
                let flags = OFlags::PATH | OFlags::DIRECTORY;
                let opened = self.tree.open_with(above, flags, Mode::empty());
                opened.map_err(|err| ("lstat", err))?
            }
        };
        let (_, dir) = self.dir.insert((above.to_owned(), dir));
        let name = path.file_name().map_or(&b"."[..], OsStrExt::as_bytes);
        let name = CString::new(name).map_err(|err| ("lstat", err.into()))?;
        let stat = rustix::fs::statat(&*dir, &*name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|err| ("lstat", err.into()))?;
        let meta = Meta::from(&stat);
        match meta.kind() {
            Kind::File => hash_file(dir, &name, &meta, &mut self.buffer),
            Kind::Symlink => {
                let target = rustix::fs::readlinkat(&*dir, &*name, Vec::new())
                    .map_err(|err| ("readlink", err.into()))?;
                hash_header(dir, &name, &meta, target.as_bytes())
            }
            _ => hash_header(dir, &name, &meta, b""),
        }
    }
}

fn hash_header(dir: &OwnedFd, name: &CStr, meta: &Meta, target: &[u8]) -> Result<Sum, Failed> {
    let xattrs = xattr::of_entry(dir, name.to_bytes()).map_err(|err| ("llistxattr", err))?;
    Ok(start(meta, target, &xattrs).finish())
}

fn hash_file(dir: &OwnedFd, name: &CStr, meta: &Meta, buffer: &mut [u8]) -> Result<Sum, Failed> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, name, flags, Mode::empty())
        .map_err(|err| ("open", io::Error::from(err)))?;
    let xattrs = xattr::of_file(&fd).map_err(|err| ("flistxattr", err))?;
    let mut hasher = start(meta, b"", &xattrs);
    let mut file = std::fs::File::from(fd);
    let mut left = meta.size;
    while left > 0 {
        match file.read(buffer) {
            Ok(0) => break,
            Ok(len) => {
                hasher.update(&buffer[..len]);
                left = left.saturating_sub(len as u64);
            }
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(("read", err)),
        }
    }
    Ok(hasher.finish())
}

fn start(meta: &Meta, target: &[u8], xattrs: &xattr::Xattrs) -> FileHasher {
    let xattrs: Vec<(&[u8], &[u8])> = xattrs
        .iter()
        .map(|(name, value)| (name.as_bytes(), value.as_slice()))
        .collect();
    FileHasher::new(&FileHeader::from_disk(meta, target), &xattrs)
}
