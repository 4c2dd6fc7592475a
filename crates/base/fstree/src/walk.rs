//! Lists a tree depth first, each directory in byte order, on descriptors alone.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags};

use crate::error::{Error, is_missing};
use crate::meta::Meta;
use crate::root::Root;
use crate::xattr::{self, Xattrs};
use crate::{dir, path};

/// One entry met on a walk.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Where it is, relative to the start of the walk, without a leading slash.
    pub path: PathBuf,
    /// What is known of it; links are not followed.
    pub meta: Meta,
    /// The target of a symbolic link as stored; empty for anything else.
    pub link: PathBuf,
    dir: Arc<OwnedFd>,
    name: CString,
}

impl Entry {
    /// The directory the entry is in.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// The directory the entry is in, to be kept.
    pub fn shared_dir(&self) -> Arc<OwnedFd> {
        self.dir.clone()
    }

    /// The name in that directory.
    pub fn name(&self) -> &CStr {
        &self.name
    }

    /// Opens a regular file for reading. A link or pipe that took its place meanwhile is not followed or waited for.
    pub fn open(&self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = rustix::fs::openat(
            &self.dir,
            &*self.name,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Ok(File::from(fd))
    }

    /// The extended attributes, sorted by name.
    pub fn xattrs(&self) -> io::Result<Xattrs> {
        xattr::of_walked(self.dir.as_fd(), &self.name)
    }
}

/// A walk through a tree. The start itself is not listed.
///
/// What vanishes between listing and looking is skipped. An error about a directory that was listed already carries
/// that directory's path; the walk goes on behind it if it is asked to.
#[derive(Debug)]
pub struct Walk {
    levels: Vec<Level>,
    /// A directory that was handed out and will be entered next.
    pending: Option<(Arc<OwnedFd>, CString, PathBuf)>,
}

#[derive(Debug)]
struct Level {
    dir: Arc<OwnedFd>,
    path: PathBuf,
    names: std::vec::IntoIter<CString>,
}

impl Walk {
    /// A walk through all of `root`.
    pub fn new(root: &Root) -> Result<Self, Error> {
        Self::below(root, "")
    }

    /// A walk through the directory `start` of `root`; links on the way to it are followed. Paths are relative to it.
    pub fn below(root: &Root, start: impl AsRef<Path>) -> Result<Self, Error> {
        let start = start.as_ref();
        let open = || -> io::Result<Arc<OwnedFd>> {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            Ok(Arc::new(root.open_with(start, flags, Mode::empty())?))
        };
        let dir = open().map_err(|err| Error::new("open", path::rooted(start), err))?;
        let mut walk = Self {
            levels: Vec::new(),
            pending: None,
        };
        walk.enter(dir, PathBuf::new())?;
        Ok(walk)
    }

    /// Leaves out what is below the directory handed out last.
    pub fn skip_dir(&mut self) {
        self.pending = None;
    }

    fn enter(&mut self, dir: Arc<OwnedFd>, at: PathBuf) -> Result<(), Error> {
        let names = dir::sorted_names(&dir)
            .map_err(|err| Error::new("readdirent", path::rooted(&at), err))?;
        self.levels.push(Level {
            dir,
            path: at,
            names: names.into_iter(),
        });
        Ok(())
    }

    fn descend(&mut self) -> Result<(), Error> {
        let Some((parent, name, at)) = self.pending.take() else {
            return Ok(());
        };
        match dir::open(&parent, &name) {
            Ok(dir) => self.enter(Arc::new(dir), at),
            Err(err) => {
                let err = Error::new("open", path::rooted(&at), err);
                if err.is_missing() { Ok(()) } else { Err(err) }
            }
        }
    }

