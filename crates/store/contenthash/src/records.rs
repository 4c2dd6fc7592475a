//! What is known of one tree, and how a transfer changes it (sections 4.2 and 4.5).

use std::collections::{BTreeMap, HashMap};

use fstree::Root;
use tasks::Cx;

use crate::disk::Disk;
use crate::header::Sum;
use crate::{Error, Query, filtered, resolve};

/// A name inside a directory.
pub(crate) type Name = Box<[u8]>;

/// One entry of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    /// Anything that is neither directory nor link.
    File { sum: Option<Sum> },
    /// A symbolic link; never entered.
    Symlink { target: Name, sum: Option<Sum> },
    /// A directory.
    Dir(Dir),
}

/// What is known of a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Dir {
    /// Of its own metadata.
    pub header: Option<Sum>,
    /// Of the header and everything below.
    pub contents: Option<Sum>,
    /// Whether `children` are all there are; otherwise the disk knows more.
    pub listed: bool,
    pub children: BTreeMap<Name, Node>,
}

/// Something that happened to one path of a tree, with the record its receiver computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<'a> {
    /// A directory is there, with this header record. What was known below it stays.
    Dir(Sum),
    /// A file, device, pipe or socket, with this record.
    File(Sum),
    /// A symbolic link to `target`.
    Symlink {
        /// As stored.
        target: &'a [u8],
        /// Its record.
        sum: Sum,
    },
    /// A further name of a file that was or will be inserted; it takes over that file's record.
    HardLink {
        /// Path of the first name.
        target: &'a [u8],
    },
}

/// The records of one tree.
#[derive(Debug, Clone, Default)]
pub struct Records {
    pub(crate) root: Option<Dir>,
    /// Hard links by target, until the transfer is over: the target's content may still arrive.
    links: HashMap<Vec<u8>, Vec<Vec<u8>>>,
    changed: bool,
}

impl PartialEq for Records {
    fn eq(&self, other: &Self) -> bool {
        self.root == other.root
    }
}

impl Records {
    /// Nothing known yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing is known; a transfer that sent nothing leaves it so.
    pub fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// The answer to a query. What is not known yet is read from `tree` and kept.
    ///
    /// Blocking: lists and hashes files, on several threads if there are many.
    pub fn query(&mut self, cx: &Cx, tree: &Root, query: &Query) -> Result<oci::Digest, Error> {
        let answer = self.ask(&Disk::of(cx, tree), query);
        match answer {
            Ok(found) => Ok(found),
            Err(Miss::Failed(err)) => Err(err),
            Err(Miss::Unknown) => unreachable!("a disk can always be asked"),
        }
    }

    /// The answer if it takes no look at the tree.
    pub fn known(&mut self, query: &Query) -> Option<Result<oci::Digest, Error>> {
        match self.ask(&Disk::none(), query) {
            Ok(found) => Some(Ok(found)),
            Err(Miss::Failed(err)) => Some(Err(err)),
            Err(Miss::Unknown) => None,
        }
    }

    /// Whether something was learned or changed since the last call of this.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    fn ask(&mut self, disk: &Disk<'_>, query: &Query) -> Result<oci::Digest, Miss> {
        if self.root.is_none() && disk.is_none() {
            return Err(Miss::Unknown);
        }
        let root = self.root.get_or_insert_default();
        let sum = if query.is_filtered() {
            filtered::answer(root, disk, query)
        } else {
            resolve::record_at(root, disk, query.path.as_bytes(), query.follow)
        };
        self.changed |= disk.was_read();
        Ok(sum?.digest())
    }

    /// Takes over what a transfer did to `path`, which is clean and relative to the root.
    ///
    /// Compat: the first insertion into nothing makes a root whose header is the sum of no bytes, because a transfer
    /// sends nothing for the root.
    pub fn insert(&mut self, path: &[u8], change: Change<'_>) {
        self.changed = true;
        let root = self.root.get_or_insert_with(|| Dir {
            header: Some(Sum::of_nothing()),
            listed: true,
            ..Dir::default()
        });
        let node = match change {
            Change::Dir(header) => {
                if let Some(dir) = dir_at(root, path) {
                    dir.header = Some(header);
                } else {
                    let dir = Dir {
                        header: Some(header),
                        listed: true,
                        ..Dir::default()
                    };
                    place(root, path, Node::Dir(dir));
                }
                invalidate(root, path);
                return;
            }
            Change::File(sum) => {
                for link in self.links.remove(path).unwrap_or_default() {
                    place(root, &link, Node::File { sum: Some(sum) });
                }
                Node::File { sum: Some(sum) }
            }
            Change::Symlink { target, sum } => Node::Symlink {
                target: target.into(),
                sum: Some(sum),
            },
            Change::HardLink { target } => {
                let target = names(target).collect::<Vec<_>>().join(&b'/');
                let known = node_at(root, &target).cloned();
                self.links.entry(target).or_default().push(path.to_vec());
                match known {
                    Some(node @ (Node::File { .. } | Node::Symlink { .. })) => node,
                    // Until the target's record comes the disk is asked.
                    _ => Node::File { sum: None },
                }
            }
        };
        place(root, path, node);
    }

    /// Takes over what `other` knows of files of its directory `from` that got further names in the directory `to`
    /// here: whatever names it, a file has one record. Clean paths relative to the roots.
    pub fn insert_linked<'n>(
        &mut self,
        to: &[u8],
        other: &Self,
        from: &[u8],
        files: impl IntoIterator<Item = &'n [u8]>,
    ) {
        let Some(known) = other.root.as_ref().and_then(|root| known_dir(root, from)) else {
            return;
        };
        let mut found = files
            .into_iter()
            .filter_map(|name| match known.children.get_key_value(name)? {
                (name, node @ Node::File { sum: Some(_) }) => Some((name.clone(), node.clone())),
                _ => None,
            })
            .peekable();
        if found.peek().is_none() {
            return;
        }
        self.changed = true;
        let dir = make_dir(self.root.get_or_insert_default(), to);
        if dir.children.is_empty() {
            dir.children = found.collect();
        } else {
            dir.children.extend(found);
        }
    }

    /// Forgets `path` and everything below it.
    pub fn remove(&mut self, path: &[u8]) {
        let Some(root) = &mut self.root else { return };
        self.changed = true;
        if let Some((dir, name)) = parent_of(root, path) {
            dir.children.remove(name);
        }
        invalidate(root, path);
    }

    /// Ends a transfer: hard links wait no longer for the record of their target.
    pub fn finish_transfer(&mut self) {
        self.links = HashMap::new();
    }
}

