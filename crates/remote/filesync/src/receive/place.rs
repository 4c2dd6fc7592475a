//! Makes single entries. Paths are those of a checked listing: what lies above an entry is a directory made or seen
//! before it.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use fstree::{Kind, Meta, Root, Time, path, unix_mode};
use proto::fsutil::Stat;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::{Error, stat};

/// A directory must be open for its owner while it is filled.
const OWNER: u32 = 0o700;

/// Opens the directories entries are made in, and remembers the last one.
#[derive(Debug)]
pub(super) struct Place {
    root: Root,
    last: Option<(PathBuf, OwnedFd)>,
}

impl Place {
    pub fn new(root: Root) -> Self {
        Self { root, last: None }
    }

    /// The directory the entry is in, and its name there.
    pub fn parent<'a>(&'a mut self, at: &Path) -> Result<(BorrowedFd<'a>, CString), Error> {
        let name = at.file_name().unwrap_or_default();
        let name = CString::new(name.as_encoded_bytes())
            .map_err(|_| Error::io("open", at, Errno::INVAL))?;
        let dir = at.parent().unwrap_or(Path::new(""));
        if self.last.as_ref().is_none_or(|(last, _)| last != dir) {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let fd = self.root.open_with(dir, flags, Mode::empty());
            let fd = fd.map_err(|err| Error::io("open", dir, err))?;
            self.last = Some((dir.to_owned(), fd));
        }
        match &self.last {
            Some((_, fd)) => Ok((fd.as_fd(), name)),
            None => Err(Error::io("open", dir, Errno::NOENT)),
        }
    }

    /// What is there now.
    pub fn look(&mut self, at: &Path) -> Result<Option<Meta>, Error> {
        let (dir, name) = match self.parent(at) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            parent => parent?,
        };
        match rustix::fs::statat(dir, &*name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(Meta::from(&found))),
            Err(Errno::NOENT) => Ok(None),
            Err(err) => Err(Error::io("lstat", at, err)),
        }
    }

    /// Removes an entry and everything below it.
    pub fn remove(&mut self, at: &Path) -> Result<(), Error> {
        // Directories that we hold may be among it.
        self.last = None;
        let removed = self.root.remove_all(at);
        removed.map_err(|err| Error::io("unlinkat", at, err))
    }

    /// Makes a directory, or gives one that exists other metadata. Returns the permissions that must wait because they
    /// would lock us out.
    pub fn dir(&mut self, at: &Path, stat: &Stat, exists: bool) -> Result<Option<u32>, Error> {
        let (dir, name) = self.parent(at)?;
        if !exists {
            rustix::fs::mkdirat(dir, &*name, Mode::from_raw_mode(OWNER))
                .map_err(|err| Error::io("mkdir", at, err))?;
        }
        let wanted = unix_mode(stat.mode) & 0o7777;
        let closed = wanted & OWNER != OWNER;
        let now = if closed { wanted | OWNER } else { wanted };
        dress(dir, &name, at, stat, Some(now))?;
        Ok(closed.then_some(wanted))
    }

    /// Has directories that will be made in this one lie far from each other, or no longer. Whether they do is only a
    /// matter of speed.
    pub fn spread(&self, at: &Path, wanted: bool) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        if let Ok(dir) = self.root.open_with(at, flags, Mode::empty()) {
            match wanted {
                true => fstree::dir::spread_children(dir),
                false => fstree::dir::gather_children(dir),
            }
        }
    }

    /// Makes a link, device or pipe. What is there is replaced at once.
    pub fn special(
        &mut self,
        at: &Path,
        stat: &Stat,
        kind: Kind,
        replace: bool,
    ) -> Result<(), Error> {
        let (dir, name) = self.parent(at)?;
        let made = if replace { temporary() } else { name.clone() };
        make_special(dir, &made, stat, kind).map_err(|err| Error::io("mknod", at, err))?;
        let mode = (kind != Kind::Symlink).then(|| unix_mode(stat.mode) & 0o7777);
        dress(dir, &made, at, stat, mode)?;
        set_times(dir, &made, Time::from_nanos(stat.mod_time))
            .map_err(|err| Error::io("utimensat", at, err))?;
        if replace {
            rustix::fs::renameat(dir, &*made, dir, &*name)
                .map_err(|err| Error::io("rename", at, err))?;
        }
        Ok(())
    }

    /// Makes another name of a file.
    pub fn hard_link(&mut self, at: &Path, target: &Path, replace: bool) -> Result<(), Error> {
        let mut there = Self::new(self.root.clone());
        let (target_dir, target_name) = there.parent(target)?;
        let (dir, name) = self.parent(at)?;
        let made = if replace { temporary() } else { name.clone() };
        let flags = AtFlags::empty();
        rustix::fs::linkat(target_dir, &*target_name, dir, &*made, flags)
            .map_err(|err| Error::io("link", at, err))?;
        if replace {
            rustix::fs::renameat(dir, &*made, dir, &*name)
                .map_err(|err| Error::io("rename", at, err))?;
            // Renaming one name of an inode over another does nothing and leaves both.
            let _ = rustix::fs::unlinkat(dir, &*made, AtFlags::empty());
        }
        Ok(())
    }

    /// Sets the time of a directory, and the permissions that had to wait.
    pub fn finish_dir(&mut self, at: &Path, time: Time, mode: Option<u32>) -> Result<(), Error> {
        let (dir, name) = match self.parent(at) {
            // It was removed again: a later entry took its place.
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(());
            }
            parent => parent?,
        };
        if let Some(mode) = mode {
            rustix::fs::chmodat(dir, &*name, Mode::from_raw_mode(mode), AtFlags::empty())
                .map_err(|err| Error::io("chmod", at, err))?;
        }
        match set_times(dir, &name, time) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(err) => Err(Error::io("utimensat", at, err)),
        }
    }
}

