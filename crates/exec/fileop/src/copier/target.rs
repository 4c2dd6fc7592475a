//! The target's side of a copy: directories, links, and what comes last.

use std::ffi::CStr;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use fstree::{Meta, Root, path};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::{Asked, Copier, Finish, Spot, To};
use crate::Error;
use crate::error::on;
use crate::sharing::From;
use crate::simple::set_times;

impl Copier<'_, '_> {
    /// Makes a directory, or finds the one that is there. Tells which.
    pub(super) fn make_dir(
        &mut self,
        parent: &To,
        name: &CStr,
        at: &Path,
        meta: &Meta,
    ) -> Result<(To, bool), Error> {
        let open = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut tries = 0;
        let created = loop {
            let mode = Mode::from_raw_mode(meta.permissions() | 0o700);
            match rustix::fs::mkdirat(&parent.dir, name, mode) {
                Ok(()) => break true,
                Err(Errno::EXIST) => {}
                Err(err) => return Err(on("mkdir", at)(err)),
            }
            let stat = rustix::fs::statat(&parent.dir, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(on("lstat", at))?;
            if Meta::from(&stat).is_dir() {
                break false;
            }
            if !self.plan.action.always_replace || tries > 0 {
                let path = path::rooted(at);
                return Err(Error::FileInTheWay { path });
            }
            tries += 1;
            rustix::fs::unlinkat(&parent.dir, name, AtFlags::empty())
                .map_err(on("unlinkat", at))?;
        };
        let dir =
            rustix::fs::openat(&parent.dir, name, open, Mode::empty()).map_err(on("open", at))?;
        let mut to = To {
            dir: Arc::new(dir),
            raw: parent.raw,
        };
        if let Some(sharing) = &self.sharing
            && created
            && !parent.raw
            && let Ok(dir) = sharing.target_layer.open_with(at, open, Mode::empty())
        {
            to.dir = Arc::new(dir);
            to.raw = true;
        }
        Ok((to, created))
    }

    /// Owner, mode and attributes of a directory now, its times at the end.
    pub(super) fn dress_dir(
        &mut self,
        from: &From,
        meta: &Meta,
        to: &To,
        at: &Path,
        asked: Asked,
    ) -> Result<(), Error> {
        let attributes = self.attributes(meta);
        let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
        // Looking is cheaper than setting what is right already.
        let made = rustix::fs::fstat(&to.dir).map_err(on("lstat", at))?;
        let made = Meta::from(&made);
        let owned = (made.uid, made.gid) == (attributes.uid, attributes.gid);
        if !owned {
            rustix::fs::fchown(&to.dir, Some(uid), Some(gid)).map_err(on("lchown", at))?;
        }
        let writable = attributes.mode | 0o700;
        if !owned || made.permissions() != writable {
            rustix::fs::fchmod(&to.dir, Mode::from_raw_mode(writable)).map_err(on("chmod", at))?;
        }
        fstree::copy::copy_xattrs(&from.dir, &to.dir);
        self.finishes.push(Finish {
            spot: Spot {
                at: at.to_owned(),
                raw: to.raw,
            },
            // Compat: what comes into a directory on the way touches the times it got (tonistiigi/fsutil, copy/copy.go).
            times: (asked == Asked::ByName).then_some((attributes.atime, attributes.mtime)),
            mode: (attributes.mode != writable).then_some(attributes.mode),
        });
        Ok(())
    }

    pub(super) fn root(&self, raw: bool) -> &Root {
        match &self.sharing {
            Some(sharing) if raw => sharing.target_layer,
            _ => self.plan.target,
        }
    }

    pub(super) fn link(&self, first: &Spot, second: &Spot) -> Result<(), Error> {
        let root = self.root(first.raw && second.raw);
        let failed = || on("link", &second.at);
        let from = root.parent(&first.at).map_err(failed())?;
        let to = root.parent(&second.at).map_err(failed())?;
        loop {
            let flags = AtFlags::empty();
            match rustix::fs::linkat(&from.dir, from.name(), &to.dir, to.name(), flags) {
                Ok(()) => return Ok(()),
                Err(Errno::EXIST) => {}
                Err(err) => return Err(on("link", &second.at)(err)),
            }
            let is_dir = to.meta().is_ok_and(|meta| meta.is_dir());
            if is_dir && !self.plan.action.always_replace {
                let path = path::rooted(&second.at);
                return Err(Error::DirectoryInTheWay { path });
            }
            to.remove_all().map_err(on("unlinkat", &second.at))?;
        }
    }

    pub(super) fn finish(&self, finish: &Finish) -> Result<(), Error> {
        let at = &finish.spot.at;
        let parent = self
            .root(finish.spot.raw)
            .parent(at)
            .map_err(on("utimes", at))?;
        if let Some(mode) = finish.mode {
            let mode = Mode::from_raw_mode(mode);
            rustix::fs::chmodat(&parent.dir, parent.name(), mode, AtFlags::empty())
                .map_err(on("chmod", at))?;
        }
        let Some((atime, mtime)) = finish.times else {
            return Ok(());
        };
        set_times(parent.dir.as_fd(), parent.name(), atime, mtime).map_err(on("utimes", at))
    }
}
