//! Takes away what fuse-overlayfs leaves in a layer besides the marks that the kernel's overlayfs uses too.
//!
//! Where it replaces a directory it writes the kernel's mark, and for older programs a file and a device; where it may
//! not write that mark it writes one of its own. And it notes where copied files come from.

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use fstree::Root;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

/// Files that say their directory replaces another.
const REPLACED: [&CStr; 2] = [c".wh..wh..opq", c".wh..opq"];
/// Begins the names of the program's own attributes.
const OWN: &[u8] = b"user.fuseoverlayfs.";
/// The kernel's marks of a directory that replaces another.
const OPAQUE: [&CStr; 2] = [c"trusted.overlay.opaque", c"user.overlay.opaque"];

/// Puts a layer in order. Repeating it does no harm.
pub(crate) fn layer(layer: &Path) -> io::Result<()> {
    let root = Root::open(layer)?;
    let mut pending = vec![PathBuf::from(".")];
    while let Some(path) = pending.pop() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let directory = root.open_with(&path, flags, Mode::empty())?;
        let mut replaced = forget_own(&directory)?;
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            if REPLACED.contains(&name) {
                rustix::fs::unlinkat(&directory, name, AtFlags::empty())?;
                replaced = true;
                continue;
            }
            match entry.file_type() {
                FileType::Directory => {
                    pending.push(path.join(OsStr::from_bytes(name.to_bytes())));
                }
                FileType::RegularFile => {
                    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let file = rustix::fs::openat(&directory, name, flags, Mode::empty())?;
                    forget_own(&file)?;
                }
                _ => {}
            }
        }
        if replaced {
            mark_replaced(&directory)?;
        }
    }
    Ok(())
}

/// Removes the program's attributes; tells whether one of them said that the directory replaces another.
fn forget_own(file: &OwnedFd) -> io::Result<bool> {
    let mut replaced = false;
    for (name, _) in fstree::xattr::of_file(file)? {
        if let Some(rest) = name.as_bytes().strip_prefix(OWN) {
            replaced |= rest == b"opaque";
            rustix::fs::fremovexattr(file, &name)?;
        }
    }
    Ok(replaced)
}

fn mark_replaced(directory: &OwnedFd) -> io::Result<()> {
    let mut byte = [0; 8];
    let mut is_marked = |name: &CStr| rustix::fs::fgetxattr(directory, name, &mut byte).is_ok();
    if OPAQUE.iter().any(|name| is_marked(name)) {
        return Ok(());
    }
    let name = OPAQUE[usize::from(mount::probe::in_user_namespace())];
    match rustix::fs::fsetxattr(directory, name, b"y", XattrFlags::empty()) {
        Ok(()) | Err(Errno::NOTSUP) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
