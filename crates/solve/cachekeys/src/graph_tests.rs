//! Tests of the graph in memory.

use std::time::{Duration, SystemTime};

use super::*;
use crate::Memory;

fn digest(text: &str) -> Digest {
    Digest::of(text)
}

fn way(key: &Key, selector: Option<&str>) -> Alternative {
    Alternative {
        key: key.clone(),
        selector: selector.map(digest),
    }
}

fn stored(result: &str, age: u64) -> Stored {
    Stored {
        result: ResultId::new(result),
        created: SystemTime::UNIX_EPOCH + Duration::from_secs(age),
    }
}

fn step(name: &str, inputs: Vec<Vec<Alternative>>) -> Key {
    Key::with_inputs(digest(name), 0, inputs, None)
}

fn always(_: &ResultId) -> bool {
    true
}

fn stores() -> Stores {
    Stores::new(Arc::new(Memory::default()))
}

#[test]
fn what_was_saved_is_found_by_a_new_key_object() {
    let stores = stores();
    let base = Key::root(digest("image"), 0);
    save(stores.main().as_ref(), &base, &stored("r0", 1));
    let run = step("run", vec![vec![way(&base, Some("/"))]]);
    let node = save(stores.main().as_ref(), &run, &stored("r1", 2));

    let again = Key::root(digest("image"), 0);
    let found = query(
        &stores,
        &[way(&again, Some("/"))],
        &[],
        0,
        0,
        &digest("run"),
    );
    assert_eq!(
        found,
        [Found {
            store: StoreId::MAIN,
            node: node.clone()
        }]
    );
    assert_eq!(
        query(&stores, &[way(&again, None)], &[], 0, 0, &digest("run")),
        []
    );
    assert_eq!(
        query(
            &stores,
            &[way(&again, Some("/"))],
            &[],
            0,
            1,
            &digest("run")
        ),
        []
    );

    let key = step("run", vec![vec![way(&again, Some("/"))]]);
    key.bind(StoreId::MAIN, node);
    let results: Vec<_> = records(&stores, &key, &always)
        .into_iter()
        .map(|r| r.result)
        .collect();
    assert_eq!(results, [ResultId::new("r1")]);
}

#[test]
fn a_match_by_content_teaches_the_definition_key() {
    let stores = stores();
    let old = Key::root(digest("context, yesterday"), 0);
    let content = Key::content(digest("files"));
    let copy = step(
        "copy",
        vec![vec![way(&old, Some("/src")), way(&content, None)]],
    );
    let node = save(stores.main().as_ref(), &copy, &stored("r", 1));

    let new = Key::root(digest("context, today"), 0);
    let ask = |ways: &[Alternative], taught: &[Alternative]| {
        query(&stores, ways, taught, 0, 0, &digest("copy"))
    };
    assert_eq!(ask(&[way(&new, Some("/src"))], &[]), []);
    let found = ask(&[way(&content, None)], &[way(&new, Some("/src"))]);
    assert_eq!(
        found,
        [Found {
            store: StoreId::MAIN,
            node
        }]
    );
    assert_eq!(ask(&[way(&new, Some("/src"))], &[]), found);
}

#[test]
fn equal_keys_share_a_node_and_different_ones_do_not() {
    let stores = stores();
    let main = stores.main().as_ref();
    let a = Key::root(digest("a"), 0);
    let b = Key::root(digest("b"), 0);
    let one = step("s", vec![vec![way(&a, None)], vec![way(&b, None)]]);
    let two = step("s", vec![vec![way(&a, None)], vec![way(&b, None)]]);
    let other = step("s", vec![vec![way(&b, None)], vec![way(&a, None)]]);
    let node = save(main, &one, &stored("1", 1));
    assert_eq!(save(main, &two, &stored("2", 2)), node);
    assert_ne!(save(main, &other, &stored("3", 3)), node);
    let fresh = step("s", vec![vec![way(&a, None)], vec![way(&b, None)]]);
    let found = find(main, &fresh, &always).map(|(node, records)| (node, records.len()));
    assert_eq!(found, Some((node, 2)));
    assert_eq!(fresh.node(StoreId::MAIN), None);
}

#[test]
fn other_content_is_another_node_even_under_the_same_definition() {
    let stores = stores();
    let main = stores.main().as_ref();
    let stage = Key::root(digest("stage"), 0);
    let copy = |content: &str| {
        let content = Key::content(digest(content));
        step(
            "copy",
            vec![vec![way(&stage, Some("/")), way(&content, None)]],
        )
    };
    let old = save(main, &copy("yesterday"), &stored("old", 1));
    assert_eq!(find(main, &copy("today"), &always), None);
    let new = save(main, &copy("today"), &stored("new", 2));
    assert_ne!(old, new);
    assert_eq!(
        find(main, &copy("yesterday"), &always).map(|(node, _)| node),
        Some(old)
    );
}

#[test]
fn chains_match_within_one_store_only() {
    let mut stores = stores();
    let imported = Arc::new(Memory::default());
    let id = StoreId(7);
    let base = Key::root(digest("image"), 0);
    // The import knows the first step, the daemon only the second one, under another node.
    let first = step("first", vec![vec![way(&base, None)]]);
    save(imported.as_ref(), &first, &stored("layer", 1));
    stores.attach(id, imported);

    let found = query(&stores, &[way(&base, None)], &[], 0, 0, &digest("first"));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].store, id);
    let key = step("first", vec![vec![way(&base, None)]]);
    key.bind(id, found[0].node.clone());
    assert_eq!(records(&stores, &key, &always)[0].store, id);

    // Saving what was loaded makes the chain known here as well.
    let node = save(stores.main().as_ref(), &key, &stored("local", 1));
    let found = query(&stores, &[way(&base, None)], &[], 0, 0, &digest("first"));
    assert!(found.contains(&Found {
        store: StoreId::MAIN,
        node
    }));
    assert_eq!(found.len(), 2);
}

#[test]
fn a_long_chain_of_unknown_keys_is_placed_without_recursion() {
    let stores = stores();
    let mut key = Key::root(digest("base"), 0);
    for at in 0..50_000 {
        key = step(&at.to_string(), vec![vec![way(&key, None)]]);
    }
    save(stores.main().as_ref(), &key, &stored("r", 1));
    let first = Key::root(digest("base"), 0);
    assert_eq!(
        query(&stores, &[way(&first, None)], &[], 0, 0, &digest("0")).len(),
        1
    );
}

#[test]
fn a_result_that_is_gone_takes_its_dead_ends_with_it() {
    let stores = stores();
    let main = stores.main().as_ref();
    let base = Key::root(digest("image"), 0);
    let one = step("one", vec![vec![way(&base, None)]]);
    let two = step("two", vec![vec![way(&one, None)]]);
    let one_node = save(main, &one, &stored("r1", 1));
    let two_node = save(main, &two, &stored("r2", 2));

    sweep(main, &|result| result.as_str() != "r1");
    assert!(
        main.contains(&one_node),
        "the way to the second step is kept"
    );
    assert!(main.records(&one_node).is_empty());

    let key = step("two", vec![vec![way(&one, None)]]);
    key.bind(StoreId::MAIN, two_node.clone());
    assert_eq!(records(&stores, &key, &|_| false), []);
    for node in [
        &two_node,
        &one_node,
        &base.node(StoreId::MAIN).expect("a root"),
    ] {
        assert!(!main.contains(node), "{node}");
    }
    assert_eq!(main.results(), []);
}
