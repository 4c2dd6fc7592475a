//! The graph under construction: nodes shared by states, and how they are written.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use proto::pb;

use super::exec::Exec;
use super::file::Actions;
use super::options::Options;

/// An op that is being written.
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) options: Options,
}

pub(super) enum Kind {
    Source {
        identifier: String,
        attrs: BTreeMap<String, String>,
        caps: Vec<&'static str>,
    },
    Exec(Box<Exec>),
    File(Actions),
    Merge(Vec<Output>),
    Diff {
        lower: Option<Output>,
        upper: Option<Output>,
    },
    /// A definition another op makes, built in its place.
    Build {
        definition: Output,
        filename: String,
    },
    /// Trees under a name of their own.
    Passthrough {
        id: String,
        trees: Vec<Output>,
    },
    /// An op that was written before.
    Written {
        bytes: Bytes,
        inputs: Vec<Output>,
        metadata: Box<pb::OpMetadata>,
    },
    /// Left behind when a node is taken apart.
    Gone,
}

/// What an op makes.
#[derive(Clone)]
pub struct Output(Target);

#[derive(Clone)]
enum Target {
    Of { node: Arc<Node>, index: u32 },
    Later(Arc<OnceLock<Option<Output>>>),
}

/// An output that is not known yet. See [`super::State::later`].
#[derive(Clone)]
pub struct Later(Arc<OnceLock<Option<Output>>>);

impl Later {
    pub(super) fn new() -> (Self, Output) {
        let cell = Arc::new(OnceLock::new());
        (Self(cell.clone()), Output(Target::Later(cell)))
    }

    /// Says what it is. The first answer counts.
    pub fn set(&self, state: &super::State) {
        // A second answer would change graphs that were written already.
        let _ = self.0.set(state.output().cloned());
    }
}

impl Output {
    pub(super) fn new(node: Arc<Node>, index: u32) -> Self {
        Self(Target::Of { node, index })
    }

    /// The op and the number of its output; `None` for an empty tree, or when a later output was never set.
    pub(super) fn resolve(&self) -> Option<(&Arc<Node>, u32)> {
        let mut output = self;
        loop {
            match &output.0 {
                Target::Of { node, index } => return Some((node, *index)),
                Target::Later(cell) => output = cell.get()?.as_ref()?,
            }
        }
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.resolve() {
            Some((node, index)) => write!(f, "{:p}@{index}", Arc::as_ptr(node)),
            None => f.write_str("unset"),
        }
    }
}

impl fmt::Debug for Later {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Later")
    }
}

impl Kind {
    /// Shows what the op reads, in the order in which a definition lists it.
    pub(super) fn each_input<'a>(&'a self, mut see: impl FnMut(&'a Output)) {
        match self {
            Self::Source { .. } | Self::Gone => {}
            Self::Exec(exec) => exec.inputs().for_each(see),
            Self::File(file) => file.inputs().for_each(see),
            Self::Merge(inputs)
            | Self::Written { inputs, .. }
            | Self::Passthrough { trees: inputs, .. } => inputs.iter().for_each(see),
            Self::Build { definition, .. } => see(definition),
            Self::Diff { lower, upper } => lower.iter().chain(upper).for_each(see),
        }
    }
}

impl Drop for Node {
    /// A chain of 100,000 ops must not be dropped by recursion.
    fn drop(&mut self) {
        let mut stack = Vec::new();
        std::mem::replace(&mut self.kind, Kind::Gone).put_inputs(&mut stack);
        while let Some(output) = stack.pop() {
            match output.0 {
                Target::Of { node, .. } => {
                    if let Some(mut node) = Arc::into_inner(node) {
                        std::mem::replace(&mut node.kind, Kind::Gone).put_inputs(&mut stack);
                    }
                }
                Target::Later(cell) => {
                    let inner = Arc::into_inner(cell).and_then(OnceLock::into_inner);
                    stack.extend(inner.flatten());
                }
            }
        }
    }
}

impl Kind {
    fn put_inputs(self, stack: &mut Vec<Output>) {
        match self {
            Self::Source { .. } | Self::Gone => {}
            Self::Exec(exec) => exec.put_inputs(stack),
            Self::File(file) => file.put_inputs(stack),
            Self::Merge(inputs)
            | Self::Written { inputs, .. }
            | Self::Passthrough { trees: inputs, .. } => stack.extend(inputs),
            Self::Build { definition, .. } => stack.push(definition),
            Self::Diff { lower, upper } => stack.extend(lower.into_iter().chain(upper)),
        }
    }
}
