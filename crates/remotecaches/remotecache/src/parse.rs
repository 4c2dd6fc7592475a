//! From a document to a graph.

use std::time::SystemTime;

use oci::Digest;

use crate::document::{self, Document};
use crate::graph::{Alternative, Graph, ItemId, Placed};
use crate::layers::LayerId;
use crate::{Blob, Error};

/// Adds what a document says to `graph`. Results of layers that are not among `blobs` are ignored.
pub fn parse(
    document: &Document,
    blobs: impl IntoIterator<Item = Blob>,
    graph: &mut Graph,
) -> Result<(), Error> {
    for blob in blobs {
        graph.layers.know(blob);
    }
    let layers = chains(document, graph)?;
    let mut items: Vec<Option<ItemId>> = vec![None; document.records.len()];
    for at in order(document)? {
        let record = &document.records[at];
        let mut inputs = Vec::with_capacity(record.inputs.len());
        for ways in &record.inputs {
            let mut known = Vec::with_capacity(ways.len());
            for way in ways {
                let item = items[index(way.link, items.len())?];
                if let Some(item) = item {
                    known.push(Alternative {
                        selector: selector(&way.selector)?,
                        item,
                    });
                }
            }
            inputs.push(known);
        }
        let results = results(record, &layers, document, graph)?;
        items[at] = graph.add(&record.digest, &inputs, results);
    }
    Ok(())
}

fn index(number: i64, len: usize) -> Result<usize, Error> {
    let index = usize::try_from(number).ok().filter(|index| *index < len);
    index.ok_or_else(|| Error::document(format!("invalid record ID: {number}")))
}

fn selector(text: &str) -> Result<Option<Digest>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = text.parse().map(Some);
    parsed.map_err(|_| Error::document(format!("invalid selector {text:?}")))
}

/// Records in an order in which each comes after those it names.
fn order(document: &Document) -> Result<Vec<usize>, Error> {
    #[derive(Clone, Copy, PartialEq)]
    enum State {
        New,
        Open,
        Done,
    }
    let records = &document.records;
    let mut states = vec![State::New; records.len()];
    let mut order = Vec::with_capacity(records.len());
    let mut stack: Vec<usize> = Vec::new();
    for start in 0..records.len() {
        stack.push(start);
        while let Some(at) = stack.last().copied() {
            match states[at] {
                State::Done => {
                    stack.pop();
                }
                State::Open => {
                    states[at] = State::Done;
                    order.push(at);
                    stack.pop();
                }
                State::New => {
                    states[at] = State::Open;
                    for ways in &records[at].inputs {
                        if ways.is_empty() {
                            let text = format!("invalid empty input for record {at}");
                            return Err(Error::document(text));
                        }
                        for way in ways {
                            let link = index(way.link, records.len())?;
                            match states[link] {
                                State::New => stack.push(link),
                                State::Open => {
                                    return Err(Error::document("invalid looping record"));
                                }
                                State::Done => {}
                            }
                        }
                    }
                }
            }
        }
    }
    Ok(order)
}

/// The layer of each entry; `None` where a blob is not known.
fn chains(document: &Document, graph: &mut Graph) -> Result<Vec<Option<LayerId>>, Error> {
    let entries = &document.layers;
    let mut made: Vec<Option<Option<LayerId>>> = vec![None; entries.len()];
    for start in 0..entries.len() {
        let mut path = Vec::new();
        let mut at = Some(start);
        // Down to the first one that is made, or none.
        while let Some(here) = at.filter(|here| made[*here].is_none()) {
            if path.len() > entries.len() {
                return Err(Error::document("invalid looping layer"));
            }
            path.push(here);
            at = match entries[here].parent {
                -1 => None,
                parent => Some(layer_index(parent, entries.len())?),
            };
        }
        // Whether there is nothing below, or what there is.
        let mut below: Option<Option<LayerId>> = match at {
            None => Some(None),
            Some(at) => made[at].flatten().map(Some),
        };
        for here in path.into_iter().rev() {
            let blob = &entries[here].blob;
            let known = graph.layers.blob(blob).is_some();
            let layer = below
                .filter(|_| known)
                .map(|below| graph.layers.place(blob, below));
            made[here] = Some(layer);
            below = layer.map(Some);
        }
    }
    Ok(made.into_iter().map(Option::flatten).collect())
}

fn layer_index(number: i64, len: usize) -> Result<usize, Error> {
    let index = usize::try_from(number).ok().filter(|index| *index < len);
    index.ok_or_else(|| Error::document(format!("invalid layer index {number}")))
}

