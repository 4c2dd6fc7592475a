//! From what a build knows to a graph that can be written down.
//!
//! 1. All keys above the results' are walked ([`crate::walk`]).
//! 2. For every key with inputs the first usable record is found.
//! 3. Its layers are made, or looked up only: with `max` all are made; with `min` those of the first step on each way
//!    down from a result that has any, and below that only what is there counts.
//! 4. Keys are added, inputs first, then whatever else the stores know to lead to the same.

use std::collections::HashMap;
use std::sync::Arc;

use cache::{Cache, Ref};
use cachekeys::{Key, ResultId, StoreId, Stores};
use oci::Digest;

use crate::available::{Available, first};
use crate::backlinks::Backlinks;
use crate::chains::Chains;
use crate::graph::{Alternative, Graph, ItemId, Placed};
use crate::layers::{LayerId, Now, missing};
use crate::store::imported;
use crate::walk::Walk;
use crate::{Error, Work};

/// How much of a build is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Layers of the result.
    #[default]
    Min,
    /// Layers of every step.
    Max,
}

impl Mode {
    /// The mode of this option value; one that nobody knows counts as `min`.
    pub fn parse(text: Option<&str>) -> Self {
        match text {
            Some("max") => Self::Max,
            _ => Self::Min,
        }
    }
}

/// A result of the build.
#[derive(Clone)]
pub struct Root {
    /// One of its keys; they all have the same above them.
    pub key: Key,
    /// The stores that know it.
    pub stores: Stores,
}

/// The results of the daemon.
pub trait Results: Send + Sync {
    /// Whether a result is there.
    fn exists(&self, result: &ResultId) -> bool;
    /// A result, if it is there; `Some(None)` is an empty one.
    fn load(&self, result: &ResultId) -> Option<Option<Ref>>;
    /// Where results lie.
    fn cache(&self) -> &Cache;
}

/// What to collect.
#[derive(Clone)]
pub struct Collect {
    /// The build's results.
    pub roots: Vec<Root>,
    /// How much.
    pub mode: Mode,
    /// What new layers should be like.
    pub options: layer::Options,
    /// The daemon's results.
    pub results: Arc<dyn Results>,
    /// Vertices whose results must stay here.
    pub excluded: Arc<dyn Fn(&Digest) -> bool + Send + Sync>,
}

/// A key's result: when it was saved, and its layers if they are known.
struct Known {
    created: std::time::SystemTime,
    available: Available,
    layer: Option<LayerId>,
}

/// Collects what a build knows.
pub async fn collect(work: &Work, wanted: &Collect) -> Result<Graph, Error> {
    let asked = wanted.clone();
    let found = tasks::blocking(move || {
        let walk = Walk::of(&asked.roots)?;
        let known: Vec<Option<Known>> = walk
            .steps
            .iter()
            .map(|step| known(step, &walk.stores, &asked))
            .collect();
        Some((walk, known))
    });
    let Some((walk, mut known)) = found.await else {
        return Ok(Graph::default());
    };
    let mut gather = Gather {
        work,
        wanted,
        walk: &walk,
        graph: Graph::default(),
        chains: Chains::new(wanted.options.clone()),
        foreign: HashMap::new(),
    };
    gather.results(&mut known).await?;
    let missing = missing(work, gather.graph.layers.blobs()).await?;
    if !missing.is_empty() {
        let layers = &gather.graph.layers;
        let lost = |layer| {
            layers
                .downwards(layer)
                .any(|at| missing.contains(layers.digest(at)))
        };
        for known in known.iter_mut().flatten() {
            known.layer = known.layer.filter(|layer| !lost(*layer));
        }
    }
    let mut graph = gather.graph;
    graph.kept.extend(trees(&known));
    let results = wanted.results.clone();
    let cx = work.cx.clone();
    tasks::blocking(move || emit(&cx, &walk, &known, &*results, graph)).await
}

/// The results that are here.
fn trees(known: &[Option<Known>]) -> impl Iterator<Item = Ref> {
    let known = known.iter().flatten();
    known.filter_map(|known| match &known.available {
        Available::Here(tree) => Some(tree.clone()),
        Available::Elsewhere { .. } => None,
    })
}

fn known(step: &crate::walk::Step, stores: &Stores, wanted: &Collect) -> Option<Known> {
    let key = &step.key;
    let excluded = key.vertex().is_some_and(|vertex| (wanted.excluded)(vertex));
    if key.is_root() || excluded {
        return None;
    }
    let (record, available) = first(key, stores, &*wanted.results)?;
    Some(Known {
        created: record.created,
        available: available?,
        layer: None,
    })
}

