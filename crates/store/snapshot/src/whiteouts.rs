//! Marks of deleted files that hide wherever their layer is mounted.
//!
//! In a directory that only one layer has, overlayfs lists what is there without a closer look, and shows the marks as
//! files nobody can open, unless the directory says that it was copied up. The kernel says so in directories it makes;
//! unpacked ones must be told. This matters as soon as a layer is mounted without the one it deletes from (merges,
//! differences).

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use crate::Error;

/// Says of every directory with marks that it was copied up, origin unknown.
pub(crate) fn mark(layer: &Path, in_user_namespace: bool) -> Result<(), Error> {
    let name = if in_user_namespace {
        c"user.overlay.origin"
    } else {
        c"trusted.overlay.origin"
    };
    let fail = |err: Errno| Error::io("mark deletions in", layer)(err.into());
    let mut pending = vec![open(CWD, layer).map_err(fail)?];
    while let Some(directory) = pending.pop() {
        let mut has_marks = false;
        for entry in Dir::read_from(&directory).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let child = entry.file_name();
            match entry.file_type() {
                FileType::Directory if child != c"." && child != c".." => {
                    pending.push(open(&directory, child).map_err(fail)?);
                }
                FileType::CharacterDevice if !has_marks => {
                    let stat = rustix::fs::statat(&directory, child, AtFlags::SYMLINK_NOFOLLOW);
                    has_marks = stat.map_err(fail)?.st_rdev == 0;
                }
                _ => {}
            }
        }
        if has_marks {
            match rustix::fs::fsetxattr(&directory, name, b"", XattrFlags::CREATE) {
                Ok(()) | Err(Errno::EXIST | Errno::NOTSUP) => {}
                Err(err) => return Err(fail(err)),
            }
        }
    }
    Ok(())
}

fn open(at: impl std::os::fd::AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}
