//! What the lowering keeps per stage, image or context.

use std::collections::BTreeSet;
use std::sync::Arc;

use dockerfile_syntax::{Instruction, Span};
use llb::build::State;
use oci::Platform;

use crate::image::Image;
use crate::named::NamedContext;

use super::outline::RecordOutline;

/// A stage of the file, or an image or context that something is taken from.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// Name given in the file; empty for none.
    pub(super) name: String,
    /// Name shown to users.
    pub(super) display: String,
    /// What it starts from, expanded; later the full reference.
    pub(super) base: String,
    /// What its comments say about it.
    pub(super) doc: String,
    /// FROM as written; empty if there is none.
    pub(super) text: String,
    pub(super) span: Span,
    pub(super) steps: Vec<Step>,
    /// The stage it is based on.
    pub(super) extends: Option<usize>,
    /// Records it takes from, with the lines of the last instruction that does.
    pub(super) links: Vec<(usize, Span)>,
    pub(super) named: Option<NamedContext>,
    /// No stage of the file.
    pub(super) external: bool,

    pub(super) platform: Option<Platform>,
    pub(super) state: State,
    pub(super) image: Image,
    /// The config of the image below, as it was read.
    pub(super) base_image: Option<Arc<Image>>,
    /// Its base is looked up.
    pub(super) resolved: bool,
    /// The triggers of the stage it is based on are taken over.
    pub(super) triggered: bool,
    /// Its instructions have run, or it has none to run.
    pub(super) done: bool,
    pub(super) args: Vec<Arg>,
    /// What it can be told, found while its instructions run.
    pub(super) outline: RecordOutline,
    /// Paths it uses of the main context.
    pub(super) context_paths: BTreeSet<String>,
    /// Index of the set of paths that are used of it.
    pub(super) paths: usize,
    pub(super) ignore_cache: bool,
    /// How many named steps it has, and how many were named.
    pub(super) total: usize,
    pub(super) named_steps: usize,
    pub(super) on_trigger: bool,
    pub(super) workdir_set: bool,
    pub(super) scan_context: bool,
    pub(super) scan_stage: bool,
    /// Where CMD, ENTRYPOINT and HEALTHCHECK were given last.
    pub(super) cmd_at: Option<Span>,
    pub(super) entrypoint_at: Option<Span>,
    pub(super) healthcheck_at: Option<Span>,
}

/// An instruction to run.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) instruction: Arc<Instruction>,
    /// Records it takes from: one for COPY --from, one per mount for RUN.
    pub(super) sources: Vec<usize>,
    /// It came from ONBUILD.
    pub(super) trigger: bool,
}

/// An argument of a stage.
#[derive(Debug, Clone)]
pub(super) struct Arg {
    pub(super) name: Arc<str>,
    pub(super) value: Option<Arc<str>>,
}

impl Record {
    /// Notes that `other` is needed for an instruction at `span`.
    pub(super) fn link(&mut self, other: usize, span: Span) {
        match self.links.iter_mut().find(|(at, _)| *at == other) {
            Some(known) => known.1 = span,
            None => self.links.push((other, span)),
        }
    }
}
