//! The file op: a chain of file actions on trees.
//!
//! Each action works on the result of another action or on an input. A result that only the next action uses is
//! changed in place; everything else is committed first.

mod actions;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use cache::{MutableRef, RecordOptions};
use diagnostics::Failure;
use proto::pb;
use solver::Work;

use crate::exec_mounts::user;
use crate::file_key::FileKey;
use crate::{Remains, Value, Worker};

/// A file op.
pub struct FileOp {
    pub(crate) worker: Arc<Worker>,
    /// What users see.
    name: String,
    pub(crate) op: pb::FileOp,
    pub(crate) inputs: usize,
}

/// Where an action takes a tree from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Nothing,
    Input(usize),
    Action(usize),
}

impl FileOp {
    /// Checks that all indexes point backwards.
    pub(crate) fn new(
        worker: Arc<Worker>,
        name: &str,
        op: pb::FileOp,
        inputs: usize,
    ) -> Result<Self, Failure> {
        let op = Self {
            worker,
            name: name.to_owned(),
            op,
            inputs,
        };
        for (index, action) in op.op.actions.iter().enumerate() {
            for place in [action.input, action.secondary_input] {
                if let From::Action(earlier) = op.from(place)
                    && earlier >= index
                {
                    return Err(user(format!(
                        "invalid input index {place} of file action {index}"
                    )));
                }
            }
            if action.action.is_none() {
                return Err(user("no support for <nil>"));
            }
        }
        Ok(op)
    }

    /// What its keys depend on.
    pub(crate) fn key(&self) -> FileKey<'_> {
        FileKey {
            op: &self.op,
            inputs: self.inputs,
        }
    }

    fn from(&self, index: i64) -> From {
        match usize::try_from(index) {
            Err(_) => From::Nothing,
            Ok(index) if index < self.inputs => From::Input(index),
            Ok(index) => From::Action(index - self.inputs),
        }
    }

    /// How many other actions and outputs use the result of action `index`.
    fn users(&self, index: usize) -> usize {
        let used = |place: i64| usize::from(self.from(place) == From::Action(index));
        let by_actions: usize = self
            .op
            .actions
            .iter()
            .map(|action| used(action.input) + used(action.secondary_input))
            .sum();
        by_actions + usize::from(self.op.actions[index].output >= 0)
    }

    /// Runs all actions, in order.
    pub(crate) async fn run(&self, work: &Work, inputs: &[Value]) -> Result<Vec<Value>, Failure> {
        let mut states: Vec<State> = Vec::with_capacity(self.op.actions.len());
        for (index, action) in self.op.actions.iter().enumerate() {
            let state = match self.step(work, inputs, &mut states, action).await {
                Ok(state) => state,
                Err((err, left)) => {
                    return Err(self.failed(index, inputs, &states, err, left).await);
                }
            };
            let state = if self.users(index) == 1 && action.output < 0 {
                state
            } else {
                state.committed(work, &self.name).await?
            };
            states.push(state);
        }
        let mut outputs: Vec<(i64, Value)> = Vec::new();
        for (action, state) in self.op.actions.iter().zip(states) {
            if action.output >= 0
                && let State::Done(value) = state
            {
                outputs.push((action.output, value));
            }
        }
        outputs.sort_by_key(|(index, _)| *index);
        Ok(outputs.into_iter().map(|(_, value)| value).collect())
    }

    async fn step(
        &self,
        work: &Work,
        inputs: &[Value],
        states: &mut [State],
        action: &pb::FileAction,
    ) -> Result<State, (Failure, Option<Box<Open>>)> {
        let open = self.prepared(work, inputs, states, action).await;
        let (open, second) = open.map_err(|err| (err, None))?;
        match actions::apply(self, work, inputs, &open, &second, action).await {
            Ok(()) => Ok(State::Open(Box::new(open))),
            Err(err) => Err((err, Some(Box::new(open)))),
        }
    }

    /// The failure of an action, with the state it left its tree in.
    async fn failed(
        &self,
        index: usize,
        inputs: &[Value],
        states: &[State],
        failure: Failure,
        left: Option<Box<Open>>,
    ) -> Failure {
        if failure.is_cancelled() {
            return failure;
        }
        let mut results: Vec<Option<Value>> = states.iter().map(State::value).collect();
        results.resize(self.op.actions.len(), None);
        if let Some(open) = left {
            // The step is over, and so may be what it could be cancelled by.
            match open.tree.commit(&tasks::Cx::root(), &self.name).await {
                Ok(tree) => results[index] = Some(Value(Some(tree))),
                Err(err) => {
                    tracing::warn!(error = %fault::chain(&err), "state of a failed step is lost");
                }
            }
        }
        Remains::of_action(index, inputs, results).of_failed(failure)
    }

    /// The tree an action changes, and the one it reads.
    async fn prepared(
        &self,
        work: &Work,
        inputs: &[Value],
        states: &mut [State],
        action: &pb::FileAction,
    ) -> Result<(Open, Value), Failure> {
        let open = match self.from(action.input) {
            From::Action(index) => match std::mem::replace(&mut states[index], State::Taken) {
                State::Open(open) => *open,
                State::Done(value) => {
                    let open = self.open(work, &value).await?;
                    states[index] = State::Done(value);
                    open
                }
                State::Taken => return Err(user("a file action's result is used twice")),
            },
            From::Input(index) => {
                let value = inputs.get(index).cloned().unwrap_or_default();
                self.open(work, &value).await?
            }
            From::Nothing => self.open(work, &Value(None)).await?,
        };
        let second = match self.from(action.secondary_input) {
            From::Nothing => Value(None),
            From::Input(index) => inputs.get(index).cloned().unwrap_or_default(),
            From::Action(index) => {
                let state = std::mem::replace(&mut states[index], State::Taken)
                    .committed(work, &self.name)
                    .await?;
                let value = state
                    .value()
                    .ok_or_else(|| user("a file action's result is used twice"))?;
                states[index] = state;
                value
            }
        };
        Ok((open, second))
    }

    async fn open(&self, work: &Work, parent: &Value) -> Result<Open, Failure> {
        let options = RecordOptions {
            description: self.name.clone(),
            ..RecordOptions::default()
        };
        let tree = self
            .worker
            .cache
            .new_mutable(&work.cx, parent.0.as_ref(), options)
            .await
            .map_err(|err| Failure::from_error(&err))?;
        Ok(Open {
            tree,
            base: parent.clone(),
            mounted: AtomicBool::new(false),
        })
    }
}

/// A tree being written to.
pub(crate) struct Open {
    tree: MutableRef,
    /// What it stands on.
    base: Value,
    /// Somebody looked at the whole tree.
    mounted: AtomicBool,
}

/// The tree of an action.
enum State {
    /// Can still be written to.
    Open(Box<Open>),
    /// Committed.
    Done(Value),
    /// The next action works on it.
    Taken,
}

impl State {
    async fn committed(self, work: &Work, description: &str) -> Result<Self, Failure> {
        match self {
            Self::Open(open) => {
                let tree = open
                    .tree
                    .commit(&work.cx, description)
                    .await
                    .map_err(|err| Failure::from_error(&err))?;
                Ok(Self::Done(Value(Some(tree))))
            }
            other => Ok(other),
        }
    }

    fn value(&self) -> Option<Value> {
        match self {
            Self::Done(value) => Some(value.clone()),
            Self::Open(..) | Self::Taken => None,
        }
    }
}
