//! Documents that are not written yet, and those that nobody waits for.
//!
//! A draft holds no tree: who prunes after a build finds nothing of it in use.

use std::collections::BTreeMap;
use std::sync::Arc;

use diagnostics::Failure;
use history::Statement;
use ops::{Edge, Value, Worker};
use proto::pb;
use provenance::{Capture, Environment, Options, Predicate, Steps};
use solver::Built;

use super::layers::{Known, KnownLayers};
use super::{Made, Times, refused};

/// What a document about a result is made of.
pub(super) struct Draft {
    pub(super) capture: Capture,
    pub(super) options: Options,
    pub(super) environment: Arc<Environment>,
    pub(super) compatibility: u32,
    /// How the result is made, for documents that tell it step by step.
    pub(super) steps: Option<(Arc<pb::Definition>, Known)>,
}

impl Draft {
    /// The document but for the time and the layers.
    pub(super) async fn predicate(self) -> Result<(Predicate, Option<KnownLayers>), Failure> {
        let made = Predicate::new(&self.capture, &self.options, &self.environment);
        let mut predicate = made.map_err(|err| refused(&err))?;
        predicate.set_compatibility(self.compatibility);
        let Some((definition, known)) = self.steps else {
            return Ok((predicate, None));
        };
        let usage = match self.options.capture_usage {
            true => self.capture.usage,
            false => BTreeMap::new(),
        };
        tasks::blocking(move || {
            let mut steps = Steps::new(&definition)?;
            steps.add_usage(&usage);
            let steps = Arc::new(steps);
            predicate.add_steps(&definition, &steps)?;
            Ok((predicate, Some(KnownLayers::new(known, steps))))
        })
        .await
        .map_err(|err: provenance::Error| Failure::from_error(&err))
    }
}

/// What goes on record about the results of a build, to be written when its client has its answer.
#[derive(Default)]
pub(crate) struct Drafts(Vec<(String, Draft, Arc<Times>)>);

impl Drafts {
    /// Adds a document about the result for a platform; empty: the only result.
    pub(super) fn add(&mut self, platform: String, draft: Draft, times: &Arc<Times>) {
        // That is when it was done, however long writing takes.
        times.run();
        self.0.push((platform, draft, times.clone()));
    }

    /// Writes them. A record that lacks one is better than none.
    pub(crate) async fn write(self) -> Vec<Statement> {
        let mut written = Vec::with_capacity(self.0.len());
        for (platform, draft, times) in self.0 {
            let kind = draft.options.version.predicate_type().to_owned();
            let with_usage = draft.options.capture_usage;
            let document = async {
                let (predicate, layers) = draft.predicate().await?;
                let made = Made {
                    predicate,
                    layers,
                    times,
                    with_usage,
                };
                let document = made.write().await;
                document.map_err(|err| Failure::from_error(&err))
            };
            match document.await {
                Ok(document) => written.push(Statement {
                    platform,
                    kind,
                    predicate: document.to_vec(),
                }),
                Err(err) => {
                    let error = err.text();
                    tracing::warn!(error, "no provenance for the record of a build");
                }
            }
        }
        written
    }
}

impl Known {
    /// What a computed result is known by.
    pub(super) fn of(worker: &Arc<Worker>, built: &Built<Value>, edge: &Edge) -> Self {
        Self {
            worker: worker.clone(),
            // All keys have the same above them.
            keys: built.keys.first().cloned().into_iter().collect(),
            stores: built.stores.clone(),
            edge: edge.clone(),
        }
    }
}
