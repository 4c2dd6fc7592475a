//! Copies that give immutable files one more name instead of copying their bytes.

use std::path::PathBuf;

use diagnostics::Failure;
use fileop::{SharedInodes, Sharing};
use fstree::Root;
use fstree::copy::LinkedFiles;

use super::super::Open;
use crate::Value;

/// Under this key a record keeps which inodes it and the records below it share.
const KEY: &str = "shared-inodes";

/// What one copy may share.
pub(super) struct Shared {
    sources: Vec<Root>,
    target: Root,
    used: SharedInodes,
    linked: Vec<LinkedFiles>,
}

impl Shared {
    /// Whether and what a copy from `source` into `open` may share. A source that the target stands on is none: there
    /// the name would be a second one of the same tree.
    pub(super) fn between(source: &Value, open: &Open) -> Option<Self> {
        let sources = source.0.as_ref()?.layer_directories().ok()?;
        let below = match &open.base.0 {
            Some(base) => base.layer_directories().ok()?,
            None => Vec::new(),
        };
        if sources.iter().any(|layer| below.contains(layer)) {
            return None;
        }
        let target = open.tree.layer_directory().ok()?;
        let kept = open
            .tree
            .meta(KEY)
            .or_else(|| open.tree.chain_meta(KEY).pop());
        let used = match kept {
            Some(bytes) => SharedInodes::from_bytes(&bytes)?,
            None => SharedInodes::new(),
        };
        let open_all =
            |paths: Vec<PathBuf>| paths.into_iter().map(Root::open).collect::<Result<_, _>>();
        Some(Self {
            sources: open_all(sources).ok()?,
            target: Root::open(target).ok()?,
            used,
            linked: Vec::new(),
        })
    }

    /// For the copy.
    pub(super) fn lend(&mut self) -> Sharing<'_> {
        Sharing {
            source_layers: &self.sources,
            target_layer: &self.target,
            used: &mut self.used,
            linked: &mut self.linked,
        }
    }

    /// Remembers what was shared.
    pub(super) async fn keep(self, source: &Value, open: &Open) -> Result<(), Failure> {
        if self.used.is_empty() {
            return Ok(());
        }
        let linked = source.0.as_ref().map(|source| source.linked(self.linked));
        open.tree.set_linked(linked);
        open.tree
            .set_meta(KEY, &self.used.to_bytes())
            .map_err(|err| Failure::from_error(&err))?;
        open.tree.look_again().await;
        Ok(())
    }
}
