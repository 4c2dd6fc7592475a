//! What changed between two trees, in the order of a layer.
//!
//! 1. Both trees are walked depth first, each directory in byte order, on descriptors alone: no path is ever resolved,
//!    so no link leads anywhere.
//! 2. A level of the walk is either *whole* (the names of both trees, merged) or *upper* (the names of an overlay's
//!    upper directory, each looked up below). A whole level's children are whole. An upper level's children are upper,
//!    but for an opaque directory that is a directory below as well: its content is compared as a whole.
//! 3. In upper levels a character device 0/0 is a deletion if there is something to delete, and nothing otherwise. In
//!    whole levels that were reached from upper ones such devices do not exist.
//! 4. Below an upper level there may be layers that nobody mounted ([`Layers`]); below a whole level there is a tree.
//! 5. What is deleted is reported once, without its content. What stopped being a directory is reported as modified.

mod compare;

pub(crate) use compare::{capability, open};

use std::cell::OnceCell;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use fstree::{Kind, Meta, path};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::base::{self, Answer, Layers};
use crate::{Base, Change, Error};

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
    let open = |root: &fstree::Root| {
        open_dir(root.fd(), c".").map_err(|err| fstree::Error::new("open", "/", err))
    };
    let unmounted;
    let (lower, upper, whole) = match change {
        Change::Overlay { lower, upper } => {
            let lower = match lower {
                None => Lower::Nothing,
                Some(Base::Tree(tree)) => Lower::Dir(open(tree)?),
                Some(Base::Layers(layers)) => {
                    unmounted = Unmounted::new(layers);
                    let within = layers.all();
                    Lower::Layers(&unmounted, within)
                }
            };
            (lower, upper, false)
        }
        Change::Trees { lower, upper } => {
            let lower = lower.as_ref().map(open).transpose()?;
            (lower.map_or(Lower::Nothing, Lower::Dir), upper, true)
        }
    };
    let mut levels = vec![Level::new(
        PathBuf::new(),
        lower,
        open(upper)?,
        whole,
        false,
    )?];
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

/// A directory in the lower tree.
enum Lower<'a> {
    /// There is none.
    Nothing,
    Dir(OwnedFd),
    /// These layers have parts of it.
    Layers(&'a Unmounted<'a>, Vec<u32>),
}

/// Something of the lower tree.
enum Below {
    /// In the directory that is open.
    Here(Meta),
    /// In a layer.
    There(base::Found),
}

impl Below {
    fn is_dir(&self) -> bool {
        match self {
            Self::Here(meta) => meta.is_dir(),
            Self::There(found) => found.meta.is_dir(),
        }
    }
}

/// Layers that are mounted once there is no way around it.
struct Unmounted<'a> {
    layers: &'a Layers,
    tree: OnceCell<fstree::Root>,
}

impl<'a> Unmounted<'a> {
    fn new(layers: &'a Layers) -> Self {
        Self {
            layers,
            tree: OnceCell::new(),
        }
    }

    /// The directory `at` of the tree they make.
    fn open(&self, at: &Path) -> io::Result<OwnedFd> {
        let tree = match self.tree.get() {
            Some(tree) => tree,
            None => {
                let mounted = self.layers.mounted()?;
                self.tree.get_or_init(|| mounted)
            }
        };
        tree.open_with(at, DIRECTORY, Mode::empty())
    }
}

/// A directory being compared.
struct Level<'a> {
    path: PathBuf,
    lower: Lower<'a>,
    upper: OwnedFd,
    whole: bool,
    /// Deletion marks are invisible.
    hide_marks: bool,
    names: std::vec::IntoIter<CString>,
}

impl<'a> Level<'a> {
    fn new(
        at: PathBuf,
        lower: Lower<'a>,
        upper: OwnedFd,
        whole: bool,
        hide_marks: bool,
    ) -> Result<Self, Error> {
        let list = |fd: &OwnedFd| {
            fstree::dir::names(fd)
                .map_err(|err| fstree::Error::new("readdirent", path::rooted(&at), err))
        };
        let mut names = list(&upper)?;
        if let (true, Lower::Dir(lower)) = (whole, &lower) {
            names.extend(list(lower)?);
        }
        names.sort_unstable();
        names.dedup();
        Ok(Self {
            path: at,
            lower,
            upper,
            whole,
            hide_marks,
            names: names.into_iter(),
        })
    }

