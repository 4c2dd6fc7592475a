//! The promises of key stores, kept by each of them; and what upstream's caches say.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use cachekeys::*;
use oci::Digest;
use serde_json::Value;

fn vector(name: &str) -> Value {
    let path = format!(
        "{}/../../../testing/vectors/cachekeys/{name}",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(&path).expect("vectors are checked in");
    serde_json::from_str(&text).expect("vectors are JSON")
}

fn digest(value: &Value) -> Digest {
    value.as_str().expect("a text").parse().expect("a digest")
}

fn with_stores(check: impl Fn(&dyn KeyStore)) {
    check(&Memory::default());
    let dir = tempfile::tempdir().expect("a directory");
    let options = db::Options::default();
    check(&Persistent::new(
        db::Db::open(dir.path(), "keys-v1", options).expect("a database"),
    ));
}

fn link(input: u32) -> Link {
    Link {
        digest: Digest::of("d"),
        input,
        output: 0,
        selector: None,
    }
}

fn stored(result: &str, age: u64) -> Stored {
    let created = SystemTime::UNIX_EPOCH + Duration::new(age, 7);
    Stored {
        result: ResultId::new(result),
        created,
    }
}

#[test]
fn links_are_found_from_both_ends_and_in_order() {
    with_stores(|store| {
        let [a, b, c] = ["a", "b", "c"].map(NodeId::new);
        store.add_link(&a, &link(1), &c);
        store.add_link(&a, &link(0), &c);
        store.add_link(&a, &link(0), &b);
        store.add_link(&a, &link(0), &b);
        assert_eq!(store.targets(&a, &link(0)), [b.clone(), c.clone()]);
        assert_eq!(store.targets(&a, &link(2)), []);
        assert_eq!(
            store.links(&a),
            [
                (link(0), b.clone()),
                (link(0), c.clone()),
                (link(1), c.clone())
            ]
        );
        assert_eq!(
            store.sources(&c),
            [(a.clone(), link(0)), (a.clone(), link(1))]
        );
        assert!(store.contains(&a) && store.contains(&b) && !store.contains(&NodeId::new("")));
    });
}

#[test]
fn records_keep_their_first_time_and_are_found_by_result() {
    with_stores(|store| {
        let [a, b] = ["a", "b"].map(NodeId::new);
        for (node, age) in [(&a, 5), (&a, 9), (&a, 3), (&b, 4)] {
            store.add_record(node, &stored("r", age));
        }
        assert_eq!(store.records(&a), [stored("r", 3)]);
        assert_eq!(store.nodes(&ResultId::new("r")), [a.clone(), b.clone()]);
        store.remove_record(&a, &ResultId::new("r"));
        assert_eq!(store.nodes(&ResultId::new("r")), [b]);
        assert!(!store.contains(&a));
        assert_eq!(store.results(), [ResultId::new("r")]);
    });
}

#[test]
fn a_removed_node_leaves_nothing_behind() {
    with_stores(|store| {
        let [a, b, c] = ["a", "b", "c"].map(NodeId::new);
        store.add_link(&a, &link(0), &b);
        store.add_link(&b, &link(0), &c);
        store.add_record(&b, &stored("r", 1));
        store.remove_node(&b);
        for node in [&a, &b, &c] {
            assert!(!store.contains(node), "{node}");
        }
        assert_eq!(store.results(), []);
    });
}

#[test]
fn random_nodes_work_like_others_while_the_daemon_lives() {
    with_stores(|store| {
        let random = NodeId::new(Digest::of("x").into_random().as_str());
        let other = NodeId::new("other");
        store.add_link(&random, &link(0), &other);
        store.add_record(&random, &stored("r", 1));
        assert_eq!(
            store.targets(&random, &link(0)),
            std::slice::from_ref(&other)
        );
        assert_eq!(store.sources(&other), [(random.clone(), link(0))]);
        assert_eq!(
            store.nodes(&ResultId::new("r")),
            std::slice::from_ref(&random)
        );
        release(store, &ResultId::new("r"));
        assert!(store.contains(&random), "a link leads on");
        store.remove_node(&other);
        assert!(!store.contains(&random));
    });
}

#[test]
fn links_of_random_operations_work_like_others_while_the_daemon_lives() {
    with_stores(|store| {
        let [a, b] = ["a", "b"].map(NodeId::new);
        let random = Link {
            digest: Digest::of("d").into_random(),
            ..link(0)
        };
        store.add_link(&a, &random, &b);
        store.add_link(&a, &link(0), &b);
        assert_eq!(store.targets(&a, &random), std::slice::from_ref(&b));
        assert_eq!(store.links(&a).len(), 2);
        assert_eq!(store.sources(&b).len(), 2);
        store.remove_node(&b);
        assert!(!store.contains(&a));
    });
}

#[test]
fn key_digests_are_upstreams() {
    let vectors = vector("keylinks.json");
    let keys = vectors["root_keys"].as_array().expect("a list");
    assert!(!keys.is_empty());
    for case in keys {
        let output = case["output"].as_i64().expect("a number");
        let key = match usize::try_from(output) {
            Ok(output) => Key::root(digest(&case["cache_digest"]), output),
            Err(_) => Key::content(digest(&case["cache_digest"])),
        };
        assert_eq!(key.key_digest(), digest(&case["key_digest"]), "{case}");
    }
    for case in vectors["random_keys"].as_array().expect("a list") {
        let key = Key::root(digest(&case["cache_digest"]), 0);
        assert_eq!(key.key_digest(), digest(&case["key_id"]));
    }
}

#[test]
fn content_digests_are_upstreams() {
    for case in vector("keylinks.json")["content_digest_lists"]
        .as_array()
        .expect("a list")
    {
        let answers: Vec<_> = case["digests"]
            .as_array()
            .expect("a list")
            .iter()
            .map(digest)
            .collect();
        assert_eq!(content_digest(&answers), digest(&case["combined"]));
    }
}

#[test]
fn link_texts_are_upstreams() {
    for case in vector("keylinks.json")["link_json"]
        .as_array()
        .expect("a list")
    {
        let text = case["json"].as_str().expect("a text");
        let link = Link::from_json(text).expect("a link");
        assert_eq!(link.to_json(), text);
        assert_eq!(
            i64::from(link.input),
            case["input"].as_i64().expect("a number")
        );
        assert_eq!(
            i64::from(link.output),
            case["output"].as_i64().expect("a number")
        );
        assert_eq!(
            link.selector.map(String::from).unwrap_or_default(),
            case["selector"]
        );
    }
}

/// (source, link, target)
type Links = BTreeSet<(String, String, String)>;

fn upstreams_links(buckets: &Value) -> Links {
    let mut links = Links::new();
    for (source, bucket) in buckets["_links"].as_object().expect("a bucket") {
        for entry in bucket.as_object().expect("a bucket").keys() {
            let (link, target) = entry.rsplit_once('@').expect("link@target");
            links.insert((source.clone(), link.to_owned(), target.to_owned()));
        }
    }
    links
}

/// Builds the keys of upstream's database anew, saves them, and compares what came of it.
#[test]
fn a_build_leaves_the_graph_that_upstream_leaves() {
    let vectors = vector("localdb-20.json");
    let buckets = &vectors["buckets"];
    let links = upstreams_links(buckets);
    let results = buckets["_result"].as_object().expect("a bucket");
    with_stores(|store| {
        let mut keys: BTreeMap<String, Key> = BTreeMap::new();
        // Roots first; others as soon as all that leads to them is there.
        for node in links
            .iter()
            .map(|(source, ..)| source)
            .chain(results.keys())
        {
            if node.contains(':') {
                // What a root's digest was made of is not in the database. A random key is its own node, so
                // one with the same hex does as well.
                let name: Digest = node.parse().expect("a digest");
                keys.insert(node.clone(), Key::root(name.into_random(), 0));
            }
        }
        let inner: BTreeSet<_> = links.iter().map(|(_, _, target)| target.clone()).collect();
        loop {
            let before = keys.len();
            for node in &inner {
                let into: Vec<_> = links
                    .iter()
                    .filter(|(_, _, target)| target == node)
                    .collect();
                if keys.contains_key(node)
                    || into.iter().any(|(source, ..)| !keys.contains_key(source))
                {
                    continue;
                }
                let mut inputs: Vec<Vec<Alternative>> = Vec::new();
                let mut op = None;
                for (source, text, _) in into {
                    let link = Link::from_json(text).expect("a link");
                    inputs.resize(inputs.len().max(link.input as usize + 1), Vec::new());
                    let way = Alternative {
                        key: keys[source].clone(),
                        selector: link.selector,
                    };
                    inputs[link.input as usize].push(way);
                    op = Some(link.digest);
                }
                let key = Key::with_inputs(op.expect("a link"), 0, inputs, None);
                keys.insert(node.clone(), key);
            }
            if keys.len() == before {
                break;
            }
        }
        for (node, records) in results {
            for result in records.as_object().expect("a bucket").keys() {
                save(store, &keys[node], &stored(result, 1));
            }
        }

        let names: BTreeMap<String, String> = keys
            .iter()
            .filter_map(|(node, key)| Some((key.node(StoreId::MAIN)?.to_string(), node.clone())))
            .collect();
        let mut ours = Links::new();
        for node in names.keys() {
            for (link, target) in store.links(&NodeId::new(node)) {
                let target = names[target.as_str()].clone();
                ours.insert((names[node].clone(), link.to_json(), target));
            }
        }
        assert_eq!(ours, links);
        for (node, key) in &keys {
            let ours: Vec<_> = store.records(&key.node(StoreId::MAIN).expect("saved"));
            let theirs = results
                .get(node)
                .and_then(Value::as_object)
                .map_or(0, |r| r.len());
            assert_eq!(ours.len(), theirs, "{node}");
        }
    });
}
