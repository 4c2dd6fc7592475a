//! The database file.

use std::collections::HashMap;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use redb::{
    Builder, Database, DatabaseError, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase,
    StorageError, TableDefinition, TableError, TableHandle,
};

use crate::Error;
use crate::memory::Memory;

type Bytes = TableDefinition<'static, &'static [u8], &'static [u8]>;

fn bytes(name: &str) -> TableDefinition<'_, &'static [u8], &'static [u8]> {
    TableDefinition::new(name)
}

/// What the file says about itself.
const META: Bytes = TableDefinition::new("\0meta");
const GENERATION: &[u8] = b"generation";
const BOOT: &[u8] = b"boot";
const SYNCED: &[u8] = b"synced";

/// The file, opened.
#[derive(Debug)]
pub(crate) struct Base {
    /// Opened once for all that is read between two writes. Goes before the file does.
    reading: Mutex<Option<Reading>>,
    database: Database,
}

/// The file as it was after the last write.
struct Reading {
    transaction: ReadTransaction,
    /// Those somebody asked for, and whether they are there.
    tables: HashMap<Box<str>, Option<Arc<Read>>>,
}

type Read = ReadOnlyTable<&'static [u8], &'static [u8]>;

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reading").finish_non_exhaustive()
    }
}

/// What the file says about itself.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    /// The log of this generation and those before it are in the file.
    pub(crate) generation: u64,
    /// The boot in which it was last written.
    pub(crate) boot: String,
    /// When the last sync began.
    pub(crate) synced: Option<SystemTime>,
}

/// How opening went.
pub(crate) enum Opened {
    Ready(Base, Meta),
    Damaged(redb::Error),
}

impl Base {
    pub(crate) fn open(path: &Path, cache_bytes: usize) -> Result<Opened, Error> {
        let database = match Builder::new().set_cache_size(cache_bytes).create(path) {
            Ok(database) => database,
            Err(DatabaseError::DatabaseAlreadyOpen) => {
                return Err(Error::InUse {
                    path: path.to_owned(),
                });
            }
            Err(DatabaseError::Storage(StorageError::Io(source))) if !is_damage(&source) => {
                return Err(Error::File {
                    path: path.to_owned(),
                    source,
                });
            }
            Err(err) => return Ok(Opened::Damaged(err.into())),
        };
        let base = Self {
            reading: Mutex::default(),
            database,
        };
        match base.meta() {
            Ok(meta) => Ok(Opened::Ready(base, meta)),
            Err(err) => Ok(Opened::Damaged(err)),
        }
    }

