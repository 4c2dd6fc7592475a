//! Records made of others: merges and differences.
//!
//! With a layered snapshotter they cost nothing: a merge is a longer list of directories, a difference a shorter one.
//! Only a difference between trees that do not stand on each other has to be computed, and becomes a layer on top of
//! the lower one. A snapshotter of whole trees gets a tree of its own for each, when somebody asks for it.

use std::collections::HashSet;
use std::sync::Arc;

use db::Batch;
use fstree::Root;
use layer::{Change, Compression, Options, Target};
use oci::Descriptor;
use progress::Progress;
use snapshot::Chain;
use tasks::Cx;

use crate::fresh::Fresh;
use crate::node::Node;
use crate::record::{Body, Record, to_nanos};
use crate::{Cache, Error, Inner, RecordOptions, Ref, RefId};

impl Cache {
    /// Puts refs on top of each other, the first one lowest. Files of later ones hide those of earlier ones, deletions
    /// included. `None` for nothing at all.
    pub fn merge(&self, refs: &[Ref], options: RecordOptions) -> Result<Option<Ref>, Error> {
        match refs {
            [] => Ok(None),
            [one] => Ok(Some(one.clone())),
            many => self
                .combine(Body::Merge { snapshot: None }, many, options)
                .map(Some),
        }
    }

    /// What has to be done to `lower` to make it `upper`, as a tree of its own. `None` when that is nothing. The layers
    /// that `upper` has on top of `lower` where there are such; otherwise the trees are fetched and compared.
    pub async fn diff(
        &self,
        cx: &Cx,
        lower: Option<&Ref>,
        upper: Option<&Ref>,
        options: RecordOptions,
        progress: &Progress,
    ) -> Result<Option<Ref>, Error> {
        let Some(lower) = lower else {
            return Ok(upper.cloned());
        };
        let made = match upper {
            Some(upper) => {
                let (below, all) = (lower.node().layers(), upper.node().layers());
                let stands_on = below.len() <= all.len()
                    && below
                        .iter()
                        .zip(&all)
                        .all(|(mine, theirs)| mine.id == theirs.id);
                if stands_on && below.len() == all.len() {
                    return Ok(None);
                }
                if stands_on {
                    upper.clone()
                } else {
                    self.compare(cx, lower, upper, &options, progress).await?
                }
            }
            None => {
                let nothing = self.new_mutable(cx, None, RecordOptions::default()).await?;
                let nothing = nothing.commit(cx, "nothing").await?;
                self.compare(cx, lower, &nothing, &options, progress)
                    .await?
            }
        };
        let body = Body::Diff { snapshot: None };
        self.combine(body, &[lower.clone(), made], options)
            .map(Some)
    }

    fn combine(&self, body: Body, refs: &[Ref], options: RecordOptions) -> Result<Ref, Error> {
        for one in refs {
            self.inner.settle(one.node())?;
        }
        let parents = refs.iter().map(|one| one.node().clone()).collect();
        self.add(body, parents, options)
    }

    /// A new immutable record.
    fn add(
        &self,
        body: Body,
        parents: Vec<Arc<Node>>,
        options: RecordOptions,
    ) -> Result<Ref, Error> {
        let inner = &self.inner;
        let record = Record {
            parents: parents.iter().map(|parent| parent.id.clone()).collect(),
            body,
            description: options.description,
            record_type: options.record_type,
            created: to_nanos(options.created.unwrap_or_else(|| (inner.clock)())),
        };
        let id = RefId::random();
        let mut batch = Batch::new();
        record.put(&id, &mut batch);
        inner.db.commit(batch)?;
        let node = inner.nodes.lock().add(Node::new(id, record, parents));
        Ok(Ref::new(self.clone(), node))
    }

    /// A layer on top of `lower` that makes it look like `upper`.
    async fn compare(
        &self,
        cx: &Cx,
        lower: &Ref,
        upper: &Ref,
        options: &RecordOptions,
        progress: &Progress,
    ) -> Result<Ref, Error> {
        lower.ensure(cx, progress).await?;
        upper.ensure(cx, progress).await?;
        self.inner.settle(lower.node())?;
        let below = lower.node().chain()?;
        let (lower_tree, upper_tree) = (lower.tree(cx).await?, upper.tree(cx).await?);
        let (inner, work) = (self.inner.clone(), cx.clone());
        let fresh = tasks::blocking(move || {
            let change = Change::Trees {
                lower: Some(root_of(&lower_tree)?),
                upper: root_of(&upper_tree)?,
            };
            let fresh = Fresh::prepare(&inner, Some(&below))?;
            let target = inner.target(&fresh, Some(&below));
            inner.transplant(&work, &change, &target)?;
            inner.snapshots.adopt(fresh.key())?;
            Ok::<_, Error>(fresh)
        })
        .await?;
        let body = Body::Layer {
            snapshot: Some(fresh.key().0),
            unchanged: false,
            elsewhere: None,
            blob: None,
        };
        let made = self.add(body, vec![lower.node().clone()], options.clone())?;
        fresh.keep();
        Ok(made)
    }

