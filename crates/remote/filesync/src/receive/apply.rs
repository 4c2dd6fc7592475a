//! Merges a listing with the tree that is there.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use contenthash::{Change, FileHasher, Sum};
use fstree::{Entry, HardLinks, Kind, Time, Walk, path};
use prost::Message as _;
use proto::fsutil::Stat;
use tokio::sync::mpsc;

use super::files::{Job, Shared};
use super::place::{self, Place};
use super::{Differ, Exceptions, Observer, Options};
use crate::check::Checker;
use crate::packet::{self, Replies};
use crate::{Error, stat};

/// Where the listing goes when that is all that is wanted.
const METADATA_FILE: &str = ".fsutil-metadata";

/// What the reader hands over.
#[derive(Debug)]
pub(super) enum Message {
    /// More of the listing.
    Entries(Vec<Stat>),
    /// That was all of it.
    End,
}

/// What is to be done when all content has arrived.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// Links and the first names of their files.
    links: Vec<(PathBuf, PathBuf, bool)>,
    /// Directories whose times have to be set, and whose permissions if they were left open.
    dirs: BTreeMap<PathBuf, (Time, Option<u32>)>,
    /// Directories whose children were spread.
    spread: Vec<PathBuf>,
    listing: Option<Vec<u8>>,
}

/// A directory above an entry.
struct Above {
    path: PathBuf,
    /// The time it should have.
    time: Time,
    /// Made here, and without directories in it so far.
    fresh: bool,
}

/// An entry that is there.
struct Old {
    entry: Entry,
    linkname: PathBuf,
}

/// The tree that is there, in the order of the listing.
struct OldTree {
    walk: Peekable<Walk>,
    links: HardLinks,
}

pub(super) struct Applier<O> {
    shared: Arc<Shared<O>>,
    options: Options,
    replies: Replies,
    checker: Checker,
    /// `None` when the tree is to be merged into.
    old: Option<OldTree>,
    place: Place,
    next_id: u32,
    /// Directories above the current entry.
    above: Vec<Above>,
    /// The same for a listing whose directories are made only when something in them is.
    unmade: Vec<Stat>,
    listing: Option<Vec<u8>>,
    applied: Applied,
}

impl<O: Observer> Applier<O> {
    pub fn new(shared: Arc<Shared<O>>, options: Options, replies: Replies) -> Result<Self, Error> {
        let old = if options.merge {
            None
        } else {
            Some(OldTree {
                walk: Walk::new(shared.root())?.peekable(),
                links: HardLinks::default(),
            })
        };
        Ok(Self {
            place: Place::new(shared.root().clone()),
            listing: options.metadata_only.is_some().then(Vec::new),
            shared,
            options,
            replies,
            checker: Checker::default(),
            old,
            next_id: 0,
            above: Vec::new(),
            unmade: Vec::new(),
            applied: Applied::default(),
        })
    }

    /// Takes the whole listing.
    pub fn run(mut self, mut entries: mpsc::UnboundedReceiver<Message>) -> Result<Applied, Error> {
        loop {
            match entries.blocking_recv() {
                Some(Message::Entries(stats)) => {
                    for stat in stats {
                        let id = self.next_id;
                        self.next_id = self.next_id.wrapping_add(1);
                        self.entry(id, stat)?;
                    }
                }
                Some(Message::End) => break,
                None => return Err(Error::Eof),
            }
        }
        while let Some(old) = self.next_old(None)? {
            self.remove(&old)?;
        }
        self.applied.listing = self.listing;
        Ok(self.applied)
    }

    fn entry(&mut self, id: u32, mut stat: Stat) -> Result<(), Error> {
        self.checker.check(&stat)?;
        if let Some(listing) = &mut self.listing {
            if stat.path == METADATA_FILE {
                return Ok(());
            }
            // A length in four bytes, then the entry as it came.
            listing.extend_from_slice(&(stat.encoded_len() as u32).to_le_bytes());
            stat.encode(listing)
                .map_err(|err| Error::io("write", METADATA_FILE, std::io::Error::other(err)))?;
        }
        if let Some((uid, gid)) = self.options.owner {
            (stat.uid, stat.gid) = (uid, gid);
        }
        match &self.options.metadata_only {
            None => self.apply(id, stat),
            Some(exceptions) => {
                let wanted = is_wanted(exceptions, &stat);
                self.apply_wanted(id, stat, wanted)
            }
        }
    }

