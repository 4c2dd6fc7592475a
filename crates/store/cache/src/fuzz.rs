//! Damaged rows: no panic, an answer within a second, and what reads back is written the same way again.
//!
//! The inputs follow from a fixed seed; only how many are tried depends on the machine. `FUZZ_SECONDS` says how long,
//! CI takes a minute.

use std::time::Instant;

use contenthash::{Change, Records, Sum};
use oci::{Descriptor, Digest};
use testkit::fuzz::{self, Dice, LIMIT};

use crate::record::{Blob, Body, Record, Size, Used, parse, second_id};
use crate::{RecordType, RefId};

const WORDS: &[&[u8]] = &[b"[[[[[[[[{\"parents\":["];

fn checksums() -> Vec<u8> {
    let mut records = Records::new();
    for path in ["a", "d", "d/b", "d/e", "d/e/f"] {
        let sum = Sum::of(path.as_bytes());
        let change = match path {
            "d" | "d/e" => Change::Dir(sum),
            _ => Change::File(sum),
        };
        records.insert(path.as_bytes(), change);
    }
    let (target, sum) = (b"a".as_slice(), Sum::of(b"link"));
    records.insert(b"link", Change::Symlink { target, sum });
    records.to_bytes()
}

fn record() -> Vec<u8> {
    let record = Record {
        parents: vec![RefId::random(), RefId::random()],
        body: Body::Layer {
            snapshot: Some(7),
            unchanged: false,
            elsewhere: Some(8),
            blob: Some(Box::new(Blob {
                descriptor: Descriptor::new("type", Digest::of("blob"), 4),
                diff_id: Digest::of("tar"),
                chain_id: Some(Digest::of("chain")),
            })),
        },
        description: "a step".to_owned(),
        record_type: RecordType::Regular,
        created: 1_500_000_000,
    };
    serde_json::to_vec(&record).expect("JSON")
}

#[test]
fn no_damaged_row_panics_or_takes_long() {
    let end = fuzz::end(1);
    let seeds = [checksums(), record(), vec![0; 16], vec![1; 24]];
    assert!(Records::from_bytes(&seeds[0]).is_some());
    let id = RefId::random();
    let mut dice = Dice::new(1);
    while Instant::now() < end {
        let mut row = seeds[dice.below(seeds.len())].clone();
        if dice.below(20) == 0 {
            row = dice.bytes(500);
        }
        (0..=dice.below(5)).for_each(|_| dice.damage(&mut row, WORDS));
        let begun = Instant::now();
        if let Some(records) = Records::from_bytes(&row) {
            let again = Records::from_bytes(&records.to_bytes()).map(|again| again.to_bytes());
            assert_eq!(again, Some(records.to_bytes()), "{row:?}");
        }
        if let Ok(record) = parse(&id, &row) {
            let json = serde_json::to_vec(&record).expect("JSON");
            assert_eq!(parse(&id, &json).expect("a record"), record, "{row:?}");
        }
        if let Some(used) = Used::parse(&row) {
            assert_eq!(Used::parse(&used.bytes()), Some(used));
        }
        if let Some(size) = Size::parse(&row) {
            assert_eq!(size.bytes(), row);
        }
        drop(second_id(&row));
        drop(std::str::from_utf8(&row).ok().and_then(RefId::parse));
        assert!(begun.elapsed() < LIMIT, "{row:?}");
    }
}
