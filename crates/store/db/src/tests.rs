//! Tests of the database.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;

const T: Table = Table::new("t");
const U: Table = Table::new("u");

fn manual(boot: &str) -> Options {
    Options {
        flush_after: Duration::from_secs(3600),
        boot: Some(boot.to_owned()),
        ..Options::default()
    }
}

fn open(dir: &Path, boot: &str) -> Db {
    Db::open(dir, "test-v1", manual(boot)).expect("opened")
}

fn put(db: &Db, table: Table, key: &str, value: &str) {
    let mut batch = Batch::new();
    batch.put(table, key, value);
    db.commit(batch).expect("committed");
}

fn value(db: &Db, key: &str) -> Option<String> {
    let value = db.value(T, key.as_bytes()).expect("read")?;
    Some(String::from_utf8(value).expect("text"))
}

fn keys(db: &Db, prefix: &str) -> Vec<String> {
    let pairs = db.prefix(T, prefix.as_bytes()).expect("read");
    pairs
        .into_iter()
        .map(|(key, _)| String::from_utf8(key).expect("text"))
        .collect()
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a scratch folder")
}

#[test]
fn a_change_is_seen_at_once_and_after_a_restart() {
    let dir = scratch();
    let db = open(dir.path(), "b");
    assert_eq!(db.start(), &Start::New);
    put(&db, T, "k", "v");
    assert_eq!(value(&db, "k").as_deref(), Some("v"));
    drop(db);
    let db = open(dir.path(), "b");
    assert_eq!(db.start(), &Start::Complete);
    assert_eq!(value(&db, "k").as_deref(), Some("v"));
}

#[test]
fn a_change_survives_a_reboot_once_it_was_synced() {
    let dir = scratch();
    let db = open(dir.path(), "first");
    put(&db, T, "synced", "1");
    db.sync().expect("synced");
    put(&db, T, "young", "1");
    drop(db);
    let db = open(dir.path(), "second");
    assert!(
        matches!(db.start(), Start::Lost { synced: Some(_) }),
        "{:?}",
        db.start()
    );
    assert_eq!(value(&db, "synced").as_deref(), Some("1"));
    assert_eq!(value(&db, "young"), None);
}

#[test]
fn a_reboot_with_nothing_waiting_loses_nothing() {
    let dir = scratch();
    let db = open(dir.path(), "first");
    put(&db, T, "k", "v");
    db.sync().expect("synced");
    drop(db);
    assert_eq!(open(dir.path(), "second").start(), &Start::Rebooted);
}

/// A log whose header did not get written, as a process killed at that moment leaves it.
fn leave_an_empty_log(dir: &Path, boot: &str) {
    std::fs::write(dir.join(format!("test-v1.99.{boot}.log")), "").expect("written");
}

#[test]
fn a_process_killed_while_it_began_a_log_loses_nothing() {
    let dir = scratch();
    let db = open(dir.path(), "first");
    put(&db, T, "k", "v");
    drop(db);
    leave_an_empty_log(dir.path(), "first");
    let db = open(dir.path(), "first");
    assert_eq!(db.start(), &Start::Complete);
    assert_eq!(value(&db, "k").as_deref(), Some("v"));
    put(&db, T, "more", "v");
    drop(db);
    let db = open(dir.path(), "first");
    assert_eq!(value(&db, "more").as_deref(), Some("v"));
}

#[test]
fn an_empty_log_of_another_boot_may_have_lost_something() {
    let dir = scratch();
    let db = open(dir.path(), "first");
    put(&db, T, "k", "v");
    db.sync().expect("synced");
    drop(db);
    leave_an_empty_log(dir.path(), "first");
    let db = open(dir.path(), "second");
    assert!(matches!(db.start(), Start::Lost { synced: Some(_) }));
    assert_eq!(value(&db, "k").as_deref(), Some("v"));
}

#[test]
fn a_removed_key_stays_away_however_far_the_flush_got() {
    let dir = scratch();
    let db = open(dir.path(), "b");
    put(&db, T, "k", "v");
    db.sync().expect("synced");
    let mut batch = Batch::new();
    batch.remove(T, "k");
    db.commit(batch).expect("committed");
    assert_eq!(value(&db, "k"), None);
    assert!(keys(&db, "").is_empty());
    db.sync().expect("synced");
    assert_eq!(value(&db, "k"), None);
}