    fn look(level: &Level, name: &CStr) -> Result<Option<(Meta, PathBuf)>, Error> {
        let look = || -> io::Result<(Meta, PathBuf)> {
            let stat = rustix::fs::statat(&level.dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let meta = Meta::from(&stat);
            let mut link = PathBuf::new();
            if meta.is_symlink() {
                let target = rustix::fs::readlinkat(&level.dir, name, Vec::new())?;
                link = path::from_bytes(target.as_bytes()).to_owned();
            }
            Ok((meta, link))
        };
        match look() {
            Ok(found) => Ok(Some(found)),
            Err(err) if is_missing(&err) => Ok(None),
            Err(err) => {
                let at = path::rooted(path::join(&level.path, name.to_bytes()));
                Err(Error::new("lstat", at, err))
            }
        }
    }
}

impl Iterator for Walk {
    type Item = Result<Entry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Err(err) = self.descend() {
            return Some(Err(err));
        }
        loop {
            let level = self.levels.last_mut()?;
            let Some(name) = level.names.next() else {
                self.levels.pop();
                continue;
            };
            let (meta, link) = match Self::look(level, &name) {
                Ok(Some(found)) => found,
                Ok(None) => continue,
                Err(err) => return Some(Err(err)),
            };
            let at = path::join(&level.path, name.to_bytes());
            if meta.is_dir() {
                self.pending = Some((level.dir.clone(), name.clone(), at.clone()));
            }
            return Some(Ok(Entry {
                path: at,
                meta,
                link,
                dir: level.dir.clone(),
                name,
            }));
        }
    }
}

/// Remembers the first name of every inode that has several.
#[derive(Debug, Default)]
pub struct HardLinks {
    first: HashMap<(u64, u64), PathBuf>,
}

impl HardLinks {
    /// The name under which this inode was met before, if it was. Directories have one name only.
    pub fn first_name(&mut self, meta: &Meta, path: &Path) -> Option<PathBuf> {
        if meta.nlink < 2 || meta.is_dir() {
            return None;
        }
        match self.first.entry(meta.inode()) {
            std::collections::hash_map::Entry::Occupied(known) => Some(known.get().clone()),
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(path.to_owned());
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[&str]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().expect("a scratch folder");
        for file in files {
            let at = dir.path().join(file);
            std::fs::create_dir_all(at.parent().expect("below the scratch folder")).expect("mkdir");
            std::fs::write(at, "x").expect("write");
        }
        let root = Root::open(dir.path()).expect("open");
        (dir, root)
    }

    fn names(walk: Walk) -> Vec<String> {
        walk.map(|entry| entry.expect("entry").path.display().to_string())
            .collect()
    }

    #[test]
    fn directories_come_before_their_children_in_byte_order() {
        let (_dir, root) = tree(&["foo/x", "foo-bar", "foo.txt", "Z", "é"]);
        let walk = Walk::new(&root).expect("walk");
        assert_eq!(
            names(walk),
            ["Z", "foo", "foo/x", "foo-bar", "foo.txt", "é"]
        );
    }

    #[test]
    fn a_skipped_directory_hides_its_children_only() {
        let (_dir, root) = tree(&["a/x", "a/y/z", "b"]);
        let mut walk = Walk::new(&root).expect("walk");
        let first = walk.next().expect("an entry").expect("readable");
        assert_eq!(first.path, Path::new("a"));
        walk.skip_dir();
        assert_eq!(names(walk), ["b"]);
    }

    #[test]
    fn what_vanishes_is_skipped() {
        let (dir, root) = tree(&["a/x", "b", "c"]);
        let mut walk = Walk::new(&root).expect("walk");
        walk.next();
        std::fs::remove_dir_all(dir.path().join("a")).expect("remove");
        std::fs::remove_file(dir.path().join("b")).expect("remove");
        assert_eq!(names(walk), ["c"]);
    }

    #[test]
    fn a_second_name_points_to_the_first() {
        let (dir, root) = tree(&["a"]);
        std::fs::hard_link(dir.path().join("a"), dir.path().join("b")).expect("link");
        let mut links = HardLinks::default();
        let found: Vec<_> = Walk::new(&root)
            .expect("walk")
            .map(|entry| {
                let entry = entry.expect("entry");
                links.first_name(&entry.meta, &entry.path)
            })
            .collect();
        assert_eq!(found, [None, Some(PathBuf::from("a"))]);
    }

    #[test]
    fn attributes_and_content_are_read_through_the_entry() {
        let (_dir, root) = tree(&["a"]);
        let entry = Walk::new(&root)
            .expect("walk")
            .next()
            .expect("one")
            .expect("entry");
        assert_eq!(
            std::io::read_to_string(entry.open().expect("open")).expect("read"),
            "x"
        );
        assert_eq!(entry.xattrs().expect("none"), []);
        let named = (b"user.kiln".as_slice(), b"value".as_slice());
        // Not every file system has them.
        if xattr::set_of_entry(entry.dir(), entry.name().to_bytes(), named.0, named.1).is_ok() {
            let found = entry.xattrs().expect("one");
            assert_eq!(found, [("user.kiln".into(), b"value".to_vec())]);
        }
    }
}
