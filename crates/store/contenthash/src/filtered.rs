//! Queries with wildcards, includes or excludes: a list of files and its digest (section 4.4).

use std::path::PathBuf;

use fstree::{Hits, Patterns, match_path};
use sha2::{Digest as _, Sha256};

use crate::disk::{Disk, Job};
use crate::header::Sum;
use crate::records::{Dir, Miss, Name, Node};
use crate::resolve::{Found, find, record_at, relative, resolve};
use crate::{Error, Query};

/// The digest of everything the query selects.
pub(crate) fn answer(root: &mut Dir, disk: &Disk<'_>, query: &Query) -> Result<Sum, Miss> {
    let (prefix, list) = select(root, disk, query)?;
    Ok(digest_of(&query.path, &prefix, &list))
}

/// The literal part of the path, and everything the query selects.
pub(crate) fn select(
    root: &mut Dir,
    disk: &Disk<'_>,
    query: &Query,
) -> Result<(Vec<u8>, Vec<Item>), Miss> {
    let asked = fstree::path::rooted(&query.path);
    let asked = match fstree::path::bytes(&asked) {
        b"/" => &b""[..],
        other => other,
    };
    let include = patterns("includepatterns", &query.include)?;
    let exclude = patterns("excludepatterns", &query.exclude)?;
    let start = Start::of(root, disk, asked, query.wildcard)?;
    let mut walk = Walk {
        disk,
        query,
        asked,
        include,
        exclude,
        last_match: None,
        headers: Vec::new(),
        chosen: Vec::new(),
    };
    if start.exists {
        match find(root, disk, &start.names)? {
            Some(Found::Dir(dir)) => walk.directory(dir, start.prefix.clone(), start.place())?,
            Some(Found::Other(node)) => walk.other(node, start.prefix.clone(), start.place())?,
            None => {}
        }
    }
    let chosen = walk.chosen;
    for required in &query.required {
        let met = chosen
            .iter()
            .any(|chosen| chosen.shown.starts_with(required.as_bytes()));
        if !met {
            let path = required.clone();
            return Err(Miss::Failed(Error::NotFound { path }));
        }
    }
    let mut list = hashed(chosen, disk)?;
    for item in list.iter_mut().filter(|item| item.followed) {
        item.sum = record_at(root, disk, &item.shown, true)?;
    }
    Ok((start.prefix, list))
}

fn patterns(name: &'static str, list: &[String]) -> Result<Option<Patterns>, Miss> {
    match Patterns::new(list) {
        Ok(_) if list.is_empty() => Ok(None),
        Ok(patterns) => Ok(Some(patterns)),
        Err(source) => Err(Miss::Failed(Error::Patterns {
            list: name,
            patterns: list.to_vec(),
            source,
        })),
    }
}

/// Where the walk begins.
struct Start {
    /// The literal part of what was asked for; written where the resolved place appears in paths.
    prefix: Vec<u8>,
    names: Vec<Name>,
    exists: bool,
}

impl Start {
    fn of(root: &mut Dir, disk: &Disk<'_>, asked: &[u8], wildcard: bool) -> Result<Self, Miss> {
        let (prefix, more) = if wildcard {
            literal_part(asked)
        } else {
            (asked, false)
        };
        // Links at the end of the literal part are followed only when a wildcard part comes behind it.
        let place = resolve(root, disk, prefix, more)?;
        Ok(Self {
            prefix: prefix.to_vec(),
            names: place.names,
            exists: place.exists,
        })
    }

    fn place(&self) -> PathBuf {
        relative(&self.names.join(&b'/'))
    }
}

/// What stands before the first component with a wildcard, and whether there is one.
fn literal_part(asked: &[u8]) -> (&[u8], bool) {
    let mut end = 0;
    for component in asked.split(|byte| *byte == b'/').skip(1) {
        if fstree::path::has_wildcard(component) {
            return (&asked[..end], true);
        }
        end += 1 + component.len();
    }
    (asked, false)
}

