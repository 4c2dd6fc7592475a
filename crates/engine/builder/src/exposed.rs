//! What failed steps left behind, named so that clients can open containers on it.

use std::collections::BTreeMap;
use std::sync::Arc;

use diagnostics::{Detail, Failure};
use oci::Digest;
use ops::{Remains, Value};
use parking_lot::Mutex;
use prost::Message as _;
use proto::{errdefs, pb};

/// Trees by the names clients know them by; they live as long as the build.
#[derive(Default)]
pub(crate) struct Exposed {
    trees: Mutex<BTreeMap<String, Value>>,
}

/// A failed step with its place in a definition.
struct FailedStep {
    remains: Option<Arc<Remains>>,
    op: pb::Op,
    description: BTreeMap<String, String>,
}

/// Remembers which op of a definition a failure is of.
pub(crate) fn placed(failure: Failure, definition: &pb::Definition) -> Failure {
    if failure.is_cancelled() || failure.kept::<FailedStep>().is_some() {
        return failure;
    }
    let vertex = failure.details().iter().find_map(|detail| match detail {
        Detail::Vertex { digest } => Some(digest.clone()),
        _ => None,
    });
    let Some(digest) = vertex else {
        return failure;
    };
    let named = |bytes: &&bytes::Bytes| Digest::of(bytes).as_str() == digest;
    let op = definition.def.iter().find(named);
    let Some(Ok(op)) = op.map(|bytes| pb::Op::decode(bytes.clone())) else {
        return failure;
    };
    let metadata = definition.metadata.get(digest.as_str());
    let step = FailedStep {
        remains: Remains::of(&failure),
        op,
        description: metadata
            .into_iter()
            .flat_map(|metadata| metadata.description.iter())
            .map(|(key, text)| (key.to_owned(), text.clone()))
            .collect(),
    };
    failure.keeping(Arc::new(step))
}

impl Exposed {
    /// The tree with this name.
    pub(crate) fn get(&self, id: &str) -> Option<Value> {
        self.trees.lock().get(id).cloned()
    }

    /// The failure with the names of what its step left; `worker` is the first part of the names.
    pub(crate) fn expose(&self, failure: Failure, worker: &str) -> Failure {
        let known = |detail: &Detail| matches!(detail, Detail::Solve(_));
        if failure.details().iter().any(known) {
            return failure;
        }
        let Some(step) = failure.kept::<FailedStep>() else {
            return failure.with(Detail::Solve(Box::default()));
        };
        let mut solve = errdefs::Solve {
            op: Some(step.op.clone()),
            description: step.description.clone(),
            ..errdefs::Solve::default()
        };
        if let Some(remains) = &step.remains {
            solve.input_ids = self.names(&remains.inputs, worker);
            solve.mount_ids = self.names(&remains.mounts, worker);
            solve.subject = remains.subject;
        }
        failure.with(Detail::Solve(Box::new(solve)))
    }

    fn names(&self, values: &[Option<Value>], worker: &str) -> Vec<String> {
        let mut trees = self.trees.lock();
        let mut name = |value: &Option<Value>| {
            let Some(value) = value else {
                return String::new();
            };
            let tree = value.0.as_ref().map(|tree| tree.id().to_string());
            let name = format!("{worker}::{}", tree.unwrap_or_default());
            trees.insert(name.clone(), value.clone());
            name
        };
        values.iter().map(&mut name).collect()
    }
}
