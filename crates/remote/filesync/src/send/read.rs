//! Reads the files that are asked for.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use proto::fsutil::Packet;
use rustix::fs::{Mode, OFlags};
use session::PART;

use super::Content;
use crate::Error;
use crate::packet::{self, Batches};

/// Small files are gathered until this much is there.
const BATCH: usize = 256 << 10;

/// Whether there is nothing to be read, rather than something that cannot be.
fn is_no_file(err: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(err);
    errno.is_some_and(|it| [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::NXIO].contains(&it))
}

/// How many threads read.
pub(super) fn readers() -> usize {
    tasks::cores().clamp(2, 4)
}

/// The files that were listed, and those that are wanted.
pub(super) struct Files {
    listed: Mutex<HashMap<u32, Content>>,
    wanted: Mutex<Wanted>,
    more: Condvar,
    sent: AtomicU64,
}

#[derive(Default)]
struct Wanted {
    queue: VecDeque<(u32, Content)>,
    closed: bool,
}

impl Files {
    pub fn new() -> Self {
        Self {
            listed: Mutex::default(),
            wanted: Mutex::default(),
            more: Condvar::new(),
            sent: AtomicU64::new(0),
        }
    }

    /// Files that may be asked for.
    pub fn add(&self, files: impl Iterator<Item = (u32, Content)>) {
        self.listed.lock().extend(files);
    }

    /// Files that are asked for. Each can be asked for once.
    pub fn want(&self, ids: &[u32]) -> Result<(), Error> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut listed = self.listed.lock();
        let mut wanted = self.wanted.lock();
        for &id in ids {
            let content = listed.remove(&id).ok_or(Error::UnknownId { id })?;
            wanted.queue.push_back((id, content));
        }
        if ids.len() == 1 {
            self.more.notify_one();
        } else {
            self.more.notify_all();
        }
        Ok(())
    }

    /// Bytes of content read so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Nothing more will be wanted.
    pub fn close(&self) {
        let mut wanted = self.wanted.lock();
        wanted.closed = true;
        wanted.queue.clear();
        self.more.notify_all();
    }

    /// The next wanted file; waits for one unless `now`.
    fn next(&self, now: bool) -> Option<(u32, Content)> {
        let mut wanted = self.wanted.lock();
        loop {
            if let Some(next) = wanted.queue.pop_front() {
                return Some(next);
            }
            if wanted.closed || now {
                return None;
            }
            self.more.wait(&mut wanted);
        }
    }
}

/// Reads until nothing more is wanted.
pub(super) fn serve(files: &Files, out: &Batches) -> Result<(), Error> {
    let mut batch = Batch {
        files,
        out,
        packets: Vec::new(),
        size: 0,
    };
    while let Some((id, content)) = files.next(false) {
        batch.file(id, content)?;
        while batch.size < BATCH
            && let Some((id, content)) = files.next(true)
        {
            batch.file(id, content)?;
        }
        batch.flush()?;
    }
    Ok(())
}

/// Packets that go out together.
struct Batch<'a> {
    files: &'a Files,
    out: &'a Batches,
    packets: Vec<Packet>,
    size: usize,
}

impl Batch<'_> {
    fn flush(&mut self) -> Result<(), Error> {
        if self.packets.is_empty() {
            return Ok(());
        }
        self.size = 0;
        let packets = std::mem::take(&mut self.packets);
        self.out.blocking_send(Ok(packets)).map_err(|_| Error::Eof)
    }

    fn part(&mut self, id: u32, bytes: Bytes) -> Result<(), Error> {
        self.files
            .sent
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.size += bytes.len();
        self.packets.push(packet::data(id, bytes));
        if self.size >= BATCH {
            self.flush()?;
        }
        Ok(())
    }

    /// All parts of a file and the empty one that ends it.
    fn file(&mut self, id: u32, content: Content) -> Result<(), Error> {
        match content {
            Content::None => {}
            Content::Bytes(bytes) => {
                let mut rest = bytes;
                while !rest.is_empty() {
                    let part = rest.split_to(rest.len().min(PART));
                    self.part(id, part)?;
                }
            }
            Content::File { root, path } => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
                match root.open_with(&path, flags, Mode::empty()) {
                    Ok(fd) => {
                        let read = self.parts(id, &File::from(fd));
                        read.map_err(|err| match err {
                            ReadError::Read(err) => Error::io("read", &path, err),
                            ReadError::Send(err) => err,
                        })?;
                    }
                    // A file that is gone, or was one, is sent as an empty one.
                    Err(err) if is_no_file(&err) => {}
                    // Clients of upstream send an empty one here too, and the build goes on with that.
                    Err(err) => return Err(Error::io("open", &path, err)),
                }
            }
        }
        self.packets.push(packet::data(id, Bytes::new()));
        Ok(())
    }

    fn parts(&mut self, id: u32, file: &File) -> Result<(), ReadError> {
        let meta = file.metadata().map_err(ReadError::Read)?;
        if !meta.is_file() {
            return Ok(());
        }
        let mut left = meta.len();
        loop {
            // One more than is expected, so that a file that grew is noticed.
            let room = usize::try_from(left)
                .unwrap_or(PART)
                .saturating_add(1)
                .min(PART);
            let mut part: Vec<u8> = Vec::with_capacity(room);
            while part.len() < room {
                match rustix::io::read(file, rustix::buffer::spare_capacity(&mut part)) {
                    Ok(0) => break,
                    // As much as there should be: it is not worth asking for the end.
                    Ok(_) if part.len() as u64 == left => break,
                    Ok(_) => {}
                    Err(rustix::io::Errno::INTR) => {}
                    Err(err) => return Err(ReadError::Read(err.into())),
                }
            }
            let read = part.len();
            if read > 0 {
                self.part(id, Bytes::from(part)).map_err(ReadError::Send)?;
            }
            left = left.saturating_sub(read as u64);
            if read < room || left == 0 {
                return Ok(());
            }
        }
    }
}

enum ReadError {
    Read(io::Error),
    Send(Error),
}
