//! Blobs by digest, in a directory: written once, verified, never changed.
//!
//! `blobs/<algorithm>/<hex>` holds what is complete; the directories in `ingest/` what is being written, several because
//! who makes a file has its directory for itself. A blob gets its name by a rename after its digest was verified, so whatever has a name is whole. Nothing here waits for the disk: a killed daemon
//! loses nothing, and after a power cut the owner of the store drops what was written after its last sync
//! ([`Store::drop_written_since`]).
//!
//! Who needs a blob, and for how long, is not known here; but when somebody last asked for it, so that what belongs to
//! nobody can be removed some time later ([`Store::remove_unused`]).

mod check;
mod error;
mod writer;

use std::fs::{File, FileTimes};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use oci::{Descriptor, Digest};
use parking_lot::RwLock;
use progress::Progress;
use tasks::Cx;

pub use error::Error;
pub use writer::Writer;

/// A directory of blobs. Clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    /// Makes the names of files being written unique.
    next: AtomicU64,
    /// Written while something unused is removed: who was told that a blob is there finds it there.
    removing: RwLock<()>,
    checked: check::Checked,
}

/// How exactly is known when a blob was last asked for.
const USE_STEP: Duration = Duration::from_secs(60);

/// What is known of a blob without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Its name.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// Bytes of the blocks it occupies.
    pub disk: u64,
    /// When somebody last asked for it, give or take a minute.
    pub used: SystemTime,
    /// When it was complete.
    pub created: SystemTime,
}

/// Somewhere blobs can be had from: a registry, a client's OCI layout.
///
/// 1. After `fetch` returned, the blob is in the store, complete and verified.
/// 2. A blob that is there already is not fetched again.
/// 3. `fetch` may be called for several blobs at a time, and again after it failed.
#[async_trait]
pub trait Provider: Send + Sync {
    /// Makes the blob present in `store`.
    async fn fetch(
        &self,
        cx: &Cx,
        blob: &Descriptor,
        store: &Store,
        progress: &Progress,
    ) -> Result<(), Error>;
}