/// A record that is part of the answer.
struct Chosen<'n> {
    /// Its path as the query names it.
    shown: Vec<u8>,
    /// Where it is in the tree.
    at: PathBuf,
    slot: &'n mut Option<Sum>,
    /// A link outside of any directory seen, to be replaced by what it leads to.
    followed: bool,
}

/// A directory header met above the current entry.
struct Header<'n> {
    /// Still here while the header is not part of the answer.
    waiting: Option<Chosen<'n>>,
    include: Option<Hits>,
    exclude: Option<Hits>,
}

/// What the patterns say of one record.
struct Verdict {
    passes: bool,
    include: Option<Hits>,
    exclude: Option<Hits>,
    /// Nothing below can pass.
    fruitless: bool,
}

struct Walk<'w, 'n> {
    disk: &'w Disk<'w>,
    query: &'w Query,
    /// The clean path, empty for the root.
    asked: &'w [u8],
    include: Option<Patterns>,
    exclude: Option<Patterns>,
    last_match: Option<Vec<u8>>,
    headers: Vec<Header<'n>>,
    chosen: Vec<Chosen<'n>>,
}

impl<'n> Walk<'_, 'n> {
    fn directory(&mut self, dir: &'n mut Dir, shown: Vec<u8>, at: PathBuf) -> Result<(), Miss> {
        let selected = self.selects(&shown)?;
        if !selected && !self.could_select_below(&shown) {
            return Ok(());
        }
        let skips_header = shown == self.asked && self.query.path.ends_with('/');
        let verdict = (selected && !skips_header).then(|| self.judge(&shown));
        if verdict.as_ref().is_none_or(|verdict| !verdict.fruitless) {
            self.disk.list(dir, &at)?;
        }
        let Dir {
            header, children, ..
        } = dir;
        let seen = verdict.is_some();
        let mut fruitless = false;
        if let Some(verdict) = verdict {
            fruitless = verdict.fruitless;
            let chosen = Chosen {
                shown: shown.clone(),
                at: at.clone(),
                slot: header,
                followed: false,
            };
            let waiting = if verdict.passes {
                self.choose(chosen);
                None
            } else {
                Some(chosen)
            };
            self.headers.push(Header {
                waiting,
                include: verdict.include,
                exclude: verdict.exclude,
            });
        }
        if !fruitless {
            for (name, node) in children {
                let shown = [&shown[..], b"/", name].concat();
                let at = fstree::path::join(&at, name);
                match node {
                    Node::Dir(inner) => self.directory(inner, shown, at)?,
                    other => self.other(other, shown, at)?,
                }
            }
        }
        if seen {
            self.headers.pop();
        }
        Ok(())
    }

    fn other(&mut self, node: &'n mut Node, shown: Vec<u8>, at: PathBuf) -> Result<(), Miss> {
        if !self.selects(&shown)? || !self.judge(&shown).passes {
            return Ok(());
        }
        let is_link = matches!(node, Node::Symlink { .. });
        if let Node::File { sum } | Node::Symlink { sum, .. } = node {
            let followed = is_link && self.query.follow && self.headers.is_empty();
            self.choose(Chosen {
                shown,
                at,
                slot: sum,
                followed,
            });
        }
        Ok(())
    }

    /// Adds a record to the answer, and before it the headers above that are not in it yet.
    fn choose(&mut self, chosen: Chosen<'n>) {
        let waiting = self
            .headers
            .iter_mut()
            .filter_map(|header| header.waiting.take());
        self.chosen.extend(waiting);
        self.chosen.push(chosen);
    }

    /// Whether the wildcard path matches here or matched above.
    fn selects(&mut self, shown: &[u8]) -> Result<bool, Miss> {
        if !self.query.wildcard || self.asked.is_empty() {
            return Ok(true);
        }
        if let Some(last) = &self.last_match
            && below(shown, last)
        {
            return Ok(true);
        }
        let matched = match_path(self.asked, shown)?;
        if matched {
            self.last_match = Some(shown.to_vec());
        }
        Ok(matched)
    }

    /// Whether the wildcard path, which does not match this directory, may match below it.
    fn could_select_below(&self, shown: &[u8]) -> bool {
        // Classes may match slashes; then the number of components says nothing.
        if self.asked.contains(&b'[') || self.asked.contains(&b'\\') {
            return true;
        }
        let mut wanted = self.asked.split(|byte| *byte == b'/');
        for component in shown.split(|byte| *byte == b'/') {
            match wanted.next() {
                Some(pattern) if match_path(pattern, component).unwrap_or(true) => {}
                _ => return false,
            }
        }
        wanted.next().is_some()
    }

    fn judge(&self, shown: &[u8]) -> Verdict {
        let base = match &self.last_match {
            Some(last) if self.query.wildcard => last,
            _ => self.asked,
        };
        let candidate = shown
            .strip_prefix(base)
            .map_or(shown, |rest| rest.strip_prefix(b"/").unwrap_or(rest));
        let parent = self.headers.last();
        let mut verdict = Verdict {
            passes: true,
            include: None,
            exclude: None,
            fruitless: false,
        };
        if let Some(list) = &self.include {
            let hits = parent.and_then(|parent| parent.include.as_ref());
            let (matched, hits) = list.matches_below(candidate, hits);
            verdict.include = Some(hits);
            if !matched {
                verdict.passes = false;
                verdict.fruitless = !candidate.is_empty()
                    && list.is_plain(false)
                    && !list.could_match_below(false, candidate);
                return verdict;
            }
        }
        if let Some(list) = &self.exclude {
            let hits = parent.and_then(|parent| parent.exclude.as_ref());
            let (matched, hits) = list.matches_below(candidate, hits);
            verdict.exclude = Some(hits);
            if matched {
                verdict.passes = false;
                verdict.fruitless = !candidate.is_empty()
                    && list.is_plain(true)
                    && !list.could_match_below(true, candidate);
            }
        }
        verdict
    }
}

