//! Turns changes into the members of a layer.
//!
//! 1. Before a member its parent is written, unless it has been written already; the root never is.
//! 2. A deletion is an empty file `.wh.<name>` that tells nothing of what was deleted.
//! 3. Of several names of one file the first changed one carries the content, the others are links to it. Names that
//!    did not change matter only when a changed one exists: those met before it are written right behind it.
//!
//! Whether a file has other names in *other* trees never matters: two names count only when both are met here.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use fstree::{Kind, Meta, Root, path};
use rustix::fs::AtFlags;

use crate::archive::{self, Header};
use crate::diff::{self, Found, What};
use crate::{Change, Error};

const CAPABILITY: &[u8] = b"security.capability";
const WHITEOUT: &[u8] = b".wh.";

/// Writes the layer of `change` to `out`, uncompressed.
pub(crate) fn write(cx: &tasks::Cx, change: &Change, out: &mut dyn Write) -> Result<(), Error> {
    let upper = match change {
        Change::Overlay { upper, .. } | Change::Trees { upper, .. } => upper.clone(),
    };
    let mut layer = Layer {
        archive: archive::Writer::new(out),
        upper,
        dirs: HashSet::new(),
        names: HashMap::new(),
    };
    diff::walk(change, &mut |at, what| {
        cx.check()?;
        layer.change(at, what)
    })?;
    layer.archive.finish().map_err(writing)?;
    Ok(())
}

fn writing(source: io::Error) -> Error {
    Error::Write { source }
}

/// Names of a file that has several.
enum Names {
    /// Unchanged names, none of which has been written.
    Waiting(Vec<(PathBuf, Header)>),
    /// The name the content was written under.
    Written(PathBuf),
}

struct Layer<'w> {
    archive: archive::Writer<&'w mut dyn Write>,
    upper: Root,
    /// Directories that have been written.
    dirs: HashSet<PathBuf>,
    names: HashMap<(u64, u64), Names>,
}

