//! Listing and removing by directory descriptor.
//!
//! For those who walk a tree their own way; names come from a listing, never from outside.

use std::ffi::{CStr, CString};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, IFlags, Mode, OFlags, RawDir};
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

/// Has directories that are made in `dir` lie far from each other, where the filesystem knows of such a thing.
///
/// ext4 puts what is made in a directory near it, and passes over inodes that were deleted within the last minutes, one
/// by one. Where files come and go, making one soon takes a hundred times as long as it should, unless they are spread.
pub fn spread_children(dir: impl AsFd) {
    set_spread(dir.as_fd(), true);
}

/// Undoes [`spread_children`] for what will be made.
pub fn gather_children(dir: impl AsFd) {
    set_spread(dir.as_fd(), false);
}

fn set_spread(dir: BorrowedFd<'_>, wanted: bool) {
    if let Ok(mut flags) = rustix::fs::ioctl_getflags(dir)
        && flags.contains(IFlags::TOPDIR) != wanted
    {
        flags.set(IFlags::TOPDIR, wanted);
        let _ = rustix::fs::ioctl_setflags(dir, flags);
    }
}

/// One name of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed<'a> {
    /// The name.
    pub name: &'a CStr,
    /// What it is.
    pub kind: Kind,
    /// The inode as the directory has it; see [`tells_inodes`].
    pub ino: u64,
}

/// The names in a directory with their kinds, in byte order, in one piece of memory.
#[derive(Debug, Default)]
pub struct Listing {
    /// Each ends with a zero.
    names: Vec<u8>,
    entries: Vec<Place>,
}

#[derive(Debug)]
struct Place {
    at: Range<usize>,
    kind: Kind,
    ino: u64,
}

impl Listing {
    /// What an open directory has, without `.` and `..`. Names that vanish meanwhile may be missing.
    pub fn of(dir: impl AsFd) -> io::Result<Self> {
        let dir = dir.as_fd();
        let mut buffer = Vec::with_capacity(32 << 10);
        let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
        let mut found = Self::default();
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
                FileType::Unknown => {
                    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                        Ok(stat) => Meta::from(&stat).kind(),
                        Err(Errno::NOENT) => continue,
                        Err(err) => return Err(err.into()),
                    }
                }
            };
            let start = found.names.len();
            found.names.extend_from_slice(name.to_bytes_with_nul());
            found.entries.push(Place {
                at: start..found.names.len(),
                kind,
                ino: entry.ino(),
            });
        }
        let Self { names, entries } = &mut found;
        entries
            .sort_unstable_by(|left, right| names[left.at.clone()].cmp(&names[right.at.clone()]));
        Ok(found)
    }

    /// One after the other.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Listed<'_>> {
        self.entries.iter().map(|place| Listed {
            name: CStr::from_bytes_with_nul(&self.names[place.at.clone()])
                .expect("a name has one zero, at its end"),
            kind: place.kind,
            ino: place.ino,
        })
    }
}

/// Whether listings of a file system have the inodes that a look at each entry would show. Those that are made of
/// others may not.
pub fn tells_inodes(dir: impl AsFd) -> bool {
    const EXT: u64 = 0xef53;
    const XFS: u64 = 0x5846_5342;
    const BTRFS: u64 = 0x9123_683e;
    const TMPFS: u64 = 0x0102_1994;
    let kind = rustix::fs::fstatfs(dir).map(|told| u64::try_from(told.f_type).unwrap_or(0));
    matches!(kind, Ok(EXT | XFS | BTRFS | TMPFS))
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;
    use crate::root::Root;

    #[test]
    fn a_listing_tells_names_kinds_and_inodes_in_order() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let at = dir.path();
        std::fs::write(at.join("b"), "").expect("write");
        std::fs::create_dir(at.join("a")).expect("mkdir");
        symlink("b", at.join("b.c")).expect("symlink");
        let root = Root::open(at).expect("open");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let open = root
            .open_with("", flags, Mode::empty())
            .expect("open the directory");
        let listing = Listing::of(&open).expect("listed");
        let found: Vec<_> = listing
            .iter()
            .map(|entry| (entry.name, entry.kind))
            .collect();
        let wanted = [
            (c"a", Kind::Dir),
            (c"b", Kind::File),
            (c"b.c", Kind::Symlink),
        ];
        assert_eq!(found, wanted);
        if tells_inodes(&open) {
            for entry in listing.iter() {
                let name = entry.name.to_str().expect("text");
                let meta = std::fs::symlink_metadata(at.join(name)).expect("stat");
                assert_eq!(entry.ino, meta.ino(), "{name}");
            }
        }
    }
}
