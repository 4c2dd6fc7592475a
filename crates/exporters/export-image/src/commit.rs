//! From a result to documents in the store.

mod rewrite;
mod squash;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use cache::LayerBlob;
use content::{Provider, Store};
use export::{Error, Input, Part, Work};
use fault::Class;
use oci::{Descriptor, Digest, ImageConfig, LayerOrigin, Timestamp};
use tasks::Scope;

use crate::annotations::Places;
use crate::attest::{self, About};
use crate::compose::{self, Document, Layer, Single, Source};
use crate::image::name;
use crate::options::CommitOptions;

/// An image in the store.
pub(crate) struct Committed {
    /// The manifest or index.
    pub root: Descriptor,
    /// The config, when the root is a manifest.
    pub config: Option<Digest>,
    /// All layers; those of images may not be in the store.
    pub layers: Vec<LayerBlob>,
    /// The time of a reproducible build.
    pub epoch: Option<Timestamp>,
    /// Keeps the layers in use.
    pub results: Vec<cache::Ref>,
}

/// What an exporter says about itself when it commits.
pub(crate) struct Committer<'a> {
    pub work: &'a Work,
    pub store: &'a Store,
    pub options: &'a CommitOptions,
}

impl Committer<'_> {
    pub(crate) async fn commit(&self, input: &Input) -> Result<Committed, Error> {
        let options = self.options;
        let oci_types = options.uses_oci_types(input);
        if options.oci_artifact == Some(true) && !oci_types {
            return Err(Error::user(
                "exporter option \"oci-artifact=true\" conflicts with \"oci-mediatypes=false\"",
            ));
        }
        options.check_types(oci_types)?;
        options.check_compatibility(input.compatibility)?;
        let parts = input.parts()?;
        let ids: Vec<&str> = parts.iter().map(|part| part.id.as_str()).collect();
        // Compat: a result that is alone is that of any platform (solver/result/result.go).
        let known = (ids.len() > 1).then_some(ids.as_slice());
        options.annotations.check(known, oci_types)?;
        let common = options.annotations.places(None);
        let for_index = !common.index.is_empty() || !common.index_descriptor.is_empty();
        let is_map =
            input.is_map() || attest::makes_index(input, &parts, options.inline_attestations);
        if is_map && !oci_types && !input.attestations.is_empty() {
            let text = "cannot export attestations with \"oci-mediatypes=false\"";
            return Err(Error::user(text));
        }
        if for_index && !is_map {
            return Err(Error::user(
                "index annotations not supported for single platform export",
            ));
        }
        let mut squashed = Vec::new();
        let mut layers = Vec::new();
        for (kept, some) in self.layers(input, &parts, oci_types).await? {
            squashed.push(kept);
            layers.push(some);
        }
        if options.rewrite_timestamp {
            for ((part, layers), squashed) in parts.iter().zip(&mut layers).zip(&squashed) {
                self.rewrite(input, part, layers, *squashed, oci_types)
                    .await?;
            }
        }
        let general = options.epoch.seconds(input, "", self.work.epoch)?;
        let mut manifests = Vec::new();
        let mut attested = Vec::new();
        let mut single = None;
        for ((part, layers), squashed) in parts.iter().zip(&layers).zip(squashed) {
            let platform = is_map.then_some(part.id.as_str());
            let places = options.annotations.places(platform);
            let composed = self.compose(input, part, layers, squashed, &places)?;
            let mut descriptor = composed.manifest.descriptor.clone();
            descriptor.platform = Some(part.platform.clone());
            self.put("exporting manifest", &composed.manifest).await?;
            self.put("exporting config", &composed.config).await?;
            single = Some((
                descriptor.clone(),
                composed.config.descriptor.digest.clone(),
            ));
            if let Some(said) = input.attestations.get(&part.id).filter(|_| is_map) {
                let about = About {
                    part,
                    image: &composed.manifest.descriptor,
                    layers,
                    names: &name(options, input),
                    artifact: options.uses_artifacts(input),
                };
                attested.push(self.attest(said, &about).await?);
            }
            manifests.push(descriptor);
        }
        let (root, config) = match single {
            Some((root, config)) if !is_map => (root, Some(config)),
            _ => {
                manifests.append(&mut attested);
                let index = compose::index(manifests, &common, oci_types)?;
                self.put("exporting manifest list", &index).await?;
                (index.descriptor, None)
            }
        };
        Ok(Committed {
            root,
            config,
            layers: layers.into_iter().flatten().collect(),
            epoch: general.map(Timestamp::from_seconds),
            results: parts.into_iter().filter_map(|part| part.result).collect(),
        })
    }

    /// The layers of every part, made where they do not exist, and how many of them are as they were if some were
    /// squashed.
    async fn layers(
        &self,
        input: &Input,
        parts: &[Part],
        oci_types: bool,
    ) -> Result<Vec<(Option<usize>, Vec<LayerBlob>)>, Error> {
        let _status = self.work.progress.status("exporting layers", "");
        let options = self.options.layers(oci_types);
        let mut all = Vec::with_capacity(parts.len());
        for part in parts {
            if let Some(squashed) = self.squash(input, part, &options).await? {
                all.push((Some(squashed.kept), squashed.layers));
                continue;
            }
            let layers = match &part.result {
                Some(result) => result
                    .layers(&self.work.cx, &options, &self.work.progress)
                    .await
                    .map_err(|err| Error::new(&err))?,
                None => Vec::new(),
            };
            all.push((None, layers));
        }
        Ok(all)
    }

    fn compose(
        &self,
        input: &Input,
        part: &Part,
        layers: &[LayerBlob],
        squashed: Option<usize>,
        annotations: &Places,
    ) -> Result<Single, Error> {
        let epoch = self
            .options
            .epoch
            .seconds(input, &part.id, self.work.epoch)?;
        let metadata = |key| input.metadata_for(key, &part.id).map(Bytes::as_ref);
        let inline = input
            .inline_cache
            .get(&part.id)
            .or_else(|| input.inline_cache.get("").filter(|_| !input.is_map()));
        let inline = inline.map(|bytes| base64::engine::general_purpose::STANDARD.encode(bytes));
        let composed = compose::single(&Source {
            config: metadata("containerimage.config"),
            base: metadata("containerimage.base.config"),
            layers: layers.iter().map(layer).collect(),
            annotations,
            epoch: epoch.map(Timestamp::from_seconds),
            inline_cache: inline.as_deref(),
            squashed,
            oci_types: self.options.uses_oci_types(input),
            prefer_nondistributable: self.options.prefer_nondistributable,
        })?;
        if composed.unaccounted {
            tracing::warn!("invalid image config with unaccounted layers");
        }
        Ok(composed)
    }

    async fn put(&self, what: &str, document: &Document) -> Result<(), Error> {
        let digest = &document.descriptor.digest;
        let _status = self.work.progress.status(&format!("{what} {digest}"), "");
        let (store, bytes) = (self.store.clone(), document.bytes.clone());
        let stored = tasks::blocking(move || store.put(bytes)).await;
        stored.map(drop).map_err(|err| Error::new(&err))
    }
}

