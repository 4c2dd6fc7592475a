//! Decides which steps of a build must run, and runs them.
//!
//! A step is an [`Operation`]; a build's graph is made of [`Vertex`] values joined by [`Edge`]s. [`Solver`] keeps one
//! shared graph for all builds: equal vertices are one, results come from the key store where they can, and work
//! stops when the last build that wants it leaves.
//!
//! The decisions are made by pure code without async, clock or lock; the module `core` tells how. Everything around it
//! only carries out what it says. Nothing here knows what an operation does.

mod core;
mod driver;
mod fanout;
mod job;
mod op;
mod stream;

pub use crate::core::{ReplayError, replay};
pub use job::{Built, Import, Job, Options, Recorder, Solver};
pub use op::{CacheMap, Edge, InputMap, Operation, ResultStore, Step, Vertex, Work};
