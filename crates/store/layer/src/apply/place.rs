//! Where a member goes: its parent, resolved inside the target and made if it is missing.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use fstree::path;
use rustix::fs::{Mode, OFlags};

use super::{Unpacker, attributes};
use crate::Error;

/// An open directory of the target.
#[derive(Debug)]
pub(super) struct Place {
    pub dir: OwnedFd,
    /// Its path without links; empty for the target itself.
    pub path: PathBuf,
}

impl Unpacker {
    /// The directory `dir`, as the archive names it.
    pub(super) fn place(&mut self, dir: &[u8]) -> Result<Place, Error> {
        if let Some((last, place)) = self.last.take()
            && last == dir
        {
            return Ok(place);
        }
        let named = path::from_bytes(dir);
        let resolved = self.root.resolve(named).map_err(|err| {
            let not_dir = err.kind() == io::ErrorKind::NotADirectory;
            self.parent_error(not_dir, named, err)
        })?;
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let opened = match self.root.open_with(&resolved, flags, Mode::empty()) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                self.make_parents(&resolved)?;
                self.root.open_with(&resolved, flags, Mode::empty())
            }
            opened => opened,
        };
        let dir = opened.map_err(|err| {
            let not_dir = err.kind() == io::ErrorKind::NotADirectory;
            self.parent_error(not_dir, &resolved, err)
        })?;
        Ok(Place {
            dir,
            path: resolved,
        })
    }

    fn parent_error(&self, not_dir: bool, at: &Path, err: io::Error) -> Error {
        if err.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
            return Error::archive("failed to get root path: too many links");
        }
        let what = if not_dir { "mkparent" } else { "open" };
        Error::target(format!("{what} {}", self.show(at)), err)
    }

    fn make_parents(&mut self, at: &Path) -> Result<(), Error> {
        let created = self.root.mkdir_all(at, 0o755).map_err(|err| {
            let not_dir = err.kind() == io::ErrorKind::NotADirectory;
            self.parent_error(not_dir, at, err)
        })?;
        for dir in created {
            if self.below.is_some() {
                self.look_like_below(&dir)?;
                self.unlisted.insert(dir);
            } else {
                self.written.insert(dir);
            }
        }
        Ok(())
    }

    /// Gives a directory the looks it has in the layers below.
    pub(super) fn look_like_below(&self, dir: &Path) -> Result<(), Error> {
        let like = self.below.iter().flatten().find_map(|layer| {
            let meta = layer.symlink_meta(dir).ok()?;
            Some((layer, meta))
        });
        // The nearest layer decides: one that replaced the directory has nothing to say about its looks.
        if let Some((layer, meta)) = like
            && meta.is_dir()
        {
            attributes::copy(layer, &meta, &self.root, dir)
                .map_err(|err| Error::target(format!("mkparent {}", self.show(dir)), err))?;
        }
        Ok(())
    }
}