    /// Applies an entry if it is wanted, the directories above it before.
    fn apply_wanted(&mut self, id: u32, stat: Stat, wanted: bool) -> Result<(), Error> {
        let above = |dir: &Stat| {
            let below = stat.path.strip_prefix(&dir.path);
            below.is_some_and(|rest| rest.starts_with('/'))
        };
        self.unmade.retain(above);
        if !wanted {
            if stat::kind(&stat) == Kind::Dir {
                self.unmade.push(stat);
            }
            return Ok(());
        }
        for dir in std::mem::take(&mut self.unmade) {
            // Directories are never asked for, so the number does not matter.
            self.apply(id, dir)?;
        }
        self.apply(id, stat)
    }

    fn apply(&mut self, id: u32, stat: Stat) -> Result<(), Error> {
        let at = PathBuf::from(&stat.path);
        let mut existing = None;
        while let Some(old) = self.next_old(Some(&at))? {
            if old.entry.path == at {
                existing = Some(old);
                break;
            }
            // From a directory that may be over with this entry.
            self.remove(&old)?;
        }
        self.above.retain(|dir| at.starts_with(&dir.path));
        let there = match &existing {
            Some(old) => Some(old.entry.meta),
            None if self.old.is_none() => self.place.look(&at)?,
            None => None,
        };
        let dir_time = Time::from_nanos(stat.mod_time);
        if let Some(old) = &existing
            && self.options.differ == Differ::Metadata
            && stat::is_same(&stat, &old.entry.meta, path::bytes(&old.linkname))
        {
            if stat::kind(&stat) == Kind::Dir {
                if old.entry.meta.mtime != dir_time {
                    self.applied
                        .dirs
                        .entry(at.clone())
                        .or_insert((dir_time, None));
                }
                self.above.push(Above {
                    path: at,
                    time: dir_time,
                    fresh: false,
                });
            }
            return Ok(());
        }
        if let Some(Above { path, time, .. }) = self.above.last() {
            let known = self.applied.dirs.contains_key(path);
            if !known {
                self.applied.dirs.insert(path.clone(), (*time, None));
            }
        }
        let is_dir = stat::kind(&stat) == Kind::Dir;
        let was_dir = there.is_some_and(|meta| meta.is_dir());
        let mut replace = there.is_some();
        if replace && is_dir != was_dir {
            self.place.remove(&at)?;
            if was_dir && let Some(old) = &mut self.old {
                skip_below(old, &at);
            }
            replace = false;
        }
        if is_dir {
            self.dir(&at, &stat, replace)?;
            self.above.push(Above {
                path: at,
                time: dir_time,
                fresh: !replace,
            });
            return Ok(());
        }
        self.file(id, at, stat, replace)
    }

    fn dir(&mut self, at: &Path, stat: &Stat, exists: bool) -> Result<(), Error> {
        if let Some(above) = self.above.last_mut()
            && std::mem::take(&mut above.fresh)
        {
            self.place.spread(&above.path, true);
            self.applied.spread.push(above.path.clone());
        }
        let closed = self.place.dir(at, stat, exists)?;
        let time = Time::from_nanos(stat.mod_time);
        self.applied.dirs.insert(at.to_owned(), (time, closed));
        self.tell(stat, |stat| Change::Dir(record(stat)));
        Ok(())
    }

