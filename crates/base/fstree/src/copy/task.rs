//! One entry to be copied.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timestamps, Uid};
use rustix::io::Errno;

use crate::error::Error;
use crate::meta::{Kind, Meta, Time};
use crate::{dir, path, xattr};

/// What a copy has beside its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Access time.
    pub atime: Time,
    /// Modification time.
    pub mtime: Time,
}

impl Attributes {
    /// Everything as the source has it.
    pub fn of(meta: &Meta) -> Self {
        Self {
            uid: meta.uid,
            gid: meta.gid,
            mode: meta.permissions(),
            atime: meta.atime,
            mtime: meta.mtime,
        }
    }

    /// Whether an entry with this metadata has them already. Access times do not count.
    pub fn equal(&self, meta: &Meta) -> bool {
        (self.uid, self.gid, self.mode, self.mtime)
            == (meta.uid, meta.gid, meta.permissions(), meta.mtime)
    }

    /// As `utimensat` takes the times.
    pub fn times(&self) -> Timestamps {
        Timestamps {
            last_access: self.atime.timespec(),
            last_modification: self.mtime.timespec(),
        }
    }
}

/// What happens to an entry that stands where a copy goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Anything but a directory is replaced.
    Replace,
    /// Directories are removed too, with everything below.
    ReplaceDirs,
}

/// How an entry came to its new place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A new inode.
    Copied,
    /// A further name of the source's inode.
    Linked,
}

/// An entry, not a directory, to be copied.
#[derive(Debug)]
pub struct Task {
    /// Directory of the source; may be `O_PATH`.
    pub from_dir: Arc<OwnedFd>,
    /// Name of the source.
    pub from_name: CString,
    /// What the source is.
    pub meta: Meta,
    /// Directory of the copy; may be `O_PATH`.
    pub to_dir: Arc<OwnedFd>,
    /// Name of the copy.
    pub to_name: CString,
    /// Where the copy goes, for messages.
    pub at: PathBuf,
    /// What the copy shall have.
    pub attributes: Attributes,
    /// What may stand in its way.
    pub existing: Existing,
    /// Another name of the source's inode, on the file system of the copy, that may get one more name instead.
    ///
    /// Only for regular files whose attributes already are the wanted ones. Who gives it promises that nobody will
    /// write to the copy in place.
    pub share: Option<(Arc<OwnedFd>, CString)>,
}

impl Task {
    /// Copies the entry.
    pub fn run(&self) -> Result<Outcome, Error> {
        self.attempt()
            .map_err(|(op, err)| Error::new(op, path::rooted(&self.at), err))
    }

    fn attempt(&self) -> Result<Outcome, (&'static str, io::Error)> {
        if self.meta.is_file() {
            if let Some((dir, name)) = &self.share
                && self.link(dir, name)?
            {
                return Ok(Outcome::Linked);
            }
            self.copy_file()?;
            return Ok(Outcome::Copied);
        }
        self.make_node()?;
        self.copy_xattrs_by_name();
        Ok(Outcome::Copied)
    }

    /// Whether the inode has the new name now.
    fn link(&self, dir: &OwnedFd, name: &CStr) -> Result<bool, (&'static str, io::Error)> {
        loop {
            let linked =
                rustix::fs::linkat(dir, name, &self.to_dir, &*self.to_name, AtFlags::empty());
            match linked {
                Ok(()) => return Ok(true),
                Err(Errno::EXIST) => self.make_way()?,
                // Too many names, another file system, a file system without links: copy instead.
                Err(_) => return Ok(false),
            }
        }
    }

    fn copy_file(&self) -> Result<(), (&'static str, io::Error)> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let source = rustix::fs::openat(&self.from_dir, &*self.from_name, flags, Mode::empty())
            .map_err(|err| ("open", err.into()))?;
        let source = File::from(source);
        let target = File::from(self.create()?);
        super::content(&source, &target, self.meta.size).map_err(|err| ("copy", err))?;
        self.dress(&target)?;
        copy_xattrs(&source, &target);
        rustix::fs::futimens(&target, &self.attributes.times())
            .map_err(|err| ("utimes", err.into()))
    }

    fn create(&self) -> Result<OwnedFd, (&'static str, io::Error)> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(self.attributes.mode & 0o777);
        loop {
            match rustix::fs::openat(&self.to_dir, &*self.to_name, flags, mode) {
                Err(Errno::EXIST) => self.make_way()?,
                created => return created.map_err(|err| ("open", err.into())),
            }
        }
    }