    /// Gives merges and differences trees of their own, those below first. For snapshotters of whole trees.
    pub(crate) async fn compose(
        &self,
        cx: &Cx,
        node: &Arc<Node>,
        progress: &Progress,
    ) -> Result<(), Error> {
        let mut order = Vec::new();
        let mut seen = HashSet::new();
        let mut pending = vec![(node.clone(), false)];
        while let Some((node, visited)) = pending.pop() {
            if visited {
                order.push(node);
            } else if seen.insert(node.id.clone()) {
                pending.push((node.clone(), true));
                pending.extend(node.parents.iter().map(|parent| (parent.clone(), false)));
            }
        }
        for node in order {
            let body = node.record.read().body.clone();
            let (action, below, on_top) = match body {
                Body::Merge { snapshot: None } => (
                    "merging",
                    Some(node.parents[0].chain()?),
                    node.parents[1..]
                        .iter()
                        .flat_map(Node::layers)
                        .collect::<Vec<_>>(),
                ),
                Body::Diff { snapshot: None } => ("diffing", None, node.layers()),
                _ => continue,
            };
            let progress = (action, progress);
            self.compose_one(cx, &node, below, on_top, progress).await?;
        }
        Ok(())
    }

    async fn compose_one(
        &self,
        cx: &Cx,
        node: &Arc<Node>,
        below: Option<Chain>,
        on_top: Vec<Arc<Node>>,
        (action, progress): (&str, &Progress),
    ) -> Result<(), Error> {
        let working = cx.run(node.working.clone().lock_owned()).await?;
        if node.record.read().snapshot().is_some() {
            return Ok(());
        }
        let mut changes = Vec::with_capacity(on_top.len());
        for layer in on_top {
            let upper = Ref::new(self.clone(), layer.clone()).tree(cx).await?;
            let lower = match layer.parents.first() {
                Some(parent) => Some(Ref::new(self.clone(), parent.clone()).tree(cx).await?),
                None => None,
            };
            let lower = lower.map(|tree| root_of(&tree)).transpose()?;
            changes.push(Change::Trees {
                lower,
                upper: root_of(&upper)?,
            });
        }
        let status = progress.status(action, action);
        let (inner, work, node) = (self.inner.clone(), cx.clone(), node.clone());
        let composed = tasks::blocking(move || {
            let _working = working;
            let fresh = Fresh::prepare(&inner, below.as_ref())?;
            let target = inner.target(&fresh, None);
            for change in &changes {
                inner.transplant(&work, change, &target)?;
            }
            inner.change(&node, |record| match &mut record.body {
                Body::Merge { snapshot } | Body::Diff { snapshot } => {
                    *snapshot = Some(fresh.key().0);
                }
                _ => {}
            })?;
            fresh.keep();
            Ok(())
        })
        .await;
        drop(status);
        composed
    }
}

impl Inner {
    /// Where a layer on top of `below` is unpacked.
    pub(crate) fn target(&self, fresh: &Fresh, below: Option<&Chain>) -> Target {
        let directory = self.snapshots.directory(fresh.key());
        match below {
            Some(chain) if self.snapshots.is_layered() => Target::Overlay {
                upper: directory,
                lower: chain
                    .keys
                    .iter()
                    .map(|key| self.snapshots.directory(*key))
                    .collect(),
            },
            _ => Target::Plain(directory),
        }
    }

    /// Does to `target` what makes one tree of a change the other.
    fn transplant(&self, cx: &Cx, change: &Change, target: &Target) -> Result<(), Error> {
        let plain = Options {
            compression: Compression::Uncompressed,
            ..Options::default()
        };
        let blob = layer::diff(cx, change, &plain, &self.content)?.descriptor;
        let result = layer::apply(cx, &self.content, &blob, None, target);
        self.drop_unnamed(&blob)?;
        result?;
        Ok(())
    }

    /// Removes a blob unless a record names it.
    fn drop_unnamed(&self, blob: &Descriptor) -> Result<(), Error> {
        if !self.is_named(&blob.digest)? {
            self.content.remove(&blob.digest)?;
        }
        Ok(())
    }
}

fn root_of(tree: &mount::Tree) -> Result<Root, Error> {
    Root::from_borrowed(tree.fd()).map_err(Error::io("open a tree"))
}