#[test]
fn what_was_read_before_a_flush_does_not_hide_what_it_wrote() {
    let dir = scratch();
    let db = open(dir.path(), "b");
    put(&db, T, "k", "1");
    db.sync().expect("synced");
    assert_eq!(value(&db, "k").as_deref(), Some("1"));
    assert_eq!(db.value(U, b"k").expect("read"), None);
    put(&db, T, "k", "2");
    put(&db, U, "k", "3");
    db.sync().expect("synced");
    assert_eq!(value(&db, "k").as_deref(), Some("2"));
    assert_eq!(db.value(U, b"k").expect("read").as_deref(), Some(&b"3"[..]));
    assert_eq!(keys(&db, ""), ["k"]);
}

#[test]
fn a_prefix_finds_its_keys_in_memory_and_file() {
    let dir = scratch();
    let db = open(dir.path(), "b");
    for key in ["a", "b1", "b3", "c"] {
        put(&db, T, key, "file");
    }
    db.sync().expect("synced");
    for key in ["b0", "b2", "b3", "b4"] {
        put(&db, T, key, "memory");
    }
    put(&db, U, "b9", "other table");
    assert_eq!(keys(&db, "b"), ["b0", "b1", "b2", "b3", "b4"]);
    assert_eq!(value(&db, "b3").as_deref(), Some("memory"));
    let first = db
        .range(T, Bound::Excluded(b"b0"), Bound::Unbounded, 2)
        .expect("read");
    assert_eq!(first.len(), 2);
    assert_eq!(first[0].0, b"b1");
    let none = db
        .range(T, Bound::Excluded(b"b"), Bound::Excluded(b"b"), 9)
        .expect("read");
    assert!(none.is_empty());
}

#[test]
fn a_transaction_sees_its_own_changes_and_leaves_none_when_it_fails() {
    let dir = scratch();
    let db = open(dir.path(), "b");
    put(&db, T, "n", "1");
    let result: Result<(), Error> = db.transaction(|tx| {
        tx.put(T, "n", "2");
        tx.put(T, "m", "3");
        assert_eq!(tx.value(T, b"n")?, Some(b"2".to_vec()));
        assert_eq!(tx.prefix(T, b"")?.len(), 2);
        tx.remove(T, "m");
        assert!(!tx.contains(T, b"m")?);
        Err(Error::InUse {
            path: PathBuf::new(),
        })
    });
    assert!(result.is_err());
    assert_eq!(value(&db, "n").as_deref(), Some("1"));
}

#[test]
fn counting_from_many_threads_loses_no_step() {
    let dir = scratch();
    let db = open(dir.path(), "b");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..100 {
                    let step = |tx: &mut Transaction<'_>| -> Result<(), Error> {
                        let old = tx.value(T, b"n")?.map_or(0, |raw| raw[0]);
                        tx.put(T, "n", vec![old.wrapping_add(1)]);
                        Ok(())
                    };
                    db.transaction(step).expect("committed");
                    if round % 40 == 0 {
                        db.sync().expect("synced");
                    }
                }
            });
        }
    });
    assert_eq!(db.value(T, b"n").expect("read"), Some(vec![144]));
}

#[test]
fn files_are_synced_before_the_database_says_so() {
    let dir = scratch();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let options = Options {
        before_flush: Some(Arc::new(move || {
            if counted.fetch_add(1, Ordering::Relaxed) == 0 {
                return Err(io::Error::other("disk on fire"));
            }
            Ok(())
        })),
        ..manual("b")
    };
    let db = Db::open(dir.path(), "test-v1", options).expect("opened");
    put(&db, T, "a", "1");
    assert!(matches!(db.sync(), Err(Error::Sync { .. })));
    put(&db, T, "a", "2");
    put(&db, T, "b", "3");
    db.sync().expect("synced");
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    drop(db);
    let db = open(dir.path(), "other boot");
    assert_eq!(db.start(), &Start::Rebooted);
    assert_eq!(
        (value(&db, "a").as_deref(), value(&db, "b").as_deref()),
        (Some("2"), Some("3"))
    );
}

