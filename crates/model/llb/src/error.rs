//! Why LLB could not be read or written.

use fault::{Class, Classify};

/// Why LLB could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A definition without ops.
    #[error("invalid empty definition")]
    Empty,
    /// Bytes that are no op. `reason` is what upstream's decoder would say.
    #[error("failed to parse llb proto op: {reason}")]
    Parse {
        /// What is wrong with the bytes.
        reason: String,
    },
    /// An op refers to an output that cannot exist.
    #[error("invalid input {input} output index {index}")]
    OutputIndex {
        /// Number of the input.
        input: usize,
        /// The index given.
        index: i64,
    },
    /// An op reads an op that is not in the definition.
    #[error("invalid missing input digest {digest}")]
    MissingInput {
        /// What it refers to.
        digest: String,
    },
    /// Fewer than two ops.
    #[error("invalid LLB with {count} vertexes")]
    TooSmall {
        /// How many there are.
        count: usize,
    },
    /// The terminal op has no input.
    #[error("invalid LLB with no inputs on last vertex")]
    NoRoot,
    /// An op that says nothing sensible.
    #[error("{0}")]
    Invalid(&'static str),
    /// A passthrough output refers to an input that does not exist.
    #[error("invalid passthrough output input index {index}")]
    PassthroughOutput {
        /// The index given.
        index: i64,
    },
    /// A diff refers to an input that does not exist.
    #[error("invalid diff input index {index}")]
    DiffInput {
        /// The index given.
        index: i64,
    },
    /// An op asks for something we do not know.
    #[error("unknown API capability {id}")]
    Capability {
        /// What it asks for.
        id: String,
    },
    /// A network mode that the proxy network cannot replace.
    #[error("unsupported network mode {mode} with proxy network")]
    ProxyNetwork {
        /// The mode.
        mode: i32,
    },
    /// A graph that is being written was left unfinished.
    #[error("{0}")]
    Build(&'static str),
}

impl Classify for Error {
    fn class(&self) -> Class {
        Class::User
    }
}
