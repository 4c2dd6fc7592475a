//! What a failed step leaves behind, for those who want to look into it.

use std::sync::Arc;

use diagnostics::Failure;
use proto::errdefs::{ContentCache, FileAction, solve::Subject};

use crate::Value;

/// Trees of a failed step. They live as long as its failure, or whoever took them over.
#[derive(Debug, Clone, Default)]
pub struct Remains {
    /// The input of each mount, or of the action; `None` where there is none.
    pub inputs: Vec<Option<Value>>,
    /// The state of each mount, or the result of each action.
    pub mounts: Vec<Option<Value>>,
    /// Which part of the step failed.
    pub subject: Option<Subject>,
}

impl Remains {
    /// What a failure left.
    pub fn of(failure: &Failure) -> Option<Arc<Self>> {
        failure.kept()
    }

    /// The failure with this.
    pub(crate) fn of_failed(self, failure: Failure) -> Failure {
        if failure.is_cancelled() {
            return failure;
        }
        failure.keeping(Arc::new(self))
    }

    /// Of a step whose input `index` cannot be read.
    pub(crate) fn of_input(index: usize, value: &Value) -> Self {
        Self {
            inputs: vec![Some(value.clone())],
            mounts: Vec::new(),
            subject: Some(Subject::Cache(ContentCache {
                index: i64::try_from(index).unwrap_or(i64::MAX),
            })),
        }
    }

    /// Of a step of many actions.
    pub(crate) fn of_action(index: usize, inputs: &[Value], results: Vec<Option<Value>>) -> Self {
        Self {
            inputs: inputs.iter().cloned().map(Some).collect(),
            mounts: results,
            subject: Some(Subject::File(FileAction {
                index: i64::try_from(index).unwrap_or(i64::MAX),
            })),
        }
    }
}
