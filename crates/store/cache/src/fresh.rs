//! A new snapshot that no record names yet.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use db::Batch;
use snapshot::{Chain, Key};

use crate::record::STATE;
use crate::{Error, Inner};

/// Snapshot keys are reserved in the database so many at a time.
const KEYS_AT_ONCE: u64 = 1024;
pub(crate) const NEXT_KEY: &[u8] = b"next-snapshot";

/// A snapshot that is removed unless somebody keeps it: also when the work that made it is cancelled, since the value
/// is then dropped by the thread that returns it.
pub(crate) struct Fresh {
    inner: Arc<Inner>,
    key: Key,
    kept: bool,
}

impl Fresh {
    /// Makes a snapshot that can be written. Blocks.
    pub(crate) fn prepare(inner: &Arc<Inner>, below: Option<&Chain>) -> Result<Self, Error> {
        let key = inner.new_key()?;
        inner.snapshots.prepare(key, below)?;
        Ok(Self {
            inner: inner.clone(),
            key,
            kept: false,
        })
    }

    pub(crate) fn key(&self) -> Key {
        self.key
    }

    /// A record names it now.
    pub(crate) fn keep(mut self) -> Key {
        self.kept = true;
        self.key
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if !self.kept {
            self.inner.reaper.remove(self.key);
        }
    }
}

impl Inner {
    /// A key nobody had before, even if the daemon is killed now.
    fn new_key(&self) -> Result<Key, Error> {
        let key = self.next_key.fetch_add(1, Ordering::Relaxed);
        let mut reserved = self.reserved.lock();
        if key >= *reserved {
            let next = key + KEYS_AT_ONCE;
            let mut batch = Batch::new();
            batch.put(STATE, NEXT_KEY, next.to_le_bytes());
            self.db.commit(batch)?;
            *reserved = next;
        }
        Ok(Key(key))
    }
}
