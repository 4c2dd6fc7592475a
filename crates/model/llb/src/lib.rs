//! LLB, the language builds are written in: reading graphs, and writing them.
//!
//! * [`Graph`] is what the engine walks: a [`proto::pb::Definition`] read from a client, checked, with digests
//!   recomputed and platforms filled in. Policy may look at the sources in between, see [`Parsed`].
//! * [`build`] is for whoever writes graphs: states, runs, file operations, marshalled to the very bytes that stock
//!   clients write.
//! * [`caps`] are the capability ids, [`attr`] the names of source attributes.
//!
//! Nothing here does what an op says; that is `ops`' job.

pub mod attr;
pub mod build;
pub mod caps;
mod encode;
mod error;
mod graph;
mod name;
mod validate;

pub use encode::head;
pub use error::Error;
pub use graph::{Edge, Graph, LoadOptions, Parsed, Vertex};
