//! Ops that make trees out of trees without touching files: merge, diff, passthrough.

use std::sync::Arc;

use cache::RecordOptions;
use diagnostics::Failure;
use oci::Digest;
use prost::{Message, Name};
use proto::{gojson, pb};
use solver::{CacheMap, Work};

use crate::exec_mounts::user;
use crate::json::Object;
use crate::{Value, Worker, plain_inputs};

/// The cache map of an op of which only the text of its definition counts.
pub(crate) fn cache_map<M: Message + Name>(
    kind: &str,
    field: &str,
    op: &M,
    inputs: usize,
) -> CacheMap {
    let mut json = Object::new();
    json.string("Type", kind);
    json.raw(field, &gojson::to_string(op));
    CacheMap {
        digest: Digest::of(json.finish()),
        inputs: plain_inputs(inputs),
        done: true,
    }
}

/// A merge op.
pub struct MergeOp {
    worker: Arc<Worker>,
    /// What users see.
    name: String,
    op: pb::MergeOp,
    inputs: usize,
}

impl MergeOp {
    pub(crate) fn new(
        worker: Arc<Worker>,
        name: &str,
        op: pb::MergeOp,
        inputs: usize,
    ) -> Result<Self, Failure> {
        let known =
            |input: &pb::MergeInput| usize::try_from(input.input).is_ok_and(|index| index < inputs);
        if op.inputs.len() < 2 {
            return Err(user("merge op must have at least 2 inputs"));
        }
        if !op.inputs.iter().all(known) {
            return Err(user("merge op names an input that is not there"));
        }
        Ok(Self {
            worker,
            name: name.to_owned(),
            op,
            inputs,
        })
    }

    pub(crate) fn worker(&self) -> &Worker {
        &self.worker
    }

    pub(crate) fn cache_map(&self) -> CacheMap {
        merge_key(&self.op, self.inputs)
    }

    pub(crate) fn run(&self, inputs: &[Value]) -> Result<Vec<Value>, Failure> {
        let mut trees = Vec::new();
        for input in &self.op.inputs {
            let index = usize::try_from(input.input).unwrap_or(usize::MAX);
            trees.extend(inputs.get(index).and_then(|value| value.0.clone()));
        }
        let merged = self
            .worker
            .cache
            .merge(&trees, described(&self.name))
            .map_err(|err| Failure::from_error(&err))?;
        Ok(vec![Value(merged)])
    }
}

pub(crate) fn merge_key(op: &pb::MergeOp, inputs: usize) -> CacheMap {
    cache_map("buildkit.merge.v0", "Merge", op, inputs)
}

/// A diff op.
pub struct DiffOp {
    worker: Arc<Worker>,
    /// What users see.
    name: String,
    op: pb::DiffOp,
    inputs: usize,
}

impl DiffOp {
    pub(crate) fn new(
        worker: Arc<Worker>,
        name: &str,
        op: pb::DiffOp,
        inputs: usize,
    ) -> Result<Self, Failure> {
        let (Some(lower), Some(upper)) = (&op.lower, &op.upper) else {
            return Err(user("diff op must have lower and upper input"));
        };
        // Compat: inputs are taken in order, whatever the numbers say.
        let needed = usize::from(lower.input != SCRATCH) + usize::from(upper.input != SCRATCH);
        if needed > inputs {
            return Err(user(format!(
                "invalid input index for diff op with {inputs} inputs"
            )));
        }
        Ok(Self {
            worker,
            name: name.to_owned(),
            op,
            inputs,
        })
    }

    pub(crate) fn worker(&self) -> &Worker {
        &self.worker
    }

    pub(crate) fn cache_map(&self) -> CacheMap {
        diff_key(&self.op, self.inputs)
    }

    pub(crate) async fn run(&self, work: &Work, inputs: &[Value]) -> Result<Vec<Value>, Failure> {
        let mut inputs = inputs.iter();
        let mut side = |wanted: bool| {
            if wanted {
                inputs.next().and_then(|value| value.0.as_ref())
            } else {
                None
            }
        };
        let lower = side(self.op.lower.is_some_and(|it| it.input != SCRATCH));
        let upper = side(self.op.upper.is_some_and(|it| it.input != SCRATCH));
        let cache = &self.worker.cache;
        let made = cache
            .diff(
                &work.cx,
                lower,
                upper,
                described(&self.name),
                &work.progress,
            )
            .await
            .map_err(|err| Failure::from_error(&err))?;
        Ok(vec![Value(made)])
    }
}

pub(crate) fn diff_key(op: &pb::DiffOp, inputs: usize) -> CacheMap {
    cache_map("buildkit.diff.v0", "Diff", op, inputs)
}

/// An input that is not there.
const SCRATCH: i64 = -1;

fn described(description: &str) -> RecordOptions {
    RecordOptions {
        description: description.to_owned(),
        ..RecordOptions::default()
    }
}

/// A passthrough op: its inputs again, under a key of their own.
pub struct PassthroughOp {
    op: pb::PassthroughOp,
    inputs: usize,
}

impl PassthroughOp {
    pub(crate) fn new(op: pb::PassthroughOp, inputs: usize) -> Result<Self, Failure> {
        if op.outputs.is_empty() {
            return Err(user("passthrough op must have at least one output"));
        }
        for index in &op.outputs {
            if !usize::try_from(*index).is_ok_and(|index| index < inputs) {
                return Err(user(format!(
                    "invalid passthrough output input index {index}"
                )));
            }
        }
        Ok(Self { op, inputs })
    }

    pub(crate) fn cache_map(&self) -> CacheMap {
        passthrough_key(&self.op, self.inputs)
    }

    pub(crate) fn run(&self, inputs: &[Value]) -> Vec<Value> {
        let input = |index: &i64| {
            let index = usize::try_from(*index).unwrap_or(usize::MAX);
            inputs.get(index).cloned().unwrap_or_default()
        };
        self.op.outputs.iter().map(input).collect()
    }
}

pub(crate) fn passthrough_key(op: &pb::PassthroughOp, inputs: usize) -> CacheMap {
    cache_map("buildkit.passthrough.v0", "Passthrough", op, inputs)
}