fn layer(blob: &LayerBlob) -> Layer {
    Layer {
        descriptor: blob.descriptor.clone(),
        diff_id: blob.diff_id.clone(),
        origin: LayerOrigin {
            created: blob.created.map(Timestamp::from),
            description: blob.description.clone(),
        },
    }
}

impl Committed {
    /// The entries of the response that every kind has.
    pub(crate) fn response(&self) -> Result<BTreeMap<String, String>, Error> {
        let json = oci::json::compact(&self.root).map_err(|err| Error {
            message: format!("failed to marshal descriptor: {err}"),
            class: Class::Internal,
        })?;
        let encoded = base64::engine::general_purpose::STANDARD.encode(json);
        let mut response = BTreeMap::from([
            (
                "containerimage.digest".to_owned(),
                self.root.digest.to_string(),
            ),
            ("containerimage.descriptor".to_owned(), encoded),
        ]);
        if let Some(config) = &self.config {
            response.insert(
                "containerimage.config.digest".to_owned(),
                config.to_string(),
            );
        }
        Ok(response)
    }

    /// Makes all layers present in the store.
    pub(crate) async fn fetch(&self, work: &Work, store: &Store) -> Result<(), Error> {
        fetch(work, store, &self.layers).await
    }

    /// What can bring each layer.
    pub(crate) fn providers(&self) -> BTreeMap<Digest, Option<Arc<dyn Provider>>> {
        let layers = self.layers.iter();
        layers
            .map(|layer| (layer.descriptor.digest.clone(), layer.provider.clone()))
            .collect()
    }
}

/// How many layers of a result are those of its base image. They are known by what they are there, whatever
/// compression they are exported with.
fn inherited(input: &Input, part: &Part, owners: &[cache::Ref]) -> Result<usize, Error> {
    let base = match input.metadata_for("containerimage.base.config", &part.id) {
        Some(config) => base_layers(config)?,
        None => Vec::new(),
    };
    let as_it_is = layer::Options::default();
    for (number, (owner, base)) in owners.iter().zip(&base).enumerate() {
        let known = owner.known_layer(&as_it_is);
        let known = known.map_err(|err| Error::new(&err))?;
        if known.is_none_or(|layer| layer.diff_id != *base) {
            return Ok(number);
        }
    }
    Ok(base.len().min(owners.len()))
}

fn base_layers(config: &[u8]) -> Result<Vec<Digest>, Error> {
    let layers = ImageConfig::parse(config).and_then(|config| config.diff_ids());
    layers.map_err(|err| {
        let text = fault::chain(&err);
        Error::user(format!("failed to unmarshal base image config: {text}"))
    })
}

/// Makes layers present in the store.
pub(crate) async fn fetch(work: &Work, store: &Store, layers: &[LayerBlob]) -> Result<(), Error> {
    let mut scope: Scope<Error> = Scope::new(&work.cx, "fetch layers");
    let mut seen = BTreeSet::new();
    for layer in layers {
        let digest = &layer.descriptor.digest;
        if !seen.insert(digest) || store.contains(digest) {
            continue;
        }
        let Some(provider) = layer.provider.clone() else {
            return Err(Error::new(&content::Error::NotFound {
                digest: digest.clone(),
            }));
        };
        let (cx, store) = (scope.cx().clone(), store.clone());
        let (blob, progress) = (layer.descriptor.clone(), work.progress.clone());
        scope.spawn("fetch layer", async move {
            let fetched = provider.fetch(&cx, &blob, &store, &progress).await;
            fetched.map_err(|err| Error::new(&err))
        });
    }
    scope.join().await
}

#[cfg(test)]
mod tests;
