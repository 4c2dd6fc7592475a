//! A blob being written.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use oci::Digest;
use sha2::Digest as _;

use crate::{Error, Store};

/// Small writes are gathered up to here; larger ones go straight through, hashed while they are hot.
const GATHER: usize = 128 << 10;
/// Directories of unfinished blobs.
const INGESTS: u64 = 32;

/// Takes the bytes of a blob and hashes them on the way. Dropping it forgets the blob.
#[derive(Debug)]
pub struct Writer {
    store: Store,
    expected: Option<Digest>,
    hash: Hash,
    gathered: Vec<u8>,
    size: u64,
    file: File,
    ingest: Ingest,
}

/// The unfinished file; removed unless it was renamed.
#[derive(Debug)]
struct Ingest(Option<PathBuf>);

impl Drop for Ingest {
    fn drop(&mut self) {
        if let Some(path) = self.0.take()
            && let Err(err) = std::fs::remove_file(&path)
        {
            tracing::warn!(path = %path.display(), error = %err, "unfinished blob left behind");
        }
    }
}

impl Writer {
    pub(crate) fn new(store: Store, expected: Option<Digest>) -> Result<Self, Error> {
        let hash = Hash::for_digest(expected.as_ref());
        let (file, path) = create(&store).map_err(|source| Error::Write {
            digest: expected.clone(),
            source,
        })?;
        Ok(Self {
            store,
            expected,
            hash,
            gathered: Vec::new(),
            size: 0,
            file,
            ingest: Ingest(Some(path)),
        })
    }

    /// Bytes taken so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Verifies the digest and gives the blob its name. A blob that is there already stays as it is.
    pub fn commit(mut self) -> Result<(Digest, u64), Error> {
        self.flush().map_err(|source| Error::Write {
            digest: self.expected.clone(),
            source,
        })?;
        let actual = self.hash.finish();
        if let Some(expected) = self.expected
            && expected != actual
        {
            return Err(Error::Mismatch { actual, expected });
        }
        let path = self.store.path(&actual);
        if !path.exists()
            && let Some(unfinished) = self.ingest.0.as_ref()
        {
            if actual.algorithm() != "sha256"
                && let Some(parent) = path.parent()
            {
                std::fs::create_dir_all(parent).map_err(Error::writing(&actual))?;
            }
            std::fs::rename(unfinished, &path).map_err(Error::writing(&actual))?;
            self.ingest.0 = None;
        }
        Ok((actual, self.size))
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.file.write_all(bytes)
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.gathered.len() + bytes.len() > GATHER {
            self.flush()?;
        }
        if bytes.len() >= GATHER {
            self.take(bytes)?;
        } else {
            self.gathered.extend_from_slice(bytes);
        }
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut gathered = std::mem::take(&mut self.gathered);
        self.take(&gathered)?;
        gathered.clear();
        self.gathered = gathered;
        Ok(())
    }
}

fn create(store: &Store) -> io::Result<(File, PathBuf)> {
    loop {
        let number = store.inner.next.fetch_add(1, Ordering::Relaxed);
        let path = place(store, number);
        // A finished blob never changes: nobody but the writer may have it open for writing.
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o444)
            .open(&path);
        match file {
            Ok(file) => return Ok((file, path)),
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
            Err(err) if err.kind() == io::ErrorKind::NotFound && store.inner.root.exists() => {
                if let Some(parent) = path.parent() {
                    std::fs::create_dir_all(parent)?;
                }
            }
            Err(err) => return Err(err),
        }
    }
}

/// Where an unfinished blob is written.
pub(crate) fn place(store: &Store, number: u64) -> PathBuf {
    let root = &store.inner.root;
    root.join(format!("ingest/{}/{number}", number % INGESTS))
}

#[derive(Debug)]
enum Hash {
    Sha256(sha2::Sha256),
    Sha384(sha2::Sha384),
    Sha512(sha2::Sha512),
}

impl Hash {
    fn for_digest(expected: Option<&Digest>) -> Self {
        match expected.map(Digest::algorithm) {
            Some("sha384") => Self::Sha384(sha2::Sha384::new()),
            Some("sha512") => Self::Sha512(sha2::Sha512::new()),
            _ => Self::Sha256(sha2::Sha256::new()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha384(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    fn finish(self) -> Digest {
        let (algorithm, raw) = match self {
            Self::Sha256(hash) => return Digest::from_sha256(hash.finalize().as_slice()),
            Self::Sha384(hash) => ("sha384", hash.finalize().to_vec()),
            Self::Sha512(hash) => ("sha512", hash.finalize().to_vec()),
        };
        format!("{algorithm}:{}", oci::hex(&raw))
            .parse()
            .expect("hex of the length of the algorithm")
    }
}
