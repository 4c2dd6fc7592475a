//! The build op: a definition that another step made, built in its place.

use std::io::Read as _;
use std::sync::Arc;

use async_trait::async_trait;
use diagnostics::Failure;
use fault::Classify as _;
use prost::Message as _;
use proto::pb;
use solver::{CacheMap, Work};

use crate::Value;
use crate::combine::cache_map;
use crate::exec_mounts::user;

/// The only builder there is: definitions.
const LLB_BUILDER: i64 = -1;
/// Names the input with the definition.
const DEFINITION_INPUT: &str = "buildkit.llb.definition";
/// Names the file in there.
const FILENAME: &str = "llbbuild.filename";
const DEFAULT_FILENAME: &str = "buildkit.llb.definition";
/// A definition is read into memory as a whole.
const MAX_SIZE: u64 = 128 << 20;

/// Builds definitions within builds.
#[async_trait]
pub trait Nested: Send + Sync {
    /// Builds a definition with the rules and rights of the build that has the step.
    async fn build(&self, work: &Work, definition: pb::Definition) -> Result<Value, Failure>;
}

/// A build op.
pub struct BuildOp {
    op: pb::BuildOp,
    inputs: usize,
    nested: Arc<dyn Nested>,
}

impl BuildOp {
    pub(crate) fn new(op: pb::BuildOp, inputs: usize, nested: Arc<dyn Nested>) -> Self {
        Self { op, inputs, nested }
    }

    pub(crate) fn cache_map(&self) -> CacheMap {
        build_key(&self.op, self.inputs)
    }

    pub(crate) async fn run(&self, work: &Work, inputs: &[Value]) -> Result<Vec<Value>, Failure> {
        if self.op.builder != LLB_BUILDER {
            return Err(user("only LLB builder is currently allowed"));
        }
        let Some(place) = self.op.inputs.get(DEFINITION_INPUT) else {
            return Err(user(format!(
                "no llb definition input {DEFINITION_INPUT} found"
            )));
        };
        let input = usize::try_from(place.input).ok();
        let Some(input) = input.and_then(|index| inputs.get(index)) else {
            return Err(user(format!("invalid index {}", place.input)));
        };
        let name = self
            .op
            .attrs
            .get(FILENAME)
            .map_or(DEFAULT_FILENAME, String::as_str);
        let definition = read(work, input, name).await?;
        Ok(vec![self.nested.build(work, definition).await?])
    }
}

pub(crate) fn build_key(op: &pb::BuildOp, inputs: usize) -> CacheMap {
    cache_map("buildkit.build.v0", "Exec", op, inputs)
}

async fn read(work: &Work, input: &Value, name: &str) -> Result<pb::Definition, Failure> {
    let missing = || user(format!("failed to open {name}: no such file or directory"));
    let Value(Some(tree)) = input else {
        return Err(missing());
    };
    let failed = |err: cache::Error| Failure::from_error(&err);
    tree.ensure(&work.cx, &work.progress)
        .await
        .map_err(failed)?;
    let tree = tree.tree(&work.cx).await.map_err(failed)?;
    let shown = name.to_owned();
    let text = move || {
        let failed = |err: std::io::Error| {
            let why = fstree::errno_text(&err);
            Failure::new(err.class(), format!("failed to open {shown}: {why}"))
                .reclassified(fault::Class::User)
        };
        // The mount behind the tree stays alive through the descriptor.
        let root = fstree::Root::from_borrowed(tree.fd()).map_err(failed)?;
        let file = root.open_file(&shown).map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        if !meta.is_file() {
            return Err(user(format!("{shown} is not a regular file")));
        }
        if meta.len() > MAX_SIZE {
            return Err(user(format!("{shown} is too large for a definition")));
        }
        let mut text = Vec::new();
        file.take(MAX_SIZE).read_to_end(&mut text).map_err(failed)?;
        Ok(text)
    };
    let text = tasks::blocking(text).await?;
    pb::Definition::decode(text.as_slice())
        .map_err(|err| user(format!("failed to read definition {name}: {err}")))
}