fn results(
    record: &document::Record,
    layers: &[Option<LayerId>],
    document: &Document,
    graph: &mut Graph,
) -> Result<Vec<Placed>, Error> {
    let mut results = Vec::new();
    for result in &record.results {
        if let Some(layer) = layers[layer_index(result.layer, layers.len())?] {
            results.push(Placed {
                layer,
                created: SystemTime::from(result.created_at),
            });
        }
    }
    for chain in &record.chains {
        let mut below: Option<LayerId> = None;
        let mut whole = !chain.layers.is_empty();
        for number in &chain.layers {
            let blob = &document.layers[layer_index(*number, layers.len())?].blob;
            whole &= graph.layers.blob(blob).is_some();
            below = Some(graph.layers.place(blob, below));
        }
        if let Some(layer) = below.filter(|_| whole) {
            results.push(Placed {
                layer,
                created: SystemTime::from(chain.created_at),
            });
        }
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use oci::Descriptor;

    use super::*;
    use crate::{Whence, write};

    fn blob(name: &str) -> Blob {
        Blob {
            descriptor: Descriptor::new("", Digest::of(name), 1),
            diff_id: Digest::of(format!("{name} diff")),
            created: None,
            description: String::new(),
            whence: Whence::Here,
        }
    }

    fn read(json: &str) -> Result<Graph, String> {
        let mut json = json.to_owned();
        for name in ["a", "b", "c", "d", "x", "y"] {
            json = json.replace(&format!("<{name}>"), Digest::of(name).as_str());
        }
        let document: Document = serde_json::from_str(&json).expect("a document");
        let mut graph = Graph::default();
        let parsed = parse(&document, [blob("x"), blob("y")], &mut graph);
        parsed.map(|()| graph).map_err(|err| err.to_string())
    }

    #[test]
    fn records_may_stand_in_any_order_and_chains_count_as_layers() {
        let graph = read(
            r#"{"layers":[{"blob":"<y>","parent":1},{"blob":"<x>","parent":-1}],"records":[
                {"digest":"<b>","inputs":[[{"link":1}]],"layers":[{"layer":0,"createdAt":"2026-01-01T00:00:00Z"}]},
                {"digest":"<a>"},
                {"digest":"<c>","inputs":[[{"link":0}]],"chains":[{"layers":[1,0],"createdAt":"0001-01-01T00:00:00Z"}]}
            ]}"#,
        );
        let graph = graph.expect("a graph");
        let document = write(&graph).expect("results");
        assert_eq!(document.records.len(), 3);
        assert_eq!(document.layers.len(), 2);
        let results: usize = document.records.iter().map(|it| it.results.len()).sum();
        assert_eq!(results, 2);
    }

    #[test]
    fn a_result_of_an_unknown_layer_is_ignored() {
        let graph = read(
            r#"{"layers":[{"blob":"<d>","parent":-1},{"blob":"<x>"}],"records":[
                {"digest":"<a>","layers":[{"layer":1,"createdAt":"2026-01-01T00:00:00Z"}]}]}"#,
        );
        assert!(!graph.expect("a graph").has_results());
    }

    #[test]
    fn contradictions_are_refused() {
        let error = |json| read(json).err().expect("refused");
        assert_eq!(
            error(
                r#"{"records":[{"digest":"<a>","inputs":[[{"link":1}]]},{"digest":"<b>","inputs":[[{"link":0}]]}]}"#
            ),
            "invalid looping record"
        );
        assert_eq!(
            error(r#"{"records":[{"digest":"<a>","inputs":[[]]}]}"#),
            "invalid empty input for record 0"
        );
        assert_eq!(
            error(r#"{"records":[{"digest":"<a>","inputs":[[{"link":7}]]}]}"#),
            "invalid record ID: 7"
        );
        assert_eq!(
            error(r#"{"layers":[{"blob":"<x>","parent":1},{"blob":"<y>"}]}"#),
            "invalid looping layer"
        );
        assert_eq!(
            error(r#"{"layers":[{"blob":"<x>","parent":7}]}"#),
            "invalid layer index 7"
        );
    }

    #[test]
    fn a_hundred_thousand_records_in_a_row_are_read_without_recursion() {
        let records = (0..100_000).rev().map(|at| document::Record {
            results: Vec::new(),
            chains: Vec::new(),
            digest: Digest::of(format!("{at}")),
            inputs: if at == 0 {
                Vec::new()
            } else {
                // The one before stands behind: the list goes from the last to the first.
                vec![vec![document::Input {
                    selector: String::new(),
                    link: 100_000 - at,
                }]]
            },
        });
        let document = Document {
            layers: Vec::new(),
            records: records.collect(),
            mounts: None,
        };
        let mut graph = Graph::default();
        parse(&document, [], &mut graph).expect("a graph");
        assert_eq!(graph.len(), 100_000);
        drop(Arc::new(graph));
    }
}
