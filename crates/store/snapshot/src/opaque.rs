//! Layers without opaque directories.
//!
//! overlayfs makes a directory *opaque* when it was removed and made again, and also, to save a lookup, whenever it
//! makes one where the layers below have none. That hides whatever is below, which is right as long as the layer lies
//! on what it was made on. On top of anything else only what the layer removed from its own parent may be hidden. So
//! for such places there is a copy of the layer, its files shared, that names one by one what is removed.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use fstree::Root;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Timestamps};
use rustix::io::Errno;

const NAMES: [&str; 2] = ["trusted.overlay.opaque", "user.overlay.opaque"];

/// Whether any directory of the layer is opaque.
pub(crate) fn any(layer: &Path) -> io::Result<bool> {
    let root = Root::open(layer)?;
    let mut pending = vec![PathBuf::new()];
    while let Some(at) = pending.pop() {
        let dir = open(&root, &at)?;
        if is_opaque(&dir)? {
            return Ok(true);
        }
        for (name, kind) in entries(&dir)? {
            if kind == FileType::Directory {
                pending.push(join(&at, &name));
            }
        }
    }
    Ok(false)
}

/// Fills the empty directory `target` with the layer as it is when nothing in it is opaque. `below` is the tree it was
/// made on.
pub(crate) fn name_removed(layer: &Path, below: Option<&Root>, target: &Path) -> io::Result<()> {
    let (layer, target) = (Root::open(layer)?, Root::open(target)?);
    // The marks of overlayfs are not copied.
    fstree::copy::tree(&layer, &target, true).map_err(io::Error::other)?;
    let mut pending = vec![Pending {
        at: PathBuf::new(),
        is_below: below.is_some(),
        replaces: false,
    }];
    while let Some(this) = pending.pop() {
        let dir = open(&layer, &this.at)?;
        let replaces = this.replaces || is_opaque(&dir)?;
        let lower = match below {
            Some(below) if this.is_below => entries(&open(below, &this.at)?)?,
            _ => Vec::new(),
        };
        let upper = entries(&dir)?;
        if replaces {
            let gone = lower
                .iter()
                .filter(|(name, _)| upper.binary_search_by(|(own, _)| own.cmp(name)).is_err());
            mark(&open(&target, &this.at)?, gone.map(|(name, _)| name))?;
        }
        for (name, kind) in upper {
            if kind != FileType::Directory {
                continue;
            }
            let is_below = lower
                .binary_search_by(|(below, _)| below.cmp(&name))
                .is_ok_and(|found| lower[found].1 == FileType::Directory);
            pending.push(Pending {
                at: join(&this.at, &name),
                is_below,
                replaces,
            });
        }
    }
    Ok(())
}

struct Pending {
    at: PathBuf,
    /// The parent's tree has such a directory too.
    is_below: bool,
    /// It hides that one.
    replaces: bool,
}

/// Puts marks of deleted files into a directory, which keeps its times.
fn mark<'n>(dir: &OwnedFd, names: impl Iterator<Item = &'n CString>) -> io::Result<()> {
    let before = rustix::fs::fstat(dir)?;
    let mut any = false;
    for name in names {
        any = true;
        rustix::fs::mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0)?;
    }
    if any {
        let times = Timestamps {
            last_access: rustix::fs::Timespec {
                tv_sec: before.st_atime,
                tv_nsec: before.st_atime_nsec.try_into().unwrap_or(0),
            },
            last_modification: rustix::fs::Timespec {
                tv_sec: before.st_mtime,
                tv_nsec: before.st_mtime_nsec.try_into().unwrap_or(0),
            },
        };
        rustix::fs::futimens(dir, &times)?;
    }
    Ok(())
}

fn open(root: &Root, at: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    root.open_with(at, flags, Mode::empty())
}

/// Names and types; marks of deleted files are entries as well.
fn entries(dir: &OwnedFd) -> io::Result<Vec<(CString, FileType)>> {
    let mut all = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode)
            }
            known => known,
        };
        all.push((name.to_owned(), kind));
    }
    all.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(all)
}

fn is_opaque(dir: &OwnedFd) -> io::Result<bool> {
    for name in NAMES {
        let mut value = [0_u8; 8];
        match rustix::fs::fgetxattr(dir, name, &mut value) {
            Ok(1) if value[0] == b'y' => return Ok(true),
            Ok(_) | Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM | Errno::RANGE) => {}
            Err(err) => return Err(err.into()),
        }
    }
    Ok(false)
}

fn join(at: &Path, name: &CString) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    at.join(std::ffi::OsStr::from_bytes(name.as_bytes()))
}