    /// Opens a file that was left by another process, and looks at every page of it.
    pub(crate) fn open_checked(path: &Path, cache_bytes: usize) -> Result<Opened, Error> {
        let open = || match Self::open(path, cache_bytes)? {
            Opened::Ready(base, meta) => Ok(base.checked(meta)),
            damaged => Ok(damaged),
        };
        // Numbers in a damaged file may lead redb where it does not expect to get.
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(open)).unwrap_or_else(|_| {
            let text = "reading it panicked".to_owned();
            Ok(Opened::Damaged(redb::Error::Corrupted(text)))
        })
    }

    fn checked(mut self, meta: Meta) -> Opened {
        match self.database.check_integrity() {
            Ok(true) => Opened::Ready(self, meta),
            Err(err) => Opened::Damaged(err.into()),
            // Repaired: by returning to an earlier state, or in things that do not matter.
            Ok(false) => match self.meta() {
                Ok(now) if now == meta => Opened::Ready(self, meta),
                Ok(_) => {
                    let text = "its last transaction is damaged".to_owned();
                    Opened::Damaged(redb::Error::Corrupted(text))
                }
                Err(err) => Opened::Damaged(err),
            },
        }
    }

    fn meta(&self) -> Result<Meta, redb::Error> {
        let read = self.database.begin_read()?;
        let table = match read.open_table(META) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(Meta::default()),
            Err(err) => return Err(err.into()),
        };
        let number = |key| -> Result<Option<u64>, redb::Error> {
            Ok(table
                .get(key)?
                .and_then(|value| value.value().try_into().ok().map(u64::from_le_bytes)))
        };
        let boot = table
            .get(BOOT)?
            .map(|value| String::from_utf8_lossy(value.value()).into_owned());
        Ok(Meta {
            generation: number(GENERATION)?.unwrap_or(0),
            boot: boot.unwrap_or_default(),
            synced: number(SYNCED)?
                .and_then(|nanos| SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(nanos))),
        })
    }

    pub(crate) fn value(&self, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let Some(table) = self.table(table)? else {
            return Ok(None);
        };
        let value = table.get(key).map_err(Error::storage("read"))?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    /// A table for reading; `None` when there is none.
    fn table(&self, name: &str) -> Result<Option<Arc<Read>>, Error> {
        // Opened under the lock: whoever writes takes it afterwards, so nothing older than that stays.
        let mut reading = self.reading.lock();
        let reading = match &mut *reading {
            Some(reading) => reading,
            none => none.insert(Reading {
                transaction: self.database.begin_read().map_err(Error::storage("read"))?,
                tables: HashMap::new(),
            }),
        };
        if let Some(known) = reading.tables.get(name) {
            return Ok(known.clone());
        }
        let opened = match reading.transaction.open_table(bytes(name)) {
            Ok(table) => Some(Arc::new(table)),
            Err(TableError::TableDoesNotExist(_)) => None,
            Err(err) => return Err(Error::storage("read")(err)),
        };
        reading.tables.insert(Box::from(name), opened.clone());
        Ok(opened)
    }

    /// Calls `visit` for each pair between the bounds, in key order, until it returns false.
    pub(crate) fn range(
        &self,
        table: &str,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        mut visit: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Error> {
        let Some(table) = self.table(table)? else {
            return Ok(());
        };
        for pair in table
            .range::<&[u8]>((from, to))
            .map_err(Error::storage("read"))?
        {
            let (key, value) = pair.map_err(Error::storage("read"))?;
            if !visit(key.value(), value.value()) {
                break;
            }
        }
        Ok(())
    }

    /// The names of the tables, but for the file's own.
    pub(crate) fn tables(&self) -> Result<Vec<String>, Error> {
        let read = self.database.begin_read().map_err(Error::storage("read"))?;
        let tables = read.list_tables().map_err(Error::storage("read"))?;
        let names = tables.map(|table| table.name().to_owned());
        Ok(names.filter(|name| name != META.name()).collect())
    }

    /// Bytes of all keys and values.
    pub(crate) fn content_bytes(&self) -> Result<u64, Error> {
        let mut bytes = 0;
        for table in self.tables()? {
            self.range(&table, Bound::Unbounded, Bound::Unbounded, |key, value| {
                bytes += (key.len() + value.len()) as u64;
                true
            })?;
        }
        Ok(bytes)
    }

    /// A new file at `path` with the same content, durable.
    pub(crate) fn copy(&self, path: &Path, cache_bytes: usize) -> Result<Self, Error> {
        let new = match Self::open(path, cache_bytes)? {
            Opened::Ready(base, _) => base,
            Opened::Damaged(source) => {
                return Err(Error::Storage {
                    action: "create",
                    source: Box::new(source),
                });
            }
        };
        let fill = || -> Result<(), redb::Error> {
            let read = self.database.begin_read()?;
            let mut write = new.database.begin_write()?;
            write.set_durability(Durability::Immediate)?;
            write.set_quick_repair(true);
            for handle in read.list_tables()? {
                let from = read.open_table(bytes(handle.name()))?;
                let mut to = write.open_table(bytes(handle.name()))?;
                for pair in from.range::<&[u8]>(..)? {
                    let (key, value) = pair?;
                    to.insert(key.value(), value.value())?;
                }
            }
            write.commit()?;
            Ok(())
        };
        fill().map_err(|source| Error::Storage {
            action: "copy",
            source: Box::new(source),
        })?;
        Ok(new)
    }

    /// Writes changes, the oldest first, in one durable transaction.
    pub(crate) fn write<'a>(
        &self,
        changes: impl Iterator<Item = &'a Memory>,
        meta: &Meta,
    ) -> Result<(), Error> {
        // What is read meanwhile is opened anew; pages nobody reads any more are used again.
        *self.reading.lock() = None;
        let mut write = self
            .database
            .begin_write()
            .map_err(Error::storage("write"))?;
        write
            .set_durability(Durability::Immediate)
            .map_err(Error::storage("write"))?;
        // Opening after a kill must not walk the whole file.
        write.set_quick_repair(true);
        apply(&write, changes, meta).map_err(|source| Error::Storage {
            action: "write",
            source: Box::new(source),
        })?;
        write.commit().map_err(Error::storage("commit"))?;
        *self.reading.lock() = None;
        Ok(())
    }
}

fn apply<'a>(
    write: &redb::WriteTransaction,
    changes: impl Iterator<Item = &'a Memory>,
    meta: &Meta,
) -> Result<(), redb::Error> {
    for memory in changes {
        for (name, changes) in memory.tables() {
            let mut table = write.open_table(bytes(name))?;
            for (key, value) in changes {
                match value {
                    Some(value) => drop(table.insert(key.as_slice(), value.as_slice())?),
                    None => drop(table.remove(key.as_slice())?),
                }
            }
        }
    }
    let mut table = write.open_table(META)?;
    table.insert(GENERATION, meta.generation.to_le_bytes().as_slice())?;
    table.insert(BOOT, meta.boot.as_bytes())?;
    let synced = meta
        .synced
        .and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    if let Some(nanos) = synced.and_then(|since| u64::try_from(since.as_nanos()).ok()) {
        table.insert(SYNCED, nanos.to_le_bytes().as_slice())?;
    }
    Ok(())
}

/// Whether an I/O error says that the content is wrong rather than that it could not be read.
fn is_damage(err: &io::Error) -> bool {
    matches!(
        err.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
    )
}

/// Renames a damaged file, so that somebody can look at it later.
pub(crate) fn set_aside(path: &Path) -> Result<PathBuf, Error> {
    let stamp = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".damaged-{stamp}"));
    let aside = PathBuf::from(name);
    std::fs::rename(path, &aside).map_err(|source| Error::File {
        path: path.to_owned(),
        source,
    })?;
    Ok(aside)
}
