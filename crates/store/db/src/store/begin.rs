//! Making the file with the first flush.
//!
//! It is made beside its place and takes it when it is whole: a process that is killed in between leaves nothing that
//! the next start would have to take for a damaged file.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Frozen, Store};
use crate::Error;
use crate::base::{Base, Meta, Opened};

impl Store {
    /// Makes the file with these changes in it. Called with `flushing` held.
    pub(super) fn begin_file(&self, frozen: &[Frozen], meta: &Meta) -> Result<(), Error> {
        let (path, new) = (self.files.database(), self.begun());
        let fail = |source| Error::File {
            path: new.clone(),
            source,
        };
        match std::fs::remove_file(&new) {
            Err(err) if err.kind() != std::io::ErrorKind::NotFound => return Err(fail(err)),
            _ => {}
        }
        let base = match Base::open(&new, self.options.cache_bytes)? {
            Opened::Ready(base, _) => base,
            Opened::Damaged(source) => {
                return Err(Error::Storage {
                    action: "create",
                    source: Box::new(source),
                });
            }
        };
        base.write(frozen.iter().map(|frozen| frozen.changes.as_ref()), meta)?;
        std::fs::rename(&new, &path).map_err(fail)?;
        // The logs whose changes are in it are removed next; a power cut must not take both.
        let dir = std::fs::File::open(&self.files.dir).map_err(fail)?;
        dir.sync_all().map_err(fail)?;
        self.state.write().base = Some(Arc::new(base));
        Ok(())
    }

    fn begun(&self) -> PathBuf {
        let mut name = self.files.database().into_os_string();
        name.push(".new");
        PathBuf::from(name)
    }
}
