//! An open directory tree, mounted or not.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// The root directory of a tree, held open. A detached mount lives as long as its tree (and whatever was opened
/// through it).
#[derive(Debug)]
pub struct Tree {
    /// Open for reading, so that it can be listed.
    dir: OwnedFd,
    /// The mount itself, when the tree is one.
    mount: Option<OwnedFd>,
}

impl Tree {
    /// Opens an existing directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        let dir = rustix::fs::open(path, DIRECTORY, Mode::empty())?;
        Ok(Self { dir, mount: None })
    }

    pub(crate) fn of_mount(mount: OwnedFd) -> io::Result<Self> {
        let dir = rustix::fs::openat(&mount, ".", DIRECTORY, Mode::empty())?;
        Ok(Self {
            dir,
            mount: Some(mount),
        })
    }

    /// The directory, readable and usable with the `*at` calls.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// A path to the root for code that wants paths. Valid in this process while the tree lives.
    ///
    /// Resolving `..` or absolute symbolic links through it leaves the tree; paths from outside belong to `fstree`.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.dir.as_raw_fd()))
    }

    /// The detached mount, when the tree is one: for `move_mount`.
    pub fn mount_fd(&self) -> Option<BorrowedFd<'_>> {
        self.mount.as_ref().map(AsFd::as_fd)
    }
}

impl AsFd for Tree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd()
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);
