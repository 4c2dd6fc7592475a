//! Damaged rows: no panic, an answer within a second, and what reads back is written the same way again.
//!
//! The inputs follow from a fixed seed; only how many are tried depends on the machine. `FUZZ_SECONDS` says how long,
//! CI takes a minute.

use std::time::{Duration, Instant};

use contenthash::{Change, Records, Sum};
use oci::{Descriptor, Digest};

use crate::record::{Blob, Body, Record, Size, Used, parse, second_id};
use crate::{RecordType, RefId};

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
        match self.below(6) {
            0 => row.truncate(at),
            1 => {
                let garbage: Vec<_> = (0..self.below(40)).map(|_| self.byte()).collect();
                row.splice(at..at, garbage);
            }
            // Lengths that nothing of that size follows.
            2 => drop(row.splice(at..at, [0xff, 0xff, 0xff, 0xff, 0xff, 0x7f])),
            3 => drop(row.splice(at..at, *b"[[[[[[[[{\"parents\":[")),
            4 => {
                let end = (at + self.below(100)).min(row.len());
                let copied = row[at..end].to_vec();
                row.splice(at..at, copied);
            }
            _ if at < row.len() => row[at] ^= 1 << self.below(8),
            _ => {}
        }
    }

    fn byte(&mut self) -> u8 {
        self.below(256) as u8
    }
}

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
    let seconds = std::env::var("FUZZ_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(1));
    let seeds = [checksums(), record(), vec![0; 16], vec![1; 24]];
    assert!(Records::from_bytes(&seeds[0]).is_some());
    let id = RefId::random();
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    while Instant::now() < end {
        let mut row = seeds[dice.below(seeds.len())].clone();
        if dice.below(20) == 0 {
            row = (0..dice.below(500)).map(|_| dice.byte()).collect();
        }
        (0..=dice.below(5)).for_each(|_| dice.damage(&mut row));
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
