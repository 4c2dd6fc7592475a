//! What the result of a step is known by, and where that is remembered.
//!
//! A [`Key`] says how a result came about: the digest of the operation, the output, and for every input the keys it
//! may be known by. Keys with inputs have no digest of their own: in a [`KeyStore`] such a key is any node that links
//! from its inputs lead to. A node may carry records, which name results kept elsewhere. The functions here ask
//! ([`query`], [`records`]) and teach ([`save`], [`release`]) one store or several at once.
//!
//! The rules are those of upstream's caches, so that a remote cache written by either side hits on the other. How an
//! operation's digest comes about, and what a result is, is not known here.
//!
//! Beside the keys a [`Ledger`] keeps what those of steps that ran were made of, so that a miss can be explained.

mod graph;
mod ingredients;
mod key;
mod ledger;
mod link;
mod memory;
mod persistent;

mod store;

pub use graph::{Found, Stores, find, query, records, release, save, sweep, teach};
pub use ingredients::{
    Changes, Ended, File, Ingredients, Input, Part, Reason, SOURCE, SUM, list_name, reasons,
};
pub use key::{Alternative, Key, content_digest, key_digest};
pub use ledger::Ledger;
pub use link::{Link, LinkError};
pub use memory::Memory;
pub use persistent::Persistent;

pub use store::{KeyStore, NodeId, Record, ResultId, StoreId, Stored};
