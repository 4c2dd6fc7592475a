//! Whether a blob that an earlier process left is still what its name says.
//!
//! A blob is looked at when it is first opened for reading: what is about to be handed on is read anyway.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::time::SystemTime;

use oci::{Digest, Hasher};
use parking_lot::Mutex;

use crate::{Error, Store};

/// What needs no look any more.
#[derive(Debug)]
pub(crate) struct Checked {
    opened: SystemTime,
    known: Mutex<HashSet<Digest>>,
}

impl Checked {
    pub(crate) fn new() -> Self {
        Self {
            opened: SystemTime::now(),
            known: Mutex::default(),
        }
    }
}

impl Store {
    /// Fails, and removes the blob, if it is not what was stored. `file` is at its beginning before and after.
    pub(crate) fn check(&self, digest: &Digest, file: &mut File) -> Result<(), Error> {
        let checked = &self.inner.checked;
        let written = file.metadata().and_then(|meta| meta.modified());
        let is_ours = written.is_ok_and(|written| written >= checked.opened);
        if is_ours || digest.algorithm() != "sha256" || checked.known.lock().contains(digest) {
            return Ok(());
        }
        let right = is_right(digest, file).map_err(Error::reading(digest))?;
        self.judge(digest, right)
    }

    /// The same for a blob that was read already.
    pub(crate) fn check_bytes(&self, digest: &Digest, bytes: &[u8]) -> Result<(), Error> {
        let known = digest.algorithm() != "sha256";
        self.judge(digest, known || Digest::of(bytes) == *digest)
    }

    fn judge(&self, digest: &Digest, right: bool) -> Result<(), Error> {
        if right {
            self.inner.checked.known.lock().insert(digest.clone());
            return Ok(());
        }
        let path = self.path(digest);
        tracing::warn!(path = %path.display(), "blob was damaged on disk and is removed");
        self.remove(digest)?;
        Err(Error::Damaged {
            digest: digest.clone(),
        })
    }
}

fn is_right(digest: &Digest, file: &mut File) -> io::Result<bool> {
    let mut hash = Hasher::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            file.rewind()?;
            return Ok(hash.finish() == *digest);
        }
        hash.update(&buffer[..count]);
    }
}
