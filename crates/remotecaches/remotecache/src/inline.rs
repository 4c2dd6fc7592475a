//! A cache inside an image's config: records alone, whose layers are those of the image.

use std::collections::HashMap;

use base64::Engine as _;
use oci::{Descriptor, Digest, Timestamp};
use serde::Deserialize;

use crate::document::{Chain, Document, Layer, Placed, Record, beginning};
use crate::graph::Graph;
use crate::layers::{CREATED, DESCRIPTION, DIFF_ID};
use crate::{Error, write};

/// The records for an image with these layers, each blob and diff id, the lowest first. `None` when no result is made
/// of them.
pub fn records(graph: &Graph, image: &[(Digest, Digest)]) -> Result<Option<Vec<u8>>, Error> {
    let Some(document) = write(graph) else {
        return Ok(None);
    };
    let places = Places::new(image);
    let mut any = false;
    let mut records = Vec::with_capacity(document.records.len());
    for record in &document.records {
        let mut inline = Record {
            results: Vec::new(),
            chains: Vec::new(),
            digest: record.digest.clone(),
            inputs: record.inputs.clone(),
        };
        for result in &record.results {
            match places.of(graph, &document, result.layer) {
                None => {}
                Some(found) if found.iter().copied().eq(0..found.len()) => {
                    inline.results.push(Placed {
                        layer: number(found.len()) - 1,
                        created_at: result.created_at,
                    });
                }
                Some(found) => inline.chains.push(Chain {
                    layers: found.into_iter().map(number).collect(),
                    // Compat: upstream writes no time here.
                    created_at: beginning(),
                }),
            }
        }
        any |= !inline.results.is_empty() || !inline.chains.is_empty();
        records.push(inline);
    }
    if !any {
        return Ok(None);
    }
    oci::json::compact(&records)
        .map(Some)
        .map_err(Error::json("inline cache"))
}

fn number(place: usize) -> i64 {
    i64::try_from(place).unwrap_or(i64::MAX)
}

/// Where in the image a layer is.
struct Places<'a> {
    image: &'a [(Digest, Digest)],
    blobs: HashMap<&'a Digest, usize>,
    diffs: HashMap<&'a Digest, usize>,
}

impl<'a> Places<'a> {
    fn new(image: &'a [(Digest, Digest)]) -> Self {
        let with = |pick: fn(&'a (Digest, Digest)) -> &'a Digest| {
            let places = image.iter().enumerate().rev();
            places.map(|(place, layer)| (pick(layer), place)).collect()
        };
        Self {
            image,
            blobs: with(|(blob, _)| blob),
            diffs: with(|(_, diff)| diff),
        }
    }

    /// The places of a result's layers, the lowest first; `None` if one is not in the image.
    fn of(&self, graph: &Graph, document: &Document, top: i64) -> Option<Vec<usize>> {
        let mut chain: Vec<&Digest> = Vec::new();
        let mut at = usize::try_from(top).ok();
        while let Some(layer) = at.and_then(|at| document.layers.get(at)) {
            chain.push(&layer.blob);
            at = usize::try_from(layer.parent).ok();
        }
        chain.reverse();
        let place = |(expected, blob): (usize, &Digest)| {
            let diff = graph.layers.blob(blob).map(|blob| &blob.diff_id);
            // The same blob may be in the image twice.
            let here = self.image.get(expected);
            if here.is_some_and(|(other, other_diff)| other == blob || Some(other_diff) == diff) {
                return Some(expected);
            }
            let by_blob = self.blobs.get(blob);
            by_blob.or_else(|| self.diffs.get(diff?)).copied()
        };
        chain.into_iter().enumerate().map(place).collect()
    }
}

/// What is read of an image's config.
#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    rootfs: Option<RootFs>,
    #[serde(rename = "moby.buildkit.cache.v0", default)]
    cache: Option<String>,
    #[serde(default)]
    history: Option<Vec<History>>,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

#[derive(Deserialize)]
struct History {
    #[serde(default)]
    created: Option<Timestamp>,
    #[serde(default)]
    created_by: String,
    #[serde(default)]
    empty_layer: bool,
}

/// The document in an image's config, and the image's layers with what the config says about them. `None` when there
/// is no cache.
pub(crate) fn read(
    config: &[u8],
    mut layers: Vec<Descriptor>,
) -> Result<Option<(Document, Vec<Descriptor>)>, Error> {
    let config: Config = serde_json::from_slice(config).map_err(Error::json("image config"))?;
    let Some(cache) = config.cache else {
        return Ok(None);
    };
    let diff_ids = config
        .rootfs
        .and_then(|rootfs| rootfs.diff_ids)
        .unwrap_or_default();
    if layers.is_empty() || diff_ids.len() != layers.len() {
        if !layers.is_empty() {
            tracing::warn!("invalid image with mismatching manifest and config");
        }
        return Ok(None);
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(cache);
    let decoded = decoded.map_err(|err| Error::document(format!("invalid inline cache: {err}")))?;
    let records: Option<Vec<Record>> =
        serde_json::from_slice(&decoded).map_err(Error::json("inline cache"))?;
    let history = config.history.unwrap_or_default();
    let mut history = history.into_iter().filter(|item| !item.empty_layer);
    let mut document = Document {
        layers: Vec::with_capacity(layers.len()),
        records: records.unwrap_or_default(),
        mounts: None,
    };
    for (place, (layer, diff_id)) in layers.iter_mut().zip(diff_ids).enumerate() {
        let annotations = &mut layer.annotations;
        if let Some(item) = history.next() {
            if let Some(created) = item.created {
                annotations.insert(CREATED.to_owned(), created.to_string());
            }
            if !item.created_by.is_empty() {
                annotations.insert(DESCRIPTION.to_owned(), item.created_by);
            }
        }
        annotations.insert(DIFF_ID.to_owned(), diff_id.to_string());
        document.layers.push(Layer {
            blob: layer.digest.clone(),
            parent: number(place) - 1,
            annotations: None,
        });
    }
    Ok(Some((document, layers)))
}
