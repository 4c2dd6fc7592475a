//! The layers of steps that are there as blobs, for whoever lists them. None is made for that.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use cache::Ref;
use cachekeys::{Key, ResultId, StoreId, Stores};
use oci::{Descriptor, Digest};
use ops::{Edge, Value, Worker};
use provenance::{Layers, Steps};
use solver::Built;

/// No more descriptors than this are listed: in a long chain each step lists all before it.
const LIMIT: usize = 1 << 16;

/// What a build knows its steps by.
pub(super) struct KnownLayers {
    worker: Arc<Worker>,
    keys: Vec<Key>,
    stores: Stores,
    /// What the client calls each vertex.
    names: HashMap<Digest, Digest>,
    steps: Steps,
}

impl KnownLayers {
    pub(super) fn new(
        worker: &Arc<Worker>,
        built: &Built<Value>,
        edge: &Edge,
        steps: Steps,
    ) -> Self {
        let mut names = HashMap::new();
        let mut pending = vec![edge.vertex.clone()];
        while let Some(vertex) = pending.pop() {
            let name = vertex.original.as_ref().unwrap_or(&vertex.digest);
            if names.insert(vertex.digest.clone(), name.clone()).is_none() {
                pending.extend(vertex.inputs.iter().map(|input| input.vertex.clone()));
            }
        }
        Self {
            worker: worker.clone(),
            // All keys have the same above them.
            keys: built.keys.first().cloned().into_iter().collect(),
            stores: built.stores.clone(),
            names,
            steps,
        }
    }

    /// Looks for the layers. Chains of one output that are equal count once.
    pub(super) async fn find(&self) -> Layers {
        let (keys, stores) = (self.keys.clone(), self.stores.clone());
        let (names, steps) = (self.names.clone(), self.steps.clone());
        let worker = self.worker.clone();
        tasks::blocking(move || {
            let results = ops::Results::new(worker.cache.clone(), &worker.options.id);
            let mut layers = Layers::new();
            let (mut seen, mut listed) = (HashSet::new(), 0);
            let mut pending = keys;
            while let Some(key) = pending.pop() {
                if !seen.insert(key.address()) {
                    continue;
                }
                pending.extend(key.inputs().iter().flatten().map(|way| way.key.clone()));
                let name = key.vertex().and_then(|vertex| names.get(vertex));
                let index = u32::try_from(key.output()).ok();
                let output = name
                    .zip(index)
                    .and_then(|(name, index)| steps.output(name, index));
                let Some(output) = output else { continue };
                let Some(chain) = tree(&key, &stores, &results).and_then(|tree| blobs(&tree))
                else {
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

fn tree(key: &Key, stores: &Stores, results: &ops::Results) -> Option<Ref> {
    let exists = |result: &ResultId| solver::ResultStore::<Value>::exists(results, result.as_str());
    let known = cachekeys::records(stores, key, &exists);
    let mut all = key.record().into_iter().chain(known);
    all.find_map(|record| {
        let here = record.store == StoreId::MAIN;
        here.then(|| results.find(record.result.as_str()))
            .flatten()?
            .0
    })
}

/// The blobs of a tree's layers, if all of them are there.
fn blobs(tree: &Ref) -> Option<Vec<Descriptor>> {
    let options = layer::Options::default();
    // Most trees have no blob of their own, and then those below do not matter.
    if tree.is_layer() && !matches!(tree.known_layer(&options), Ok(Some(_))) {
        return None;
    }
    let layers = tree.layer_refs();
    let blobs = layers.iter().map(|layer| {
        let blob = layer.known_layer(&options).ok().flatten()?;
        let mut descriptor = blob.descriptor;
        descriptor.annotations.retain(|key, _| {
            !matches!(
                key.as_str(),
                "containerd.io/uncompressed" | "buildkit/createdat"
            ) && !key.starts_with("containerd.io/distribution.source.")
        });
        Some(descriptor)
    });
    blobs
        .collect::<Option<Vec<_>>>()
        .filter(|all| !all.is_empty())
}
