//! The parts put together: memory over file, log beside memory, and the flush from one to the other.

mod begin;
mod compact;
mod found;
mod transaction;

use std::collections::{BTreeSet, VecDeque};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use parking_lot::{Mutex, MutexGuard, RwLock};

use crate::base::{Base, Meta};
use crate::boot;
use crate::log::Log;
use crate::memory::{Changes, Memory, is_void};
use crate::reserve::Reserve;
use crate::{Batch, Error, Options, Pair, Start, Table};

use found::{OldLog, open_base, replay};
pub use transaction::Transaction;

/// A database without its background work.
///
/// Locks are taken in this order: `flushing`, `writing`, `state`.
#[derive(Debug)]
pub(crate) struct Store {
    files: Files,
    options: Options,
    boot: String,
    pub(crate) start: Start,
    pub(crate) was_killed: bool,
    /// Bytes written to the file since somebody looked whether it is worth compacting.
    churn: AtomicU64,
    flushing: Mutex<()>,
    writing: Mutex<Writing>,
    state: RwLock<State>,
}

#[derive(Debug)]
struct Files {
    dir: PathBuf,
    name: String,
}

impl Files {
    fn reserve(&self) -> PathBuf {
        self.dir.join(format!("{}.reserve", self.name))
    }

    fn database(&self) -> PathBuf {
        self.dir.join(format!("{}.redb", self.name))
    }

    /// The boot is part of the name: whoever finds a log whose header was never written must know whether the process
    /// died there, which loses nothing, or the machine.
    fn log(&self, generation: u64, boot: &str) -> PathBuf {
        self.dir
            .join(format!("{}.{generation}.{boot}.log", self.name))
    }

    /// All logs there are, the oldest first.
    fn logs(&self) -> std::io::Result<Vec<OldLog>> {
        let mut logs = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let middle = name.to_str().and_then(|name| {
                name.strip_prefix(&self.name)?
                    .strip_prefix('.')?
                    .strip_suffix(".log")
            });
            let Some((generation, boot)) = middle.and_then(|middle| middle.split_once('.')) else {
                continue;
            };
            if let Ok(generation) = generation.parse() {
                logs.push(OldLog {
                    generation,
                    boot: boot.to_owned(),
                    path: entry.path(),
                });
            }
        }
        logs.sort();
        Ok(logs)
    }
}

/// Belongs to whoever writes.
#[derive(Debug)]
struct Writing {
    /// Made with the first change.
    log: Option<Log>,
    /// Of the log that is written or would be written next.
    generation: u64,
    /// The length of the log before that, as far as it is not in the file.
    before: u64,
    reserve: Reserve,
}

impl Writing {
    fn write(&mut self, path: &Path, changes: &Memory) -> std::io::Result<()> {
        let log = match &mut self.log {
            Some(log) => log,
            none => none.insert(Log::create(path.to_owned(), self.generation, self.before)?),
        };
        log.append(changes)
    }
}

#[derive(Debug)]
struct State {
    /// Changes since the last flush began.
    active: Memory,
    /// Changes on their way to the file, the oldest first.
    frozen: VecDeque<Frozen>,
    /// Absent until the first flush of a new database.
    base: Option<Arc<Base>>,
}

#[derive(Debug, Clone)]
struct Frozen {
    changes: Arc<Memory>,
    generation: u64,
    logs: Vec<PathBuf>,
}

/// Whether, and how urgently, there is something to flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dirty {
    No,
    Some,
    Much,
}

