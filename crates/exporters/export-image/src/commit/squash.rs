//! `squash`: several layers become one, which holds the difference between the tree below them and the result.
//!
//! What came of a result is remembered with it. The steps of the squashed layers stay in the history, as steps that
//! made none, and one more says what was done.

use cache::{LayerBlob, Ref};
use export::{Error, Input, Part};
use fstree::Root;
use layer::{Change, Options};
use oci::{Descriptor, Digest};
use serde::{Deserialize, Serialize};

use super::{Committer, inherited};
use crate::options::Squash;

/// The layers of an image after some of them became one.
pub(super) struct Squashed {
    pub layers: Vec<LayerBlob>,
    /// How many are as they were.
    pub kept: usize,
}

/// What the layers became.
#[derive(Serialize, Deserialize)]
struct Made {
    descriptor: Descriptor,
    diff_id: Digest,
}

impl Committer<'_> {
    /// Makes one layer of those the options say; `None` when there is nothing to squash.
    pub(super) async fn squash(
        &self,
        input: &Input,
        part: &Part,
        options: &Options,
    ) -> Result<Option<Squashed>, Error> {
        let (Some(squash), Some(result)) = (self.options.squash, &part.result) else {
            return Ok(None);
        };
        let owners = result.layer_refs();
        let kept = match squash {
            Squash::All => 0,
            Squash::Base => inherited(input, part, &owners)?,
        };
        let below = kept.checked_sub(1).and_then(|top| owners.get(top));
        if owners.len() < kept + 2 {
            return Ok(None);
        }
        let mut layers = match below {
            Some(below) => below
                .layers(&self.work.cx, options, &self.work.progress)
                .await
                .map_err(|err| Error::new(&err))?,
            None => Vec::new(),
        };
        let _status = self.work.progress.status("squashing layers", "");
        let key = format!(
            "squashed {kept} {} {}",
            options.compression.as_str(),
            options.level.map_or_else(String::new, |it| it.to_string())
        );
        let made = match self.known(result, &key) {
            Some(made) => made,
            None => self.make(result, below, options, &key).await?,
        };
        layers.push(LayerBlob {
            descriptor: made.descriptor,
            diff_id: made.diff_id,
            created: Some(result.created()),
            description: format!("squash of {} layers", owners.len() - kept),
            provider: None,
        });
        Ok(Some(Squashed { layers, kept }))
    }

    fn known(&self, result: &Ref, key: &str) -> Option<Made> {
        let json = result.meta(key)?;
        let known: Made = serde_json::from_slice(&json).ok()?;
        self.store
            .contains(&known.descriptor.digest)
            .then_some(known)
    }

    async fn make(
        &self,
        result: &Ref,
        below: Option<&Ref>,
        options: &Options,
        key: &str,
    ) -> Result<Made, Error> {
        let work = self.work;
        for needed in below.into_iter().chain([result]) {
            let there = needed.ensure(&work.cx, &work.progress).await;
            there.map_err(|err| Error::new(&err))?;
        }
        let lower = match below {
            Some(below) => Some(below.tree(&work.cx).await.map_err(|err| Error::new(&err))?),
            None => None,
        };
        let upper = result.tree(&work.cx).await;
        let upper = upper.map_err(|err| Error::new(&err))?;
        let (cx, store, options) = (work.cx.clone(), self.store.clone(), options.clone());
        let made = tasks::blocking(move || {
            let root = |fd| {
                Root::from_borrowed(fd)
                    .map_err(|err| layer::Error::from(fstree::Error::new("open", "/", err)))
            };
            let lower = lower.as_ref().map(|tree| root(tree.fd())).transpose()?;
            let upper = root(upper.fd())?;
            layer::diff(&cx, &Change::Trees { lower, upper }, &options, &store)
        });
        let made = made.await.map_err(|err| Error::new(&err))?;
        let made = Made {
            descriptor: made.descriptor,
            diff_id: made.diff_id,
        };
        if let Ok(json) = serde_json::to_vec(&made)
            && let Err(err) = result.set_meta(key, &json)
        {
            tracing::debug!(error = %fault::chain(&err), "a squashed layer is not remembered");
        }
        Ok(made)
    }
}
