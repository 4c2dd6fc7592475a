//! Why steps run: what the key of each is made of is noted when it ran, and compared with what ran before.
//!
//! Noting costs some microseconds a step and happens always. Comparing happens when somebody asks: a build while it runs
//! ([`Explain::ask`]), whose steps then say in their output why they run; or a person later ([`Explain::past`]).
//!
//! Nothing here is part of a key, and nothing that goes wrong here fails a step.

mod modes;
mod parts;
mod settings;
mod text;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use cachekeys::{Changes, Ended, File, Ingredients, Input, Ledger, Reason, SUM};
use contenthash::Query;
use db::Db;
use oci::Digest;
use progress::{Audience, Stream};
use solver::{Step, Work};

use crate::{Op, Value, Worker};

pub(crate) use parts::part;

/// The memory of what ran.
#[derive(Debug)]
pub struct Explain {
    ledger: Ledger,
    asking: AtomicUsize,
}

/// While it lives, steps say why they run.
#[derive(Debug)]
pub struct Asking(Arc<Explain>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.asking.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A step that ran, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// The vertex, as progress names it.
    pub vertex: String,
    /// What users see.
    pub name: String,
    /// What differed from the nearest earlier step.
    pub reasons: Vec<String>,
}

impl Explain {
    /// Keeps what it needs in `db`, where it has about so many bytes of `room`.
    pub fn new(db: Db, room: u64) -> Self {
        Self {
            ledger: Ledger::new(db, room),
            asking: AtomicUsize::new(0),
        }
    }

    /// Has steps say why they run.
    pub fn ask(self: &Arc<Self>) -> Asking {
        self.asking.fetch_add(1, Ordering::Relaxed);
        Asking(self.clone())
    }

    /// Why those of the given vertices ran that ran in this time. Blocks.
    pub fn past(
        &self,
        from: SystemTime,
        to: SystemTime,
        vertices: &BTreeSet<String>,
    ) -> Vec<Explained> {
        let entries = self.ledger.between(from, to).into_iter();
        let ran = entries.filter(|(_, step)| vertices.contains(step.vertex.as_str()));
        ran.map(|(number, step)| {
            let mut reasons = step.reasons.clone();
            if reasons.is_empty() {
                let found = cachekeys::reasons(&self.ledger, &step, Some(number));
                reasons = found
                    .iter()
                    .map(|reason| self.sentence(reason, None))
                    .collect();
            }
            Explained {
                vertex: step.vertex.to_string(),
                name: step.name,
                reasons,
            }
        })
        .collect()
    }

    /// A reason for people. With the trees of the inputs more can be said of files.
    fn sentence(&self, reason: &Reason, trees: Option<&[Option<Arc<mount::Tree>>]>) -> String {
        let Reason::Content { input, old, new } = reason else {
            return text::reason(reason);
        };
        let lists = (self.ledger.files(old), self.ledger.files(new));
        let (Some(old), Some(new)) = lists else {
            return text::content(*input);
        };
        let changes = Changes::between(&old, &new);
        let tree = trees.and_then(|trees| trees.get(*input)?.as_ref());
        text::files(&changes, |path, sum| {
            tree.and_then(|tree| modes::change(tree, path, sum))
        })
    }
}

/// Notes which files are behind a content key.
pub(crate) async fn note_files(
    worker: &Worker,
    content: &Digest,
    selector: Option<&Digest>,
    value: &Value,
    queries: Vec<Query>,
) {
    let Value(Some(tree)) = value else { return };
    let list = cachekeys::list_name(content, selector);
    if worker.explain.ledger.has_files(&list) {
        return;
    }
    let (explain, tree) = (worker.explain.clone(), tree.clone());
    tasks::blocking(move || {
        let mut files: Vec<File> = tree
            .checksummed(&queries)
            .into_iter()
            .map(|listed| {
                let mut sum = [0; SUM];
                sum.copy_from_slice(&listed.sum.0[..SUM]);
                File {
                    path: listed.path,
                    sum,
                }
            })
            .collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files.dedup_by(|a, b| a.path == b.path);
        explain.ledger.add_files(&list, &files);
    })
    .await;
}

/// A step that runs.
pub(crate) struct Told {
    explain: Arc<Explain>,
    number: u64,
    ingredients: Ingredients,
}

/// Finds out what a step that is about to run is made of, and says why it runs if somebody asks.
pub(crate) async fn begin(op: &Op, work: &Work, inputs: &[Value]) -> Option<Told> {
    let explain = op.worker()?.explain.clone();
    let step = work.step.as_ref()?;
    let mut ingredients = ingredients(op, work, step)?;
    if explain.asking.load(Ordering::Relaxed) > 0 && !matches!(op, Op::Source(_)) {
        ingredients.reasons = reasons(&explain, &ingredients, work, inputs).await;
        let line = format!("explain: {}\n", ingredients.reasons.join("; "));
        work.progress
            .log_for(Audience::Curious, Stream::Stderr, line.into());
    }
    Some(Told {
        number: explain.ledger.next(),
        explain,
        ingredients,
    })
}

impl Told {
    /// The step has ended.
    pub(crate) async fn end(mut self, op: &Op, work: &Work, succeeded: bool) {
        if !succeeded {
            self.ingredients.ended = Ended::Failed;
        }
        if let (Op::Source(source), true) = (op, succeeded) {
            self.ingredients.parts = source.parts(work, &self.ingredients.name).await;
        }
        self.explain.ledger.add(self.number, &self.ingredients);
    }
}

fn ingredients(op: &Op, work: &Work, step: &Step) -> Option<Ingredients> {
    let key = step.keys.first()?;
    // Trees of clients are looked at in every build: there is nothing to explain.
    if key.digest().is_random() {
        return None;
    }
    let inputs = (0..key.inputs().len()).map(|at| Input::of(key, at));
    Some(Ingredients {
        name: step.name.clone(),
        vertex: work.progress.vertex().parse().ok()?,
        digest: key.digest().clone(),
        parts: parts::of(op),
        inputs: inputs.collect(),
        ignored: step.ignores_cache,
        ended: Ended::Kept,
        reasons: Vec::new(),
    })
}

async fn reasons(
    explain: &Arc<Explain>,
    ingredients: &Ingredients,
    work: &Work,
    inputs: &[Value],
) -> Vec<String> {
    let mut trees = Vec::with_capacity(inputs.len());
    for (at, Value(tree)) in inputs.iter().enumerate() {
        let read = ingredients.inputs.get(at);
        let read = read.is_some_and(|input| input.content.is_some());
        trees.push(match tree.as_ref().filter(|_| read) {
            Some(tree) => tree.tree(&work.cx).await.ok(),
            None => None,
        });
    }
    let (explain, ingredients) = (explain.clone(), ingredients.clone());
    tasks::blocking(move || {
        let found = cachekeys::reasons(&explain.ledger, &ingredients, None);
        let sentences = found
            .iter()
            .map(|reason| explain.sentence(reason, Some(&trees)));
        sentences.collect()
    })
    .await
}
