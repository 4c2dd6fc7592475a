//! Blobs of records: compressed on disk, named by the digest of what they are when read.
//!
//! A file is a zstd frame and behind it a skippable frame with the size of the content, so it can be read with any tool.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use oci::{Digest, Hasher};
use proto::control::Descriptor;

use crate::Error;

const LEVEL: i32 = 3;
/// Of what is compressed at once: less than a tenth of the tables for a few bytes more.
const SMALL_LEVEL: i32 = 1;
/// A skippable frame: number and length of what follows.
const TAIL: [u8; 8] = [0x50, 0x2a, 0x4d, 0x18, 8, 0, 0, 0];

/// What is known of a blob without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobInfo {
    /// Its name.
    pub digest: Digest,
    /// Bytes when read.
    pub size: u64,
    /// When it was written.
    pub created: SystemTime,
}

/// The content of a blob.
pub struct BlobReader(zstd::Decoder<'static, BufReader<File>>);

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

/// The directory.
#[derive(Debug)]
pub(crate) struct Blobs {
    root: PathBuf,
    next: AtomicU64,
    /// Bytes on disk of what was stored since somebody set it to zero.
    pub(crate) written: AtomicU64,
}

impl Blobs {
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        let blobs = Self {
            root: root.to_owned(),
            next: AtomicU64::new(0),
            written: AtomicU64::new(0),
        };
        std::fs::create_dir_all(root.join("blobs"))?;
        // What was never finished belongs to builds of a daemon that is gone.
        let ingest = root.join("ingest");
        match std::fs::remove_dir_all(&ingest) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
            _ => {}
        }
        std::fs::create_dir(&ingest)?;
        Ok(blobs)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.hex())
    }

    /// A file nobody else knows.
    pub(crate) fn scratch(&self) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.root.join("ingest").join(number.to_string())
    }

    pub(crate) fn writer(&self) -> io::Result<BlobWriter<'_>> {
        Ok(BlobWriter {
            blobs: self,
            hash: Hasher::new(),
            size: 0,
            body: Body::Small(Vec::new()),
        })
    }

    /// Stores a small blob.
    pub(crate) fn put(&self, media_type: &str, bytes: &[u8]) -> Result<Descriptor, Error> {
        let write = || {
            let mut writer = self.writer()?;
            writer.write_all(bytes)?;
            writer.commit(media_type)
        };
        write().map_err(Error::blob("write"))
    }

    pub(crate) fn contains(&self, digest: &Digest) -> bool {
        self.path(digest).exists()
    }

    /// Whether there is a blob of this name; a text that is no digest names none.
    pub(crate) fn contains_text(&self, digest: &str) -> bool {
        digest.parse().is_ok_and(|digest| self.contains(&digest))
    }

    /// Bytes on disk; of one that is not there none.
    pub(crate) fn disk(&self, digest: &Digest) -> u64 {
        std::fs::metadata(self.path(digest)).map_or(0, |meta| meta.blocks() * 512)
    }

    pub(crate) fn info(&self, digest: &Digest) -> Result<BlobInfo, Error> {
        let mut file = self.file(digest)?;
        self.info_of(digest, &mut file).map_err(Error::blob("read"))
    }

    fn info_of(&self, digest: &Digest, file: &mut File) -> io::Result<BlobInfo> {
        let tail = i64::try_from(TAIL.len()).unwrap_or(8) + 8;
        file.seek(SeekFrom::End(-tail))?;
        let mut bytes = [0; 16];
        file.read_exact(&mut bytes)?;
        let (head, size) = bytes.split_at(TAIL.len());
        if head != TAIL {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let size = <[u8; 8]>::try_from(size).unwrap_or_default();
        Ok(BlobInfo {
            digest: digest.clone(),
            size: u64::from_le_bytes(size),
            created: file.metadata()?.modified()?,
        })
    }

    fn file(&self, digest: &Digest) -> Result<File, Error> {
        File::open(self.path(digest)).map_err(|err| {
            if err.kind() == io::ErrorKind::NotFound {
                Error::NoBlob(digest.clone())
            } else {
                Error::blob("open")(err)
            }
        })
    }

    pub(crate) fn reader(&self, digest: &Digest) -> Result<BlobReader, Error> {
        let decoder = zstd::Decoder::new(self.file(digest)?).map_err(Error::blob("read"))?;
        Ok(BlobReader(decoder))
    }

    pub(crate) fn open_text(&self, digest: &str) -> Result<BlobReader, Error> {
        let digest = digest.parse().map_err(|_| {
            Error::blob("open")(io::Error::new(io::ErrorKind::InvalidData, "no digest"))
        })?;
        self.reader(&digest)
    }

    pub(crate) fn list(&self) -> Result<Vec<BlobInfo>, Error> {
        let mut all = Vec::new();
        for digest in self.names()? {
            // It may have gone meanwhile.
            if let Ok(info) = self.info(&digest) {
                all.push(info);
            }
        }
        Ok(all)
    }

    pub(crate) fn names(&self) -> Result<Vec<Digest>, Error> {
        let read = || {
            let mut names = Vec::new();
            for entry in std::fs::read_dir(self.root.join("blobs"))? {
                let name = entry?.file_name();
                let digest = name.to_str().map(|hex| format!("sha256:{hex}").parse());
                names.extend(digest.and_then(Result::ok));
            }
            names.sort();
            Ok(names)
        };
        read().map_err(Error::blob("list"))
    }

    pub(crate) fn remove(&self, digest: &Digest) -> Result<(), Error> {
        match std::fs::remove_file(self.path(digest)) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => Err(Error::blob("remove")(err)),
            _ => Ok(()),
        }
    }
}