#[test]
fn the_background_flushes_by_itself_and_says_so() {
    let dir = scratch();
    let (told, hear) = std::sync::mpsc::channel();
    let options = Options {
        flush_after: Duration::ZERO,
        after_flush: Some(Arc::new(move || told.send(()).expect("somebody hears"))),
        ..manual("b")
    };
    let db = Db::open(dir.path(), "test-v1", options).expect("opened");
    put(&db, T, "a", "1");
    hear.recv_timeout(Duration::from_secs(60)).expect("flushed");
    assert!(dir.path().join("test-v1.redb").exists());
}

#[test]
fn a_damaged_file_is_set_aside() {
    let dir = scratch();
    let db = open(dir.path(), "b");
    put(&db, T, "k", "v");
    db.sync().expect("synced");
    put(&db, T, "later", "v");
    drop(db);
    std::fs::write(dir.path().join("test-v1.redb"), "this is no database").expect("written");
    let db = open(dir.path(), "b");
    let Start::SetAside { path } = db.start() else {
        panic!("{:?}", db.start());
    };
    assert_eq!(std::fs::read(path).expect("read"), b"this is no database");
    assert_eq!((value(&db, "k"), value(&db, "later")), (None, None));
    put(&db, T, "k", "new");
    db.sync().expect("synced");
}

#[test]
fn a_file_that_became_empty_by_damage_is_set_aside() {
    let dir = scratch();
    let db = open(dir.path(), "b");
    put(&db, T, "k", "v");
    db.sync().expect("synced");
    put(&db, T, "later", "v");
    drop(db);
    std::fs::write(dir.path().join("test-v1.redb"), "").expect("written");
    let db = open(dir.path(), "b");
    assert!(matches!(db.start(), Start::SetAside { .. }));
    assert_eq!((value(&db, "k"), value(&db, "later")), (None, None));
}

#[test]
fn a_damaged_file_is_no_loss_while_all_logs_are_there() {
    let dir = scratch();
    let db = open(dir.path(), "b");
    put(&db, T, "k", "v");
    drop(db);
    std::fs::write(dir.path().join("test-v1.redb"), "half a database").expect("written");
    let db = open(dir.path(), "b");
    assert_eq!(db.start(), &Start::Complete);
    assert!(db.was_killed());
    assert_eq!(value(&db, "k").as_deref(), Some("v"));
    db.sync().expect("synced");
    drop(db);
    assert!(!open(dir.path(), "b").was_killed());
}

fn logs(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("read").flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "log"))
        .collect()
}

#[test]
fn a_log_that_was_cut_short_takes_those_behind_it_along() {
    let dir = scratch();
    for key in ["a", "b", "c"] {
        let db = open(dir.path(), "b");
        put(&db, T, key, "1");
        put(&db, T, key, "2");
    }
    let mut logs = logs(dir.path());
    logs.sort();
    assert_eq!(logs.len(), 3);
    let whole = std::fs::read(&logs[1]).expect("read");
    for cut in 0..whole.len() {
        let copy = scratch();
        for log in &logs {
            std::fs::copy(log, copy.path().join(log.file_name().expect("a name"))).expect("copied");
        }
        std::fs::write(
            copy.path().join(logs[1].file_name().expect("a name")),
            &whole[..cut],
        )
        .expect("written");
        let db = open(copy.path(), "b");
        assert!(
            matches!(db.start(), Start::Shortened { path } if path.exists()),
            "cut at {cut}"
        );
        assert!(db.was_killed());
        assert_eq!(value(&db, "a").as_deref(), Some("2"));
        assert_ne!(value(&db, "b").as_deref(), Some("2"), "cut at {cut}");
        assert_eq!(value(&db, "c"), None, "cut at {cut}");
    }
}

#[test]
fn an_emptied_log_was_not_ended_in_order() {
    let dir = scratch();
    put(&open(dir.path(), "b"), T, "k", "v");
    std::fs::write(&logs(dir.path())[0], "").expect("emptied");
    assert!(open(dir.path(), "b").was_killed());
}

