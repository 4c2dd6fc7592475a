//! What changed between two trees, in the order of a layer.
//!
//! 1. Both trees are walked depth first, each directory in byte order, on descriptors alone: no path is ever resolved,
//!    so no link leads anywhere.
//! 2. A level of the walk is either *whole* (the names of both trees, merged) or *upper* (the names of an overlay's
//!    upper directory, each looked up below). A whole level's children are whole. An upper level's children are upper,
//!    but for an opaque directory that is a directory below as well: its content is compared as a whole.
//! 3. In upper levels a character device 0/0 is a deletion if there is something to delete, and nothing otherwise. In
//!    whole levels that were reached from upper ones such devices do not exist.
//! 4. What is deleted is reported once, without its content. What stopped being a directory is reported as modified.

mod compare;

pub(crate) use compare::{capability, open};

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fstree::{Kind, Meta, path};
use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

use crate::{Change, Error};

/// Something of the upper tree.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    pub dir: BorrowedFd<'a>,
    pub name: &'a CStr,
    pub meta: Meta,
}

/// What became of a path.
#[derive(Debug)]
pub(crate) enum What<'a> {
    /// It is new or different.
    Changed(Found<'a>),
    /// It is the same and has other names. Whole levels only.
    Unchanged(Found<'a>),
    /// It is gone.
    Deleted,
}

type Visit<'v> = dyn FnMut(&Path, What<'_>) -> Result<(), Error> + 'v;

/// Calls `visit` for every change.
pub(crate) fn walk(change: &Change, visit: &mut Visit<'_>) -> Result<(), Error> {
    let (lower, upper, whole) = match change {
        Change::Overlay { lower, upper } => (lower, upper, false),
        Change::Trees { lower, upper } => (lower, upper, true),
    };
    let open = |root: &fstree::Root| {
        open_dir(root.fd(), c".").map_err(|err| fstree::Error::new("open", "/", err))
    };
    let lower = lower.as_ref().map(open).transpose()?;
    let upper = open(upper)?;
    let mut levels = vec![Level::new(PathBuf::new(), lower, upper, whole, false)?];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.names.next() else {
            levels.pop();
            continue;
        };
        if let Some(child) = level.step(&name, visit)? {
            levels.push(child);
        }
    }
    Ok(())
}

/// A directory being compared.
struct Level {
    path: PathBuf,
    /// The same directory in the lower tree, if it is one there.
    lower: Option<Arc<OwnedFd>>,
    upper: Arc<OwnedFd>,
    whole: bool,
    /// Deletion marks are invisible.
    hide_marks: bool,
    names: std::vec::IntoIter<CString>,
}

impl Level {
    fn new(
        at: PathBuf,
        lower: Option<OwnedFd>,
        upper: OwnedFd,
        whole: bool,
        hide_marks: bool,
    ) -> Result<Self, Error> {
        let list = |fd: &OwnedFd| {
            names(fd).map_err(|err| fstree::Error::new("readdirent", path::rooted(&at), err))
        };
        let mut names = list(&upper)?;
        if let (true, Some(lower)) = (whole, &lower) {
            names.extend(list(lower)?);
        }
        names.sort_unstable();
        names.dedup();
        Ok(Self {
            path: at,
            lower: lower.map(Arc::new),
            upper: Arc::new(upper),
            whole,
            hide_marks,
            names: names.into_iter(),
        })
    }

