//! Unpacks a layer into a directory.
//!
//! 1. A member's parent is resolved inside the target, links followed; its own name never is. What leads to the target
//!    itself is ignored.
//! 2. Whiteouts remove what is there, or become the kernel's marks in an overlay's upper directory.
//! 3. A directory over a directory keeps it; anything else that is in the way is removed.
//! 4. Owner, extended attributes, permissions, times, in this order: each would undo an earlier one.
//! 5. Directories get their times at the end, in the order of the archive, since unpacking into them changes them.

mod attributes;
mod create;
mod place;
mod whiteout;

use std::collections::{BTreeSet, HashSet};
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};

use fstree::{Root, Time, path};
use tasks::Cx;

use crate::archive::{Kind, Member, MemberKind, Reader};
use crate::{Error, Target};

use create::Entry;
use place::Place;

/// Unpacks the archive and reads the stream to its end. Answers the directories that had to be made in an overlay's
/// upper directory though the archive does not list them.
pub(crate) fn unpack(
    cx: &Cx,
    archive: impl BufRead,
    target: &Target,
    bad: &dyn Fn(io::Error) -> Error,
) -> Result<BTreeSet<PathBuf>, Error> {
    let mut unpacker = Unpacker::open(target)?;
    let mut reader = Reader::new(archive);
    while let Some(member) = reader.next_member().map_err(bad)? {
        cx.check()?;
        unpacker.member(&member, &mut reader, bad)?;
    }
    unpacker.finish_directories()?;
    let mut rest = reader.into_inner();
    io::copy(&mut rest, &mut io::sink()).map_err(bad)?;
    Ok(unpacker.unlisted)
}

/// Makes directories that a layer does not list look as they look in the nearest layer below that has them.
pub(crate) fn complete(
    upper: &Path,
    lower: &[PathBuf],
    unlisted: &BTreeSet<PathBuf>,
) -> Result<(), Error> {
    if unlisted.is_empty() {
        return Ok(());
    }
    let target = Target::Overlay {
        upper: upper.to_owned(),
        lower: lower.to_owned(),
    };
    let unpacker = Unpacker::open(&target)?;
    for dir in unlisted {
        match unpacker.root.symlink_meta(dir) {
            Ok(meta) if meta.is_dir() => unpacker.look_like_below(dir)?,
            // A later member took its place.
            Ok(_) => {}
            Err(err) if is_missing(&err) => {}
            Err(err) => {
                let what = format!("lstat {}", unpacker.show(dir));
                return Err(Error::target(what, err));
            }
        }
    }
    Ok(())
}

struct Unpacker {
    root: Root,
    /// For messages.
    text: PathBuf,
    /// The directories below, in an overlay's upper directory.
    below: Option<Vec<Root>>,
    /// The parent of the last member. A second name in one directory is resolved once; nothing that happens inside a
    /// directory changes where its own path leads.
    last: Option<(Vec<u8>, Place)>,
    /// What this archive has written, for whiteouts that spare it. Not kept where they become marks.
    written: HashSet<PathBuf>,
    /// Directories made for the sake of what is in them.
    unlisted: BTreeSet<PathBuf>,
    directories: Vec<(PathBuf, Time, Time)>,
    namespaced: bool,
}

impl Unpacker {
    fn open(target: &Target) -> Result<Self, Error> {
        let open = |path: &Path| {
            Root::open(path).map_err(|err| Error::target(format!("open {}", path.display()), err))
        };
        let (text, below) = match target {
            Target::Plain(path) => (path, None),
            Target::Overlay { upper, lower } => {
                let lower: Result<Vec<Root>, Error> = lower.iter().map(|dir| open(dir)).collect();
                (upper, Some(lower?))
            }
        };
        Ok(Self {
            root: open(text)?,
            text: text.clone(),
            below,
            last: None,
            written: HashSet::new(),
            unlisted: BTreeSet::new(),
            directories: Vec::new(),
            namespaced: mount::probe::in_user_namespace(),
        })
    }

    /// A path in the target, for messages.
    fn show(&self, at: &Path) -> String {
        self.text.join(at).display().to_string()
    }

    fn member<R: BufRead>(
        &mut self,
        member: &Member,
        reader: &mut Reader<R>,
        bad: &dyn Fn(io::Error) -> Error,
    ) -> Result<(), Error> {
        let kind = match member.kind {
            MemberKind::Global => return Ok(()),
            MemberKind::Known(kind) => Some(kind),
            MemberKind::Unknown(_) => None,
        };
        let name = path::relative(path::from_bytes(&member.name));
        if self.namespaced && matches!(kind, Some(Kind::CharDevice | Kind::BlockDevice)) {
            tracing::warn!(name = %name.display(), "device left out, it cannot be made in a user namespace");
            return Ok(());
        }
        if name.as_os_str().is_empty() {
            return Ok(());
        }
        let (dir, base) = split(path::bytes(&name));
        let place = self.place(dir)?;
        let at = path::join(&place.path, base);
        if self.whiteout(member, &place, base)? {
            self.last = Some((dir.to_vec(), place));
            return Ok(());
        }
        let Some(kind) = kind else {
            let flag = match member.kind {
                MemberKind::Unknown(flag) => flag,
                _ => 0,
            };
            return Err(Error::archive(format!("unhandled tar header type {flag}")));
        };
        let entry = Entry {
            member,
            kind,
            place: &place,
            name: whiteout::c_name(base)?,
            at,
        };
        self.create(&entry, reader, bad)?;
        let at = entry.at;
        if kind == Kind::Dir {
            let (mtime, atime) = attributes::times(member);
            self.directories.push((at.clone(), mtime, atime));
        }
        self.unlisted.remove(&at);
        if self.below.is_none() {
            self.written.insert(at);
        }
        self.last = Some((dir.to_vec(), place));
        Ok(())
    }

    fn finish_directories(&self) -> Result<(), Error> {
        for (at, mtime, atime) in &self.directories {
            let parent = match self.root.parent(at) {
                Ok(parent) => parent,
                Err(err) if is_missing(&err) => continue,
                Err(err) => return Err(Error::target(format!("open {}", self.show(at)), err)),
            };
            match parent.meta() {
                Ok(meta) if meta.is_dir() => {}
                // A later member took its place.
                Ok(_) => continue,
                Err(err) if is_missing(&err) => continue,
                Err(err) => return Err(Error::target(format!("lstat {}", self.show(at)), err)),
            }
            attributes::set_times(&parent.dir, parent.name(), *mtime, *atime)
                .map_err(|err| Error::target(format!("chtimes {}", self.show(at)), err))?;
        }
        Ok(())
    }
}

fn is_missing(err: &io::Error) -> bool {
    matches!(
        err.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn split(name: &[u8]) -> (&[u8], &[u8]) {
    match name.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&name[..at], &name[at + 1..]),
        None => (&[], name),
    }
}
