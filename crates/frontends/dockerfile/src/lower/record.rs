//! What the lowering keeps per stage, image or context.

use std::ops::Deref;
use std::sync::Arc;

use dockerfile_syntax::{Instruction, Span};
use llb::build::State;
use oci::Platform;

use crate::image::Image;
use crate::named::NamedContext;

use super::outline::RecordOutline;

/// A stage of the file, or an image or context that something is taken from.
#[derive(Debug, Default)]
pub(super) struct Record<'f> {
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
    pub(super) steps: Vec<Step<'f>>,
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
    /// The image of the result is made of it. What only such an image says of others is left out.
    pub(super) in_result: bool,
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
#[derive(Debug)]
pub(super) struct Step<'f> {
    pub(super) instruction: Said<'f>,
    /// Records it takes from: one for COPY --from, one per mount for RUN.
    pub(super) sources: Vec<usize>,
}

/// What an instruction is read from.
#[derive(Debug)]
pub(super) enum Said<'f> {
    /// The file.
    File(&'f Instruction),
    /// A trigger of the base.
    Trigger(Box<Instruction>),
}

impl Deref for Said<'_> {
    type Target = Instruction;

    fn deref(&self) -> &Instruction {
        match self {
            Self::File(instruction) => instruction,
            Self::Trigger(instruction) => instruction,
        }
    }
}

/// An argument of a stage.
#[derive(Debug, Clone)]
pub(super) struct Arg {
    pub(super) name: Arc<str>,
    pub(super) value: Option<Arc<str>>,
}

impl Record<'_> {
    /// Notes that `other` is needed for an instruction at `span`.
    pub(super) fn link(&mut self, other: usize, span: Span) {
        match self.links.iter_mut().find(|(at, _)| *at == other) {
            Some(known) => known.1 = span,
            None => self.links.push((other, span)),
        }
    }
}