    /// Reports one name; the level below if it is a directory that has to be looked into.
    fn step(&mut self, name: &CStr, visit: &mut Visit<'_>) -> Result<Option<Level<'a>>, Error> {
        let at = path::join(&self.path, name.to_bytes());
        let fail = |op| {
            let at = path::rooted(&at);
            move |err: io::Error| fstree::Error::new(op, at, err)
        };
        let mut upper = stat(&self.upper, name).map_err(fail("lstat"))?;
        let lower = self.below(&at, name).map_err(fail("lstat"))?;
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
        let below = match (&lower, &self.lower) {
            (Some(Below::Here(meta)), Lower::Dir(dir)) => Some(Found {
                dir: dir.as_fd(),
                name,
                meta: *meta,
            }),
            (Some(Below::There(found)), _) => Some(Found {
                dir: found.dir.as_fd(),
                name,
                meta: found.meta,
            }),
            _ => None,
        };
        let same = below.map(|below| compare::same(&below, &found));
        let same = same.transpose().map_err(fail("compare"))? == Some(true);
        if !same {
            visit(&at, What::Changed(found))?;
        } else if self.whole && !meta.is_dir() && meta.nlink > 1 {
            visit(&at, What::Unchanged(found))?;
        }
        if meta.is_dir() {
            return self.child(name, at, lower).map(Some);
        }
        Ok(None)
    }

    /// What is below at this name.
    fn below(&mut self, at: &Path, name: &CStr) -> io::Result<Option<Below>> {
        if let Lower::Layers(unmounted, within) = &self.lower {
            match unmounted.layers.find(within, at)? {
                Answer::Nothing => return Ok(None),
                Answer::Found(found) => return Ok(Some(Below::There(found))),
                Answer::Unknown => self.lower = Lower::Dir(unmounted.open(&self.path)?),
            }
        }
        match &self.lower {
            Lower::Dir(dir) => Ok(stat(dir, name)?.map(Below::Here)),
            Lower::Nothing | Lower::Layers(..) => Ok(None),
        }
    }

    fn child(&self, name: &CStr, at: PathBuf, lower: Option<Below>) -> Result<Level<'a>, Error> {
        let fail = |err: io::Error| fstree::Error::new("open", path::rooted(&at), err);
        let open = |dir: &OwnedFd| open_dir(dir.as_fd(), name).map_err(|err| fail(err.into()));
        let upper = open(&self.upper)?;
        let lower = match (lower.filter(Below::is_dir), &self.lower) {
            (Some(Below::Here(_)), Lower::Dir(dir)) => Lower::Dir(open(dir)?),
            (Some(Below::There(found)), Lower::Layers(unmounted, _)) => {
                Lower::Layers(unmounted, found.within)
            }
            _ => Lower::Nothing,
        };
        if self.whole {
            return Self::new(at, lower, upper, true, self.hide_marks);
        }
        if attribute(&upper, "trusted.overlay.redirect")?.is_some_and(|value| !value.is_empty()) {
            return Err(Error::Redirect);
        }
        let opaque = !matches!(lower, Lower::Nothing) && is_opaque(&upper)?;
        let lower = match lower {
            Lower::Layers(unmounted, _) if opaque => Lower::Dir(unmounted.open(&at).map_err(fail)?),
            lower => lower,
        };
        Self::new(at, lower, upper, opaque, opaque)
    }
}

fn is_deletion_mark(meta: &Meta) -> bool {
    meta.kind() == Kind::CharDevice && meta.rdev == fstree::Device::default()
}

/// Whether any directory of an upper tree is opaque.
pub(crate) fn has_opaque(upper: &fstree::Root) -> Result<bool, Error> {
    let open = |at: &Path| {
        upper
            .open_with(at, DIRECTORY, Mode::empty())
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

fn stat(dir: &OwnedFd, name: &CStr) -> io::Result<Option<Meta>> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(Meta::from(&stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(err) => Err(err.into()),
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

fn open_dir(dir: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(dir, name, DIRECTORY, Mode::empty())
}
