//! Walks one source of a copy and brings every entry to its place.
//!
//! Directories are made here, one after the other; everything else becomes a task of a batch that runs on several
//! threads. Links between names of one inode, and the times of directories, come when all tasks are done.

mod target;
mod unseen;

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fstree::copy::{Attributes, Batch, LinkedFiles, Task};
use fstree::dir::Listing;
use fstree::{Hits, Kind, Meta, Time, path};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::Error;
use crate::copy::Plan;
use crate::error::on;
use crate::sharing::{From, Sharing, same_dir};
use unseen::Unseen;

/// The copy of one source.
pub(crate) struct Copier<'a, 's> {
    plan: &'a Plan<'a>,
    sharing: Option<&'a mut Sharing<'s>>,
    /// Directories made on the way to the target, with nothing from elsewhere in them.
    fresh: &'a HashSet<PathBuf>,
    /// New entries of the target are made in the very directory that `Sharing` knows.
    plain_target: bool,
    /// Regular files get one more name without a look at each: nothing of them changes.
    unseen: bool,
    /// Inodes shared by this copy; they may be shared again because the user linked their names.
    mine: Vec<(u64, u64)>,
    linked: Vec<LinkedFiles>,
    batch: Batch,
    levels: Vec<Level>,
    /// The first copy of every inode with several names.
    first_names: HashMap<(u64, u64), Spot>,
    links: Vec<(Spot, Spot)>,
    finishes: Vec<Finish>,
}

/// A source directory that is being copied.
struct Level {
    from: From,
    meta: Meta,
    name: CString,
    /// Where it goes in the target.
    at: PathBuf,
    /// Below the source, for patterns.
    inside: Vec<u8>,
    /// Not there yet for a directory that no pattern asked for.
    to: Option<To>,
    include: Option<Hits>,
    exclude: Option<Hits>,
}

/// A directory of the target.
#[derive(Clone)]
struct To {
    dir: Arc<OwnedFd>,
    /// Made by this copy and opened in the layer, not in the mount.
    raw: bool,
}

/// A path of the target, in the layer or in the mount.
#[derive(Clone)]
struct Spot {
    at: PathBuf,
    raw: bool,
}

/// Why a directory is copied.
#[derive(PartialEq, Eq)]
enum Asked {
    ByName,
    /// Something in it was asked for.
    OnTheWay,
}

/// What a directory gets at the end.
struct Finish {
    spot: Spot,
    /// Access and modification.
    times: Option<(Time, Time)>,
    mode: Option<u32>,
}

/// What the patterns say of an entry.
struct Verdict {
    copied: bool,
    entered: bool,
    include: Option<Hits>,
    exclude: Option<Hits>,
}

impl<'a, 's> Copier<'a, 's> {
    pub fn new(
        plan: &'a Plan<'a>,
        sharing: Option<&'a mut Sharing<'s>>,
        fresh: &'a HashSet<PathBuf>,
    ) -> Self {
        let plain_target = sharing
            .as_ref()
            .is_some_and(|sharing| same_dir(sharing.target_layer, plan.target));
        Self {
            plan,
            sharing,
            fresh,
            plain_target,
            unseen: false,
            mine: Vec::new(),
            linked: Vec::new(),
            batch: Batch::new(),
            levels: Vec::new(),
            first_names: HashMap::new(),
            links: Vec::new(),
            finishes: Vec::new(),
        }
    }

    /// Copies the entry at the resolved path `from` to the resolved path `at`, whose directory exists.
    pub fn run(mut self, from: &Path, meta: &Meta, at: &Path) -> Result<(), Error> {
        if meta.is_dir() {
            self.top_dir(from, meta, at)?;
        } else {
            self.top_other(from, meta, at)?;
        }
        self.batch.finish().map_err(in_the_way)?;
        if let Some(sharing) = self.sharing.as_mut() {
            sharing.used.add(std::mem::take(&mut self.mine));
            if self.batch.all_shared() {
                sharing.linked.append(&mut self.linked);
            }
        }
        for (first, second) in std::mem::take(&mut self.links) {
            self.link(&first, &second)?;
        }
        for finish in std::mem::take(&mut self.finishes).iter().rev() {
            self.finish(finish)?;
        }
        Ok(())
    }

    fn top_other(&mut self, from: &Path, meta: &Meta, at: &Path) -> Result<(), Error> {
        let above = from.parent().unwrap_or(Path::new(""));
        let name = from.file_name().unwrap_or_default().as_encoded_bytes();
        let name = CString::new(name).map_err(on("lstat", from))?;
        let (to, to_name) = self.top_parent(at)?;
        let from = self.open_source(above)?;
        self.other(&from, &name, meta, &to, &to_name, at)
    }

