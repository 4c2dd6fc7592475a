//! Makes an image's documents: config and manifest of one platform, and the index of several.

use bytes::Bytes;
use export::Error;
use oci::{
    Descriptor, Digest, History, ImageConfig, Index, LayerOrigin, Manifest, Platform, Timestamp,
    media_type,
};

use crate::annotations::Places;

/// What daemons put on PATH when nobody says anything.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The years 0 to 9999, in seconds after 1970.
const YEARS: std::ops::RangeInclusive<i64> = -62_167_219_200..=253_402_300_799;

/// A layer as a manifest lists it.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub descriptor: Descriptor,
    pub diff_id: Digest,
    pub origin: LayerOrigin,
}

/// What an image of one platform is made of.
#[derive(Debug, Clone)]
pub(crate) struct Source<'a> {
    /// From the frontend; absent: a default.
    pub config: Option<&'a [u8]>,
    /// The config of the base image, if the frontend knows it.
    pub base: Option<&'a [u8]>,
    pub layers: Vec<Layer>,
    pub annotations: &'a Places,
    /// Nothing is later than this.
    pub epoch: Option<Timestamp>,
    /// Base64, for the config.
    pub inline_cache: Option<&'a str>,
    /// The last layer took the place of all but this many.
    pub squashed: Option<usize>,
    pub oci_types: bool,
    pub prefer_nondistributable: bool,
}

/// A document and what points to it.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    pub descriptor: Descriptor,
    pub bytes: Bytes,
}

impl Document {
    pub(crate) fn new(media_type: &str, bytes: Vec<u8>) -> Self {
        let size = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        Self {
            descriptor: Descriptor::new(media_type, Digest::of(&bytes), size),
            bytes: bytes.into(),
        }
    }
}

/// Config and manifest of one platform.
#[derive(Debug, Clone)]
pub(crate) struct Single {
    pub config: Document,
    pub manifest: Document,
    /// The config had more steps that make layers than there are layers.
    pub unaccounted: bool,
}

/// Composes the image of one platform.
pub(crate) fn single(source: &Source<'_>) -> Result<Single, Error> {
    let (config, unaccounted) = config(source)?;
    let types = if source.oci_types {
        (media_type::OCI_CONFIG, media_type::OCI_MANIFEST)
    } else {
        (media_type::DOCKER_CONFIG, media_type::DOCKER_MANIFEST)
    };
    let config = Document::new(types.0, config);
    let layers = source
        .layers
        .iter()
        .map(|layer| listed(&layer.descriptor, source));
    let mut manifest = Manifest::new(types.1, config.descriptor.clone(), layers.collect());
    manifest
        .annotations
        .clone_from(&source.annotations.manifest);
    let bytes = manifest.to_bytes().map_err(json)?;
    let mut manifest = Document::new(types.1, bytes);
    manifest
        .descriptor
        .annotations
        .clone_from(&source.annotations.manifest_descriptor);
    Ok(Single {
        config,
        manifest,
        unaccounted,
    })
}

/// The index of several images, each with its platform.
pub(crate) fn index(
    images: Vec<Descriptor>,
    annotations: &Places,
    oci_types: bool,
) -> Result<Document, Error> {
    let media_type = if oci_types {
        media_type::OCI_INDEX
    } else {
        media_type::DOCKER_LIST
    };
    let mut index = Index::new(media_type, images);
    index.annotations.clone_from(&annotations.index);
    let mut document = Document::new(media_type, index.to_bytes().map_err(json)?);
    document
        .descriptor
        .annotations
        .clone_from(&annotations.index_descriptor);
    Ok(document)
}

fn json(err: serde_json::Error) -> Error {
    Error {
        message: format!("failed to marshal manifest: {err}"),
        class: fault::Class::Internal,
    }
}

/// A layer's descriptor without what is only our business.
fn listed(descriptor: &Descriptor, source: &Source<'_>) -> Descriptor {
    let given = &descriptor.media_type;
    let media_type =
        layer::convert_media_type(given, source.oci_types, source.prefer_nondistributable);
    let mut listed = Descriptor::new(&media_type, descriptor.digest.clone(), descriptor.size);
    if layer::is_nondistributable(&media_type) {
        listed.urls.clone_from(&descriptor.urls);
    }
    if source.oci_types {
        let internal = |key: &str| {
            matches!(key, "containerd.io/uncompressed" | "buildkit/createdat")
                || key.starts_with("containerd.io/distribution.source.")
        };
        let annotations = descriptor.annotations.iter();
        listed.annotations = annotations
            .filter(|(key, _)| !internal(key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
    }
    listed
}

fn config(source: &Source<'_>) -> Result<(Vec<u8>, bool), Error> {
    let fail = |err: oci::ConfigError| Error::new(&err);
    let mut config = match source.config {
        Some(bytes) if !bytes.is_empty() => ImageConfig::parse(bytes).map_err(fail)?,
        _ => ImageConfig::default_for(&Platform::host(), PATH).map_err(fail)?,
    };
    config.platform().map_err(fail)?;
    let origins: Vec<LayerOrigin> = source.layers.iter().map(|l| l.origin.clone()).collect();
    let mut steps = config.history().map_err(fail)?;
    if let Some(kept) = source.squashed {
        let made = steps.iter_mut().filter(|step| !step.empty_layer);
        made.skip(kept).for_each(|step| step.empty_layer = true);
    }
    let (mut history, unaccounted) = oci::align_history(steps, &origins);
    if let Some(epoch) = source.epoch {
        let base = match source.base {
            Some(bytes) => ImageConfig::parse(bytes)
                .and_then(|config| config.history())
                .map_err(|err| {
                    Error::user(format!(
                        "failed to unmarshal base image config: {}",
                        fault::chain(&err)
                    ))
                })?,
            None => Vec::new(),
        };
        clamp(&mut history, &base, epoch);
        let times = history.iter().filter_map(|step| step.created);
        times
            .into_iter()
            .try_for_each(|time| check_year("history", time))?;
        if let Some(created) = config.created().map_err(fail)?
            && created > epoch
        {
            check_year("creation time", epoch)?;
            config.set_created(Some(epoch)).map_err(fail)?;
        }
    }
    if !config.has_created() {
        let last = history.iter().rev().find_map(|step| step.created);
        config.set_created(last).map_err(fail)?;
    }
    let diff_ids = source.layers.iter().map(|layer| layer.diff_id.clone());
    config.set_rootfs(diff_ids.collect()).map_err(fail)?;
    config.set_history(&history).map_err(fail)?;
    if source.inline_cache.is_some() {
        config.set_inline_cache(source.inline_cache).map_err(fail)?;
    }
    Ok((config.to_bytes(), unaccounted))
}

/// What documents cannot say is refused.
fn check_year(what: &str, time: Timestamp) -> Result<(), Error> {
    if YEARS.contains(&time.seconds()) {
        return Ok(());
    }
    Err(Error::user(format!(
        "failed to marshal {what}: json: error calling MarshalJSON for type *time.Time: Time.MarshalJSON: year \
         outside of range [0,9999]"
    )))
}

/// Nothing is later than the epoch, but for the steps that come from the base image.
fn clamp(history: &mut [History], base: &[History], epoch: Timestamp) {
    let inherited = history
        .iter()
        .zip(base)
        .take_while(|(step, base)| step == base)
        .count();
    for step in &mut history[inherited..] {
        if step.created.is_none_or(|created| created > epoch) {
            step.created = Some(epoch);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
