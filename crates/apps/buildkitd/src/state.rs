//! The state directory: made private, locked against a second daemon, with the identity of the worker.

use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// How long a daemon that was killed may hold the directory.
const PATIENCE: Duration = Duration::from_secs(2);

/// The directory, held as long as this lives.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) root: PathBuf,
    pub(crate) worker_id: String,
    _lock: File,
}

impl State {
    /// Makes the directory if need be and takes its lock.
    pub(crate) fn open(root: &Path) -> anyhow::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .with_context(|| format!("failed to create {}", root.display()))?;
        let root = root.canonicalize()?;
        let path = root.join("buildkitd.lock");
        let lock =
            File::create(&path).with_context(|| format!("failed to open {}", path.display()))?;
        take(&lock, &path)?;
        let worker_id = worker_id(&root.join("workerid"))?;
        Ok(Self {
            root,
            worker_id,
            _lock: lock,
        })
    }
}

/// Takes the lock. A step that a killed daemon was about to start holds its files for some moments longer.
fn take(lock: &File, path: &Path) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if begun.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(TryLockError::WouldBlock) => bail!(
                "could not lock {}, another instance running? stop it or use another --root",
                path.display()
            ),
            Err(TryLockError::Error(err)) => {
                return Err(err).with_context(|| format!("failed to lock {}", path.display()));
            }
        }
    }
}

/// Random, chosen once; again if somebody damaged it.
fn worker_id(path: &Path) -> anyhow::Result<String> {
    let is_id = |id: &[u8]| id.len() == 25 && id.iter().all(u8::is_ascii_alphanumeric);
    match std::fs::read(path) {
        Ok(id) if is_id(&id) => return Ok(String::from_utf8(id)?),
        Ok(id) => {
            tracing::warn!(path = %path.display(), bytes = id.len(), "worker id is damaged, choosing another")
        }
        Err(err) if err.kind() == io::ErrorKind::NotFound => {}
        Err(err) => return Err(err).with_context(|| format!("failed to read {}", path.display())),
    }
    let id = identity::new_id();
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, &id)
        .and_then(|()| std::fs::rename(&temporary, path))
        .with_context(|| format!("failed to write {}", path.display()))?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_refused_and_the_worker_keeps_its_id() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = dir.path().join("state");
        let first = State::open(&root).expect("free");
        let err = State::open(&root).expect_err("taken").to_string();
        assert!(err.contains("another instance running?"), "{err}");
        let id = first.worker_id.clone();
        drop(first);
        assert_eq!(State::open(&root).expect("free again").worker_id, id);
    }

    #[test]
    fn the_lock_of_a_daemon_that_is_going_is_waited_for() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let first = State::open(dir.path()).expect("free");
        let going = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            drop(first);
        });
        assert!(State::open(dir.path()).is_ok());
        going.join().expect("gone");
    }

    #[test]
    fn a_damaged_worker_id_is_replaced() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("workerid");
        for damaged in [&b"short"[..], &[0xff; 25], b""] {
            std::fs::write(&path, damaged).expect("written");
            let id = worker_id(&path).expect("an id");
            assert_eq!(worker_id(&path).expect("the same"), id);
        }
    }
}
