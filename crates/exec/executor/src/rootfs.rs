//! Paths inside a root directory, resolved without ever leaving it.
//!
//! A [`Root`] is a descriptor of the directory; every step of a path is opened relative to the one before, and a
//! symbolic link starts over at the root. What does not exist is kept as a list of names, so callers can make it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timestamps, Uid};
use rustix::io::Errno;

/// Symbolic links followed in one path before giving up.
const MAX_LINKS: u32 = 255;

/// A directory that is the root of everything looked up through it.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
}

/// Owner given to directories that are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What to make where something is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make {
    /// A directory.
    Dir,
    /// An empty file.
    File,
}

/// How far a path exists.
#[derive(Debug)]
pub struct Walk<'a> {
    root: BorrowedFd<'a>,
    found: Vec<(OsString, OwnedFd)>,
    missing: Vec<OsString>,
}

impl Root {
    /// Takes over a descriptor of a directory.
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Opens a directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            fd: rustix::fs::open(path, flags, Mode::empty())?,
        })
    }

    /// The directory itself.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Opens a path inside.
    pub fn open_at(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        open_in(self.fd.as_fd(), path, flags)
    }

    /// Follows a path as far as it exists.
    pub fn walk(&self, path: &Path) -> io::Result<Walk<'_>> {
        Walk::new(self.fd.as_fd(), path)
    }
}

/// Opens a path below a directory as if that were `/`.
pub fn open_in(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let relative = relative(path);
    loop {
        match rustix::fs::openat2(
            root,
            relative,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT,
        ) {
            // A rename somewhere made the kernel unsure about `..`; it asks to try again.
            Err(Errno::AGAIN) => {}
            other => return Ok(other?),
        }
    }
}

impl<'a> Walk<'a> {
    /// Follows `path` from `root`.
    pub fn new(root: BorrowedFd<'a>, path: &Path) -> io::Result<Self> {
        let mut walk = Self {
            root,
            found: Vec::new(),
            missing: Vec::new(),
        };
        let mut todo = Vec::new();
        push_components(&mut todo, path);
        let mut links = 0;
        while let Some(name) = todo.pop() {
            walk.step(name, &mut todo, &mut links)?;
        }
        Ok(walk)
    }

    fn step(
        &mut self,
        name: OsString,
        todo: &mut Vec<OsString>,
        links: &mut u32,
    ) -> io::Result<()> {
        if name == ".." {
            if self.missing.pop().is_none() {
                self.found.pop();
            }
            return Ok(());
        }
        if !self.missing.is_empty() {
            self.missing.push(name);
            return Ok(());
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(self.at(), &name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => {
                self.missing.push(name);
                return Ok(());
            }
            Err(errno) => return Err(errno.into()),
        };
        let stat = rustix::fs::fstat(&fd)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            self.found.push((name, fd));
            return Ok(());
        }
        *links += 1;
        if *links > MAX_LINKS {
            return Err(Errno::LOOP.into());
        }
        let target = rustix::fs::readlinkat(&fd, "", Vec::new())?;
        let target = Path::new(OsStr::from_bytes(target.as_bytes()));
        if target.is_absolute() {
            self.found.clear();
        }
        push_components(todo, target);
        Ok(())
    }

    /// The deepest directory (or file) of the path that exists.
    pub fn at(&self) -> BorrowedFd<'_> {
        self.found.last().map_or(self.root, |(_, fd)| fd.as_fd())
    }

    /// Whether nothing is missing.
    pub fn exists(&self) -> bool {
        self.missing.is_empty()
    }

    /// The names that do not exist, outermost first.
    pub fn missing(&self) -> &[OsString] {
        &self.missing
    }

    /// The path without symbolic links, relative to the root.
    pub fn path(&self) -> PathBuf {
        self.found
            .iter()
            .map(|(name, _)| name)
            .chain(&self.missing)
            .collect()
    }

    /// The directory the last name is in, and that name; nothing for the root itself. Only for paths that exist.
    pub fn parent(&self) -> Option<(BorrowedFd<'_>, &OsStr)> {
        let (name, _) = self.found.last()?;
        let above = self
            .found
            .len()
            .checked_sub(2)
            .and_then(|at| self.found.get(at));
        Some((above.map_or(self.root, |(_, fd)| fd.as_fd()), name))
    }

    /// Makes what is missing: directories with `mode` on the way, at the end what `make` says. Times of the
    /// directory the first new name goes into stay as they were. Returns a descriptor of the end of the path.
    pub fn complete(mut self, make: Make, mode: Mode, owner: Option<Owner>) -> io::Result<OwnedFd> {
        let before = (!self.missing.is_empty())
            .then(|| rustix::fs::fstat(self.at()))
            .transpose()?;
        let first_new = self.found.len();
        let names = std::mem::take(&mut self.missing);
        let last = names.len().saturating_sub(1);
        for (index, name) in names.into_iter().enumerate() {
            let kind = if index == last { make } else { Make::Dir };
            let fd = self.make_one(&name, kind, mode, owner)?;
            self.found.push((name, fd));
        }
        if let Some(stat) = before {
            let above = first_new.checked_sub(1).and_then(|at| self.found.get(at));
            set_times(above.map_or(self.root, |(_, fd)| fd.as_fd()), &stat)?;
        }
        match self.found.pop() {
            Some((_, fd)) => Ok(fd),
            None => Ok(self.root.try_clone_to_owned()?),
        }
    }

    fn make_one(
        &self,
        name: &OsStr,
        make: Make,
        mode: Mode,
        owner: Option<Owner>,
    ) -> io::Result<OwnedFd> {
        let made = match make {
            Make::Dir => rustix::fs::mkdirat(self.at(), name, mode),
            Make::File => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                rustix::fs::openat(self.at(), name, flags, mode).map(drop)
            }
        };
        let fresh = match made {
            Ok(()) => true,
            // Somebody who shares this directory was faster.
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(errno.into()),
        };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(self.at(), name, flags, Mode::empty())?;
        if fresh {
            if let Some(owner) = owner {
                rustix::fs::chownat(
                    &fd,
                    "",
                    Some(Uid::from_raw(owner.uid)),
                    Some(Gid::from_raw(owner.gid)),
                    AtFlags::EMPTY_PATH,
                )?;
            }
            // The umask must not decide what a step sees. A descriptor opened by path only cannot be chmodded.
            rustix::fs::chmodat(self.at(), name, mode, AtFlags::empty())?;
        }
        Ok(fd)
    }
}

