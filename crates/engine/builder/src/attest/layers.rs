//! The layers of steps that are there as blobs, for whoever lists them. None is made for that.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use cachekeys::{Key, Record, ResultId, StoreId, Stores};
use oci::{Descriptor, Digest};
use ops::{Edge, Value, Worker};
use provenance::{Layers, Steps};

/// No more descriptors than this are listed: in a long chain each step lists all before it.
const LIMIT: usize = 1 << 16;

/// What a result is known by. Holds no tree.
pub(super) struct Known {
    pub(super) worker: Arc<Worker>,
    pub(super) keys: Vec<Key>,
    pub(super) stores: Stores,
    pub(super) edge: Edge,
}

/// What a build knows its steps by.
pub(super) struct KnownLayers {
    worker: Arc<Worker>,
    keys: Vec<Key>,
    stores: Stores,
    vertices: Arc<HashMap<Digest, Named>>,
    steps: Arc<Steps>,
}

/// A vertex of the build.
struct Named {
    /// What the client calls it.
    name: Digest,
    inputs: Vec<Digest>,
}

impl KnownLayers {
    pub(super) fn new(known: Known, steps: Arc<Steps>) -> Self {
        let mut vertices = HashMap::new();
        let mut pending = vec![known.edge.vertex];
        while let Some(vertex) = pending.pop() {
            let name = vertex.original.as_ref().unwrap_or(&vertex.digest);
            let inputs = vertex.inputs.iter().map(|input| &input.vertex);
            let named = Named {
                name: name.clone(),
                inputs: inputs.clone().map(|input| input.digest.clone()).collect(),
            };
            if vertices.insert(vertex.digest.clone(), named).is_none() {
                pending.extend(inputs.cloned());
            }
        }
        Self {
            worker: known.worker,
            keys: known.keys,
            stores: known.stores,
            vertices: Arc::new(vertices),
            steps,
        }
    }

    /// Looks for the layers. Chains of one output that are equal count once.
    pub(super) async fn find(&self) -> Layers {
        let (keys, stores) = (self.keys.clone(), self.stores.clone());
        let (vertices, steps) = (self.vertices.clone(), self.steps.clone());
        let worker = self.worker.clone();
        tasks::blocking(move || {
            let results = ops::Results::new(worker.cache.clone(), &worker.options.id);
            let mut layers = Layers::new();
            let (mut seen, mut listed) = (HashSet::new(), 0);
            let mut pending: Vec<(Key, Option<&Digest>)> =
                keys.into_iter().map(|key| (key, None)).collect();
            while let Some((key, place)) = pending.pop() {
                // A step of another build, or for another platform, that gives the same may have left its name here.
                let own = key.vertex().filter(|vertex| vertices.contains_key(*vertex));
                let vertex = own.or_else(|| key.vertex().and(place));
                if !seen.insert((key.address(), vertex.cloned())) {
                    continue;
                }
                let vertex = vertex.and_then(|vertex| vertices.get(vertex));
                for (input, ways) in key.inputs().iter().enumerate() {
                    let below = vertex.and_then(|vertex| vertex.inputs.get(input));
                    pending.extend(ways.iter().map(|way| (way.key.clone(), below)));
                }
                let index = u32::try_from(key.output()).ok();
                let output = vertex
                    .zip(index)
                    .and_then(|(vertex, index)| steps.output(&vertex.name, index));
                let Some(output) = output else { continue };
                let Some(chain) = chain(&worker, &key, &stores, &results) else {
                    continue;
                };
                listed += chain.len();
                if listed > LIMIT {
                    tracing::warn!(LIMIT, "too many layers to list them all");
                    break;
                }
                let chains = layers.entry(output).or_default();
                if !chains.contains(&chain) {
                    chains.push(chain);
                }
            }
            layers
        })
        .await
    }
}

/// The blobs of the tree that a key stands for, if there is one and all of them are there.
fn chain(
    worker: &Worker,
    key: &Key,
    stores: &Stores,
    results: &ops::Results,
) -> Option<Vec<Descriptor>> {
    let exists = |result: &ResultId| solver::ResultStore::<Value>::exists(results, result.as_str());
    let is_here = |record: &Record| record.store == StoreId::MAIN && exists(&record.result);
    let noted = key.record().filter(is_here);
    let record = noted.or_else(|| {
        let mut known = cachekeys::records(stores, key, &exists).into_iter();
        known.find(|record| record.store == StoreId::MAIN)
    })?;
    let tree = results.record(record.result.as_str())?;
    let options = layer::Options::default();
    let chain = worker.cache.known_chain(&tree, &options)?;
    let blobs = chain.into_iter().map(|blob| {
        let mut descriptor = blob.descriptor;
        descriptor.annotations.retain(|key, _| {
            !matches!(
                key.as_str(),
                "containerd.io/uncompressed" | "buildkit/createdat"
            ) && !key.starts_with("containerd.io/distribution.source.")
        });
        descriptor
    });
    let blobs: Vec<Descriptor> = blobs.collect();
    (!blobs.is_empty()).then_some(blobs)
}