    /// Owner and mode of a fresh regular file. Looking is cheaper than setting what is right already.
    fn dress(&self, target: impl AsFd) -> Result<(), (&'static str, io::Error)> {
        let Attributes { uid, gid, mode, .. } = self.attributes;
        let made = rustix::fs::fstat(&target).map_err(|err| ("lstat", io::Error::from(err)))?;
        let made = Meta::from(&made);
        let owned = (made.uid, made.gid) == (uid, gid);
        if !owned {
            rustix::fs::fchown(&target, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .map_err(|err| ("lchown", err.into()))?;
        }
        if !owned || made.permissions() != mode {
            rustix::fs::fchmod(&target, Mode::from_raw_mode(mode))
                .map_err(|err| ("chmod", err.into()))?;
        }
        Ok(())
    }

    /// Everything that is neither directory nor regular file; sockets become empty files.
    fn make_node(&self) -> Result<(), (&'static str, io::Error)> {
        let (dir, name) = (&self.to_dir, &*self.to_name);
        let mode = Mode::from_raw_mode(self.attributes.mode & 0o777);
        let mut target = CString::default();
        if self.meta.is_symlink() {
            target = rustix::fs::readlinkat(&self.from_dir, &*self.from_name, Vec::new())
                .map_err(|err| ("readlink", err.into()))?;
        }
        loop {
            let node = |kind| rustix::fs::mknodat(dir, name, kind, mode, self.meta.rdev.packed());
            let (op, made) = match self.meta.kind() {
                Kind::Symlink => ("symlink", rustix::fs::symlinkat(&*target, dir, name)),
                Kind::CharDevice => ("mknod", node(FileType::CharacterDevice)),
                Kind::BlockDevice => ("mknod", node(FileType::BlockDevice)),
                Kind::Fifo => ("mknod", node(FileType::Fifo)),
                Kind::Socket | Kind::File | Kind::Dir => ("mknod", node(FileType::RegularFile)),
            };
            match made {
                Ok(()) => break,
                Err(Errno::EXIST) => self.make_way()?,
                Err(err) => return Err((op, err.into())),
            }
        }
        let Attributes { uid, gid, mode, .. } = self.attributes;
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|err| ("lchown", err.into()))?;
        if !self.meta.is_symlink() {
            let mode = Mode::from_raw_mode(mode);
            rustix::fs::chmodat(dir, name, mode, AtFlags::empty())
                .map_err(|err| ("chmod", err.into()))?;
        }
        rustix::fs::utimensat(
            dir,
            name,
            &self.attributes.times(),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(|err| ("utimes", err.into()))
    }

    fn copy_xattrs_by_name(&self) {
        let found = xattr::of_entry(&self.from_dir, self.from_name.to_bytes()).unwrap_or_default();
        for (name, value) in found {
            if is_overlay_mark(name.as_bytes()) {
                continue;
            }
            let set = xattr::set_of_entry(
                &self.to_dir,
                self.to_name.to_bytes(),
                name.as_bytes(),
                &value,
            );
            told(name.as_bytes(), set);
        }
    }

    /// Removes what has the name of the copy.
    fn make_way(&self) -> Result<(), (&'static str, io::Error)> {
        match rustix::fs::unlinkat(&self.to_dir, &*self.to_name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) if self.existing == Existing::ReplaceDirs => {
                dir::remove_all(&self.to_dir, &self.to_name).map_err(|err| ("unlinkat", err))
            }
            Err(err) => Err(("remove", err.into())),
        }
    }
}

/// Copies attributes between open files. What cannot be set is left out.
pub fn copy_xattrs(source: impl AsFd, target: impl AsFd) {
    for (name, value) in xattr::of_file(source).unwrap_or_default() {
        if is_overlay_mark(name.as_bytes()) {
            continue;
        }
        told(
            name.as_bytes(),
            xattr::set_of_file(&target, name.as_bytes(), &value),
        );
    }
}

/// Marks that an overlay mount keeps in its layers; they are no part of the tree.
fn is_overlay_mark(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

/// Compat: an attribute that cannot be set does not fail a copy (fsutil copy with upstream's error handler).
fn told(name: &[u8], set: io::Result<()>) {
    if let Err(error) = set {
        let name = String::from_utf8_lossy(name);
        tracing::debug!(%name, %error, "attribute not copied");
    }
}