impl Layer<'_> {
    fn change(&mut self, at: &Path, what: What<'_>) -> Result<(), Error> {
        match what {
            What::Deleted => self.delete(at),
            What::Changed(found) if found.meta.kind() == Kind::Socket => Ok(()),
            What::Unchanged(found) if found.meta.kind() == Kind::Socket => Ok(()),
            What::Changed(found) => self.put(at, &found),
            What::Unchanged(found) => self.unchanged(at, &found),
        }
    }

    fn delete(&mut self, at: &Path) -> Result<(), Error> {
        let (dir, name) = split(at);
        let name = path::join(dir, &[WHITEOUT, name].concat());
        let header = Header::new(path::bytes(&name), archive::Kind::File, 0);
        self.parents(at)?;
        self.archive.member(&header).map_err(writing)
    }

    fn put(&mut self, at: &Path, found: &Found<'_>) -> Result<(), Error> {
        let mut header = header(at, found)?;
        self.parents(at)?;
        if found.meta.is_dir() {
            self.dirs.insert(at.to_owned());
            return self.archive.member(&header).map_err(writing);
        }
        if found.meta.nlink < 2 {
            return self.file(at, &header, found);
        }
        let written = Names::Written(at.to_owned());
        match self.names.insert(found.meta.inode(), written) {
            Some(Names::Written(first)) => {
                link_to(&mut header, &first);
                self.names.insert(found.meta.inode(), Names::Written(first));
                self.archive.member(&header).map_err(writing)
            }
            before => {
                self.file(at, &header, found)?;
                let Some(Names::Waiting(waiting)) = before else {
                    return Ok(());
                };
                for (name, mut header) in waiting {
                    link_to(&mut header, at);
                    self.parents(&name)?;
                    self.archive.member(&header).map_err(writing)?;
                }
                Ok(())
            }
        }
    }

    fn unchanged(&mut self, at: &Path, found: &Found<'_>) -> Result<(), Error> {
        let header = header(at, found)?;
        let names = self
            .names
            .entry(found.meta.inode())
            .or_insert_with(|| Names::Waiting(Vec::new()));
        match names {
            Names::Waiting(waiting) => {
                waiting.push((at.to_owned(), header));
                Ok(())
            }
            Names::Written(first) => {
                let mut header = header;
                link_to(&mut header, first);
                self.parents(at)?;
                self.archive.member(&header).map_err(writing)
            }
        }
    }

    fn file(&mut self, at: &Path, header: &Header, found: &Found<'_>) -> Result<(), Error> {
        self.archive.member(header).map_err(writing)?;
        if header.size == 0 {
            return Ok(());
        }
        let file =
            diff::open(found).map_err(|err| fstree::Error::new("open", path::rooted(at), err))?;
        self.archive.copy(file).map_err(|source| {
            if source.kind() == io::ErrorKind::UnexpectedEof {
                let path = path::rooted(at);
                return Error::Changed { path };
            }
            writing(source)
        })
    }

    /// Writes the directories above `at` that have not been written.
    fn parents(&mut self, at: &Path) -> Result<(), Error> {
        let mut missing = Vec::new();
        let mut dir = split(at).0;
        while !dir.as_os_str().is_empty() && !self.dirs.contains(dir) {
            missing.push(dir.to_owned());
            dir = split(dir).0;
        }
        for dir in missing.into_iter().rev() {
            let fail = |err| fstree::Error::new("lstat", path::rooted(&dir), err);
            let parent = self.upper.parent(&dir).map_err(fail)?;
            let stat = rustix::fs::statat(&parent.dir, parent.name(), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|err| fail(err.into()))?;
            let found = Found {
                dir: rustix::fd::AsFd::as_fd(&parent.dir),
                name: parent.name(),
                meta: Meta::from(&stat),
            };
            let header = header(&dir, &found)?;
            self.archive.member(&header).map_err(writing)?;
            self.dirs.insert(dir);
        }
        Ok(())
    }
}

/// The directory of a path, empty in the root, and the name in it.
fn split(at: &Path) -> (&Path, &[u8]) {
    let bytes = path::bytes(at);
    match bytes.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (path::from_bytes(&bytes[..slash]), &bytes[slash + 1..]),
        None => (Path::new(""), bytes),
    }
}

fn link_to(header: &mut Header, first: &Path) {
    header.kind = archive::Kind::HardLink;
    header.link = path::bytes(first).to_vec();
    header.size = 0;
}

fn header(at: &Path, found: &Found<'_>) -> Result<Header, Error> {
    let meta = &found.meta;
    let kind = match meta.kind() {
        Kind::Dir => archive::Kind::Dir,
        Kind::Symlink => archive::Kind::Symlink,
        Kind::CharDevice => archive::Kind::CharDevice,
        Kind::BlockDevice => archive::Kind::BlockDevice,
        Kind::Fifo => archive::Kind::Fifo,
        Kind::File | Kind::Socket => archive::Kind::File,
    };
    let mut header = Header::new(path::bytes(at), kind, meta.permissions());
    header.uid = meta.uid;
    header.gid = meta.gid;
    header.mtime = meta.mtime.sec;
    header.device = meta.rdev;
    let fail = |op| move |err: io::Error| fstree::Error::new(op, path::rooted(at), err);
    match kind {
        archive::Kind::Dir => header.name.push(b'/'),
        archive::Kind::File => header.size = meta.size,
        archive::Kind::Symlink => {
            let target = rustix::fs::readlinkat(found.dir, found.name, [])
                .map_err(|err| fail("readlink")(err.into()))?;
            header.link = target.into_bytes();
        }
        _ => {}
    }
    let capability = diff::capability(found.dir, found.name).map_err(fail("getxattr"))?;
    if !capability.is_empty() {
        header.xattrs.push((CAPABILITY.to_vec(), capability));
    }
    Ok(header)
}
