//! Finds the record a path leads to, and computes contents records (sections 4.2 and 4.3).

use std::collections::VecDeque;
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use crate::Error;
use crate::disk::{Disk, Job};
use crate::header::Sum;
use crate::records::{Dir, Miss, Name, Node, names};

/// How many links one path may lead through.
const MAX_LINKS: usize = 255;

/// Where a path leads.
#[derive(Debug)]
pub(crate) struct Place {
    /// Names from the root on, without links on the way.
    pub names: Vec<Name>,
    /// Whether there is something.
    pub exists: bool,
}

impl Place {
    /// As an absolute path; the root is the empty one.
    pub fn path(&self) -> Vec<u8> {
        let mut path = Vec::new();
        for name in &self.names {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        path
    }
}

/// An entry of the tree, to be changed in place.
pub(crate) enum Found<'a> {
    Dir(&'a mut Dir),
    Other(&'a mut Node),
}

/// The answer of a simple query.
pub(crate) fn record_at(
    root: &mut Dir,
    disk: &Disk<'_>,
    path: &[u8],
    follow: bool,
) -> Result<Sum, Miss> {
    let asked = fstree::path::rooted(fstree::path::from_bytes(path));
    let asked = fstree::path::bytes(&asked);
    let place = resolve(root, disk, asked, follow)?;
    let at = relative(&place.path());
    match find(root, disk, &place.names)? {
        None => {
            let shown = if asked == b"/" { &b""[..] } else { asked };
            Err(Miss::Failed(Error::NotFound {
                path: String::from_utf8_lossy(shown).into_owned(),
            }))
        }
        Some(Found::Dir(dir)) => contents_of(dir, disk, &at),
        Some(Found::Other(node)) => sum_of(node, disk, at),
    }
}

/// Follows links on the way of an absolute clean path, those at its end only if told to.
///
/// What is missing is kept by name and `..` steps out of it again, as upstream has it.
pub(crate) fn resolve(
    root: &mut Dir,
    disk: &Disk<'_>,
    path: &[u8],
    follow: bool,
) -> Result<Place, Miss> {
    let mut todo: VecDeque<Name> = names(path).map(Name::from).collect();
    let mut at: Vec<Name> = Vec::new();
    let mut links = 0;
    let mut exists = true;
    while let Some(name) = todo.pop_front() {
        match &*name {
            b"." => {}
            b".." => {
                at.pop();
            }
            _ => at.push(name),
        }
        let target = match find(root, disk, &at)? {
            Some(Found::Other(Node::Symlink { target, .. })) if follow || !todo.is_empty() => {
                target.clone()
            }
            found => {
                exists = found.is_some();
                continue;
            }
        };
        links += 1;
        if links > MAX_LINKS {
            return Err(Miss::Failed(Error::TooManyLinks));
        }
        at.pop();
        if target.first() == Some(&b'/') {
            at.clear();
        }
        for name in names(&target).rev() {
            todo.push_front(name.into());
        }
        // A link to the root or to nothing but dots ends at the directory itself.
        exists = true;
    }
    Ok(Place { names: at, exists })
}

/// The entry with these names, directories on the way listed if they were not.
pub(crate) fn find<'a>(
    root: &'a mut Dir,
    disk: &Disk<'_>,
    path: &[Name],
) -> Result<Option<Found<'a>>, Miss> {
    let mut dir = root;
    let mut at = PathBuf::new();
    for (depth, name) in path.iter().enumerate() {
        if !dir.children.contains_key(name) {
            disk.list(dir, &at)?;
        }
        let Some(node) = dir.children.get_mut(name) else {
            return Ok(None);
        };
        at = fstree::path::join(&at, name);
        match node {
            Node::Dir(inner) => dir = inner,
            other if depth + 1 == path.len() => return Ok(Some(Found::Other(other))),
            _ => return Ok(None),
        }
    }
    Ok(Some(Found::Dir(dir)))
}

/// The record of a file or link, hashed if need be.
pub(crate) fn sum_of(node: &mut Node, disk: &Disk<'_>, at: PathBuf) -> Result<Sum, Miss> {
    let (Node::File { sum } | Node::Symlink { sum, .. }) = node else {
        return Ok(Sum::of_nothing());
    };
    match sum {
        Some(sum) => Ok(*sum),
        None => {
            disk.hash(vec![Job {
                path: at,
                slot: sum,
            }])?;
            Ok(sum.unwrap_or_else(Sum::of_nothing))
        }
    }
}

/// The contents record of a directory, with everything below hashed if need be.
pub(crate) fn contents_of(
    dir: &mut Dir,
    disk: &Disk<'_>,
    at: &std::path::Path,
) -> Result<Sum, Miss> {
    if let Some(known) = dir.contents {
        return Ok(known);
    }
    let mut jobs = Vec::new();
    gather(dir, disk, at.to_owned(), &mut jobs)?;
    disk.hash(jobs)?;
    Ok(fold(dir))
}

/// Lists what is not listed and collects what is not hashed.
fn gather<'a>(
    dir: &'a mut Dir,
    disk: &Disk<'_>,
    at: PathBuf,
    jobs: &mut Vec<Job<'a>>,
) -> Result<(), Miss> {
    disk.list(dir, &at)?;
    for (name, node) in &mut dir.children {
        match node {
            Node::Dir(inner) if inner.contents.is_some() => {}
            Node::Dir(inner) => gather(inner, disk, fstree::path::join(&at, name), jobs)?,
            Node::File { sum } | Node::Symlink { sum, .. } => {
                if sum.is_none() {
                    let path = fstree::path::join(&at, name);
                    jobs.push(Job { path, slot: sum });
                }
            }
        }
    }
    if dir.header.is_none() {
        jobs.push(Job {
            path: at,
            slot: &mut dir.header,
        });
    }
    Ok(())
}

/// The contents record from records that are all there.
fn fold(dir: &mut Dir) -> Sum {
    if let Some(known) = dir.contents {
        return known;
    }
    let mut hash = Sha256::new_with_prefix([0]);
    dir.header.unwrap_or_else(Sum::of_nothing).feed(&mut hash);
    for (name, node) in &mut dir.children {
        hash.update([0]);
        hash.update(name);
        let sum = match node {
            Node::Dir(inner) => fold(inner),
            Node::File { sum } | Node::Symlink { sum, .. } => sum.unwrap_or_else(Sum::of_nothing),
        };
        sum.feed(&mut hash);
    }
    let sum = Sum(hash.finalize().into());
    dir.contents = Some(sum);
    sum
}

/// An absolute path below the root of the tree.
pub(crate) fn relative(path: &[u8]) -> PathBuf {
    fstree::path::relative(fstree::path::from_bytes(path))
}
