//! Snapshots as whole trees: every one starts as a copy of what is below. For filesystems overlayfs cannot use.
//!
//! Extents are shared where the filesystem can; otherwise a snapshot costs as much time and room as what is below it.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use fstree::Root;
use mount::Mount;

use crate::{Chain, Error, Key, Snapshotter, Usage, keys_in, make_root, remove_home, usage};

/// The native snapshotter. Of a chain only the nearest snapshot matters.
#[derive(Debug)]
pub struct Native {
    root: PathBuf,
}

impl Native {
    /// Opens the directory, making it if need be.
    pub fn open(root: &Path) -> Result<Self, Error> {
        make_root(root)?;
        Ok(Self {
            root: root.to_owned(),
        })
    }

    fn fill(&self, key: Key, below: Option<&Chain>) -> Result<(), Error> {
        let path = self.directory(key);
        let fail = Error::io("prepare", &path);
        DirBuilder::new().mode(0o755).create(&path).map_err(&fail)?;
        if let Some(nearest) = below.and_then(|chain| chain.keys.first()) {
            let source = Root::open(self.directory(*nearest)).map_err(&fail)?;
            let target = Root::open(&path).map_err(&fail)?;
            // Not by hard links: the copy is going to be written.
            fstree::copy::tree(&source, &target, false)?;
        }
        Ok(())
    }
}

impl Snapshotter for Native {
    fn name(&self) -> &'static str {
        "native"
    }

    fn prepare(&self, key: Key, below: Option<&Chain>) -> Result<(), Error> {
        let home = self.root.join(key.to_string());
        DirBuilder::new()
            .mode(0o700)
            .create(&home)
            .map_err(Error::io("prepare", &home))?;
        self.fill(key, below).inspect_err(|_| {
            // Nothing is left of a failed attempt, or the next start sweeps it.
            let _ = std::fs::remove_dir_all(&home);
        })
    }

    fn edit(&self, key: Key, _below: Option<&Chain>) -> Mount {
        Mount::writable(self.directory(key))
    }

    fn view(&self, chain: &Chain) -> Mount {
        // A chain has one key at least.
        let nearest = chain.keys.first().copied().unwrap_or(Key(0));
        Mount::readonly(self.directory(nearest))
    }

    fn adopt(&self, _key: Key) -> Result<(), Error> {
        Ok(())
    }

    fn is_unchanged(&self, _key: Key, _below: &Chain) -> Result<bool, Error> {
        Ok(false)
    }

    fn directory(&self, key: Key) -> PathBuf {
        let mut path = self.root.join(key.to_string());
        path.push("fs");
        path
    }

    fn is_layered(&self) -> bool {
        false
    }

    fn root(&self) -> &Path {
        &self.root
    }

    fn usage(&self, key: Key) -> Result<Usage, Error> {
        usage(&self.root.join(key.to_string()))
    }

    fn finish(&self, _key: Key) -> Result<(), Error> {
        Ok(())
    }

    fn remove(&self, key: Key) -> Result<(), Error> {
        remove_home(&self.root.join(key.to_string()))
    }

    fn keys(&self) -> Result<Vec<Key>, Error> {
        keys_in(&self.root)
    }
}
