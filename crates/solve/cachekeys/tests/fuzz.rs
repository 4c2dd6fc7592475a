//! Damaged rows of the key store and the ledger: no panic, and an answer within a second.
//!
//! The inputs follow from a fixed seed; only how many are tried depends on the machine. `FUZZ_SECONDS` says how long,
//! CI takes a minute.

use std::time::{Instant, SystemTime};

use cachekeys::*;
use db::{Batch, Db, Table};
use oci::Digest;
use testkit::fuzz::{self, Dice, LIMIT};

const WORDS: &[&[u8]] = &[b"[[[[[[[[{\""];

fn link(input: u32) -> Link {
    Link {
        digest: Digest::of("d"),
        input,
        output: 0,
        selector: (input == 1).then(|| Digest::of("selector")),
    }
}

#[test]
fn no_damaged_row_panics_or_takes_long() {
    let end = fuzz::end(1);
    let dir = tempfile::tempdir().expect("a directory");
    let db = Db::open(dir.path(), "keys-v1", db::Options::default()).expect("a database");
    let (store, ledger) = (Persistent::new(db.clone()), Ledger::new(db.clone(), 0));
    let nodes = ["a", "b", "c"].map(NodeId::new);
    let list = Digest::of("list");
    store.add_link(&nodes[0], &link(0), &nodes[1]);
    store.add_link(&nodes[1], &link(1), &nodes[2]);
    let result = ResultId::new("result");
    let record = Stored {
        result: result.clone(),
        created: SystemTime::UNIX_EPOCH,
    };
    store.add_record(&nodes[2], &record);
    let files = ["a/b", "a/c", "d"].map(|path| File {
        path: path.into(),
        sum: [7; SUM],
    });
    ledger.add_files(&list, &files);
    assert!(ledger.files(&list).is_some());
    let mut rows: Vec<(Table, Vec<u8>, Vec<u8>)> = Vec::new();
    db.dump(|table, key, value| {
        let table = Table::new(String::leak(table.to_owned()));
        rows.push((table, key.to_vec(), value.to_vec()));
    })
    .expect("read");
    assert!(rows.len() >= 6, "{}", rows.len());
    let mut dice = Dice::new(1);
    while Instant::now() < end {
        let (table, old_key, old_value) = rows[dice.below(rows.len())].clone();
        let (mut key, mut value) = (old_key.clone(), old_value.clone());
        if dice.below(2) == 0 {
            dice.damage(&mut key, WORDS);
        }
        (0..=dice.below(3)).for_each(|_| dice.damage(&mut value, WORDS));
        let mut batch = Batch::new();
        batch.put(table, key.clone(), value.clone());
        db.commit(batch).expect("committed");
        let begun = Instant::now();
        for node in &nodes {
            let leads = store.links(node);
            for (link, _) in &leads {
                drop(store.targets(node, link));
            }
            drop((
                store.sources(node),
                store.records(node),
                store.contains(node),
            ));
        }
        drop((store.results(), store.nodes(&result), ledger.files(&list)));
        drop(ledger.between(SystemTime::UNIX_EPOCH, SystemTime::now()));
        assert!(begun.elapsed() < LIMIT, "{key:?} {value:?}");
        let mut batch = Batch::new();
        batch.remove(table, key);
        batch.put(table, old_key, old_value);
        db.commit(batch).expect("committed");
    }
    assert_eq!(store.records(&nodes[2]), [record]);
}