/// Gives a file or directory the times a `stat` found.
pub(crate) fn set_times(fd: BorrowedFd<'_>, stat: &rustix::fs::Stat) -> io::Result<()> {
    #[allow(
        clippy::unnecessary_cast,
        reason = "the types differ between processors"
    )]
    let times = Timestamps {
        last_access: rustix::fs::Timespec {
            tv_sec: stat.st_atime as i64,
            tv_nsec: stat.st_atime_nsec as _,
        },
        last_modification: rustix::fs::Timespec {
            tv_sec: stat.st_mtime as i64,
            tv_nsec: stat.st_mtime_nsec as _,
        },
    };
    Ok(rustix::fs::utimensat(fd, "", &times, AtFlags::EMPTY_PATH)?)
}

fn relative(path: &Path) -> &Path {
    let stripped = path.strip_prefix("/").unwrap_or(path);
    if stripped.as_os_str().is_empty() {
        Path::new(".")
    } else {
        stripped
    }
}

/// Puts the components of `path` on a stack, the first on top.
fn push_components(todo: &mut Vec<OsString>, path: &Path) {
    let names = path
        .as_os_str()
        .as_bytes()
        .split(|&byte| byte == b'/')
        .rev();
    todo.extend(
        names
            .filter(|name| !name.is_empty() && *name != b".")
            .map(|name| OsStr::from_bytes(name).to_owned()),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn dir() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = Root::open(dir.path()).expect("it was just made");
        (dir, root)
    }

    fn resolved(root: &Root, path: &str) -> String {
        let walk = root.walk(Path::new(path)).expect("resolves");
        format!(
            "{}{}",
            walk.path().display(),
            if walk.exists() { "" } else { " (missing)" }
        )
    }

    #[test]
    fn links_and_dots_never_lead_outside() {
        let (dir, root) = dir();
        std::fs::create_dir_all(dir.path().join("a/b")).expect("writable");
        symlink("/a", dir.path().join("abs")).expect("writable");
        symlink("../../../../etc", dir.path().join("a/up")).expect("writable");
        assert_eq!(resolved(&root, "/../../a/./b"), "a/b");
        assert_eq!(resolved(&root, "abs/b"), "a/b");
        assert_eq!(
            resolved(&root, "/abs/b/../up/passwd"),
            "etc/passwd (missing)"
        );
        assert_eq!(resolved(&root, "x/y/../z"), "x/z (missing)");
        assert_eq!(resolved(&root, "/"), "");
    }

    #[test]
    fn a_circle_of_links_is_an_error() {
        let (dir, root) = dir();
        symlink("two", dir.path().join("one")).expect("writable");
        symlink("one", dir.path().join("two")).expect("writable");
        let err = root.walk(Path::new("one")).expect_err("goes round");
        assert_eq!(err.raw_os_error(), Some(40));
    }

    #[test]
    fn making_a_path_keeps_the_times_of_what_was_there() {
        let (dir, root) = dir();
        let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        let file = std::fs::File::open(dir.path()).expect("it exists");
        file.set_modified(old).expect("ours");
        let walk = root.walk(Path::new("/one/two")).expect("resolves");
        walk.complete(Make::File, Mode::from_raw_mode(0o755), None)
            .expect("writable");
        let made = std::fs::metadata(dir.path().join("one/two")).expect("made");
        assert!(made.is_file() && made.size() == 0);
        let root_time = std::fs::metadata(dir.path())
            .and_then(|meta| meta.modified())
            .expect("it exists");
        assert_eq!(root_time, old);
    }
}
