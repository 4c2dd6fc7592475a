//! The state directory: made private, locked against a second daemon, with the identity of the worker.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

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
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => bail!(
                "could not lock {}, another instance running? stop it or use another --root",
                path.display()
            ),
            Err(std::fs::TryLockError::Error(err)) => {
                return Err(err).with_context(|| format!("failed to lock {}", path.display()));
            }
        }
        let worker_id = worker_id(&root.join("workerid"))?;
        Ok(Self {
            root,
            worker_id,
            _lock: lock,
        })
    }
}

/// Random, chosen once.
fn worker_id(path: &Path) -> anyhow::Result<String> {
    match std::fs::read_to_string(path) {
        Ok(id) if id.len() == 25 => return Ok(id),
        Ok(_) => {}
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
}
