//! The layers of results in the daemon's cache, each looked at once however many results stand on it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use cache::{LayerBlob, Ref, RefId};
use tasks::Scope;
use tokio::sync::{Semaphore, mpsc};

use crate::layers::{LayerId, Layers};
use crate::{Error, Work};

/// Layers made at a time; each uses several threads of its own.
const AT_ONCE: usize = 4;

/// What is known of the layers of refs.
pub(crate) struct Chains {
    options: layer::Options,
    blobs: HashMap<RefId, LayerBlob>,
    tops: HashMap<RefId, LayerId>,
    /// Those that lack a blob, as far as known since blobs were made last.
    lacking: HashSet<RefId>,
}

impl Chains {
    pub(crate) fn new(options: layer::Options) -> Self {
        Self {
            options,
            blobs: HashMap::new(),
            tops: HashMap::new(),
            lacking: HashSet::new(),
        }
    }

    /// Makes the blobs of these refs and of all below them. One that cannot be made is missing afterwards, unless it is
    /// the options that are wrong.
    pub(crate) async fn make(&mut self, work: &Work, refs: &[Ref]) -> Result<(), Error> {
        let mut scope: Scope<Error> = Scope::new(&work.cx, "make layers");
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        let (told, mut hear) = mpsc::unbounded_channel();
        for layer in self.unknown(refs) {
            if let Some(blob) = layer.known_layer(&self.options)? {
                self.blobs.insert(layer.id().clone(), blob);
                continue;
            }
            let (cx, turns, told) = (scope.cx().clone(), turns.clone(), told.clone());
            let (options, progress) = (self.options.clone(), work.progress.clone());
            scope.spawn("make layer", async move {
                let _turn = turns.acquire().await;
                match layer.own_layer(&cx, &options, &progress).await {
                    // The receiver lives until all tasks have ended.
                    Ok(blob) => drop(told.send((layer.id().clone(), blob))),
                    Err(cache::Error::Cancelled(err)) => return Err(err.into()),
                    Err(err) if is_asked_for(&err) => return Err(err.into()),
                    Err(err) => {
                        let error = fault::chain(&err);
                        tracing::warn!(id = %layer.id(), error, "no layer for the cache export");
                    }
                }
                Ok(())
            });
        }
        drop(told);
        scope.join().await?;
        while let Some((id, blob)) = hear.recv().await {
            self.blobs.insert(id, blob);
        }
        self.lacking.clear();
        Ok(())
    }

    /// The layers of these refs whose blobs nobody has asked for.
    fn unknown(&self, refs: &[Ref]) -> Vec<Ref> {
        let mut seen = HashSet::new();
        let mut found = Vec::new();
        for one in refs {
            let mut at = Some(one.clone());
            while let Some(here) = at {
                if !seen.insert(here.id().clone()) {
                    break;
                }
                if !here.is_layer() {
                    let parts = here.layer_refs().into_iter();
                    found.extend(parts.filter(|part| seen.insert(part.id().clone())));
                    break;
                }
                at = here.parent();
                found.push(here);
            }
        }
        found.retain(|layer| !self.blobs.contains_key(layer.id()));
        found
    }

    fn blob(&mut self, layer: &Ref) -> Result<Option<LayerBlob>, Error> {
        if let Some(known) = self.blobs.get(layer.id()) {
            return Ok(Some(known.clone()));
        }
        let blob = layer.known_layer(&self.options)?;
        if let Some(blob) = &blob {
            self.blobs.insert(layer.id().clone(), blob.clone());
        }
        Ok(blob)
    }

    /// A layer as the cache lists it.
    fn listed(&self, layer: &Ref, blob: LayerBlob) -> Result<LayerBlob, Error> {
        if !self.options.force {
            return Ok(blob);
        }
        let as_it_is = layer::Options {
            force: false,
            ..self.options.clone()
        };
        let own = layer.known_layer(&as_it_is)?;
        Ok(dated(blob, own.as_ref()))
    }

    /// The topmost layer of a ref, if all its blobs are known.
    pub(crate) fn top(&mut self, layers: &mut Layers, of: &Ref) -> Result<Option<LayerId>, Error> {
        let mut path = Vec::new();
        let mut at = Some(of.clone());
        let mut below: Option<LayerId> = None;
        let mut whole = true;
        // Down to the first one that is known.
        while let Some(here) = at {
            if let Some(known) = self.tops.get(here.id()) {
                below = Some(*known);
                break;
            }
            if self.lacking.contains(here.id()) {
                whole = false;
                break;
            }
            if !here.is_layer() {
                below = self.put_together(layers, &here)?;
                whole = below.is_some();
                break;
            }
            at = here.parent();
            path.push(here);
        }
        for layer in path.into_iter().rev() {
            let blob = if whole { self.blob(&layer)? } else { None };
            match blob {
                Some(blob) => {
                    let top = layers.add(self.listed(&layer, blob)?.into(), below);
                    self.tops.insert(layer.id().clone(), top);
                    below = Some(top);
                }
                None => {
                    whole = false;
                    self.lacking.insert(layer.id().clone());
                }
            }
        }
        Ok(below.filter(|_| whole))
    }

    /// The topmost layer of a ref that is made of several others.
    fn put_together(&mut self, layers: &mut Layers, of: &Ref) -> Result<Option<LayerId>, Error> {
        let mut below = None;
        for layer in of.layer_refs() {
            match self.blob(&layer)? {
                Some(blob) => below = Some(layers.add(self.listed(&layer, blob)?.into(), below)),
                None => {
                    self.lacking.insert(of.id().clone());
                    return Ok(None);
                }
            }
        }
        if let Some(top) = below {
            self.tops.insert(of.id().clone(), top);
        }
        Ok(below)
    }
}

/// Whether it is the user's options that no layer can be made with.
fn is_asked_for(err: &cache::Error) -> bool {
    matches!(err, cache::Error::Layer(layer::Error::Level { .. }))
}

/// Compat: what was made of another blob has no date (cache/remote.go).
fn dated(blob: LayerBlob, own: Option<&LayerBlob>) -> LayerBlob {
    let is_own = own.is_some_and(|own| own.descriptor.digest == blob.descriptor.digest);
    LayerBlob {
        created: blob.created.filter(|_| is_own),
        ..blob
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use oci::{Descriptor, Digest, media_type};

    use super::*;

    #[test]
    fn converted_layers_have_no_date() {
        let layer = |text: &str| LayerBlob {
            descriptor: Descriptor::new(media_type::OCI_LAYER, Digest::of(text), 1),
            diff_id: Digest::of("same"),
            created: Some(SystemTime::UNIX_EPOCH),
            description: String::new(),
            provider: None,
        };
        let date = |own: Option<&LayerBlob>| dated(layer("a"), own).created;
        assert_eq!(date(Some(&layer("a"))), Some(SystemTime::UNIX_EPOCH));
        assert_eq!(date(Some(&layer("b"))), None);
        assert_eq!(date(None), None);
    }

    #[test]
    fn only_wrong_options_fail_an_export() {
        let of_layer = |err| is_asked_for(&cache::Error::Layer(err));
        assert!(of_layer(layer::Error::Level { level: 10 }));
        assert!(!of_layer(layer::Error::Redirect));
    }
}
