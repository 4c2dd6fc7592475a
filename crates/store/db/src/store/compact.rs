//! Making the file smaller again.
//!
//! Room that was freed in the file is used again, but the file itself only grows. When enough was written to it since
//! the last look and most of it is empty, everything is copied to a new file, which then takes the place of the old one.
//! Whoever reads the old one goes on doing so; nobody waits but the flush.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Store;
use crate::Error;
use crate::base::Base;

/// Files below this size are left alone.
const SMALL: u64 = 2 << 20;

impl Store {
    /// Copies the file if that is worth it. Called with `flushing` held, when nothing waits to be written.
    pub(super) fn compact_if_worth(&self, written: u64) -> Result<(), Error> {
        let path = self.files.database();
        let size = std::fs::metadata(&path).map_or(0, |meta| meta.len());
        let churn = self.churn.fetch_add(written, Ordering::Relaxed) + written;
        if size < SMALL || churn < size / 2 {
            return Ok(());
        }
        self.churn.store(0, Ordering::Relaxed);
        let Some(base) = self.state.read().base.clone() else {
            return Ok(());
        };
        if base.content_bytes()? * 3 > size {
            return Ok(());
        }
        let new = self.compacted();
        let smaller = self.copy(&base, &new).inspect_err(|_| {
            // The next attempt removes it first anyway.
            let _ = std::fs::remove_file(&new);
        })?;
        let fail = |source| Error::File {
            path: path.clone(),
            source,
        };
        std::fs::rename(&new, &path).map_err(fail)?;
        self.state.write().base = Some(Arc::new(smaller));
        // Without this a power cut may bring the old file back, which is as good.
        if let Ok(dir) = std::fs::File::open(&self.files.dir) {
            let _ = dir.sync_all();
        }
        let now = std::fs::metadata(&path).map_or(0, |meta| meta.len());
        tracing::debug!(path = %path.display(), before = size, now, "database compacted");
        Ok(())
    }

    fn compacted(&self) -> PathBuf {
        let mut name = self.files.database().into_os_string();
        name.push(".compacted");
        PathBuf::from(name)
    }

    fn copy(&self, base: &Base, new: &PathBuf) -> Result<Base, Error> {
        match std::fs::remove_file(new) {
            Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::File {
                    path: new.clone(),
                    source: err,
                });
            }
            _ => {}
        }
        base.copy(new, self.options.cache_bytes)
    }
}