    fn top_dir(&mut self, from: &Path, meta: &Meta, at: &Path) -> Result<(), Error> {
        let opened = self.open_source(from)?;
        let (to, created) = if at.as_os_str().is_empty() || self.fresh.contains(at) {
            (self.open_top(at)?, false)
        } else {
            let (above, name) = self.top_parent(at)?;
            self.make_dir(&above, &name, at, meta)?
        };
        if created {
            self.dress_dir(&opened, meta, &to, at, Asked::ByName)?;
        } else {
            // Compat: a directory that was there already only gets the times of the source.
            let Attributes { atime, mtime, .. } = self.attributes(meta);
            self.finishes.push(Finish {
                spot: Spot {
                    at: at.to_owned(),
                    raw: to.raw,
                },
                times: Some((atime, mtime)),
                mode: None,
            });
        }
        self.unseen = self.may_pass_unseen(&opened, &to);
        self.levels.push(Level {
            from: opened,
            meta: *meta,
            name: CString::default(),
            at: at.to_owned(),
            inside: Vec::new(),
            to: Some(to),
            include: None,
            exclude: None,
        });
        self.children()
    }

    /// The directory that the copy goes to, and its name there.
    fn top_parent(&self, at: &Path) -> Result<(To, CString), Error> {
        let above = at.parent().unwrap_or(Path::new(""));
        let name = at.file_name().unwrap_or_default().as_encoded_bytes();
        let name = CString::new(name).map_err(on("lstat", at))?;
        Ok((self.open_top(above)?, name))
    }

