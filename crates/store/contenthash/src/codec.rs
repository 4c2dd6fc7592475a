//! Records as bytes, to be kept beside the metadata of the tree they describe.
//!
//! One version byte, then the root directory. A directory is flags, its sums, the number of its children and each child
//! as kind, name and what belongs to the kind. Numbers are LEB128.

use std::collections::BTreeMap;

use crate::header::Sum;
use crate::records::{Dir, Name, Node, Records};

const VERSION: u8 = 1;
/// Deeper trees are not read back; the disk is asked again.
const MAX_DEPTH: usize = 4096;

const FILE: u8 = 0;
const SYMLINK: u8 = 1;
const DIR: u8 = 2;
const HAS_SUM: u8 = 4;

const HAS_HEADER: u8 = 1;
const HAS_CONTENTS: u8 = 2;
const LISTED: u8 = 4;

impl Records {
    /// The records as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        if let Some(root) = &self.root {
            write_dir(root, &mut out);
        }
        out
    }

    /// Records from bytes; `None` when they were not written by [`Records::to_bytes`] of this version.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        if *version != VERSION {
            return None;
        }
        let mut records = Self::new();
        if !rest.is_empty() {
            let mut input = Input(rest);
            records.root = Some(input.dir(0)?);
            if !input.0.is_empty() {
                return None;
            }
        }
        Some(records)
    }
}

fn write_number(mut number: usize, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn write_name(name: &[u8], out: &mut Vec<u8>) {
    write_number(name.len(), out);
    out.extend_from_slice(name);
}

fn write_dir(dir: &Dir, out: &mut Vec<u8>) {
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    out.push(
        flag(dir.header.is_some(), HAS_HEADER)
            | flag(dir.contents.is_some(), HAS_CONTENTS)
            | flag(dir.listed, LISTED),
    );
    for sum in [&dir.header, &dir.contents].into_iter().flatten() {
        out.extend_from_slice(&sum.0);
    }
    write_number(dir.children.len(), out);
    for (name, node) in &dir.children {
        let (kind, sum) = match node {
            Node::File { sum } => (FILE, sum),
            Node::Symlink { sum, .. } => (SYMLINK, sum),
            Node::Dir(_) => (DIR, &None),
        };
        out.push(kind | flag(sum.is_some(), HAS_SUM));
        write_name(name, out);
        if let Some(sum) = sum {
            out.extend_from_slice(&sum.0);
        }
        match node {
            Node::File { .. } => {}
            Node::Symlink { target, .. } => write_name(target, out),
            Node::Dir(inner) => write_dir(inner, out),
        }
    }
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    fn number(&mut self) -> Option<usize> {
        let mut number = 0_usize;
        for shift in (0..usize::BITS).step_by(7) {
            let byte = self.byte()?;
            number |= usize::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn name(&mut self) -> Option<Name> {
        let len = self.number()?;
        self.take(len).map(Name::from)
    }

    fn sum(&mut self, present: bool) -> Option<Option<Sum>> {
        if !present {
            return Some(None);
        }
        let bytes = self.take(32)?;
        Some(Some(Sum(bytes.try_into().ok()?)))
    }

    fn dir(&mut self, depth: usize) -> Option<Dir> {
        if depth > MAX_DEPTH {
            return None;
        }
        let flags = self.byte()?;
        let header = self.sum(flags & HAS_HEADER != 0)?;
        let contents = self.sum(flags & HAS_CONTENTS != 0)?;
        let mut children = BTreeMap::new();
        for _ in 0..self.number()? {
            let kind = self.byte()?;
            let name = self.name()?;
            let sum = self.sum(kind & HAS_SUM != 0)?;
            let node = match kind & !HAS_SUM {
                FILE => Node::File { sum },
                SYMLINK => Node::Symlink {
                    target: self.name()?,
                    sum,
                },
                DIR => Node::Dir(self.dir(depth + 1)?),
                _ => return None,
            };
            children.insert(name, node);
        }
        Some(Dir {
            header,
            contents,
            listed: flags & LISTED != 0,
            children,
        })
    }
}