impl Store {
    pub(crate) fn open(dir: &Path, name: &str, options: Options) -> Result<Self, Error> {
        let files = Files {
            dir: dir.to_owned(),
            name: name.to_owned(),
        };
        let fail = |source| Error::File {
            path: dir.to_owned(),
            source,
        };
        std::fs::create_dir_all(dir).map_err(fail)?;
        let boot = boot::name(options.boot.as_deref());
        let logs = files.logs().map_err(fail)?;
        let (base, meta, aside) = open_base(&files, &options)?;
        // With all logs there ever were, a file that was damaged is no loss.
        let mut generations = (1..).zip(&logs);
        let all_logged = !logs.is_empty()
            && generations.all(|(at, log)| log.generation == at && log.boot == boot);
        let newest = logs.last().map_or(0, |log| log.generation);
        let generation = newest.max(meta.generation) + 1;
        let is_new = base.is_none() && logs.is_empty();
        let found = replay(logs, &meta, &boot, aside.is_some() && !all_logged)?;
        let was_killed = found.killed;
        let start = match (aside, found.damaged) {
            (Some(path), _) if !all_logged => Start::SetAside { path },
            (_, Some(path)) => Start::Shortened { path },
            _ if is_new => Start::New,
            _ if found.lost => Start::Lost {
                synced: meta.synced,
            },
            _ if base.is_some() && meta.boot != boot => Start::Rebooted,
            _ => Start::Complete,
        };
        let reserve = Reserve::new(files.reserve());
        let mut frozen = VecDeque::new();
        if !found.changes.is_empty() {
            frozen.push_back(Frozen {
                changes: Arc::new(found.changes),
                generation: generation - 1,
                logs: found.kept,
            });
        }
        Ok(Self {
            files,
            options,
            boot,
            start,
            was_killed,
            // The first flush looks.
            churn: AtomicU64::new(u64::from(u32::MAX)),
            flushing: Mutex::new(()),
            writing: Mutex::new(Writing {
                log: None,
                generation,
                before: found.length,
                reserve,
            }),
            state: RwLock::new(State {
                active: Memory::default(),
                frozen,
                base: base.map(Arc::new),
            }),
        })
    }

    pub(crate) fn value(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let base = {
            let state = self.state.read();
            if let Some(found) = state.look(table, key) {
                return Ok(found.cloned());
            }
            state.base.clone()
        };
        base.map_or(Ok(None), |base| base.value(table.name(), key))
    }

    pub(crate) fn contains(&self, table: Table, key: &[u8]) -> Result<bool, Error> {
        let base = {
            let state = self.state.read();
            if let Some(found) = state.look(table, key) {
                return Ok(found.is_some());
            }
            state.base.clone()
        };
        base.map_or(Ok(false), |base| {
            Ok(base.value(table.name(), key)?.is_some())
        })
    }