/// Whether `path` lies below `dir` by text.
fn below(path: &[u8], dir: &[u8]) -> bool {
    path.strip_prefix(dir)
        .is_some_and(|rest| rest.starts_with(b"/"))
}

/// A record of the answer with its digest.
pub(crate) struct Item {
    /// Its path as the query names it.
    pub shown: Vec<u8>,
    pub sum: Sum,
    followed: bool,
}

fn hashed(mut chosen: Vec<Chosen<'_>>, disk: &Disk<'_>) -> Result<Vec<Item>, Miss> {
    let jobs = chosen
        .iter_mut()
        .filter(|chosen| chosen.slot.is_none())
        .map(|chosen| Job {
            path: chosen.at.clone(),
            slot: &mut *chosen.slot,
        })
        .collect();
    disk.hash(jobs)?;
    Ok(chosen
        .into_iter()
        .map(|chosen| Item {
            shown: chosen.shown,
            sum: chosen.slot.unwrap_or_else(Sum::of_nothing),
            followed: chosen.followed,
        })
        .collect())
}

fn digest_of(asked: &str, prefix: &[u8], list: &[Item]) -> Sum {
    if let [only] = list
        && base_name(asked.as_bytes()) == base_name(&only.shown)
    {
        return only.sum;
    }
    if list.is_empty() {
        return Sum::of_nothing();
    }
    let mut hash = Sha256::new();
    for item in list {
        let path = item.shown.strip_prefix(prefix).unwrap_or(&item.shown);
        if path.is_empty() {
            hash.update([0]);
        }
        for byte in path {
            hash.update([if *byte == b'/' { 0 } else { *byte }]);
        }
        item.sum.feed(&mut hash);
    }
    Sum(hash.finalize().into())
}

/// The last element as Go has it: trailing slashes ignored, `.` for nothing, `/` for slashes alone.
fn base_name(path: &[u8]) -> &[u8] {
    if path.is_empty() {
        return b".";
    }
    let end = path.iter().rposition(|byte| *byte != b'/');
    match end {
        None => b"/",
        Some(end) => {
            let path = &path[..=end];
            path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
        }
    }
}
