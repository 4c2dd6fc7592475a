//! Listing and removing by directory descriptor.
//!
//! For those who walk a tree their own way; names come from a listing, never from outside.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir};
use rustix::io::Errno;

use crate::meta::{Kind, Meta};

/// Opens the directory `name` of `dir` for listing. A link is not followed.
pub fn open(dir: impl AsFd, name: &CStr) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(
        dir,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// The names in an open directory, without `.` and `..`, in byte order.
pub fn sorted_names(dir: impl AsFd) -> io::Result<Vec<CString>> {
    let mut names = names(dir)?;
    names.sort_unstable();
    Ok(names)
}

/// The names in an open directory, without `.` and `..`, as the system gives them.
pub fn names(dir: impl AsFd) -> io::Result<Vec<CString>> {
    let mut buffer = Vec::with_capacity(32 << 10);
    let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// One name of a listing and what it is.
pub type Listed = (CString, Kind);

/// The names in an open directory with their kinds, in byte order. Names that vanish meanwhile may be missing.
pub fn sorted_entries(dir: impl AsFd) -> io::Result<Vec<Listed>> {
    let dir = dir.as_fd();
    let mut buffer = Vec::with_capacity(32 << 10);
    let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
    let mut found = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Dir,
            FileType::Symlink => Kind::Symlink,
            FileType::CharacterDevice => Kind::CharDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            FileType::Unknown => match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => Meta::from(&stat).kind(),
                Err(Errno::NOENT) => continue,
                Err(err) => return Err(err.into()),
            },
        };
        found.push((name.to_owned(), kind));
    }
    found.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
    Ok(found)
}

/// Removes `name` and everything below it. What is not there is removed already.
pub fn remove_all(dir: impl AsFd, name: &CStr) -> io::Result<()> {
    let dir = dir.as_fd();
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(err) => return Err(err.into()),
    }
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        // Not a directory after all: the first refusal was the true one.
        Err(Errno::NOTDIR) => return Err(Errno::PERM.into()),
        Err(err) => return Err(err.into()),
    }
    let inner = open(dir, name)?;
    for child in names(&inner)? {
        remove_all(&inner, &child)?;
    }
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(err) => Err(err.into()),
    }
}