/// Why a question has no answer.
#[derive(Debug)]
pub(crate) enum Miss {
    /// Only the disk knows, and it was not given.
    Unknown,
    Failed(Error),
}

impl<E: Into<Error>> From<E> for Miss {
    fn from(err: E) -> Self {
        Self::Failed(err.into())
    }
}

/// The components of a path.
pub(crate) fn names(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty())
}

fn node_at<'a>(root: &'a Dir, path: &[u8]) -> Option<&'a Node> {
    let mut names = names(path);
    let mut node = root.children.get(names.next()?)?;
    for name in names {
        let Node::Dir(dir) = node else { return None };
        node = dir.children.get(name)?;
    }
    Some(node)
}

fn known_dir<'a>(root: &'a Dir, path: &[u8]) -> Option<&'a Dir> {
    names(path).try_fold(root, |dir, name| match dir.children.get(name)? {
        Node::Dir(inner) => Some(inner),
        _ => None,
    })
}

fn dir_at<'a>(root: &'a mut Dir, path: &[u8]) -> Option<&'a mut Dir> {
    let mut dir = root;
    for name in names(path) {
        match dir.children.get_mut(name)? {
            Node::Dir(inner) => dir = inner,
            _ => return None,
        }
    }
    Some(dir)
}

fn parent_of<'a, 'p>(root: &'a mut Dir, path: &'p [u8]) -> Option<(&'a mut Dir, &'p [u8])> {
    let name = names(path).next_back()?;
    let end = path.len() - path.iter().rev().take_while(|byte| **byte == b'/').count();
    let dir = dir_at(root, &path[..end - name.len()])?;
    Some((dir, name))
}

/// Puts a node at `path`, making unknown directories above it, and forgets the contents records above.
fn place(root: &mut Dir, path: &[u8], node: Node) {
    let Some(name) = names(path).next_back() else {
        root.contents = None;
        return;
    };
    let end = path.len() - path.iter().rev().take_while(|byte| **byte == b'/').count();
    let dir = make_dir(root, &path[..end - name.len()]);
    dir.children.insert(name.into(), node);
}

/// The directory at `path`, made with all above it where it is not known, without contents records on the way.
fn make_dir<'a>(root: &'a mut Dir, path: &[u8]) -> &'a mut Dir {
    let mut dir = root;
    dir.contents = None;
    for name in names(path) {
        if !matches!(dir.children.get(name), Some(Node::Dir(_))) {
            let made = Node::Dir(Dir::default());
            dir.children.insert(name.into(), made);
        }
        let Some(Node::Dir(inner)) = dir.children.get_mut(name) else {
            unreachable!("a directory was just put there");
        };
        inner.contents = None;
        dir = inner;
    }
    dir
}

/// Forgets the contents records of the directories on the way to `path`, and of `path` itself.
fn invalidate(root: &mut Dir, path: &[u8]) {
    let mut dir = root;
    dir.contents = None;
    for name in names(path) {
        match dir.children.get_mut(name) {
            Some(Node::Dir(inner)) => {
                inner.contents = None;
                dir = inner;
            }
            _ => return,
        }
    }
}
