//! Listing and removing by directory descriptor.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, RawDir};
use rustix::io::Errno;

/// Opens the directory `name` of `dir` for listing. A link is not followed.
pub(crate) fn open(dir: impl AsFd, name: &CStr) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(
        dir,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// The names in an open directory, without `.` and `..`, in byte order.
pub(crate) fn sorted_names(dir: impl AsFd) -> io::Result<Vec<CString>> {
    let mut names = names(dir)?;
    names.sort_unstable();
    Ok(names)
}

/// The names in an open directory, without `.` and `..`, as the system gives them.
pub(crate) fn names(dir: impl AsFd) -> io::Result<Vec<CString>> {
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

/// Removes `name` and everything below it. What is not there is removed already.
pub(crate) fn remove_all(dir: impl AsFd, name: &CStr) -> io::Result<()> {
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
