//! Owner, permissions, times and extended attributes of what was unpacked.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use fstree::{Meta, Root, Time, path};
use rustix::fs::{AtFlags, Gid, Mode, Timestamps, Uid};
use rustix::io::Errno;

use crate::archive::Member;

/// Modification and access time. What lies before 1970 or beyond 64 bits of nanoseconds becomes 1970.
pub(super) fn times(member: &Member) -> (Time, Time) {
    let bounded = |time: Time| {
        let fits = time.sec >= 0 && time.sec < i64::MAX / 1_000_000_000;
        if fits { time } else { Time::default() }
    };
    let mtime = bounded(member.mtime);
    let atime = bounded(member.atime.unwrap_or_default());
    (mtime, atime.max(mtime))
}

pub(super) fn timestamps(mtime: Time, atime: Time) -> Timestamps {
    Timestamps {
        last_access: atime.timespec(),
        last_modification: mtime.timespec(),
    }
}

pub(super) fn set_times(
    dir: impl AsFd,
    name: &CStr,
    mtime: Time,
    atime: Time,
) -> rustix::io::Result<()> {
    let times = timestamps(mtime, atime);
    rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

pub(super) fn chown(dir: &OwnedFd, name: &CStr, uid: u32, gid: u32) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

/// What became of an extended attribute.
pub(super) enum Xattr {
    Set,
    /// It cannot be had here, which is no reason to fail.
    LeftOut,
}

/// Sets one attribute; `plain` says whether the entry is a file or a directory.
pub(super) fn set_xattr(
    dir: &OwnedFd,
    entry: &CStr,
    name: &[u8],
    value: &[u8],
    plain: bool,
) -> io::Result<Xattr> {
    if name.starts_with(b"trusted.") {
        return Ok(Xattr::LeftOut);
    }
    let Err(err) = fstree::xattr::set_of_entry(dir, entry.to_bytes(), name, value) else {
        return Ok(Xattr::Set);
    };
    let errno = err.raw_os_error();
    let is = |wanted: Errno| errno == Some(wanted.raw_os_error());
    if is(Errno::NOTSUP) || (is(Errno::PERM) && name.starts_with(b"user.") && !plain) {
        return Ok(Xattr::LeftOut);
    }
    Err(err)
}

/// Makes the directory `at` look as it does in `layer`.
pub(super) fn copy(layer: &Root, meta: &Meta, root: &Root, at: &Path) -> io::Result<()> {
    let from = layer.parent(at)?;
    let to = root.parent(at)?;
    chown(&to.dir, to.name(), meta.uid, meta.gid)?;
    let xattrs = fstree::xattr::of_entry(&from.dir, from.name().to_bytes())?;
    for (name, value) in xattrs {
        let name = path::bytes(Path::new(&name));
        set_xattr(&to.dir, to.name(), name, &value, true)?;
    }
    let mode = Mode::from_raw_mode(meta.permissions());
    rustix::fs::chmodat(&to.dir, to.name(), mode, AtFlags::empty())?;
    set_times(&to.dir, to.name(), meta.mtime, meta.atime)?;
    Ok(())
}