    /// A directory that is there, in the layer if this action made it.
    fn open_top(&self, at: &Path) -> Result<To, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        if let Some(sharing) = &self.sharing
            && self.fresh.contains(at)
            && let Ok(dir) = sharing.target_layer.open_with(at, flags, Mode::empty())
        {
            let dir = Arc::new(dir);
            return Ok(To { dir, raw: true });
        }
        let dir = self.plan.target.open_with(at, flags, Mode::empty());
        Ok(To {
            dir: Arc::new(dir.map_err(on("open", at))?),
            raw: false,
        })
    }

    fn open_source(&self, at: &Path) -> Result<From, Error> {
        let layers = self.sharing.as_ref().map(|sharing| sharing.source_layers);
        From::open(self.plan.source, at, layers).map_err(on("open", at))
    }

    /// Copies what is in the innermost directory, and leaves that.
    fn children(&mut self) -> Result<(), Error> {
        self.plan.cx.check()?;
        let Some(level) = self.levels.last() else {
            return Ok(());
        };
        let (from, at) = (level.from.clone(), level.at.clone());
        let (inside, dev) = (level.inside.clone(), level.meta.dev);
        let listing = Listing::of(&from.dir).map_err(on("readdirent", &at))?;
        let mut unseen = Unseen::default();
        for entry in listing.iter() {
            let name = entry.name;
            let inside = self.below(&inside, name);
            let verdict = self.judge(&inside);
            if !verdict.copied && !verdict.entered {
                continue;
            }
            if verdict.copied && self.passes_unseen(&entry, dev) {
                unseen.add(self, &from, &at, name)?;
                continue;
            }
            let at = path::join(&at, name.to_bytes());
            let stat = rustix::fs::statat(&from.dir, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(on("lstat", &at))?;
            let meta = Meta::from(&stat);
            if meta.is_dir() {
                self.dir(&from, name.to_owned(), meta, at, inside, verdict)?;
            } else if verdict.copied {
                let to = self.target_dir()?;
                self.other(&from, name, &meta, &to, name, &at)?;
            }
        }
        unseen.flush(self)?;
        self.levels.pop();
        Ok(())
    }

    fn dir(
        &mut self,
        above: &From,
        name: CString,
        meta: Meta,
        at: PathBuf,
        inside: Vec<u8>,
        verdict: Verdict,
    ) -> Result<(), Error> {
        let from = above.enter(&name).map_err(on("open", &at))?;
        let mut to = None;
        if verdict.copied {
            let parent = self.target_dir()?;
            let (made, _) = self.make_dir(&parent, &name, &at, &meta)?;
            self.dress_dir(&from, &meta, &made, &at, Asked::ByName)?;
            to = Some(made);
        }
        if !verdict.entered {
            return Ok(());
        }
        self.levels.push(Level {
            from,
            meta,
            name,
            at,
            inside,
            to,
            include: verdict.include,
            exclude: verdict.exclude,
        });
        self.children()
    }

    /// What patterns are asked about, if there are any.
    fn below(&self, inside: &[u8], name: &CStr) -> Vec<u8> {
        match (&self.plan.include, &self.plan.exclude) {
            (None, None) => Vec::new(),
            _ if inside.is_empty() => name.to_bytes().to_owned(),
            _ => [inside, b"/", name.to_bytes()].concat(),
        }
    }

    fn judge(&self, inside: &[u8]) -> Verdict {
        let level = self.levels.last();
        let mut verdict = Verdict {
            copied: true,
            entered: true,
            include: None,
            exclude: None,
        };
        if let Some(list) = &self.plan.include {
            let hits = level.and_then(|level| level.include.as_ref());
            let (matched, hits) = list.matches_below(inside, hits);
            verdict.include = Some(hits);
            verdict.copied = matched;
            verdict.entered =
                matched || !list.is_plain(false) || list.could_match_below(false, inside);
        }
        if let Some(list) = &self.plan.exclude {
            let hits = level.and_then(|level| level.exclude.as_ref());
            let (matched, hits) = list.matches_below(inside, hits);
            verdict.exclude = Some(hits);
            if matched {
                verdict.copied = false;
                verdict.entered &= list.has_exceptions();
            }
        }
        verdict
    }

    /// The directory the innermost source directory goes to, made now with all above it if it was not yet.
    fn target_dir(&mut self) -> Result<To, Error> {
        for depth in 1..self.levels.len() {
            if self.levels[depth].to.is_some() {
                continue;
            }
            let Some(parent) = self.levels[depth - 1].to.clone() else {
                continue;
            };
            let level = &self.levels[depth];
            let (from, meta) = (level.from.clone(), level.meta);
            let (name, at) = (level.name.clone(), level.at.clone());
            let (to, created) = self.make_dir(&parent, &name, &at, &meta)?;
            if created {
                self.dress_dir(&from, &meta, &to, &at, Asked::OnTheWay)?;
            } else {
                // Compat: one that was there gets the mode of the source as it is, and nothing else.
                let mode = Mode::from_raw_mode(meta.permissions());
                rustix::fs::fchmod(&to.dir, mode).map_err(on("chmod", &at))?;
            }
            self.levels[depth].to = Some(to);
        }
        match self.levels.last().and_then(|level| level.to.clone()) {
            Some(to) => Ok(to),
            // The topmost level always has a place.
            None => Err(on("mkdir", "/")(Errno::NOENT)),
        }
    }

    fn attributes(&self, meta: &Meta) -> Attributes {
        let mut attributes = Attributes::of(meta);
        if let Some(owner) = self.plan.action.owner {
            (attributes.uid, attributes.gid) = (owner.uid, owner.gid);
        }
        if let Some(mode) = &self.plan.mode
            && !meta.is_symlink()
        {
            attributes.mode = mode.apply(attributes.mode, meta.is_dir());
        }
        if let Some(time) = self.plan.action.timestamp {
            (attributes.atime, attributes.mtime) = (time, time);
        }
        attributes
    }

    /// Everything that is no directory.
    fn other(
        &mut self,
        from: &From,
        name: &CStr,
        meta: &Meta,
        to: &To,
        to_name: &CStr,
        at: &Path,
    ) -> Result<(), Error> {
        if to.raw && meta.kind() == Kind::CharDevice && meta.rdev.packed() == 0 {
            // In a layer this would hide what is below; an overlay refuses it too.
            return Err(on("mknod", at)(Errno::PERM));
        }
        let attributes = self.attributes(meta);
        let share = self.share(from, name, meta, to, &attributes);
        if share.is_some() && name == to_name {
            self.note_linked(&from.at, at, name);
        }
        if meta.is_file() && meta.nlink > 1 {
            let spot = Spot {
                at: at.to_owned(),
                raw: to.raw,
            };
            match self.first_names.get(&meta.inode()) {
                Some(first) if share.is_none() => {
                    self.links.push((first.clone(), spot));
                    return Ok(());
                }
                Some(_) => {}
                None => {
                    self.first_names.insert(meta.inode(), spot);
                }
            }
        }
        let existing = self.existing();
        let task = Task {
            from_dir: from.dir.clone(),
            from_name: name.to_owned(),
            meta: *meta,
            to_dir: to.dir.clone(),
            to_name: to_name.to_owned(),
            at: at.to_owned(),
            attributes,
            existing,
            share,
        };
        self.batch.push(task).map_err(in_the_way)
    }

    fn note_linked(&mut self, from: &Path, at: &Path, name: &CStr) {
        let to = at.parent().unwrap_or(Path::new(""));
        let same = |one: &Path, other: &Path| path::bytes(one) == path::bytes(other);
        match self.linked.last_mut() {
            Some(last) if same(&last.from, from) && same(&last.to, to) => last.add(name),
            _ => {
                let mut files = LinkedFiles::new(from, to);
                files.add(name);
                self.linked.push(files);
            }
        }
    }

    /// The name to link from, if this file may be shared.
    fn share(
        &mut self,
        from: &From,
        name: &CStr,
        meta: &Meta,
        to: &To,
        attributes: &Attributes,
    ) -> Option<(Arc<OwnedFd>, CString)> {
        let sharing = self.sharing.as_mut()?;
        if !meta.is_file() || !(to.raw || self.plain_target) || !attributes.equal(meta) {
            return None;
        }
        let (inode, dir) = from.candidate(name, meta)?;
        if sharing.used.contains(inode) {
            return None;
        }
        self.mine.push(inode);
        Some((dir, name.to_owned()))
    }
}

/// A directory where a file shall go has its own words.
fn in_the_way(err: fstree::Error) -> Error {
    if err.op == "remove" && err.kind() == std::io::ErrorKind::IsADirectory {
        return Error::DirectoryInTheWay { path: err.path };
    }
    Error::File(err)
}
