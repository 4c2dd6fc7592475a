//! Layers reduced to what they change.
//!
//! The upper directory of an overlay holds more than that: directories and files that were copied up and then left or
//! put back as they were, and directories that are opaque. None of it matters as long as the layer lies on the tree it
//! was made on. Anywhere else it would hide what others have there.

use std::collections::HashSet;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fstree::copy::{Attributes, Batch, Existing, Task, copy_xattrs};
use fstree::{Root, Walk};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use tasks::Cx;

use crate::diff::{self, What};
use crate::{Change, Error};

/// Whether a layer holds nothing but what it changes.
pub fn is_carved(cx: &Cx, change: &Change) -> Result<bool, Error> {
    let Change::Overlay { upper, .. } = change else {
        return Ok(true);
    };
    if diff::has_opaque(upper)? {
        return Ok(false);
    }
    let mut changed = HashSet::new();
    diff::walk(change, &mut |at, what| {
        cx.check()?;
        if matches!(what, What::Changed(_) | What::Deleted) {
            // A directory that is the same is needed where something in it is not.
            let above = at.ancestors().skip(1).map(Path::to_owned);
            changed.extend(above.take_while(|above| !above.as_os_str().is_empty()));
            changed.insert(at.to_owned());
        }
        Ok(())
    })?;
    for entry in Walk::new(upper)? {
        if !changed.contains(&entry?.path) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Fills the empty directory `target` with what a layer changes, as a layer again: files become further names of those of
/// the upper tree, deletions are marks, and no directory is opaque.
pub fn carve(cx: &Cx, change: &Change, target: &Path) -> Result<(), Error> {
    let upper = match change {
        Change::Overlay { upper, .. } | Change::Trees { upper, .. } => upper,
    };
    let target = Root::open(target).map_err(failed("open", Path::new("")))?;
    let mut carving = Carving {
        upper,
        target: &target,
        batch: Batch::new(),
        dirs: Vec::new(),
        made: HashSet::new(),
        current: None,
    };
    carving.dir(Path::new(""))?;
    diff::walk(change, &mut |at, what| {
        cx.check()?;
        carving.put(at, what)
    })?;
    carving.finish()
}

struct Carving<'c> {
    upper: &'c Root,
    target: &'c Root,
    batch: Batch,
    /// Directories and what they have, those above first.
    dirs: Vec<(PathBuf, Attributes)>,
    made: HashSet<PathBuf>,
    /// The directory of the last entry, in both trees.
    current: Option<(PathBuf, Arc<OwnedFd>, Arc<OwnedFd>)>,
}

impl Carving<'_> {
    fn put(&mut self, at: &Path, what: What<'_>) -> Result<(), Error> {
        let above = at.parent().unwrap_or(Path::new(""));
        match what {
            What::Unchanged(_) => Ok(()),
            What::Changed(found) if found.meta.is_dir() => self.dir(at),
            What::Changed(found) => {
                self.dir(above)?;
                let (from, to) = self.both(above)?;
                let name = found.name.to_owned();
                let task = Task {
                    share: Some((from.clone(), name.clone())),
                    from_dir: from,
                    from_name: name.clone(),
                    to_dir: to,
                    to_name: name,
                    attributes: Attributes::of(&found.meta),
                    meta: found.meta,
                    at: at.to_owned(),
                    existing: Existing::Replace,
                };
                Ok(self.batch.push(task)?)
            }
            What::Deleted => {
                self.dir(above)?;
                let (_, to) = self.both(above)?;
                let name = at.file_name().unwrap_or(OsStr::new(""));
                let kind = FileType::CharacterDevice;
                let made = rustix::fs::mknodat(&to, name, kind, Mode::empty(), 0);
                Ok(made.map_err(errno("mknod", at))?)
            }
        }
    }

    /// Makes a directory and those above it, as they are in the upper tree but for their times.
    fn dir(&mut self, at: &Path) -> Result<(), Error> {
        if self.made.contains(at) {
            return Ok(());
        }
        if let Some(above) = at.parent() {
            self.dir(above)?;
        }
        let from = open(self.upper, at)?;
        let stat = rustix::fs::fstat(&from).map_err(errno("stat", at))?;
        let attributes = Attributes::of(&(&stat).into());
        if at.file_name().is_some() {
            let parent = self.target.parent(at).map_err(failed("open", at))?;
            rustix::fs::mkdirat(&parent.dir, parent.name(), Mode::from_raw_mode(0o700))
                .map_err(errno("mkdir", at))?;
        }
        let to = open(self.target, at)?;
        let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
        rustix::fs::fchown(&to, Some(uid), Some(gid)).map_err(errno("chown", at))?;
        let mode = Mode::from_raw_mode(attributes.mode);
        rustix::fs::fchmod(&to, mode).map_err(errno("chmod", at))?;
        copy_xattrs(from.as_fd(), to.as_fd());
        self.dirs.push((at.to_owned(), attributes));
        self.made.insert(at.to_owned());
        Ok(())
    }

    fn both(&mut self, at: &Path) -> Result<(Arc<OwnedFd>, Arc<OwnedFd>), Error> {
        match &self.current {
            Some((path, from, to)) if path == at => Ok((from.clone(), to.clone())),
            _ => {
                let from = Arc::new(open(self.upper, at)?);
                let to = Arc::new(open(self.target, at)?);
                self.current = Some((at.to_owned(), from.clone(), to.clone()));
                Ok((from, to))
            }
        }
    }

    fn finish(mut self) -> Result<(), Error> {
        self.batch.finish()?;
        for (at, attributes) in self.dirs.iter().rev() {
            let parent = self.target.parent(at).map_err(failed("open", at))?;
            let name: CString = parent.name().to_owned();
            let times = attributes.times();
            rustix::fs::utimensat(&parent.dir, &*name, &times, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(errno("utimes", at))?;
        }
        Ok(())
    }
}

fn open(root: &Root, at: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(root
        .open_with(at, flags, Mode::empty())
        .map_err(failed("open", at))?)
}

fn failed(op: &'static str, at: &Path) -> impl FnOnce(std::io::Error) -> fstree::Error {
    let at = fstree::path::rooted(at);
    move |err| fstree::Error::new(op, at, err)
}

fn errno(op: &'static str, at: &Path) -> impl FnOnce(Errno) -> fstree::Error {
    let fail = failed(op, at);
    move |err| fail(err.into())
}