#[test]
fn a_damaged_log_counts_up_to_the_damage() {
    let dir = scratch();
    let db = open(dir.path(), "b");
    put(&db, T, "flushed", "v");
    db.sync().expect("synced");
    put(&db, T, "first", "v");
    put(&db, T, "second", "v");
    put(&db, T, "third", "v");
    drop(db);
    let log = dir.path().join("test-v1.2.b.log");
    let mut bytes = std::fs::read(&log).expect("read");
    let at = bytes.windows(6).position(|part| part == b"second");
    bytes[at.expect("written")] ^= 1;
    std::fs::write(&log, &bytes).expect("written");
    for _ in 0..2 {
        let db = open(dir.path(), "b");
        assert_eq!(value(&db, "flushed").as_deref(), Some("v"));
        assert_eq!(value(&db, "first").as_deref(), Some("v"));
        assert_eq!((value(&db, "second"), value(&db, "third")), (None, None));
        // What is left is an ordinary log from then on.
        if let Start::Shortened { path } = db.start() {
            assert_eq!(std::fs::read(path).expect("kept"), bytes);
        } else {
            assert_eq!(db.start(), &Start::Complete);
        }
    }
}

#[test]
fn a_file_that_is_open_already_is_left_alone() {
    let dir = scratch();
    let db = open(dir.path(), "b");
    put(&db, T, "k", "v");
    db.sync().expect("synced");
    let err = Db::open(dir.path(), "test-v1", manual("b")).expect_err("refused");
    assert!(matches!(err, Error::InUse { .. }), "{err}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_history_reads_like_a_map(
        steps in prop::collection::vec((0_u8..12, prop::option::weighted(0.7, 0_u8..250), 0_u8..10), 1..60)
    ) {
        let dir = scratch();
        let mut db = open(dir.path(), "b");
        let mut model = BTreeMap::new();
        for (key, new, action) in steps {
            let mut batch = Batch::new();
            match new {
                Some(new) => {
                    batch.put(T, vec![key], vec![new]);
                    model.insert(vec![key], vec![new]);
                }
                None => {
                    batch.remove(T, vec![key]);
                    model.remove(&vec![key]);
                }
            }
            db.commit(batch).expect("committed");
            match action {
                0 => db.sync().expect("synced"),
                1 => {
                    drop(db);
                    db = open(dir.path(), "b");
                }
                _ => {}
            }
            let expected: Vec<Pair> = model.clone().into_iter().collect();
            prop_assert_eq!(db.prefix(T, b"").expect("read"), expected);
            prop_assert_eq!(db.value(T, &[key]).expect("read"), model.get(&vec![key]).cloned());
        }
    }
}

fn file_size(dir: &Path) -> u64 {
    let meta = std::fs::metadata(dir.join("test-v1.redb"));
    meta.expect("there").len()
}

#[test]
fn a_file_that_became_empty_becomes_small() {
    let dir = scratch();
    let db = open(dir.path(), "b");
    let fill = |from: u32| {
        for round in 0..20 {
            let mut batch = Batch::new();
            for number in 0..1000 {
                let key = from + round * 1000 + number;
                batch.put(T, key.to_be_bytes(), vec![7; 300]);
            }
            db.commit(batch).expect("committed");
        }
        db.sync().expect("synced");
    };
    fill(0);
    let full = file_size(dir.path());
    assert!(full > 6_000_000, "{full}");
    fill(1 << 20);
    put(&db, U, "kept", "yes");
    let mut batch = Batch::new();
    for (key, _) in db.prefix(T, b"").expect("read").iter().skip(100) {
        batch.remove(T, key.clone());
    }
    db.commit(batch).expect("committed");
    db.sync().expect("synced");
    let small = file_size(dir.path());
    assert!(small < 2_000_000, "{small}");
    let check = |db: &Db| {
        assert_eq!(db.prefix(T, b"").expect("read").len(), 100);
        assert!(db.contains(U, b"kept").expect("read"));
    };
    check(&db);
    // It goes on with the new file.
    put(&db, U, "later", "too");
    db.sync().expect("synced");
    drop(db);
    let db = open(dir.path(), "other boot");
    assert_eq!(db.start(), &Start::Rebooted);
    check(&db);
    assert!(db.contains(U, b"later").expect("read"));
    let mut tables = Vec::new();
    db.dump(|table, _, _| tables.push(table.to_owned()))
        .expect("read");
    tables.dedup();
    assert_eq!(tables, ["t", "u"]);
}
