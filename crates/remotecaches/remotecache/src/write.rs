//! From a graph to a document, the same for the same graph.

use std::cmp::Ordering;
use std::collections::HashMap;

use oci::Timestamp;

use crate::document::{Document, Input, Layer, Placed, Record};
use crate::graph::{Graph, Item, ItemId};
use crate::layers::LayerId;

/// The document; `None` when no record has a result, for such a cache helps nobody.
///
/// Of several results of a record only the newest is written.
pub fn write(graph: &Graph) -> Option<Document> {
    let items: Vec<(ItemId, &Item)> = graph.all().collect();
    let best: Vec<_> = items.iter().map(|(_, item)| best(item)).collect();
    let tops = best.iter().flatten().map(|result| result.layer);
    let (layers, place_of_layer) = layers(graph, graph.layers.reached(tops));
    if layers.is_empty() {
        return None;
    }
    let ways: Vec<_> = items
        .iter()
        .map(|(_, item)| sorted_ways(graph, item))
        .collect();
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by(|a, b| {
        let digests = items[*a].1.digest.cmp(&items[*b].1.digest);
        digests
            .then_with(|| compare(&ways[*a], &ways[*b]))
            .then(a.cmp(b))
    });
    let mut place_of_item = HashMap::with_capacity(items.len());
    for (place, at) in order.iter().enumerate() {
        place_of_item.insert(items[*at].0, number(place));
    }
    let records = order.iter().map(|at| {
        let inputs = items[*at].1.inputs.iter().map(|ways| {
            let mut inputs: Vec<Input> = ways
                .iter()
                .map(|way| Input {
                    selector: way
                        .selector
                        .as_ref()
                        .map_or_else(String::new, ToString::to_string),
                    link: place_of_item[&way.item],
                })
                .collect();
            inputs.sort_by_key(|input| input.link);
            inputs
        });
        Record {
            results: best[*at]
                .iter()
                .map(|result| Placed {
                    layer: place_of_layer[&result.layer],
                    created_at: Timestamp::from(result.created),
                })
                .collect(),
            chains: Vec::new(),
            digest: items[*at].1.digest.clone(),
            inputs: inputs.collect(),
        }
    });
    Some(Document {
        records: records.collect(),
        layers,
        mounts: graph.mounts.as_ref().map(|mounts| mounts.list().clone()),
    })
}

fn number(place: usize) -> i64 {
    i64::try_from(place).unwrap_or(i64::MAX)
}

fn best(item: &Item) -> Option<crate::Placed> {
    // The first of equally old ones.
    item.results.iter().copied().reduce(|best, next| {
        if next.created > best.created {
            next
        } else {
            best
        }
    })
}

/// The layers by blob and, where blobs are equal, by what was met first; and the place of each.
fn layers(graph: &Graph, met: Vec<LayerId>) -> (Vec<Layer>, HashMap<LayerId, i64>) {
    let mut sorted: Vec<(usize, LayerId)> = met.into_iter().enumerate().collect();
    sorted.sort_by(|(a_met, a), (b_met, b)| {
        let blobs = graph.layers.digest(*a).cmp(graph.layers.digest(*b));
        blobs.then(a_met.cmp(b_met))
    });
    let places: HashMap<LayerId, i64> = sorted
        .iter()
        .enumerate()
        .map(|(place, (_, layer))| (*layer, number(place)))
        .collect();
    let layers = sorted.iter().map(|(_, layer)| Layer {
        blob: graph.layers.digest(*layer).clone(),
        parent: graph
            .layers
            .parent(*layer)
            .map_or(-1, |parent| places[&parent]),
        annotations: None,
    });
    (layers.collect(), places)
}

/// For each input the ways as pairs of selector and digest.
type Ways<'a> = Vec<Vec<(&'a str, &'a str)>>;

fn sorted_ways<'a>(graph: &'a Graph, item: &'a Item) -> Ways<'a> {
    let input = |ways: &'a std::collections::BTreeSet<crate::Alternative>| {
        let mut pairs: Vec<_> = ways
            .iter()
            .map(|way| {
                let selector = way
                    .selector
                    .as_ref()
                    .map_or("", |selector| selector.as_str());
                (selector, graph.items[way.item.0].digest.as_str())
            })
            .collect();
        pairs.sort_unstable();
        pairs
    };
    item.inputs.iter().map(input).collect()
}

fn compare(a: &Ways<'_>, b: &Ways<'_>) -> Ordering {
    let counts = a.len().cmp(&b.len());
    counts.then_with(|| {
        let pairs = a.iter().zip(b);
        let differing = pairs.map(|(a, b)| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
        differing.fold(Ordering::Equal, Ordering::then)
    })
}
