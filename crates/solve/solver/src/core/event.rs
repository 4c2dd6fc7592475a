//! What the scheduler is told and what it wants done. All of it can be written down as text.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use cachekeys::{Alternative, Found, Key, NodeId, Record};
use oci::Digest;
use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub(crate) struct $name(pub(crate) $inner);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", stringify!($name), self.0)
            }
        }
    };
}

number!(
    /// A vertex of the shared graph, while it lives.
    VertexId(u64)
);
number!(
    /// An output of such a vertex.
    EdgeId(u64)
);
number!(
    /// A job. Never used twice.
    JobId(u64)
);
number!(
    /// A wish of a job for an edge's result. Never used twice.
    WantId(u64)
);
number!(
    /// Something that was asked for and will be answered once. Never used twice.
    Ticket(u64)
);

/// A map whose keys are such numbers. They come from us, so nobody can make them collide.
pub(crate) type ByNumber<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;

/// Spreads numbers over a hash table.
#[derive(Default)]
pub(crate) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// A value or a failure, which the scheduler only passes on. In texts only its number is seen.
#[derive(Clone)]
pub(crate) struct Handle {
    number: u64,
    payload: Arc<dyn Any + Send + Sync>,
}

impl Handle {
    pub(crate) fn new<T: Send + Sync + 'static>(number: u64, payload: T) -> Self {
        Self {
            number,
            payload: Arc::new(payload),
        }
    }

    /// What it stands for. Empty if it came from a text.
    pub(crate) fn payload<T: 'static>(&self) -> Option<&T> {
        self.payload.downcast_ref()
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.number)
    }
}

impl PartialEq for Handle {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Serialize for Handle {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.number.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Handle {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::new(u64::deserialize(deserializer)?, ()))
    }
}

/// An entry of a graph that a job loads. Inputs are (entry, output), and come before whoever uses them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Entry {
    /// The job has it already.
    Known(VertexId),
    /// To be joined or opened.
    New {
        digest: Digest,
        inputs: Vec<(u32, u32)>,
        ignore_cache: bool,
    },
}

/// One answer about the definition key of a vertex.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct MapAnswer {
    pub(crate) digest: Digest,
    pub(crate) inputs: Vec<MapInput>,
    pub(crate) done: bool,
}

/// The part of it that concerns one input.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct MapInput {
    pub(crate) selector: Option<Digest>,
    pub(crate) content: bool,
    pub(crate) prepare: bool,
}

/// The only way the scheduler's state changes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Event {
    /// A job loads a graph.
    Load { job: JobId, entries: Vec<Entry> },
    /// These vertices may look into more stores from now on.
    Refresh { vertices: Vec<VertexId> },
    /// A job wants a result.
    Want {
        want: WantId,
        job: JobId,
        vertex: VertexId,
        output: u32,
    },
    /// It no longer does.
    Unwant { want: WantId },
    /// A job is over.
    JobGone { job: JobId },
    /// An answer about a definition key.
    Map { ticket: Ticket, answer: MapAnswer },
    /// An input is prepared, and its content key known if there is one.
    Content {
        ticket: Ticket,
        digest: Option<Digest>,
    },
    /// An operation has run.
    Ran {
        ticket: Ticket,
        outputs: Vec<Handle>,
    },
    /// A result was loaded, or is gone.
    Loaded {
        ticket: Ticket,
        value: Option<Handle>,
    },
    /// Work for which there is no other answer failed or was stopped. `stray`: it says it was stopped, though perhaps
    /// not by us.
    Failed {
        ticket: Ticket,
        failure: Handle,
        stray: bool,
    },
    /// The nodes a query led to.
    Found { ticket: Ticket, nodes: Vec<Found> },
    /// The records under a key.
    Records {
        ticket: Ticket,
        records: Vec<Record>,
    },
    /// The stores know an equal step under one of the keys, which has this node.
    Confirmed {
        ticket: Ticket,
        hit: Option<(usize, NodeId)>,
        records: Vec<Record>,
    },
    /// A result was saved under keys, whose nodes these are. Without a record: it could not be.
    Saved {
        ticket: Ticket,
        nodes: Vec<NodeId>,
        record: Option<Record>,
    },
    /// Every question that could be answered at once has been: what nobody needs now is to be stopped.
    Quiet,
}

/// What became of a wish.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    Built { value: Handle, keys: Vec<Key> },
    Failed(Handle),
}

/// What the scheduler wants done.
#[derive(Debug, Clone)]
pub(crate) enum Effect {
    /// The vertices of a loaded graph, in the order of its entries.
    Loaded {
        job: JobId,
        vertices: Vec<LoadedVertex>,
    },
    /// From now on a job has a vertex; `shown`: because it asked for it, not because of an equal one.
    Join {
        vertex: VertexId,
        job: JobId,
        shown: bool,
    },
    /// It no longer has.
    Leave { vertex: VertexId, job: JobId },
    /// `of` does the work of `vertex` as well.
    Absorb { vertex: VertexId, of: VertexId },
    /// A vertex is gone.
    Close { vertex: VertexId },
    /// Ask an operation for an answer about its definition key.
    Map {
        ticket: Ticket,
        vertex: VertexId,
        index: usize,
    },
    /// Prepare an input and compute its content key.
    Content {
        ticket: Ticket,
        vertex: VertexId,
        input: usize,
        /// The vertex the input is from.
        from: VertexId,
        value: Handle,
        flags: MapInput,
    },
    /// Run an operation.
    Run {
        ticket: Ticket,
        vertex: VertexId,
        inputs: Vec<Handle>,
        /// What the result will be known by.
        keys: Vec<Key>,
        ignores_cache: bool,
    },
    /// Load a result.
    Load {
        ticket: Ticket,
        vertex: VertexId,
        key: Key,
        record: Record,
    },
    /// Stop work. It is answered nevertheless.
    Cancel { ticket: Ticket },
    /// Ask the stores which nodes follow from an input.
    Query {
        ticket: Ticket,
        vertex: VertexId,
        question: Question,
    },
    /// Ask the stores which records are under a key.
    Records {
        ticket: Ticket,
        vertex: VertexId,
        key: Key,
    },
    /// Ask the main store whether an equal step has been saved by now.
    Confirm { ticket: Ticket, keys: Vec<Key> },
    /// An operation made fewer outputs than are wanted: answer with a failure.
    Missing {
        ticket: Ticket,
        output: u32,
        outputs: usize,
    },
    /// Save a result under keys.
    Save {
        ticket: Ticket,
        vertex: VertexId,
        keys: Vec<Key>,
        value: Handle,
    },
    /// Teach the main store further ways the inputs of saved results are known by.
    Teach { keys: Vec<Key> },
    /// Answer a wish.
    Answer { want: WantId, outcome: Outcome },
}

/// What became of an entry of a loaded graph.
#[derive(Debug, Clone)]
pub(crate) struct LoadedVertex {
    pub(crate) id: VertexId,
    /// The digest it is known by.
    pub(crate) digest: Digest,
    /// It was not there before.
    pub(crate) fresh: bool,
}

/// What a query asks.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) ways: Vec<Alternative>,
    pub(crate) taught: Vec<Alternative>,
    pub(crate) input: usize,
    pub(crate) output: usize,
    pub(crate) digest: Digest,
}