/// Finds the layers of results.
struct Gather<'a> {
    work: &'a Work,
    wanted: &'a Collect,
    walk: &'a Walk,
    graph: Graph,
    chains: Chains,
    /// Layers of imported caches in this graph.
    foreign: HashMap<(StoreId, LayerId), LayerId>,
}

impl Gather<'_> {
    async fn results(&mut self, known: &mut [Option<Known>]) -> Result<(), Error> {
        let max = self.wanted.mode == Mode::Max;
        if max {
            let all: Vec<Ref> = trees(known).collect();
            self.chains.make(self.work, &all).await?;
        }
        let mut make = vec![max; known.len()];
        for root in &self.walk.roots {
            make[*root] = true;
        }
        // Consumers stand behind their inputs, so from the end every step is told what to do before its turn.
        for at in (0..known.len()).rev() {
            self.work.cx.check()?;
            let mut found = false;
            if let Some(known) = &mut known[at] {
                known.layer = self.layer(known, make[at], max).await?;
                found = known.layer.is_some();
            }
            if max || (make[at] && !found) {
                for (_, input) in self.walk.steps[at].inputs.iter().flatten() {
                    make[*input] = true;
                }
            }
        }
        Ok(())
    }

    async fn layer(
        &mut self,
        known: &mut Known,
        make: bool,
        made: bool,
    ) -> Result<Option<LayerId>, Error> {
        if let Available::Elsewhere {
            store,
            result,
            layer,
        } = &known.available
        {
            let (store, layer) = (*store, *layer);
            let Some(cache) = self.walk.stores.by_id(store).and_then(imported) else {
                return Ok(None);
            };
            if self.fits(cache.graph(), layer) {
                return Ok(Some(self.adopt(store, cache.graph(), layer)));
            }
            if !make {
                return Ok(None);
            }
            let sessions = self.work.sessions.clone();
            let now: Now = Arc::new(move || sessions.clone());
            let Some(layers) = cache.layers(result, &now) else {
                return Ok(None);
            };
            let Some(tree) = self.wanted.results.cache().image(layers)? else {
                return Ok(None);
            };
            self.chains
                .make(self.work, std::slice::from_ref(&tree))
                .await?;
            known.available = Available::Here(tree);
        } else if make
            && !made
            && let Available::Here(tree) = &known.available
        {
            let tree = tree.clone();
            self.chains
                .make(self.work, std::slice::from_ref(&tree))
                .await?;
        }
        let Available::Here(tree) = &known.available else {
            return Ok(None);
        };
        self.chains.top(&mut self.graph.layers, tree)
    }

    /// Whether imported layers can go on as they are.
    fn fits(&self, from: &Graph, layer: LayerId) -> bool {
        let wanted = &self.wanted.options;
        let fits = |layer| {
            let blob = from.layers.blob(from.layers.digest(layer));
            blob.is_some_and(|blob| {
                let is = layer::Compression::of(&blob.descriptor);
                is.is_none_or(|is| is == wanted.compression)
            })
        };
        !wanted.force || from.layers.downwards(layer).all(fits)
    }

    /// An imported layer as one of this graph.
    fn adopt(&mut self, store: StoreId, from: &Graph, layer: LayerId) -> LayerId {
        let mut below = None;
        let mut path = Vec::new();
        for at in from.layers.downwards(layer) {
            if let Some(known) = self.foreign.get(&(store, at)) {
                below = Some(*known);
                break;
            }
            path.push(at);
        }
        for at in path.into_iter().rev() {
            if let Some(blob) = from.layers.blob(from.layers.digest(at)) {
                let here = self.graph.layers.add(blob.clone(), below);
                self.foreign.insert((store, at), here);
                below = Some(here);
            }
        }
        below.unwrap_or(layer)
    }
}

/// Adds all keys, then what else leads to them.
fn emit(
    cx: &tasks::Cx,
    walk: &Walk,
    known: &[Option<Known>],
    results: &dyn Results,
    mut graph: Graph,
) -> Result<Graph, Error> {
    let mut items: Vec<Option<ItemId>> = Vec::with_capacity(walk.steps.len());
    for (step, known) in walk.steps.iter().zip(known) {
        let inputs: Vec<Vec<Alternative>> = (step.inputs.iter())
            .map(|ways| {
                let known = ways.iter().filter_map(|(selector, place)| {
                    Some(Alternative {
                        selector: selector.clone(),
                        item: items[*place]?,
                    })
                });
                known.collect()
            })
            .collect();
        let result = known.as_ref().and_then(|known| {
            Some(Placed {
                layer: known.layer?,
                created: known.created,
            })
        });
        items.push(graph.add(&step.key.key_digest(), &inputs, result));
        if step.key.is_root() {
            other_roots(&step.key, &walk.stores, results, &mut graph);
        }
    }
    let mut backlinks = Backlinks::default();
    for step in &walk.steps {
        cx.check()?;
        for (id, store) in walk.stores.iter() {
            if let Some(node) = step.key.node(id) {
                backlinks.add(&mut graph, id, store, &node);
            }
        }
    }
    Ok(graph)
}

