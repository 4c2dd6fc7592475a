//! Making directories, files and links, and removing.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use fstree::{Meta, Root, Time, path};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timestamps, Uid};
use rustix::io::Errno;

use crate::error::on;
use crate::wildcard::expand;
use crate::{Error, Owner};

/// A directory to be made.
#[derive(Debug, Clone, Default)]
pub struct Mkdir {
    /// Where; links in it are followed.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Make what is missing above it too.
    pub make_parents: bool,
    /// Who owns what is made.
    pub owner: Option<Owner>,
    /// Times of what is made.
    pub timestamp: Option<Time>,
}

/// A file to be written.
#[derive(Debug, Clone, Default)]
pub struct Mkfile {
    /// Where; links in it are followed.
    pub path: String,
    /// Permission bits of a new file; an existing one keeps its own.
    pub mode: u32,
    /// What it contains.
    pub data: Vec<u8>,
    /// Who owns it.
    pub owner: Option<Owner>,
    /// Its times.
    pub timestamp: Option<Time>,
}

/// A symbolic link to be made.
#[derive(Debug, Clone, Default)]
pub struct Symlink {
    /// The target, stored as it is.
    pub old_path: String,
    /// Where the link goes.
    pub new_path: String,
    /// Who owns it.
    pub owner: Option<Owner>,
    /// Its times.
    pub timestamp: Option<Time>,
}

/// Something to be removed with everything below it.
#[derive(Debug, Clone, Default)]
pub struct Remove {
    /// Where; a link at its end is removed, not followed.
    pub path: String,
    /// It need not be there.
    pub allow_not_found: bool,
    /// The path may have wildcards.
    pub wildcard: bool,
}

/// Makes a directory. One that is there already is left as it is.
pub fn mkdir(root: &Root, action: &Mkdir) -> Result<(), Error> {
    let at = root
        .resolve(path::relative(&action.path))
        .map_err(on("lstat", &action.path))?;
    let mode = action.mode & 0o777;
    if action.make_parents {
        make_dirs(root, &at, mode, action.owner, action.timestamp)?;
        return Ok(());
    }
    let parent = root.parent(&at).map_err(on("mkdir", &at))?;
    match rustix::fs::mkdirat(&parent.dir, parent.name(), Mode::from_raw_mode(mode)) {
        Ok(()) => {
            let mode = Mode::from_raw_mode(mode);
            rustix::fs::chmodat(&parent.dir, parent.name(), mode, AtFlags::empty())
                .map_err(on("chmod", &at))?;
            dress(root, &at, action.owner, action.timestamp)
        }
        Err(Errno::EXIST) => Ok(()),
        Err(err) => Err(on("mkdir", &at)(err)),
    }
}

/// Makes a directory (a resolved path) and what is missing above it. Returns what was made, outermost first.
pub(crate) fn make_dirs(
    root: &Root,
    at: &Path,
    mode: u32,
    owner: Option<Owner>,
    timestamp: Option<Time>,
) -> Result<Vec<PathBuf>, Error> {
    let created = root.mkdir_all(at, mode & 0o777).map_err(on("mkdir", at))?;
    // Innermost first: making a child touches its parent's times.
    for dir in created.iter().rev() {
        dress(root, dir, owner, timestamp)?;
    }
    Ok(created)
}

/// Writes a file, replacing the content of one that is there.
pub fn mkfile(root: &Root, action: &Mkfile) -> Result<(), Error> {
    let at = root
        .resolve(path::relative(&action.path))
        .map_err(on("open", &action.path))?;
    let parent = root.parent(&at).map_err(on("open", &at))?;
    let existing = match parent.meta() {
        Ok(meta) if meta.is_dir() => return Err(on("open", &at)(Errno::ISDIR)),
        Ok(meta) => Some(meta),
        Err(_) => None,
    };
    if existing
        .as_ref()
        .is_some_and(|meta| meta.is_file() && meta.nlink > 1)
    {
        make_own(&parent.dir, parent.name()).map_err(on("open", &at))?;
    }
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(action.mode & 0o777);
    let fd =
        rustix::fs::openat(&parent.dir, parent.name(), flags, mode).map_err(on("open", &at))?;
    if existing.is_none() {
        rustix::fs::fchmod(&fd, mode).map_err(on("chmod", &at))?;
    }
    File::from(fd)
        .write_all(&action.data)
        .map_err(on("write", &at))?;
    dress(root, &at, action.owner, action.timestamp)
}

