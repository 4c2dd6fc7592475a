//! Writes and hashes the content of files.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use bytes::Bytes;
use contenthash::{Change, FileHasher};
use fstree::{Root, Time, unix_mode};
use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};
use proto::fsutil::Stat;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};

use super::Observer;
use super::place::{self, Place};
use crate::{Error, stat};

/// How many threads write.
pub(super) fn writers() -> usize {
    tasks::cores().clamp(2, 8)
}

/// A part of a file, on its way to the writer.
#[derive(Debug)]
pub(super) struct Chunk {
    pub id: u32,
    pub data: Bytes,
    /// Given back when the part is written.
    pub _room: OwnedSemaphorePermit,
}

/// A file that was asked for.
#[derive(Debug)]
pub(super) struct Job {
    pub stat: Stat,
    /// Something other than a directory is there and will be replaced.
    pub replace: bool,
}

/// What applier and writers share.
pub(super) struct Shared<O> {
    root: Root,
    jobs: Mutex<HashMap<u32, Job>>,
    observer: Option<Mutex<O>>,
    requested: AtomicU32,
    unwritten: AtomicUsize,
    written: Notify,
}

impl<O: Observer> Shared<O> {
    pub fn new(root: Root, observer: Option<O>) -> Self {
        Self {
            root,
            jobs: Mutex::default(),
            observer: observer.map(Mutex::new),
            requested: AtomicU32::new(0),
            unwritten: AtomicUsize::new(0),
            written: Notify::new(),
        }
    }

    pub fn root(&self) -> &Root {
        &self.root
    }

    pub fn observer(&self) -> Option<MappedMutexGuard<'_, O>> {
        let observer = self.observer.as_ref()?;
        Some(MutexGuard::map(observer.lock(), |observer| observer))
    }

    pub fn into_observer(self) -> Option<O> {
        self.observer.map(Mutex::into_inner)
    }

    /// Announces content. Must come before the content is asked for.
    pub fn expect(&self, id: u32, job: Job) {
        self.unwritten.fetch_add(1, Ordering::AcqRel);
        self.requested.fetch_add(1, Ordering::Relaxed);
        self.jobs.lock().insert(id, job);
    }

    /// How many files were asked for.
    pub fn requested(&self) -> u32 {
        self.requested.load(Ordering::Relaxed)
    }

    fn done(&self) {
        if self.unwritten.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.written.notify_one();
        }
    }

    /// Waits until everything that was asked for is written. To be called when nothing more will be asked for.
    pub async fn all_written(&self) {
        while self.unwritten.load(Ordering::Acquire) > 0 {
            self.written.notified().await;
        }
    }
}

/// A file that is being written.
struct Open {
    stat: Stat,
    file: File,
    hash: Option<FileHasher>,
    temporary: Option<Temporary>,
}

/// A name that lasts until the file is complete. Dropped before, it is removed.
struct Temporary {
    dir: OwnedFd,
    made: CString,
    name: CString,
    placed: bool,
}

impl Temporary {
    fn take_place(mut self) -> rustix::io::Result<()> {
        rustix::fs::renameat(&self.dir, &*self.made, &self.dir, &*self.name)?;
        self.placed = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.placed {
            // Nothing more can be done about it.
            let _ = rustix::fs::unlinkat(&self.dir, &*self.made, AtFlags::empty());
        }
    }
}

/// Writes what comes until nothing more does.
pub(super) fn write<O: Observer>(
    shared: &Shared<O>,
    mut inbox: mpsc::UnboundedReceiver<Vec<Chunk>>,
) -> Result<(), Error> {
    let mut place = Place::new(shared.root().clone());
    let mut open: HashMap<u32, Open> = HashMap::new();
    while let Some(chunks) = inbox.blocking_recv() {
        for chunk in chunks {
            let mut file = match open.remove(&chunk.id) {
                Some(file) => file,
                None => {
                    let job = shared.jobs.lock().remove(&chunk.id);
                    let job = job.ok_or(Error::NotRequested { id: chunk.id })?;
                    begin(&mut place, job, shared.observer.is_some())?
                }
            };
            if chunk.data.is_empty() {
                finish(shared, file)?;
                shared.done();
                continue;
            }
            if let Some(hash) = &mut file.hash {
                hash.update(&chunk.data);
            }
            let written = file.file.write_all(&chunk.data);
            written.map_err(|err| Error::io("write", &file.stat.path, err))?;
            open.insert(chunk.id, file);
        }
    }
    Ok(())
}

fn begin(place: &mut Place, job: Job, hashed: bool) -> Result<Open, Error> {
    let stat = job.stat;
    let at = place::path_of(&stat);
    let (dir, name) = place.parent(at)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let create =
        |name: &CString| rustix::fs::openat(dir, &**name, flags, Mode::from_raw_mode(0o600));
    let direct = if job.replace {
        Err(Errno::EXIST)
    } else {
        create(&name)
    };
    let (fd, temporary) = match direct {
        Ok(fd) => (fd, None),
        Err(Errno::EXIST) => {
            let made = place::temporary();
            let fd = create(&made).map_err(|err| Error::io("open", at, err))?;
            let dir = dir.try_clone_to_owned();
            let dir = dir.map_err(|err| Error::io("open", at, err))?;
            (
                fd,
                Some(Temporary {
                    dir,
                    made,
                    name,
                    placed: false,
                }),
            )
        }
        Err(err) => return Err(Error::io("open", at, err)),
    };
    let hash = hashed.then(|| FileHasher::new(&stat::header(&stat), &stat::attributes(&stat)));
    Ok(Open {
        stat,
        file: File::from(fd),
        hash,
        temporary,
    })
}

/// Gives a file that is complete its metadata and its place.
fn finish<O: Observer>(shared: &Shared<O>, mut open: Open) -> Result<(), Error> {
    let stat = &open.stat;
    let failed = |op| move |err: Errno| Error::io(op, &stat.path, err);
    let (uid, gid) = place::owner(stat);
    rustix::fs::fchown(&open.file, uid, gid).map_err(failed("lchown"))?;
    let mode = Mode::from_raw_mode(unix_mode(stat.mode) & 0o7777);
    rustix::fs::fchmod(&open.file, mode).map_err(failed("chmod"))?;
    // After content and owner: the system takes capabilities away when either changes.
    for (key, value) in &stat.xattrs {
        // Compat: attributes that the file system refuses are left out.
        let _ = fstree::xattr::set_of_file(&open.file, key.as_bytes(), value);
    }
    let time = Time::from_nanos(stat.mod_time);
    rustix::fs::futimens(&open.file, &place::timestamps(time)).map_err(failed("utimensat"))?;
    if let Some(temporary) = open.temporary.take() {
        temporary.take_place().map_err(failed("rename"))?;
    }
    if let (Some(hash), Some(mut observer)) = (open.hash.take(), shared.observer()) {
        observer.changed(open.stat.path.as_bytes(), Change::File(hash.finish()));
    }
    Ok(())
}
