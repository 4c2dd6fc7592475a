//! Tests of the graph of a cache.

use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::*;

fn digest(name: impl AsRef<[u8]>) -> Digest {
    Digest::of(name)
}

fn way(item: ItemId) -> Alternative {
    Alternative {
        selector: None,
        item,
    }
}

fn root(graph: &mut Graph, name: &str) -> ItemId {
    graph.add(&digest(name), &[], []).expect("a root")
}

fn step(graph: &mut Graph, name: &str, inputs: &[&[ItemId]]) -> ItemId {
    let inputs: Vec<Vec<_>> = (inputs.iter())
        .map(|ways| ways.iter().map(|item| way(*item)).collect())
        .collect();
    graph.add(&digest(name), &inputs, []).expect("an item")
}

/// Every link goes up in the order, and is known at both ends.
fn check(graph: &Graph) {
    for (id, item) in graph.all() {
        for (input, ways) in item.inputs.iter().enumerate() {
            for way in ways {
                let source = &graph.items[way.item.0];
                assert!(source.merged.is_none(), "a way from an item that is gone");
                assert!(source.rank < item.rank, "a link goes down");
                let step = Step {
                    input,
                    digest: item.digest.clone(),
                    selector: way.selector.clone(),
                };
                assert!(source.next[&step].contains(&id));
            }
        }
        for targets in item.next.values() {
            for target in targets {
                assert!(graph.items[target.0].merged.is_none());
            }
        }
    }
}

#[test]
fn what_must_not_leave_is_refused() {
    let mut graph = Graph::default();
    assert_eq!(graph.add(&digest("x").into_random(), &[], []), None);
    let a = root(&mut graph, "a");
    let random = Alternative {
        selector: Some(digest("s").into_random()),
        item: a,
    };
    assert_eq!(graph.add(&digest("b"), &[vec![random]], []), None);
    assert_eq!(graph.add(&digest("b"), &[vec![]], []), None);
    assert_eq!(graph.len(), 1);
}

#[test]
fn an_item_that_shares_a_way_for_each_input_is_the_same() {
    let mut graph = Graph::default();
    let [a, b, c] = ["a", "b", "c"].map(|name| root(&mut graph, name));
    let one = step(&mut graph, "x", &[&[a]]);
    let two = step(&mut graph, "x", &[&[a, b]]);
    assert_eq!(one, two);
    assert_eq!(step(&mut graph, "x", &[&[b]]), one);
    assert_ne!(step(&mut graph, "x", &[&[c]]), one);
    assert_ne!(step(&mut graph, "y", &[&[a]]), one);
    check(&graph);
}

#[test]
fn two_items_found_to_be_the_same_become_one() {
    let mut graph = Graph::default();
    let [a, b] = ["a", "b"].map(|name| root(&mut graph, name));
    let one = step(&mut graph, "x", &[&[a]]);
    let two = step(&mut graph, "x", &[&[b]]);
    let after = step(&mut graph, "y", &[&[two]]);
    assert_eq!(step(&mut graph, "x", &[&[a, b]]), one);
    assert_eq!(graph.len(), 4);
    assert_eq!(graph.current(two), one);
    assert_eq!(step(&mut graph, "y", &[&[one]]), after);
    check(&graph);
}

#[test]
fn a_way_that_would_close_a_loop_is_left_out() {
    let mut graph = Graph::default();
    let a = root(&mut graph, "a");
    let one = step(&mut graph, "x", &[&[a]]);
    let two = step(&mut graph, "x", &[&[one]]);
    // The same step on its own result, as when copying a file over itself.
    let again = step(&mut graph, "x", &[&[a, one, two]]);
    assert!(again == one || again == two);
    check(&graph);
}

#[test]
fn results_are_kept_once() {
    let mut graph = Graph::default();
    let layer = graph.layers.place(&digest("blob"), None);
    let result = Placed {
        layer,
        created: UNIX_EPOCH + Duration::from_secs(1),
    };
    let id = graph.add(&digest("a"), &[], [result]).expect("a root");
    graph.add(&digest("a"), &[], [result]);
    assert_eq!(graph.items[id.0].results, [result]);
}

proptest! {
    #[test]
    fn whatever_is_added_there_are_no_loops(
        adds in prop::collection::vec((0..4_usize, prop::collection::vec(prop::collection::vec(0..64_usize, 1..4), 1..3)), 1..60)
    ) {
        let mut graph = Graph::default();
        let mut ids = vec![root(&mut graph, "r1"), root(&mut graph, "r2")];
        for (name, inputs) in adds {
            let inputs: Vec<Vec<_>> = (inputs.iter())
                .map(|ways| ways.iter().map(|at| way(ids[at % ids.len()])).collect())
                .collect();
            let id = graph.add(&digest(format!("{name}")), &inputs, []);
            ids.push(id.expect("all inputs are known"));
            check(&graph);
        }
    }
}
