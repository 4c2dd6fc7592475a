//! Turns paths that may lead through links into the plain paths a filter must include.

use std::collections::BTreeSet;
use std::path::Path;

use crate::error::Error;
use crate::root::Root;
use crate::walk::Walk;
use crate::{match_path, path};

/// Every link on the way of the given paths, and where they end; sorted, without what lies below another result.
///
/// `None` when the root itself is among them, which means no filter. Missing paths are kept as they are.
pub fn follow_paths<S: AsRef<str>>(root: &Root, paths: &[S]) -> Result<Option<Vec<String>>, Error> {
    let mut follower = Follower {
        root,
        found: BTreeSet::new(),
    };
    for given in paths {
        follower.follow(given.as_ref().as_bytes())?;
    }
    let found = follower
        .found
        .into_iter()
        .map(|path| String::from_utf8_lossy(&path).into_owned())
        .collect();
    Ok(without_nested(found))
}

/// Drops what lies below the path kept before it, in the order given. `None` when one of them is the root.
pub(crate) fn without_nested(paths: Vec<String>) -> Option<Vec<String>> {
    let mut kept: Vec<String> = Vec::with_capacity(paths.len());
    for path in paths {
        if path == "." {
            return None;
        }
        // Compat: before anything is kept the empty path counts, so absolute paths at the front are dropped.
        let last = kept.last().map_or("", String::as_str);
        let below = path
            .strip_prefix(last)
            .is_some_and(|rest| rest.starts_with('/'));
        if !below {
            kept.push(path);
        }
    }
    Some(kept)
}

struct Follower<'a> {
    root: &'a Root,
    found: BTreeSet<Vec<u8>>,
}

impl Follower<'_> {
    fn follow(&mut self, given: &[u8]) -> Result<(), Error> {
        // A path counts from the root of the tree whether it says so or not; leading `..` stay.
        let given = path::clean(&[b"./", given].concat());
        let mut rest: &[u8] = &given;
        let mut current: Vec<u8> = Vec::new();
        loop {
            let (part, behind) = match rest.iter().position(|byte| *byte == b'/') {
                Some(at) => (&rest[..at], &rest[at + 1..]),
                None => (rest, &b""[..]),
            };
            if !current.is_empty() {
                current.push(b'/');
            }
            current.extend_from_slice(part);
            rest = behind;

            let targets = self.targets(&current)?;
            if rest.is_empty() || !targets.is_empty() {
                if !self.found.insert(current.clone()) {
                    return Ok(());
                }
                for target in targets {
                    self.follow(&[&target[..], b"/", rest].concat())?;
                }
                return Ok(());
            }
        }
    }

    /// Where the entry leads if it is a link, or the links among the entries that match its wildcard.
    fn targets(&self, current: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        if current == b"." || current == b".." || current.starts_with(b"../") {
            return Ok(Vec::new());
        }
        let (dir, name) = match current.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (&current[..at], &current[at + 1..]),
            None => (&b""[..], current),
        };
        if !path::has_wildcard(name) {
            return Ok(self.target(dir, name)?.into_iter().collect());
        }
        let mut walk = match Walk::below(self.root, path::from_bytes(dir)) {
            Err(err) if err.is_missing() => return Ok(Vec::new()),
            walk => walk?,
        };
        let mut targets = Vec::new();
        while let Some(entry) = walk.next() {
            let entry = entry?;
            walk.skip_dir();
            // A malformed wildcard matches nothing here; the pattern it becomes is checked later.
            if entry.meta.is_symlink()
                && match_path(name, path::bytes(&entry.path)).unwrap_or(false)
            {
                targets.push(resolved(dir, path::bytes(&entry.link)));
            }
        }
        Ok(targets)
    }

    fn target(&self, dir: &[u8], name: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let at = path::join(path::from_bytes(dir), name);
        match self.root.symlink_meta(&at) {
            Ok(meta) if meta.is_symlink() => match self.root.read_link(&at) {
                Ok(link) => Ok(Some(resolved(dir, path::bytes(&link)))),
                Err(err) => Err(Error::new("readlink", path::rooted(&at), err)),
            },
            Ok(_) => Ok(None),
            Err(err) => {
                let err = Error::new("lstat", path::rooted(&at), err);
                if err.is_missing() { Ok(None) } else { Err(err) }
            }
        }
    }
}

/// A link's target as a path from the root of the tree.
fn resolved(dir: &[u8], link: &[u8]) -> Vec<u8> {
    let from_root = if link.starts_with(b"/") {
        path::rooted(path::from_bytes(link))
    } else {
        path::rooted(Path::new(path::from_bytes(dir)).join(path::from_bytes(link)))
    };
    path::bytes(&from_root).to_vec()
}
