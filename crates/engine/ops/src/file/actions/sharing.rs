//! Copies that give immutable files one more name instead of copying their bytes.

use std::collections::BTreeSet;
use std::path::PathBuf;

use diagnostics::Failure;
use fileop::{SharedInodes, Sharing};
use fstree::Root;
use fstree::copy::LinkedFiles;

use super::super::Open;
use crate::Value;

/// What one copy may share.
pub(super) struct Shared {
    sources: Vec<Root>,
    target: Root,
    used: SharedInodes,
    /// The snapshots that `used` comes from.
    origins: Option<BTreeSet<u64>>,
    linked: Vec<LinkedFiles>,
}

impl Shared {
    /// Whether and what a copy from `source` into `open` may share. A source that the target stands on is none: there
    /// the name would be a second one of the same tree.
    pub(super) fn between(source: &Value, open: &Open) -> Option<Self> {
        let source = source.0.as_ref()?;
        let sources = source.layer_directories().ok()?;
        let mut from = source.shares().origins?;
        from.extend(source.snapshots());
        if let Some(base) = &open.base.0
            && !base.snapshots().is_disjoint(&from)
        {
            return None;
        }
        let target = open.tree.layer_directory().ok()?;
        let kept = open.tree.shares();
        let mut used = SharedInodes::new();
        for bytes in &kept.inodes {
            used.join(SharedInodes::from_bytes(bytes)?);
        }
        let mut origins = kept.origins;
        if let Some(origins) = &mut origins {
            origins.extend(from);
        }
        let open_all =
            |paths: Vec<PathBuf>| paths.into_iter().map(Root::open).collect::<Result<_, _>>();
        Some(Self {
            sources: open_all(sources).ok()?,
            target: Root::open(target).ok()?,
            used,
            origins,
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
            .set_shares(&self.used.to_bytes(), self.origins.as_ref())
            .map_err(|err| Failure::from_error(&err))?;
        open.tree.look_again().await;
        Ok(())
    }
}
