//! The embedded database: tables of byte keys and byte values, changed in batches that are wholly there or not at all.
//!
//! Nobody waits for a disk. How a change gets there:
//!
//! 1. [`Db::commit`] appends the batch to a log file with one `write` and applies it to a table in memory. From here
//!    on it is seen by every reader and survives the death of the process: the log is in the page cache.
//! 2. Some seconds later, in the background, the memory and the log are set aside and new ones begun. First
//!    [`Options::before_flush`] makes durable what the changes talk about (the files of the cache), then the changes go
//!    into the database file (redb) in one durable transaction, and the old log is removed.
//! 3. At start a log of this boot is read back. The log of another boot is dropped: the machine went down, and what
//!    the changes talk about may be half-written. The database file only holds what was synced before.
//!
//! Reading looks at the memory first and then at the file. The format version is part of the file name; a damaged file
//! is set aside with a warning, and so is a damaged log: all of the file is checked at start. A file that became mostly
//! empty is replaced by a smaller one.

mod base;
mod boot;
mod error;
mod flush;
mod log;
mod memory;
mod reserve;
mod store;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub use error::Error;
pub use store::Transaction;

use memory::Memory;

/// A table of byte keys and byte values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Table(&'static str);

impl Table {
    /// The table of this name; it is there as soon as something is written to it.
    pub const fn new(name: &'static str) -> Self {
        Self(name)
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        self.0
    }
}

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// How a database behaves.
#[derive(Clone)]
pub struct Options {
    /// A change is in the file after this time, unless more come.
    pub flush_after: Duration,
    /// So many bytes of changes are not kept waiting.
    pub flush_bytes: usize,
    /// Makes durable what the changes talk about.
    pub before_flush: Option<Arc<dyn Fn() -> io::Result<()> + Send + Sync>>,
    /// Hears that the file was written: it may take more room than the log did.
    pub after_flush: Option<Arc<dyn Fn() + Send + Sync>>,
    /// Pages of the file kept in memory, in bytes.
    pub cache_bytes: usize,
    /// Names the run of the machine; absent: the kernel's boot id.
    pub boot: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            flush_after: Duration::from_secs(15),
            flush_bytes: 32 << 20,
            before_flush: None,
            after_flush: None,
            cache_bytes: 2 << 20,
            boot: None,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("flush_after", &self.flush_after)
            .field("flush_bytes", &self.flush_bytes)
            .finish_non_exhaustive()
    }
}

/// In which state the database was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// There was none.
    New,
    /// Everything that was ever committed is there.
    Complete,
    /// The machine went down, and nothing was waiting to be synced then.
    Rebooted,
    /// The machine went down; what was committed after the last sync is gone.
    Lost {
        /// When that sync began; absent: there was none.
        synced: Option<SystemTime>,
    },
    /// A log was damaged: what was committed after the damage is gone, though the machine did not go down.
    Shortened {
        /// The damaged log. It was renamed.
        path: PathBuf,
    },
    /// The file was damaged; it was renamed, and this is a new one.
    SetAside {
        /// Its name now.
        path: PathBuf,
    },
}

/// A database. Clones share it; when the last one goes, waiting changes stay in the log for the next start.
#[derive(Debug, Clone)]
pub struct Db {
    handle: Arc<flush::Handle>,
}

impl Db {
    /// Opens `<dir>/<name>.redb`, where `name` ends with the format version: `cache-v1`.
    pub fn open(dir: &Path, name: &str, options: Options) -> Result<Self, Error> {
        Ok(Self {
            handle: flush::Handle::open(dir, name, options)?,
        })
    }

    /// In which state the database was found.
    pub fn start(&self) -> &Start {
        &self.handle.store.start
    }

    /// Whether the last process ended without [`Db::sync`], so that its last changes came from a log.
    pub fn was_killed(&self) -> bool {
        self.handle.store.was_killed
    }

    /// The value under `key`.
    pub fn value(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.handle.store.value(table, key)
    }

    /// Whether there is a value under `key`.
    pub fn contains(&self, table: Table, key: &[u8]) -> Result<bool, Error> {
        self.handle.store.contains(table, key)
    }

    /// All pairs whose key starts with `prefix`, in key order.
    pub fn prefix(&self, table: Table, prefix: &[u8]) -> Result<Vec<Pair>, Error> {
        let end = memory::prefix_end(prefix);
        let to = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        self.range(table, Bound::Included(prefix), to, usize::MAX)
    }

    /// The first `limit` pairs between the bounds, in key order.
    pub fn range(
        &self,
        table: Table,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>, Error> {
        self.handle.store.range(None, table.name(), from, to, limit)
    }

    /// Calls `visit` for every pair of every table, in order, for people who want to see what is there.
    pub fn dump(&self, mut visit: impl FnMut(&str, &[u8], &[u8])) -> Result<(), Error> {
        let (store, all) = (&self.handle.store, Bound::Unbounded);
        for table in store.tables()? {
            for (key, value) in store.range(None, &table, all, all, usize::MAX)? {
                visit(&table, &key, &value);
            }
        }
        Ok(())
    }

    /// Applies a batch: all of it or nothing.
    pub fn commit(&self, batch: Batch) -> Result<(), Error> {
        let dirty = self.handle.store.commit(batch)?;
        self.handle.tell(dirty);
        Ok(())
    }

    /// Reads and writes with nobody writing in between. What `work` wrote is committed when it returns `Ok`. `work` must
    /// not call [`Db::commit`] or begin another transaction: it would wait for itself.
    pub fn transaction<T, E: From<Error>>(
        &self,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let (value, dirty) = self.handle.store.transaction(work)?;
        self.handle.tell(dirty);
        Ok(value)
    }

    /// Waits until everything committed so far survives a power cut.
    pub fn sync(&self) -> Result<(), Error> {
        self.handle.store.flush()
    }
}

/// Changes that belong together.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    changes: Memory,
}

impl Batch {
    /// No changes yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a value.
    pub fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.changes
            .set(table.name(), key.into(), Some(value.into()));
    }

    /// Removes a key.
    pub fn remove(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.changes.set(table.name(), key.into(), None);
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}