/// Makes a symbolic link. Something that is there already is an error.
pub fn symlink(root: &Root, action: &Symlink) -> Result<(), Error> {
    let at = root
        .resolve(path::relative(&action.new_path))
        .map_err(on("lstat", &action.new_path))?;
    let shown = format!("{} {}", action.old_path, path::rooted(&at).display());
    let failed = |err: io::Error| Error::File(fstree::Error::new("symlink", &shown, err));
    let parent = root.parent(&at).map_err(failed)?;
    rustix::fs::symlinkat(action.old_path.as_str(), &parent.dir, parent.name())
        .map_err(|err| failed(err.into()))?;
    dress(root, &at, action.owner, action.timestamp)
}

/// Removes a path, or all that match a wildcard.
pub fn remove(root: &Root, action: &Remove) -> Result<(), Error> {
    if !action.wildcard {
        return remove_one(root, Path::new(&action.path), action.allow_not_found);
    }
    for found in expand(root, Path::new(&action.path), false)? {
        remove_one(root, &found, action.allow_not_found)?;
    }
    Ok(())
}

fn remove_one(root: &Root, asked: &Path, allow_not_found: bool) -> Result<(), Error> {
    let at = path::rooted(asked);
    if at == Path::new("/") {
        return Err(Error::EmptyPath);
    }
    let parent = match root.parent(&at) {
        Ok(parent) => parent,
        Err(err) => {
            let err = fstree::Error::new("stat", &at, err);
            return if allow_not_found && err.kind() == io::ErrorKind::NotFound {
                Ok(())
            } else {
                Err(err.into())
            };
        }
    };
    if !allow_not_found {
        parent.meta().map_err(on("stat", &at))?;
    }
    parent.remove_all().map_err(on("unlinkat", &at))
}

/// Owner and times of something just made; a link is not followed.
pub(crate) fn dress(
    root: &Root,
    at: &Path,
    owner: Option<Owner>,
    timestamp: Option<Time>,
) -> Result<(), Error> {
    if owner.is_none() && timestamp.is_none() {
        return Ok(());
    }
    let parent = root.parent(at).map_err(on("lchown", at))?;
    let (dir, name) = (&parent.dir, parent.name());
    if let Some(Owner { uid, gid }) = owner {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(on("lchown", at))?;
    }
    if let Some(time) = timestamp {
        set_times(dir, name, time, time).map_err(on("utimes", at))?;
    }
    Ok(())
}

pub(crate) fn set_times(
    dir: impl AsFd,
    name: &std::ffi::CStr,
    atime: Time,
    mtime: Time,
) -> rustix::io::Result<()> {
    let times = Timestamps {
        last_access: atime.timespec(),
        last_modification: mtime.timespec(),
    };
    rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

/// Replaces a regular file that has other names by a copy that has none, so that it may be written.
pub(crate) fn make_own(dir: &OwnedFd, name: &std::ffi::CStr) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let source = File::from(rustix::fs::openat(dir, name, flags, Mode::empty())?);
    let meta = Meta::from(&rustix::fs::fstat(&source)?);
    let (own, target) = temporary(dir)?;
    let filled = fstree::copy::content(&source, &target, meta.size).and_then(|_| {
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        rustix::fs::fchown(&target, Some(uid), Some(gid))?;
        rustix::fs::fchmod(&target, Mode::from_raw_mode(meta.permissions()))?;
        fstree::copy::copy_xattrs(&source, &target);
        set_times(dir, &own, meta.atime, meta.mtime)?;
        Ok(rustix::fs::renameat(dir, &*own, dir, name)?)
    });
    if filled.is_err() {
        // The half-made copy must not stay; the first error is the one to tell.
        let _ = rustix::fs::unlinkat(dir, &*own, AtFlags::empty());
    }
    filled
}

/// A new file under a name nobody has.
fn temporary(dir: &OwnedFd) -> io::Result<(std::ffi::CString, File)> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for number in 0_u32.. {
        let name = std::ffi::CString::new(format!(".kiln-own-{number}"))?;
        match rustix::fs::openat(dir, &*name, flags, Mode::from_raw_mode(0o600)) {
            Err(Errno::EXIST) => {}
            opened => return Ok((name, File::from(opened?))),
        }
    }
    Err(Errno::EXIST.into())
}