fn make_special(
    dir: BorrowedFd<'_>,
    name: &CString,
    stat: &Stat,
    kind: Kind,
) -> rustix::io::Result<()> {
    let file_type = match kind {
        Kind::Symlink => return rustix::fs::symlinkat(stat.linkname.as_str(), dir, &**name),
        Kind::CharDevice => FileType::CharacterDevice,
        Kind::BlockDevice => FileType::BlockDevice,
        _ => FileType::Fifo,
    };
    let mode = Mode::from_raw_mode(stat.mode & 0o777);
    rustix::fs::mknodat(dir, &**name, file_type, mode, stat::device(stat).packed())
}

/// Sets owner, permissions and attributes of something that was just made, or of a directory.
fn dress(
    dir: BorrowedFd<'_>,
    name: &CString,
    at: &Path,
    stat: &Stat,
    mode: Option<u32>,
) -> Result<(), Error> {
    let (uid, gid) = owner(stat);
    rustix::fs::chownat(dir, &**name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|err| Error::io("lchown", at, err))?;
    if let Some(mode) = mode {
        rustix::fs::chmodat(dir, &**name, Mode::from_raw_mode(mode), AtFlags::empty())
            .map_err(|err| Error::io("chmod", at, err))?;
        for (key, value) in &stat.xattrs {
            // Compat: attributes that the file system refuses are left out.
            let _ = fstree::xattr::set_of_entry(dir, name.to_bytes(), key.as_bytes(), value);
        }
    }
    Ok(())
}

/// Owner and group as the system takes them.
pub(super) fn owner(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(stat.uid)), Some(Gid::from_raw(stat.gid)))
}

fn set_times(dir: BorrowedFd<'_>, name: &CString, time: Time) -> rustix::io::Result<()> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(dir, &**name, &timestamps(time), flags)
}

/// Both times, equal.
pub(super) fn timestamps(time: Time) -> Timestamps {
    let at = Timespec {
        tv_sec: time.sec,
        tv_nsec: time.timespec().tv_nsec,
    };
    Timestamps {
        last_access: at,
        last_modification: at,
    }
}

/// A name nobody else uses, under which something is made before it takes its place.
pub(super) fn temporary() -> CString {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let number = std::process::id().wrapping_mul(7919).wrapping_add(next) % 1_000_000_000;
    CString::new(format!(".tmp.{number:09}")).unwrap_or_default()
}

/// Writes a whole file, replacing what is there.
pub(super) fn write_file(place: &mut Place, at: &Path, content: &[u8]) -> Result<(), Error> {
    let write = |place: &mut Place| -> Result<(), Error> {
        let (dir, name) = place.parent(at)?;
        let made = temporary();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(dir, &*made, flags, Mode::from_raw_mode(0o644))
            .map_err(|err| Error::io("open", at, err))?;
        let mut file = std::fs::File::from(fd);
        io::Write::write_all(&mut file, content).map_err(|err| Error::io("write", at, err))?;
        rustix::fs::renameat(dir, &*made, dir, &*name).map_err(|err| Error::io("rename", at, err))
    };
    if place.look(at)?.is_some_and(|meta| meta.is_dir()) {
        place.remove(at)?;
    }
    write(place)
}

/// The path of an entry.
pub(super) fn path_of(stat: &Stat) -> &Path {
    path::from_bytes(stat.path.as_bytes())
}