    /// Reports one name; the level below if it is a directory that has to be looked into.
    fn step(&self, name: &CStr, visit: &mut Visit<'_>) -> Result<Option<Level>, Error> {
        let at = path::join(&self.path, name.to_bytes());
        let fail = |op| {
            let at = path::rooted(&at);
            move |err: Errno| fstree::Error::new(op, at, err)
        };
        let stat = |dir: &Arc<OwnedFd>| stat(dir, name).map_err(fail("lstat"));
        let mut upper = stat(&self.upper)?;
        let lower = self.lower.as_ref().map(stat).transpose()?.flatten();
        let mark = upper.as_ref().is_some_and(is_deletion_mark);
        if mark && (!self.whole || self.hide_marks) {
            upper = None;
        }
        let Some(meta) = upper else {
            // In upper levels only what has a mark is gone; a name that vanished meanwhile is no deletion.
            if lower.is_some() && (self.whole || mark) {
                visit(&at, What::Deleted)?;
            }
            return Ok(None);
        };
        let found = Found {
            dir: self.upper.as_fd(),
            name,
            meta,
        };
        let same = match (&lower, &self.lower) {
            (Some(lower), Some(dir)) => {
                let lower = Found {
                    dir: dir.as_fd(),
                    name,
                    meta: *lower,
                };
                compare::same(&lower, &found)
                    .map_err(|err| fstree::Error::new("compare", path::rooted(&at), err))?
            }
            _ => false,
        };
        if !same {
            visit(&at, What::Changed(found))?;
        } else if self.whole && !meta.is_dir() && meta.nlink > 1 {
            visit(&at, What::Unchanged(found))?;
        }
        if meta.is_dir() {
            let lower_is_dir = lower.is_some_and(|lower| lower.is_dir());
            return self.child(name, at, lower_is_dir).map(Some);
        }
        Ok(None)
    }

    fn child(&self, name: &CStr, at: PathBuf, lower_is_dir: bool) -> Result<Level, Error> {
        let open = |dir: &Arc<OwnedFd>| {
            open_dir(dir.as_fd(), name)
                .map_err(|err| fstree::Error::new("open", path::rooted(&at), err))
        };
        let upper = open(&self.upper)?;
        let lower = match &self.lower {
            Some(dir) if lower_is_dir => Some(open(dir)?),
            _ => None,
        };
        if self.whole {
            return Self::new(at, lower, upper, true, self.hide_marks);
        }
        if attribute(&upper, "trusted.overlay.redirect")?.is_some_and(|value| !value.is_empty()) {
            return Err(Error::Redirect);
        }
        let opaque = lower.is_some() && is_opaque(&upper)?;
        Self::new(at, lower, upper, opaque, opaque)
    }
}

fn is_deletion_mark(meta: &Meta) -> bool {
    meta.kind() == Kind::CharDevice && meta.rdev == fstree::Device::default()
}

/// Whether any directory of an upper tree is opaque.
pub(crate) fn has_opaque(upper: &fstree::Root) -> Result<bool, Error> {
    let open = |at: &Path| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        upper
            .open_with(at, flags, Mode::empty())
            .map_err(|err| fstree::Error::new("open", path::rooted(at), err))
    };
    if is_opaque(&open(Path::new(""))?)? {
        return Ok(true);
    }
    for entry in fstree::Walk::new(upper)? {
        let entry = entry?;
        if entry.meta.is_dir() && is_opaque(&open(&entry.path)?)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_opaque(dir: &OwnedFd) -> Result<bool, Error> {
    for name in ["trusted.overlay.opaque", "user.overlay.opaque"] {
        if attribute(dir, name)?.is_some_and(|value| value == b"y") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A short extended attribute.
fn attribute(fd: &OwnedFd, name: &str) -> Result<Option<Vec<u8>>, Error> {
    let mut buffer = [0_u8; 4096];
    match rustix::fs::fgetxattr(fd, name, &mut buffer) {
        Ok(len) => Ok(Some(buffer[..len].to_vec())),
        Err(Errno::NODATA | Errno::NOTSUP | Errno::NOSYS | Errno::PERM) => Ok(None),
        Err(err) => Err(fstree::Error::new("getxattr", "/", err).into()),
    }
}

fn stat(dir: &Arc<OwnedFd>, name: &CStr) -> rustix::io::Result<Option<Meta>> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(Meta::from(&stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(err) => Err(err),
    }
}

fn open_dir(dir: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

fn names(dir: &OwnedFd) -> rustix::io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}
