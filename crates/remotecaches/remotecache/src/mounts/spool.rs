//! A store of blobs for the time of one piece of work.

use std::path::{Path, PathBuf};

use content::Store;

use crate::Error;

/// A store that is removed when this is dropped.
pub struct Spool {
    store: Store,
    path: PathBuf,
}

impl Spool {
    /// A new one in a folder of spools, which is made if need be.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(identity::new_id());
        let store = Store::open(&path)?;
        Ok(Self { store, path })
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.path);
        let remove = move || {
            if let Err(err) = std::fs::remove_dir_all(&path) {
                tracing::warn!(path = %path.display(), error = %err, "spool not removed");
            }
        };
        // It may hold gigabytes, and whoever comes last may have others to serve.
        match tokio::runtime::Handle::try_current() {
            Ok(_) => drop(tasks::blocking(remove)),
            Err(_) => remove(),
        }
    }
}
