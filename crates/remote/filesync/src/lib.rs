//! Moves trees between client and daemon: the packet protocol, both ends and both directions.
//!
//! One side lists a tree, the other asks for the files it does not have. [`receive()`] makes a folder equal to what is
//! sent, [`send()`] sends a [`Listing`]. Around them stand the four roles: the daemon's [`pull`] of local sources and
//! [`push`] of results, and the client's services for both in [`client`].
//!
//! This crate knows paths, metadata and bytes. Which folder, which filter and what becomes of the tree is for others.
//!
//! Invariant: the receiver never writes to, chmods or touches an inode that was there before, except directories.
//! Committed snapshots share inodes with the tree that is updated here.

mod check;
pub mod client;
mod error;
mod packet;
pub mod pull;
pub mod push;
mod receive;
mod send;
pub mod stat;

pub use error::Error;
pub use packet::{Incoming, Replies};
pub use receive::{Differ, Exceptions, Observer, Options as ReceiveOptions, Received, receive};
pub use send::{Content, Emit, Item, Listing, Tree, send};
