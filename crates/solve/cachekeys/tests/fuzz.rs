//! Damaged rows of the key store and the ledger: no panic, and an answer within a second.
//!
//! The inputs follow from a fixed seed; only how many are tried depends on the machine. `FUZZ_SECONDS` says how long,
//! CI takes a minute.

use std::time::{Duration, Instant, SystemTime};

use cachekeys::*;
use db::{Batch, Db, Table};
use oci::Digest;

/// Unoptimised and beside other tests.
const LIMIT: Duration = Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 1 });

/// Marsaglia's xorshift: the same numbers on every machine.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end.max(1) as u64).expect("below a usize")
    }

    fn damage(&mut self, row: &mut Vec<u8>) {
        let at = self.below(row.len() + 1);
        match self.below(5) {
            0 => row.truncate(at),
            1 => drop(row.splice(at..at, [0xff, 0, 0xff, 0xff, 0x7f])),
            2 => drop(row.splice(at..at, *b"[[[[[[[[{\"")),
            3 => {
                let end = (at + self.below(60)).min(row.len());
                let copied = row[at..end].to_vec();
                row.splice(at..at, copied);
            }
            _ if at < row.len() => row[at] ^= 1 << self.below(8),
            _ => {}
        }
    }
}

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
    let seconds = std::env::var("FUZZ_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(1));
    let dir = tempfile::tempdir().expect("a directory");
    let db = Db::open(dir.path(), "keys-v1", db::Options::default()).expect("a database");
    let (store, ledger) = (Persistent::new(db.clone()), Ledger::new(db.clone()));
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
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    while Instant::now() < end {
        let (table, old_key, old_value) = rows[dice.below(rows.len())].clone();
        let (mut key, mut value) = (old_key.clone(), old_value.clone());
        if dice.below(2) == 0 {
            dice.damage(&mut key);
        }
        (0..=dice.below(3)).for_each(|_| dice.damage(&mut value));
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
