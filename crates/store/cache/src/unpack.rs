//! Layers unpacked side by side: each into a directory of its own while the others are fetched and unpacked.
//!
//! A layer need not list the directories its files are in, and then those of the layers below count. So what a layer
//! looks like is settled in order, once the ones below are; all the rest is not.
//!
//! Waits go downwards only: a layer's lock is held while the layers below are waited for, and the right to unpack is
//! held for nothing but unpacking. So two trees that have layers in common cannot wait for each other.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use progress::Progress;
use tasks::{Cx, Scope};
use tokio::sync::{Semaphore, oneshot};

use crate::fresh::Fresh;
use crate::node::Node;
use crate::record::Body;
use crate::{Cache, Error, Inner};

/// Layers that are unpacked at a time; each has a thread that decompresses beside the one that writes.
const AT_ONCE: usize = 3;

/// What layers of one tree have in common.
#[derive(Clone)]
struct Together {
    cache: Cache,
    cx: Cx,
    progress: Progress,
    turns: Arc<Semaphore>,
}

impl Cache {
    /// Fetches and unpacks layers, the lowest first in the list.
    pub(crate) async fn unpack_side_by_side(
        &self,
        cx: &Cx,
        layers: Vec<Arc<Node>>,
        progress: &Progress,
    ) -> Result<(), Error> {
        let mut scope = Scope::new(cx, "unpack layers");
        let together = Together {
            cache: self.clone(),
            cx: scope.cx().clone(),
            progress: progress.clone(),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
        };
        let mut below_done = None;
        for layer in layers {
            let (done, wait) = oneshot::channel();
            let together = together.clone();
            let below = below_done.replace(wait);
            scope.spawn("unpack layer", async move {
                together.unpack(layer, below).await?;
                // Nobody waits for the topmost.
                let _ = done.send(());
                Ok(())
            });
        }
        scope.join().await
    }
}

impl Together {
    async fn unpack(
        &self,
        node: Arc<Node>,
        below: Option<oneshot::Receiver<()>>,
    ) -> Result<(), Error> {
        let working = self.cx.run(node.working.clone().lock_owned()).await?;
        if node.record.read().snapshot().is_some() {
            return Ok(());
        }
        let inner = self.cache.inner.clone();
        let blob = inner.fetch(&self.cx, &node, &self.progress).await?;
        let lowest = node.parents.is_empty();
        let (ahead, fresh) = {
            let turn = self.turns.clone().acquire_owned().await;
            let id = format!("extracting {}", blob.descriptor.digest);
            let status = self.progress.status(&id, "extracting");
            let (cx, inner) = (self.cx.clone(), inner.clone());
            let unpacked = tasks::blocking(move || {
                let _turn = turn;
                let fresh = Fresh::prepare(&inner, None)?;
                let (store, diff_id) = (&inner.content, Some(&blob.diff_id));
                let directory = inner.snapshots.directory(fresh.key());
                if lowest {
                    let target = layer::Target::Plain(directory);
                    layer::apply(&cx, store, &blob.descriptor, diff_id, &target)?;
                    return Ok((None, fresh));
                }
                let ahead = layer::apply_ahead(&cx, store, &blob.descriptor, diff_id, directory)?;
                Ok::<_, Error>((Some(ahead), fresh))
            })
            .await?;
            drop(status);
            unpacked
        };
        if let Some(below) = below {
            // Whoever ends without a word has failed, and the scope is being stopped.
            self.cx.run(below).await?.map_err(|_| Error::Lazy {
                id: node.id.clone(),
            })?;
        }
        tasks::blocking(move || {
            // Whoever waits finds the work done, even if nobody waits for this one any more.
            let _working = working;
            if let Some(ahead) = ahead {
                let lower = inner.directories_below(&node)?;
                if let Some(nearest) = lower.first() {
                    let root = inner.snapshots.directory(fresh.key());
                    same_root(nearest, &root).map_err(Error::io("prepare a tree"))?;
                }
                ahead.finish(&lower)?;
            }
            inner.snapshots.adopt(fresh.key())?;
            inner.change(&node, |record| {
                if let Body::Layer { snapshot, .. } = &mut record.body {
                    *snapshot = Some(fresh.key().0);
                }
            })?;
            fresh.keep();
            Ok(())
        })
        .await
    }
}

/// The root of a merged tree shows the attributes of the topmost directory, which no layer lists.
fn same_root(below: &Path, root: &Path) -> io::Result<()> {
    let (theirs, ours) = (std::fs::metadata(below)?, std::fs::metadata(root)?);
    if (ours.uid(), ours.gid()) != (theirs.uid(), theirs.gid()) {
        std::os::unix::fs::chown(root, Some(theirs.uid()), Some(theirs.gid()))?;
    }
    if ours.mode() != theirs.mode() {
        std::fs::set_permissions(root, theirs.permissions())?;
    }
    Ok(())
}

impl Inner {
    /// The directories of the layers a record stands on, nearest first.
    fn directories_below(&self, node: &Node) -> Result<Vec<PathBuf>, Error> {
        let chain = node.below()?;
        let keys = chain.iter().flat_map(|chain| &chain.keys);
        Ok(keys.map(|key| self.snapshots.directory(*key)).collect())
    }
}
