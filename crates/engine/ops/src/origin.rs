//! What a step brings into a build from outside, for those who keep account of it.

use std::sync::Arc;

use ::source::{Asked, Facts, Identifier};
use diagnostics::Failure;
use executor::usage::Samples;
use progress::Progress;
use proto::pb;
use session::Group;
use tasks::Cx;

use crate::Op;

/// What a step takes from outside.
pub enum Origin<'a> {
    /// Nothing: it works on trees of other steps.
    Nothing,
    /// A tree.
    Source {
        /// What the definition calls it.
        id: &'a Identifier,
        /// What it turned out to be.
        facts: Result<Facts, Failure>,
    },
    /// A process, which may be given secrets and a network.
    Process {
        /// What it was asked to run.
        exec: &'a pb::ExecOp,
        /// What it used, if it ran for this build or for one beside it.
        usage: Option<Arc<Samples>>,
    },
    /// What nobody keeps account of.
    Unknown,
}

impl Op {
    /// What this step takes from outside. What the build has resolved before is not asked for again.
    pub async fn origin(&self, cx: &Cx, sessions: &Group) -> Origin<'_> {
        match self {
            Self::Source(op) => {
                let asked = Asked {
                    no_config: true,
                    ..Asked::default()
                };
                let none = Progress::none();
                let facts = match op.instance() {
                    Ok(instance) => {
                        let facts = instance.facts(cx, sessions, &none, &asked).await;
                        facts.map_err(|err| Failure::from_error(&err))
                    }
                    Err(failure) => Err(failure),
                };
                Origin::Source { id: op.id(), facts }
            }
            Self::Exec(op) => Origin::Process {
                exec: &op.op,
                usage: op.account.samples(),
            },
            Self::Build(_) => Origin::Unknown,
            Self::File(_) | Self::Merge(_) | Self::Diff(_) | Self::Passthrough(_) => {
                Origin::Nothing
            }
        }
    }
}