impl Store {
    /// Opens the store at `root`, making it if need be. Files that were never finished are removed: there must be no
    /// other user of the directory.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let store = Self {
            inner: Arc::new(Inner {
                root: root.to_owned(),
                next: AtomicU64::new(0),
                removing: RwLock::new(()),
                checked: check::Checked::new(),
            }),
        };
        store.prepare().map_err(|source| Error::Store {
            path: root.to_owned(),
            source,
        })?;
        Ok(store)
    }

    fn prepare(&self) -> io::Result<()> {
        std::fs::create_dir_all(self.inner.root.join("blobs/sha256"))?;
        let ingest = self.inner.root.join("ingest");
        match std::fs::create_dir(&ingest) {
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other,
        }
        fstree::dir::spread_children(File::open(&ingest)?);
        for entry in std::fs::read_dir(&ingest)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                std::fs::remove_file(entry.path())?;
                continue;
            }
            for unfinished in std::fs::read_dir(entry.path())? {
                std::fs::remove_file(unfinished?.path())?;
            }
        }
        Ok(())
    }

    /// The directory of the store.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// Where the blob is or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        let mut path = self.inner.root.join("blobs");
        path.push(digest.algorithm());
        path.push(digest.hex());
        path
    }

    /// Whether the blob is complete. Whoever asks is taken for somebody who is going to use it.
    pub fn contains(&self, digest: &Digest) -> bool {
        let _nobody_removes = self.inner.removing.read();
        let path = self.path(digest);
        let Ok(meta) = std::fs::metadata(&path) else {
            return false;
        };
        note_use(&path, &meta);
        true
    }

    /// Size and age of a blob.
    pub fn info(&self, digest: &Digest) -> Result<Info, Error> {
        let meta = std::fs::metadata(self.path(digest)).map_err(Error::reading(digest))?;
        info(digest.clone(), &meta).map_err(Error::reading(digest))
    }

    /// Opens a blob for reading. One that was damaged on disk meanwhile is removed, and an error.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, Error> {
        self.contains(digest);
        let mut file = File::open(self.path(digest)).map_err(Error::reading(digest))?;
        self.check(digest, &mut file)?;
        Ok(file)
    }

    /// The whole of a small blob: a manifest, a config.
    pub fn read(&self, digest: &Digest) -> Result<Bytes, Error> {
        self.contains(digest);
        let bytes = std::fs::read(self.path(digest)).map_err(Error::reading(digest))?;
        self.check_bytes(digest, &bytes)?;
        Ok(Bytes::from(bytes))
    }

    /// Starts a blob. With `expected`, [`Writer::commit`] fails unless that is what was written.
    pub fn writer(&self, expected: Option<&Digest>) -> Result<Writer, Error> {
        Writer::new(self.clone(), expected.cloned())
    }

    /// Stores a small blob.
    pub fn put(&self, bytes: impl AsRef<[u8]>) -> Result<Digest, Error> {
        let digest = Digest::of(bytes.as_ref());
        if self.contains(&digest) {
            return Ok(digest);
        }
        let mut writer = self.writer(Some(&digest))?;
        io::Write::write_all(&mut writer, bytes.as_ref()).map_err(Error::writing(&digest))?;
        Ok(writer.commit()?.0)
    }

    /// All blobs, sorted by digest.
    pub fn list(&self) -> Result<Vec<Info>, Error> {
        let mut all = Vec::new();
        self.each(|digest, meta| {
            all.push(info(digest, &meta)?);
            Ok(())
        })?;
        all.sort_by(|a, b| a.digest.cmp(&b.digest));
        Ok(all)
    }

    /// Removes a blob; whether there was one.
    pub fn remove(&self, digest: &Digest) -> Result<bool, Error> {
        match std::fs::remove_file(self.path(digest)) {
            Ok(()) => Ok(true),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(err) => Err(Error::writing(digest)(err)),
        }
    }

    /// Removes a blob unless somebody asked for it at `since` or later; whether it is gone.
    pub fn remove_unused(&self, digest: &Digest, since: SystemTime) -> Result<bool, Error> {
        // Giving back its room may take a while, and comes when the last descriptor is closed: after the lock.
        let _open = File::open(self.path(digest));
        let _nobody_asks = self.inner.removing.write();
        match self.info(digest) {
            Ok(info) if info.used < since => self.remove(digest),
            Ok(_) => Ok(false),
            Err(Error::NotFound { .. }) => Ok(true),
            Err(err) => Err(err),
        }
    }

    /// Removes what was completed at `since` or later, except what is known to be `synced`: after a power cut such
    /// blobs may have a name and no content. Returns how many.
    pub fn drop_written_since(
        &self,
        since: SystemTime,
        synced: impl Fn(&Digest) -> bool,
    ) -> Result<usize, Error> {
        let mut doomed = Vec::new();
        self.each(|digest, meta| {
            if meta.modified()? >= since && !synced(&digest) {
                doomed.push(digest);
            }
            Ok(())
        })?;
        for digest in &doomed {
            self.remove(digest)?;
        }
        Ok(doomed.len())
    }

    fn each(
        &self,
        mut visit: impl FnMut(Digest, std::fs::Metadata) -> io::Result<()>,
    ) -> Result<(), Error> {
        let blobs = self.inner.root.join("blobs");
        let mut walk = || -> io::Result<()> {
            for algorithm in std::fs::read_dir(&blobs)? {
                let algorithm = algorithm?;
                for entry in std::fs::read_dir(algorithm.path())? {
                    let entry = entry?;
                    let text = format!(
                        "{}:{}",
                        algorithm.file_name().to_string_lossy(),
                        entry.file_name().to_string_lossy()
                    );
                    match text.parse() {
                        Ok(digest) => visit(digest, entry.metadata()?)?,
                        Err(_) => tracing::warn!(name = text, "strange file among the blobs"),
                    }
                }
            }
            Ok(())
        };
        walk().map_err(|source| Error::Store {
            path: blobs.clone(),
            source,
        })
    }
}

fn info(digest: Digest, meta: &std::fs::Metadata) -> io::Result<Info> {
    let created = meta.modified()?;
    Ok(Info {
        digest,
        size: meta.len(),
        disk: meta.blocks() * 512,
        used: meta.accessed().map_or(created, |used| used.max(created)),
        created,
    })
}

/// Notes the use of a blob in its time of access, which nothing else here depends on.
fn note_use(path: &Path, meta: &std::fs::Metadata) {
    let now = SystemTime::now();
    let is_recent = meta
        .accessed()
        .is_ok_and(|used| used.checked_add(USE_STEP).is_some_and(|until| until > now));
    if is_recent {
        return;
    }
    let times = FileTimes::new().set_accessed(now);
    // Nobody may have it open for writing; its times can be set all the same.
    let noted = File::open(path).and_then(|file| file.set_times(times));
    if let Err(err) = noted {
        tracing::debug!(path = %path.display(), error = %err, "use of a blob not noted");
    }
}

#[cfg(test)]
mod tests;