/// The other names of the same image: whoever knows one of them finds all that follows.
fn other_roots(key: &Key, stores: &Stores, results: &dyn Results, graph: &mut Graph) {
    if key.is_content() || key.is_random() {
        return;
    }
    let store = stores.main();
    let own = key.node(StoreId::MAIN);
    let record = key.record().or_else(|| {
        let exists = |result: &ResultId| results.exists(result);
        cachekeys::records(stores, key, &exists).into_iter().next()
    });
    let Some(record) = record.filter(|record| record.store == StoreId::MAIN) else {
        return;
    };
    for node in store.nodes(&record.result) {
        if Some(&node) == own.as_ref() || !store.sources(&node).is_empty() {
            continue;
        }
        if let Ok(digest) = node.as_str().parse::<Digest>() {
            graph.add(&digest, &[], []);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::SystemTime;

    use cachekeys::{KeyStore, Link, Memory, NodeId, Stored};
    use progress::Progress;
    use session::Group;
    use tasks::Cx;

    use super::*;

    /// Counts what is asked of a store.
    struct Asked {
        memory: Memory,
        count: Arc<AtomicUsize>,
    }

    impl Asked {
        fn asked(&self) -> &Memory {
            self.count.fetch_add(1, Ordering::Relaxed);
            &self.memory
        }
    }

    impl KeyStore for Asked {
        fn contains(&self, node: &NodeId) -> bool {
            self.asked().contains(node)
        }

        fn targets(&self, source: &NodeId, link: &Link) -> Vec<NodeId> {
            self.asked().targets(source, link)
        }

        fn links(&self, source: &NodeId) -> Vec<(Link, NodeId)> {
            self.asked().links(source)
        }

        fn sources(&self, target: &NodeId) -> Vec<(NodeId, Link)> {
            self.asked().sources(target)
        }

        fn records(&self, node: &NodeId) -> Vec<Stored> {
            self.asked().records(node)
        }

        fn nodes(&self, result: &ResultId) -> Vec<NodeId> {
            self.asked().nodes(result)
        }

        fn results(&self) -> Vec<ResultId> {
            self.asked().results()
        }
    }

    /// All results are there, and empty.
    struct Empty(Arc<AtomicUsize>);

    impl Results for Empty {
        fn exists(&self, _: &ResultId) -> bool {
            self.0.fetch_add(1, Ordering::Relaxed);
            true
        }

        fn load(&self, _: &ResultId) -> Option<Option<Ref>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Some(None)
        }

        fn cache(&self) -> &Cache {
            unreachable!("nothing is imported here")
        }
    }

    /// How often something is looked up for a graph in which each step needs the two before it.
    async fn lookups(steps: usize) -> usize {
        let memory = Memory::default();
        let way = |key: &Key| {
            let (key, selector) = (key.clone(), None);
            vec![cachekeys::Alternative { key, selector }]
        };
        let base = Key::root(Digest::of("base"), 0);
        let (mut before, mut last) = (base.clone(), base);
        for at in 0..steps {
            let digest = Digest::of(format!("step {at}"));
            let next = Key::with_inputs(digest, 0, vec![way(&before), way(&last)], None);
            let stored = Stored {
                result: ResultId::new(&format!("result {at}")),
                created: SystemTime::UNIX_EPOCH,
            };
            cachekeys::save(&memory, &next, &stored);
            (before, last) = (last, next);
        }
        let count = Arc::new(AtomicUsize::new(0));
        let asked = Asked {
            memory,
            count: count.clone(),
        };
        let wanted = Collect {
            roots: vec![Root {
                key: last,
                stores: Stores::new(Arc::new(asked)),
            }],
            mode: Mode::Max,
            options: layer::Options::default(),
            results: Arc::new(Empty(count.clone())),
            excluded: Arc::new(|_| false),
        };
        let dir = tempfile::tempdir().expect("a directory");
        let work = Work {
            cx: Cx::root(),
            progress: Progress::none(),
            sessions: Group::none(),
            store: content::Store::open(dir.path()).expect("a store"),
        };
        collect(&work, &wanted).await.expect("a graph");
        count.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn twice_the_graph_is_twice_the_lookups() {
        let (half, whole) = (lookups(2_500).await, lookups(5_000).await);
        assert!(half > 2_500, "{half}");
        assert!(whole <= 2 * half, "{half}, then {whole}");
        assert!(whole <= 10 * 5_000, "{whole}");
    }
}
