//! A cache from where manifests are: its kind is found from what is there.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use oci::{Descriptor, media_type};
use progress::Progress;
use serde::Deserialize;
use tasks::Cx;

use crate::document::{self, Document};
use crate::graph::Graph;
use crate::layers::{Blob, Origin};
use crate::{Error, inline, parse};

/// More than any document of a cache has; upstream refuses those above 1 MiB.
const LIMIT: i64 = 512 << 20;

/// Where documents can be read.
#[async_trait]
pub trait Documents: Send + Sync {
    /// The whole of a document, verified.
    async fn read(&self, cx: &Cx, document: &Descriptor) -> Result<Bytes, Error>;
}

/// What manifests and indexes have in common.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
}

impl Shape {
    fn parse(what: &Descriptor, bytes: &[u8]) -> Result<Self, Error> {
        serde_json::from_slice(bytes).map_err(Error::json(format!("manifest {}", what.digest)))
    }

    /// What it is, judged by what is in it.
    fn kind(&self) -> Result<&'static str, Error> {
        let said = self.media_type.as_deref();
        let known = [
            media_type::OCI_MANIFEST,
            media_type::OCI_INDEX,
            media_type::DOCKER_MANIFEST,
            media_type::DOCKER_LIST,
        ];
        if let Some(known) = known.into_iter().find(|known| Some(*known) == said) {
            return Ok(known);
        }
        match (
            self.config.is_some() || self.layers.is_some(),
            self.manifests.is_some(),
        ) {
            (true, false) => Ok(media_type::OCI_MANIFEST),
            (false, true) => Ok(media_type::OCI_INDEX),
            _ => Err(Error::Manifest),
        }
    }
}

/// Reads the cache under `root`.
pub async fn read(
    cx: &Cx,
    from: &dyn Documents,
    root: &Descriptor,
    origin: &Arc<dyn Origin>,
    progress: &Progress,
) -> Result<Graph, Error> {
    let bytes = fetch(cx, from, root).await?;
    let shape = Shape::parse(root, &bytes)?;
    let kind = shape.kind()?;
    drop(progress.status(&format!("inferred cache manifest type: {kind}"), ""));
    let is_cache = |blob: &Descriptor| blob.media_type == document::MEDIA_TYPE;
    let listed = shape.layers.iter().chain(&shape.manifests).flatten();
    let (configs, layers): (Vec<_>, Vec<_>) = listed.cloned().partition(is_cache);
    let config = shape.config.clone().filter(is_cache);
    let mut graph = Graph::default();
    match config.or_else(|| configs.into_iter().next_back()) {
        Some(config) => {
            let bytes = fetch(cx, from, &config).await?;
            let document: Document =
                oci::json::object(&bytes).map_err(Error::json("cache config"))?;
            let blobs = layers
                .into_iter()
                .filter_map(|layer| Blob::imported(layer, origin));
            parse(&document, blobs, &mut graph)?;
            graph.note_mounts(&document, origin);
        }
        None => images(cx, from, shape, origin, &mut graph).await?,
    }
    Ok(graph)
}

async fn fetch(cx: &Cx, from: &dyn Documents, what: &Descriptor) -> Result<Bytes, Error> {
    if what.size > LIMIT {
        return Err(Error::TooLarge {
            digest: what.digest.clone(),
            size: what.size,
            limit: LIMIT,
        });
    }
    from.read(cx, what).await
}

/// Reads the caches inside all images that can be reached.
async fn images(
    cx: &Cx,
    from: &dyn Documents,
    root: Shape,
    origin: &Arc<dyn Origin>,
    graph: &mut Graph,
) -> Result<(), Error> {
    let mut open = vec![root];
    let mut seen = HashSet::new();
    while let Some(shape) = open.pop() {
        for child in shape.manifests.unwrap_or_default() {
            if is_statement(&child) || !seen.insert(child.digest.clone()) {
                continue;
            }
            let bytes = fetch(cx, from, &child).await?;
            open.push(Shape::parse(&child, &bytes)?);
        }
        let (Some(config), Some(layers)) = (shape.config, shape.layers) else {
            continue;
        };
        if layers.is_empty() {
            continue;
        }
        let bytes = fetch(cx, from, &config).await?;
        if let Some((document, layers)) = inline::read(&bytes, layers)? {
            let blobs = layers
                .into_iter()
                .filter_map(|layer| Blob::imported(layer, origin));
            parse(&document, blobs, graph)?;
        }
    }
    Ok(())
}

/// Statements about images have no cache.
fn is_statement(manifest: &Descriptor) -> bool {
    manifest
        .annotations
        .contains_key("vnd.docker.reference.type")
}
