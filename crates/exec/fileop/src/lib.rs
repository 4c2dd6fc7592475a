//! What a file operation does to a tree: copy, make files and directories, remove, link.
//!
//! Every function works on directory roots ([`fstree::Root`]) and plain option structs; there are no messages, caches or
//! mounts here. Paths are resolved inside their root only.
//!
//! # Sharing
//!
//! A copy may give a source file one more name instead of copying it ([`Sharing`]). The rules that keep this invisible:
//!
//! 1. The source is immutable, and so will the target be. Nothing in this crate writes to an inode that has other names:
//!    files are replaced, or made our own first.
//! 2. One inode gets at most one name in a target and the trees below it, unless the user linked its names in the
//!    source. [`SharedInodes`] remembers this; the caller keeps it with the tree and hands in the union of a chain.
//!    So two names of one inode inside one tree always mean a link the user made, and who writes archives may decide by
//!    that ("met this inode before"), never by a link count.
//! 3. A source that is itself part of the target's chain, or shares files with a tree that is, must not be shared from.
//!
//! Compat: behaviour and texts follow solver/llbsolver/file and the copy library of fsutil.

mod alone;
mod copier;
mod copy;
mod decompress;
mod error;
mod mode;
mod owner;
mod sharing;
mod simple;
mod unpack;
mod wildcard;

use fstree::Time;

pub use alone::{Adding, prepare_alone};
pub use copy::{Copy, copy};
pub use error::Error;
pub use mode::ModeChange;
pub use owner::{Account, OwnerSpec, find_owner};
pub use sharing::{SharedInodes, Sharing};
pub use simple::{Mkdir, Mkfile, Remove, Symlink, mkdir, mkfile, remove, symlink};

/// Who owns what is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The time of a file operation from its wire form: nanoseconds, -1 for none.
pub fn timestamp(nanos: i64) -> Option<Time> {
    (nanos != -1).then(|| Time::from_nanos(nanos))
}
