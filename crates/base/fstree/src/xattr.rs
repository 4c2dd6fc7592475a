//! Extended attributes, of open files and of entries named inside a directory.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, OsString, c_long};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// Attribute names and values, sorted by name.
pub type Xattrs = Vec<(OsString, Vec<u8>)>;

/// What attributes are read from or written to.
#[derive(Debug, Clone)]
enum Target<'a> {
    File(BorrowedFd<'a>),
    /// A path through `/proc/self/fd`, whose last component is not followed.
    Entry(CString),
}

/// All attributes of an open file. A file system without attributes has none; unreadable values are left out.
pub fn of_file(fd: impl AsFd) -> io::Result<Xattrs> {
    read(&Target::File(fd.as_fd()))
}

/// All attributes of the entry `name` of the directory `dir`; links are not followed.
pub fn of_entry(dir: impl AsFd, name: &[u8]) -> io::Result<Xattrs> {
    read(&entry(dir.as_fd(), name)?)
}

/// The same for the many entries of a walk, most of which have none.
pub(crate) fn of_walked(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Xattrs> {
    match has_none(dir, name) {
        true => Ok(Xattrs::new()),
        false => of_entry(dir, name.to_bytes()),
    }
}

/// `listxattrat`, which is the same everywhere. Linux has it since 6.13.
const LISTXATTRAT: c_long = 465;

/// Whether an entry is known to have no attributes: without a path through `/proc`, which takes as long again.
fn has_none(dir: BorrowedFd<'_>, name: &CStr) -> bool {
    static MISSING: AtomicBool = AtomicBool::new(false);
    if MISSING.load(Ordering::Relaxed) {
        return false;
    }
    // SAFETY: a descriptor and a C string that live as long as the call, and no buffer, which asks for the size only.
    let size = unsafe {
        libc::syscall(
            LISTXATTRAT,
            dir.as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            std::ptr::null_mut::<u8>(),
            0_usize,
        )
    };
    if size < 0 {
        let err = io::Error::last_os_error().raw_os_error();
        // Sandboxes refuse what they do not know.
        if matches!(err, Some(libc::ENOSYS | libc::EPERM)) {
            MISSING.store(true, Ordering::Relaxed);
        }
    }
    size == 0
}

/// Sets one attribute of an open file.
pub fn set_of_file(fd: impl AsFd, name: &[u8], value: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty())?)
}

/// Sets one attribute of the entry `name` of the directory `dir`; links are not followed.
pub fn set_of_entry(dir: impl AsFd, name: &[u8], attribute: &[u8], value: &[u8]) -> io::Result<()> {
    match entry(dir.as_fd(), name)? {
        Target::File(fd) => set_of_file(fd, attribute, value),
        Target::Entry(path) => Ok(rustix::fs::lsetxattr(
            path.as_c_str(),
            attribute,
            value,
            XattrFlags::empty(),
        )?),
    }
}

/// Removes one attribute of the entry `name` of the directory `dir`; an absent one is no error.
pub fn remove_of_entry(dir: impl AsFd, name: &[u8], attribute: &[u8]) -> io::Result<()> {
    let removed = match entry(dir.as_fd(), name)? {
        Target::File(fd) => rustix::fs::fremovexattr(fd, attribute),
        Target::Entry(path) => rustix::fs::lremovexattr(path.as_c_str(), attribute),
    };
    match removed {
        Ok(()) | Err(Errno::NODATA) => Ok(()),
        Err(err) => Err(err.into()),
    }
}

fn entry<'a>(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Target<'a>> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    Ok(Target::Entry(CString::new(path)?))
}

fn read(target: &Target<'_>) -> io::Result<Xattrs> {
    let Some(names) = grown(|buffer| match target {
        Target::File(fd) => rustix::fs::flistxattr(fd, buffer),
        Target::Entry(path) => rustix::fs::llistxattr(path.as_c_str(), buffer),
    })?
    else {
        return Ok(Xattrs::new());
    };
    let mut found = Xattrs::new();
    for name in names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let value = grown(|buffer| match target {
            Target::File(fd) => rustix::fs::fgetxattr(fd, name, buffer),
            Target::Entry(path) => rustix::fs::lgetxattr(path.as_c_str(), name, buffer),
        });
        if let Ok(Some(value)) = value {
            found.push((OsString::from_vec(name.to_vec()), value));
        }
    }
    found.sort_by(|(left, _), (right, _)| left.as_bytes().cmp(right.as_bytes()));
    Ok(found)
}

/// Calls with a larger buffer until the answer fits; `None` where attributes do not exist.
fn grown(
    mut call: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>,
) -> io::Result<Option<Vec<u8>>> {
    let mut small = [0_u8; 512];
    match call(&mut small) {
        Ok(len) => return Ok(Some(small[..len].to_vec())),
        Err(Errno::RANGE) => {}
        Err(Errno::NOTSUP | Errno::NODATA | Errno::NOSYS) => return Ok(None),
        Err(err) => return Err(err.into()),
    }
    let mut buffer = vec![0_u8; 64 << 10];
    loop {
        match call(&mut buffer) {
            Ok(len) => {
                buffer.truncate(len);
                return Ok(Some(buffer));
            }
            Err(Errno::RANGE) if buffer.len() < 16 << 20 => buffer.resize(buffer.len() * 4, 0),
            Err(err) => return Err(err.into()),
        }
    }
}