/// A blob being written. Dropping it forgets the blob.
pub(crate) struct BlobWriter<'b> {
    blobs: &'b Blobs,
    hash: Hasher,
    size: u64,
    body: Body,
}

enum Body {
    /// All of it so far. Most blobs stay small, and what is compressed at once needs a fraction of the tables that a
    /// stream of unknown length needs.
    Small(Vec<u8>),
    Large(Scratch, zstd::Encoder<'static, File>),
}

/// More than this goes to the file as it comes. The log of a build of a thousand steps is below.
const SMALL: usize = 1 << 20;

/// A file that goes with this unless it gets a name of its own.
struct Scratch(Option<PathBuf>);

impl Scratch {
    fn create(blobs: &Blobs) -> io::Result<(Self, File)> {
        let path = blobs.scratch();
        let file = File::create_new(&path)?;
        Ok((Self(Some(path)), file))
    }

    fn rename(mut self, to: &Path) -> io::Result<()> {
        if let Some(path) = &self.0 {
            std::fs::rename(path, to)?;
            self.0 = None;
        }
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            // The next start removes what is left.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl BlobWriter<'_> {
    pub(crate) fn commit(self, media_type: &str) -> io::Result<Descriptor> {
        let mut tail = TAIL.to_vec();
        tail.extend(self.size.to_le_bytes());
        let scratch = match self.body {
            Body::Small(bytes) => {
                let mut whole = zstd::bulk::compress(&bytes, SMALL_LEVEL)?;
                whole.extend(tail);
                let (scratch, mut file) = Scratch::create(self.blobs)?;
                file.write_all(&whole)?;
                scratch
            }
            Body::Large(scratch, encoder) => {
                encoder.finish()?.write_all(&tail)?;
                scratch
            }
        };
        let digest = self.hash.finish();
        // Over one that is there already: that one may be what a power cut left.
        scratch.rename(&self.blobs.path(&digest))?;
        let disk = self.blobs.disk(&digest);
        self.blobs.written.fetch_add(disk, Ordering::Relaxed);
        Ok(Descriptor {
            media_type: media_type.to_owned(),
            digest: digest.to_string(),
            size: i64::try_from(self.size).unwrap_or(i64::MAX),
            ..Descriptor::default()
        })
    }
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Body::Small(held) = &mut self.body
            && held.len() + bytes.len() > SMALL
        {
            let (scratch, file) = Scratch::create(self.blobs)?;
            let mut encoder = zstd::Encoder::new(file, LEVEL)?;
            encoder.write_all(held)?;
            self.body = Body::Large(scratch, encoder);
        }
        let written = match &mut self.body {
            Body::Small(held) => held.write(bytes)?,
            Body::Large(_, encoder) => encoder.write(bytes)?,
        };
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_named_by_its_content_and_kept_compressed() {
        let dir = tempfile::tempdir().expect("a directory");
        let blobs = Blobs::open(dir.path()).expect("open");
        let text = b"the same line again\n".repeat(1000);
        let descriptor = blobs.put("text/plain", &text).expect("put");
        let digest = Digest::of(&text);
        assert_eq!(descriptor.digest, digest.to_string());
        assert_eq!(blobs.info(&digest).expect("info").size, 20_000);
        let mut read = Vec::new();
        let mut reader = blobs.reader(&digest).expect("open");
        reader.read_to_end(&mut read).expect("read");
        assert_eq!(read, text);
        let on_disk = std::fs::metadata(blobs.path(&digest)).expect("there").len();
        assert!(on_disk < 200, "{on_disk} bytes");
        blobs.remove(&digest).expect("remove");
        assert!(matches!(blobs.info(&digest), Err(Error::NoBlob(_))));
    }

    #[test]
    fn a_large_blob_reads_back_as_it_was_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let blobs = Blobs::open(dir.path()).expect("open");
        let text: Vec<u8> = (0..400_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut writer = blobs.writer().expect("a writer");
        for part in text.chunks(SMALL / 3) {
            writer.write_all(part).expect("write");
        }
        let descriptor = writer.commit("x").expect("commit");
        assert_eq!(descriptor.digest, Digest::of(&text).to_string());
        let digest = Digest::of(&text);
        assert_eq!(blobs.info(&digest).expect("info").size, 1_600_000);
        let mut read = Vec::new();
        let mut reader = blobs.reader(&digest).expect("open");
        reader.read_to_end(&mut read).expect("read");
        assert!(read == text);
    }

    #[test]
    fn what_was_not_finished_is_gone_at_the_next_start() {
        let dir = tempfile::tempdir().expect("a directory");
        let blobs = Blobs::open(dir.path()).expect("open");
        let large = || {
            let mut writer = blobs.writer().expect("a writer");
            writer.write_all(&vec![0; SMALL + 1]).expect("write");
            writer
        };
        std::mem::forget(large());
        drop(large());
        let left = || {
            std::fs::read_dir(dir.path().join("ingest"))
                .expect("there")
                .count()
        };
        assert_eq!(left(), 1);
        Blobs::open(dir.path()).expect("open");
        assert_eq!(left(), 0);
    }
}