    /// Merges what lies between the bounds in `own` (nearest), in memory and in the file.
    pub(crate) fn range(
        &self,
        own: Option<&Memory>,
        table: &str,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>, Error> {
        let mut pairs = Vec::new();
        if is_void(from, to) {
            return Ok(pairs);
        }
        let mut changes = Changes::new();
        let base = {
            let state = self.state.read();
            for frozen in &state.frozen {
                frozen.changes.collect(table, from, to, &mut changes);
            }
            state.active.collect(table, from, to, &mut changes);
            state.base.clone()
        };
        if let Some(own) = own {
            own.collect(table, from, to, &mut changes);
        }
        let mut changes = changes.into_iter().peekable();
        if let Some(base) = base {
            base.range(table, from, to, |key, value| {
                while let Some((changed, new)) =
                    changes.next_if(|(changed, _)| changed.as_slice() < key)
                {
                    pairs.extend(new.map(|new| (changed, new)));
                }
                match changes.next_if(|(changed, _)| changed.as_slice() == key) {
                    Some((changed, new)) => pairs.extend(new.map(|new| (changed, new))),
                    None => pairs.push((key.to_vec(), value.to_vec())),
                }
                pairs.len() < limit
            })?;
        }
        pairs.extend(
            changes
                .filter_map(|(key, value)| Some((key, value?)))
                .take(limit.saturating_sub(pairs.len())),
        );
        pairs.truncate(limit);
        Ok(pairs)
    }

    pub(crate) fn commit(&self, batch: Batch) -> Result<Dirty, Error> {
        let writing = self.writing.lock();
        self.apply(writing, batch.changes)
    }

    pub(crate) fn transaction<T, E: From<Error>>(
        &self,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, E>,
    ) -> Result<(T, Dirty), E> {
        let writing = self.writing.lock();
        let mut transaction = Transaction {
            store: self,
            own: Memory::default(),
        };
        let value = work(&mut transaction)?;
        let own = transaction.own;
        Ok((value, self.apply(writing, own)?))
    }

    /// To the log, then to the memory, where readers see it.
    fn apply(&self, mut writing: MutexGuard<'_, Writing>, changes: Memory) -> Result<Dirty, Error> {
        if changes.is_empty() {
            return Ok(Dirty::No);
        }
        let path = self.files.log(writing.generation, &self.boot);
        let fail = |source| Error::File {
            path: path.clone(),
            source,
        };
        let mut written = writing.write(&path, &changes);
        // A removal must find room on a full disk.
        if written
            .as_ref()
            .is_err_and(|err| err.kind() == std::io::ErrorKind::StorageFull)
            && writing.reserve.spend()
        {
            written = writing.write(&path, &changes);
        }
        written.map_err(fail)?;
        let mut state = self.state.write();
        state.active.absorb(changes);
        if state.active.bytes() > self.options.flush_bytes {
            return Ok(Dirty::Much);
        }
        Ok(Dirty::Some)
    }

    /// What a start found in the logs is to be flushed as well.
    pub(crate) fn dirty(&self) -> Dirty {
        let state = self.state.read();
        if state.active.is_empty() && state.frozen.is_empty() {
            Dirty::No
        } else {
            Dirty::Some
        }
    }

    /// Moves everything committed so far to the file.
    pub(crate) fn flush(&self) -> Result<(), Error> {
        let _one_at_a_time = self.flushing.lock();
        let began = SystemTime::now();
        let frozen = self.freeze();
        let Some(newest) = frozen.last() else {
            return Ok(());
        };
        if let Some(sync) = &self.options.before_flush {
            sync().map_err(|source| Error::Sync { source })?;
        }
        let meta = Meta {
            generation: newest.generation,
            boot: self.boot.clone(),
            synced: Some(began),
        };
        let base = self.state.read().base.clone();
        match base {
            Some(base) => {
                base.write(frozen.iter().map(|frozen| frozen.changes.as_ref()), &meta)?;
            }
            None => self.begin_file(&frozen, &meta)?,
        }
        self.state.write().frozen.drain(..frozen.len());
        for path in frozen.iter().flat_map(|frozen| &frozen.logs) {
            if let Err(err) = std::fs::remove_file(path) {
                // Harmless: the next start knows by its generation that it is in the file.
                tracing::warn!(path = %path.display(), error = %err, "old log left behind");
            }
        }
        let written = frozen.iter().map(|frozen| frozen.changes.bytes() as u64);
        if let Err(err) = self.compact_if_worth(written.sum()) {
            tracing::warn!(error = %fault::chain(&err), "database not compacted");
        }
        self.writing.lock().reserve.fill();
        if let Some(tell) = &self.options.after_flush {
            tell();
        }
        Ok(())
    }

    /// The names of all tables.
    pub(crate) fn tables(&self) -> Result<BTreeSet<String>, Error> {
        let (mut names, base) = {
            let state = self.state.read();
            let frozen = state.frozen.iter().map(|frozen| frozen.changes.as_ref());
            let memories = frozen.chain([&state.active]);
            let names = memories
                .flat_map(Memory::tables)
                .map(|(name, _)| name.to_owned());
            (names.collect::<BTreeSet<_>>(), state.base.clone())
        };
        if let Some(base) = base {
            names.extend(base.tables()?);
        }
        Ok(names)
    }

    /// Begins a new memory and a new log; what was written before is returned, the oldest first.
    fn freeze(&self) -> Vec<Frozen> {
        let mut writing = self.writing.lock();
        let mut state = self.state.write();
        if !state.active.is_empty() {
            let changes = Arc::new(std::mem::take(&mut state.active));
            let log = writing.log.take();
            writing.before = log.as_ref().map_or(writing.before, Log::length);
            let logs = log.map(|log| log.path().to_owned()).into_iter().collect();
            state.frozen.push_back(Frozen {
                changes,
                generation: writing.generation,
                logs,
            });
            writing.generation += 1;
        }
        state.frozen.iter().cloned().collect()
    }
}

impl State {
    /// What memory knows of a key; `None` when nothing.
    fn look(&self, table: Table, key: &[u8]) -> Option<Option<&Vec<u8>>> {
        self.active.look(table.name(), key).or_else(|| {
            self.frozen
                .iter()
                .rev()
                .find_map(|frozen| frozen.changes.look(table.name(), key))
        })
    }
}
