//! Layers that know no time after that of a reproducible build.
//!
//! They are made beside each other, and what was made of a layer is remembered with it.

use cache::{LayerBlob, Ref};
use content::Store;
use export::{Error, Input, Part};
use oci::{Descriptor, Digest, Timestamp};
use serde::{Deserialize, Serialize};
use tasks::{Cx, Scope};

use super::{Committer, fetch, inherited};

/// The annotation of a layer that was made anew.
const ANNOTATION: &str = "buildkit/rewritten-timestamp";
/// Layers made at a time; each uses several threads of its own.
const AT_ONCE: usize = 4;

/// What a layer became.
#[derive(Serialize, Deserialize)]
struct Rewritten {
    descriptor: Descriptor,
    diff_id: Digest,
}

/// What is done to one layer.
#[derive(Clone)]
struct Rewrite {
    store: Store,
    layer: LayerBlob,
    /// Where it is remembered.
    owner: Option<Ref>,
    epoch: i64,
    options: layer::Options,
}

impl Committer<'_> {
    /// Replaces layers by ones that know no time after the epoch; those of the base image stay.
    pub(super) async fn rewrite(
        &self,
        input: &Input,
        part: &Part,
        layers: &mut [LayerBlob],
        squashed: Option<usize>,
        oci_types: bool,
    ) -> Result<(), Error> {
        let of_build = self.work.epoch;
        let Some(epoch) = self.options.epoch.seconds(input, &part.id, of_build)? else {
            tracing::warn!("rewrite-timestamp is specified, but no source-date-epoch was found");
            return Ok(());
        };
        let owners = part.result.as_ref().map(Ref::layer_refs);
        let owners = owners.unwrap_or_default();
        let inherited = inherited(input, part, &owners)?;
        let inherited = squashed.map_or(inherited, |kept| inherited.min(kept));
        let time = Timestamp::from_seconds(epoch).to_string();
        let time = time.replace('T', " ").replace('Z', " +0000 UTC");
        let id = format!("rewriting layers with source-date-epoch {epoch} ({time})");
        let _status = self.work.progress.status(&id, "");
        let rewrite = |number: usize, layer: &LayerBlob| Rewrite {
            store: self.store.clone(),
            layer: layer.clone(),
            owner: owners.get(number).cloned(),
            epoch,
            options: self.options.layers(oci_types),
        };
        let mut all: Vec<_> = layers.iter_mut().enumerate().skip(inherited).collect();
        for some in all.chunks_mut(AT_ONCE) {
            fetch_some(self, some).await?;
            let mut scope: Scope<Error> = Scope::new(&self.work.cx, "rewrite layers");
            let (told, hear) = std::sync::mpsc::channel();
            for (number, layer) in some.iter() {
                let (number, rewrite) = (*number, rewrite(*number, layer));
                let (cx, told) = (scope.cx().clone(), told.clone());
                scope.spawn("rewrite layer", async move {
                    let made = tasks::blocking(move || rewrite.run(&cx)).await;
                    // The receiver lives until all tasks have ended.
                    let _ = told.send((number, made));
                    Ok(())
                });
            }
            drop(told);
            scope.join().await?;
            for (number, made) in hear.try_iter() {
                let layer = some.iter_mut().find(|(known, _)| *known == number);
                match (made, layer) {
                    (Ok(made), Some((_, layer))) => **layer = made,
                    // Compat: the image is exported with the times it has.
                    (Err(error), _) => tracing::warn!(
                        layer = number + 1,
                        epoch,
                        error = error.message,
                        "failed to rewrite layer to match source-date-epoch"
                    ),
                    (Ok(_), None) => {}
                }
            }
        }
        Ok(())
    }
}

/// Makes layers present; one that cannot be had fails when it is read.
async fn fetch_some(
    committer: &Committer<'_>,
    some: &[(usize, &mut LayerBlob)],
) -> Result<(), Error> {
    let layers: Vec<LayerBlob> = some.iter().map(|(_, layer)| (**layer).clone()).collect();
    if let Err(err) = fetch(committer.work, committer.store, &layers).await {
        committer.work.cx.check()?;
        tracing::debug!(error = err.message, "layers not fetched");
    }
    Ok(())
}

impl Rewrite {
    fn run(self, cx: &Cx) -> Result<LayerBlob, Error> {
        let made = match self.known() {
            Some(known) => known,
            None => self.make(cx)?,
        };
        let mut rewritten = self.layer.clone();
        rewritten.descriptor = made.descriptor;
        rewritten.diff_id = made.diff_id;
        rewritten.provider = None;
        let annotations = &mut rewritten.descriptor.annotations;
        let before = self.layer.descriptor.annotations.iter();
        let kept = before.filter(|(key, _)| !layer::annotation::ALL.contains(&key.as_str()));
        annotations.extend(kept.map(|(key, value)| (key.clone(), value.clone())));
        annotations.insert(ANNOTATION.to_owned(), self.epoch.to_string());
        Ok(rewritten)
    }

    /// Where it is remembered what the layer became.
    fn key(&self) -> String {
        let layer::Options {
            compression, level, ..
        } = &self.options;
        let level = level.map_or_else(String::new, |level| level.to_string());
        let (epoch, blob) = (self.epoch, &self.layer.descriptor.digest);
        format!("rewritten {epoch} {} {level} {blob}", compression.as_str())
    }

    fn known(&self) -> Option<Rewritten> {
        let json = self.owner.as_ref()?.meta(&self.key())?;
        let known: Rewritten = serde_json::from_slice(&json).ok()?;
        self.store
            .contains(&known.descriptor.digest)
            .then_some(known)
    }

    fn make(&self, cx: &Cx) -> Result<Rewritten, Error> {
        let blob = &self.layer.descriptor;
        let made = layer::clamp_times(cx, &self.store, blob, self.epoch, &self.options);
        let made = made.map_err(|err| Error::new(&err))?;
        let made = Rewritten {
            descriptor: made.descriptor,
            diff_id: made.diff_id,
        };
        if let (Some(owner), Ok(json)) = (&self.owner, serde_json::to_vec(&made))
            && let Err(err) = owner.set_meta(&self.key(), &json)
        {
            tracing::debug!(error = %fault::chain(&err), "a rewritten layer is not remembered");
        }
        Ok(made)
    }
}
