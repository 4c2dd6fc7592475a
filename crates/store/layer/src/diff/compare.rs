//! Whether two entries of the same path are the same as far as a layer is concerned.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd};

use fstree::Kind;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::Found;

const BUFFER: usize = 64 << 10;

/// Compat: the order of the tests decides what is read, and equal times with nanoseconds mean equal content.
pub(super) fn same(lower: &Found<'_>, upper: &Found<'_>) -> io::Result<bool> {
    let (old, new) = (&lower.meta, &upper.meta);
    if old.inode() == new.inode() {
        return Ok(true);
    }
    if (old.mode, old.uid, old.gid, old.rdev) != (new.mode, new.uid, new.gid, new.rdev)
        || capability(lower.dir, lower.name)? != capability(upper.dir, upper.name)?
    {
        return Ok(false);
    }
    if new.is_dir() {
        return Ok(true);
    }
    if old.size != new.size || old.mtime.sec != new.mtime.sec {
        return Ok(false);
    }
    if old.mtime.nsec != 0 || new.mtime.nsec != 0 {
        return Ok(old.mtime.nsec == new.mtime.nsec);
    }
    match new.kind() {
        Kind::Symlink => {
            let target = |found: &Found<'_>| rustix::fs::readlinkat(found.dir, found.name, []);
            Ok(target(lower)? == target(upper)?)
        }
        Kind::File if new.size > 0 => {
            Ok(is_one_file(lower, upper)? || same_content(&open(lower)?, &open(upper)?)?)
        }
        _ => Ok(true),
    }
}

/// Whether it is one file that is seen through two overlays. These have devices of their own, but show the inode as it
/// is below them; two files with one number would have to be of two file systems, and changed in the same instant.
fn is_one_file(lower: &Found<'_>, upper: &Found<'_>) -> io::Result<bool> {
    let look = |found: &Found<'_>| {
        let stat = rustix::fs::statat(found.dir, found.name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok::<_, Errno>((
            stat.st_ino,
            stat.st_ctime,
            stat.st_ctime_nsec,
            stat.st_blocks,
        ))
    };
    Ok(look(lower)? == look(upper)?)
}

/// The attribute with a file's capabilities; empty when there is none.
pub(crate) fn capability(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Vec<u8>> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    let mut buffer = [0_u8; 256];
    match rustix::fs::lgetxattr(&*path, "security.capability", &mut buffer) {
        Ok(len) => Ok(buffer[..len].to_vec()),
        Err(Errno::NODATA | Errno::NOTSUP | Errno::NOSYS) => Ok(Vec::new()),
        Err(err) => Err(err.into()),
    }
}

/// Opens a regular file. What took its place meanwhile is not followed or waited for.
pub(crate) fn open(found: &Found<'_>) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = rustix::fs::openat(
        found.dir,
        found.name,
        flags | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    Ok(File::from(fd))
}

fn same_content(mut left: &File, mut right: &File) -> io::Result<bool> {
    let mut buffers = (vec![0; BUFFER], vec![0; BUFFER]);
    loop {
        let lens = (
            fill(&mut left, &mut buffers.0)?,
            fill(&mut right, &mut buffers.1)?,
        );
        if buffers.0[..lens.0] != buffers.1[..lens.1] {
            return Ok(false);
        }
        if lens.0 == 0 {
            return Ok(true);
        }
    }
}

fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match from.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    Ok(len)
}