    /// Anything but a directory.
    fn file(&mut self, id: u32, at: PathBuf, stat: Stat, replace: bool) -> Result<(), Error> {
        let kind = stat::kind(&stat);
        if stat::is_hard_link(&stat) {
            let target = PathBuf::from(&stat.linkname);
            // A file of which only the listing is wanted has no inode here to link to.
            if self.listing.is_none() || self.place.look(&target)?.is_some() {
                self.tell(&stat, |stat| Change::HardLink {
                    target: stat.linkname.as_bytes(),
                });
                self.applied.links.push((at, target, replace));
                return Ok(());
            }
        }
        if kind == Kind::File {
            self.shared.expect(id, Job { stat, replace });
            // A sender that is gone shows at the reader.
            let _ = self.replies.send(Ok(packet::request(id)));
            return Ok(());
        }
        self.place.special(&at, &stat, kind, replace)?;
        self.tell(&stat, |stat| {
            let sum = record(stat);
            if kind == Kind::Symlink {
                let target = stat.linkname.as_bytes();
                Change::Symlink { target, sum }
            } else {
                Change::File(sum)
            }
        });
        Ok(())
    }

    fn tell<'a>(&self, stat: &'a Stat, change: impl FnOnce(&'a Stat) -> Change<'a>) {
        if let Some(mut observer) = self.shared.observer() {
            observer.changed(stat.path.as_bytes(), change(stat));
        }
    }

    fn remove(&mut self, old: &Old) -> Result<(), Error> {
        let at = &old.entry.path;
        self.place.remove(at)?;
        if old.entry.meta.is_dir()
            && let Some(tree) = &mut self.old
        {
            skip_below(tree, at);
        }
        // The directory it was in has another time now.
        let parent = at.parent().unwrap_or(Path::new(""));
        if let Some(above) = self.above.iter().find(|above| above.path == parent) {
            self.applied
                .dirs
                .entry(above.path.clone())
                .or_insert((above.time, None));
        }
        if let Some(mut observer) = self.shared.observer() {
            observer.removed(path::bytes(at));
        }
        Ok(())
    }

    /// The next entry that is there, if it does not come after `limit`.
    fn next_old(&mut self, limit: Option<&Path>) -> Result<Option<Old>, Error> {
        let Some(tree) = &mut self.old else {
            return Ok(None);
        };
        if let Some(Ok(next)) = tree.walk.peek()
            && let Some(limit) = limit
            && path::walk_order(path::bytes(&next.path), path::bytes(limit)).is_gt()
        {
            return Ok(None);
        }
        let Some(entry) = tree.walk.next().transpose()? else {
            return Ok(None);
        };
        let linkname = if entry.meta.is_symlink() {
            entry.link.clone()
        } else {
            let first = tree.links.first_name(&entry.meta, &entry.path);
            first.unwrap_or_default()
        };
        Ok(Some(Old { entry, linkname }))
    }
}

/// Passes over what is below a directory that is gone; the walk may have looked into it already.
fn skip_below(tree: &mut OldTree, dir: &Path) {
    while let Some(next) = tree.walk.peek() {
        match next {
            Ok(entry) if entry.path.starts_with(dir) => {}
            // It vanished under the walk, which is what was wanted.
            Err(err)
                if err
                    .path
                    .strip_prefix("/")
                    .is_ok_and(|at| at.starts_with(dir)) => {}
            _ => return,
        }
        tree.walk.next();
    }
}

fn is_wanted(exceptions: &Exceptions, stat: &Stat) -> bool {
    exceptions.0.matches(stat.path.as_bytes())
}

/// The record of an entry without content.
fn record(stat: &Stat) -> Sum {
    FileHasher::new(&stat::header(stat), &stat::attributes(stat)).finish()
}

impl Applied {
    /// Makes links and sets what must come last.
    pub fn finish<O: Observer>(mut self, shared: &Shared<O>) -> Result<(), Error> {
        let mut place = Place::new(shared.root().clone());
        for (at, target, replace) in &self.links {
            place.hard_link(at, target, *replace)?;
        }
        if let Some(listing) = self.listing.take() {
            place::write_file(&mut place, Path::new(METADATA_FILE), &listing)?;
        }
        for dir in &self.spread {
            place.spread(dir, false);
        }
        // Children first, so that a directory without permissions closes behind them.
        for (dir, (time, mode)) in self.dirs.iter().rev() {
            place.finish_dir(dir, *time, *mode)?;
        }
        Ok(())
    }
}
