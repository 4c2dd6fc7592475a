//! Damaged files of a database: no panic, an answer within a second, and never anything that was not written.
//!
//! The inputs follow from a fixed seed; only how many are tried depends on the machine. `FUZZ_SECONDS` says how long,
//! CI takes a minute.

use std::path::Path;
use std::time::{Duration, Instant};

use db::{Batch, Db, Options, Start, Table};
use testkit::fuzz::{self, Dice, LIMIT};

const TABLES: [Table; 3] = [Table::new("one"), Table::new("two"), Table::new("three")];
const NUMBER: &[u8] = b"number";

/// Damages a file, mostly in pages and blocks.
fn damage(dice: &mut Dice, file: &mut Vec<u8>) {
    let at = dice.below(file.len());
    let end = (at + dice.below(5000)).min(file.len());
    match dice.below(6) {
        0 => drop(file.splice(at..at, dice.bytes(200))),
        1 => file[at..end].fill(0),
        2 => {
            let from = dice.below(file.len());
            let other: Vec<u8> = file[from..].iter().take(end - at).copied().collect();
            file[at..at + other.len()].copy_from_slice(&other);
        }
        _ => dice.damage(file, &[]),
    }
}

fn options() -> Options {
    Options {
        flush_after: Duration::from_secs(3600),
        boot: Some("boot".to_owned()),
        ..Options::default()
    }
}

fn open(dir: &Path) -> Db {
    Db::open(dir, "test-v1", options()).expect("opened")
}

fn key(number: u32) -> Vec<u8> {
    format!("key {number:06}").into_bytes()
}

fn content(number: u32) -> Vec<u8> {
    format!("{number} ")
        .repeat(number as usize % 90 + 1)
        .into_bytes()
}

/// Each batch belongs to a number: the state after it follows from the number alone.
fn write(db: &Db, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let mut batch = Batch::new();
        for table in TABLES {
            batch.put(table, key(number), content(number));
            batch.put(table, NUMBER, number.to_le_bytes());
            if let Some(old) = number.checked_sub(300) {
                batch.remove(table, key(old));
            }
        }
        db.commit(batch).expect("committed");
    }
}

/// The number of the last batch that is there, if what is there is the state after it.
fn check(db: &Db) -> Option<u32> {
    let mut states = Vec::new();
    for table in TABLES {
        let mut pairs = db.prefix(table, b"").expect("read");
        let Some((last, number)) = pairs.pop() else {
            states.push(None);
            continue;
        };
        assert_eq!(last, NUMBER);
        let number = u32::from_le_bytes(number.try_into().expect("four bytes"));
        let there = number.saturating_sub(299)..=number;
        let wanted: Vec<_> = there.map(|number| (key(number), content(number))).collect();
        assert_eq!(pairs, wanted);
        states.push(Some(number));
    }
    assert!(states.iter().all(|state| *state == states[0]), "{states:?}");
    states[0]
}

/// The files of a database most of which was flushed, and the number of its last batch that was, and of its last.
fn example() -> (Vec<(String, Vec<u8>)>, u32, u32) {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let db = open(dir.path());
    write(&db, 0..200);
    db.sync().expect("synced");
    write(&db, 200..500);
    db.sync().expect("synced");
    write(&db, 500..600);
    drop(db);
    let files = std::fs::read_dir(dir.path()).expect("read").flatten();
    let files = files.map(|entry| {
        let bytes = std::fs::read(entry.path()).expect("read");
        (entry.file_name().to_string_lossy().into_owned(), bytes)
    });
    let mut files: Vec<_> = files
        .filter(|(name, _)| !name.ends_with("reserve"))
        .collect();
    files.sort();
    assert_eq!(files.len(), 2);
    (files, 499, 599)
}

#[test]
fn no_damaged_file_panics_takes_long_or_says_what_was_not_written() {
    let end = fuzz::end(2);
    let (files, flushed, last) = example();
    let mut dice = Dice::new(1);
    let mut outcomes = std::collections::BTreeMap::<_, u32>::new();
    while Instant::now() < end {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let bent = dice.below(files.len());
        for (at, (name, bytes)) in files.iter().enumerate() {
            let mut bytes = bytes.clone();
            if at == bent && dice.below(20) == 0 {
                bytes = dice.bytes(10_000);
            } else if at == bent {
                (0..=dice.below(4)).for_each(|_| damage(&mut dice, &mut bytes));
            }
            std::fs::write(dir.path().join(name), bytes).expect("written");
        }
        let (state, begun) = (dice.clone(), Instant::now());
        let db = open(dir.path());
        let took = begun.elapsed();
        assert!(took < LIMIT, "{took:?}, {state:?}");
        let found = check(&db);
        let start = match db.start() {
            Start::SetAside { path } | Start::Shortened { path } => {
                assert!(path.exists(), "{state:?}");
                format!("{:?}", db.start())
                    .split(' ')
                    .next()
                    .unwrap_or_default()
                    .to_owned()
            }
            other => format!("{other:?}"),
        };
        match start.as_str() {
            "SetAside" => assert_eq!(found, None, "{state:?}"),
            // Only the log can be shortened, or end early.
            "Shortened" => assert!(found >= Some(flushed), "{found:?}, {state:?}"),
            "Complete" if bent == 0 => {
                assert!(found >= Some(flushed), "{found:?}, {state:?}")
            }
            "Complete" => assert_eq!(found, Some(last), "{state:?}"),
            _ => panic!("{start}, {state:?}"),
        }
        // It can be used.
        let next = found.map_or(0, |found| found + 1);
        write(&db, next..next + 1);
        db.sync().expect("synced");
        drop(db);
        assert_eq!(check(&open(dir.path())), Some(next), "{state:?}");
        *outcomes.entry((bent, start)).or_default() += 1;
    }
    eprintln!("{outcomes:?}");
}
