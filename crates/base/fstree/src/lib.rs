//! Trees of files: paths resolved inside a root, walks with patterns, copies that share bytes where they can.
//!
//! A tree is a [`Root`], a directory file descriptor nothing can escape from. [`Walk`] and [`filter::FilteredWalk`]
//! list it in the order of the transfer protocol, [`patterns`] is the pattern language of ignore files, [`copy`] has
//! the primitives that move content. This crate knows nothing of snapshots, layers or wire messages.
//!
//! Invariant: a path from outside is only ever resolved through [`Root`]; no other code opens such a path by text.

pub mod copy;
pub mod dir;
mod error;
pub mod filter;
mod follow;
pub mod ignore;
mod meta;
pub mod path;
pub mod patterns;
mod root;
mod walk;
pub mod xattr;

pub use error::{Cause, Error, errno_text};
pub use filter::{Filter, FilterError, FilterOptions, FilteredWalk};
pub use follow::follow_paths;
pub use meta::{Device, Kind, Meta, Time, go_mode, unix_mode};
pub use patterns::{Hits, PatternError, Patterns, match_path};
pub use root::{Created, Parent, Root};
pub use walk::{Entry, HardLinks, Walk};
