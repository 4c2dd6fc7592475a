//! Tests of the blob store.

use std::io::Write;

use proptest::prelude::*;

use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let store = Store::open(&dir.path().join("content-v1")).expect("a store");
    (dir, store)
}

fn ingests(store: &Store) -> usize {
    let list = |path| std::fs::read_dir(path).expect("a folder");
    list(store.root().join("ingest"))
        .map(|place| list(place.expect("an entry").path()).count())
        .sum()
}

#[test]
fn a_blob_is_found_by_its_digest() {
    let (_dir, store) = store();
    let digest = store.put("hello").expect("stored");
    assert_eq!(digest, Digest::of("hello"));
    assert!(store.contains(&digest));
    assert_eq!(store.read(&digest).expect("read"), "hello");
    assert_eq!(store.info(&digest).expect("known").size, 5);
    assert_eq!(store.list().expect("listed").len(), 1);
}

#[test]
fn what_is_not_there_is_not_found() {
    let (_dir, store) = store();
    let digest = Digest::of("x");
    assert!(!store.contains(&digest));
    assert!(matches!(
        store.open_blob(&digest),
        Err(Error::NotFound { .. })
    ));
    assert!(!store.remove(&digest).expect("nothing to do"));
}

#[test]
fn a_wrong_digest_leaves_nothing_behind() {
    let (_dir, store) = store();
    let mut writer = store
        .writer(Some(&Digest::of("expected")))
        .expect("a writer");
    writer.write_all(b"other").expect("written");
    let err = writer.commit().expect_err("refused");
    assert_eq!(
        err.to_string(),
        format!(
            "unexpected commit digest {}, expected {}",
            Digest::of("other"),
            Digest::of("expected")
        )
    );
    assert_eq!(
        (ingests(&store), store.list().expect("listed").len()),
        (0, 0)
    );
}

#[test]
fn a_dropped_writer_leaves_nothing_behind() {
    let (_dir, store) = store();
    let mut writer = store.writer(None).expect("a writer");
    writer.write_all(b"half").expect("written");
    assert_eq!(ingests(&store), 1);
    drop(writer);
    assert_eq!(ingests(&store), 0);
}

#[test]
fn writing_a_blob_twice_keeps_the_first() {
    let (_dir, store) = store();
    let write = || {
        let mut writer = store.writer(None).expect("a writer");
        writer.write_all(b"same").expect("written");
        writer.commit().expect("stored")
    };
    assert_eq!(write(), write());
    assert_eq!(ingests(&store), 0);
}

#[test]
fn what_nobody_asked_for_is_removed_and_asking_keeps_it() {
    let (_dir, store) = store();
    let (old, asked) = (
        store.put("old").expect("stored"),
        store.put("asked").expect("stored"),
    );
    let long_ago = SystemTime::now() - std::time::Duration::from_secs(3600);
    let times = std::fs::FileTimes::new()
        .set_accessed(long_ago)
        .set_modified(long_ago);
    for digest in [&old, &asked] {
        let file = std::fs::File::open(store.path(digest)).expect("opened");
        file.set_times(times).expect("set");
    }
    assert!(store.contains(&asked));
    let since = SystemTime::now() - std::time::Duration::from_secs(60);
    assert!(store.remove_unused(&old, since).expect("removed"));
    assert!(!store.remove_unused(&asked, since).expect("looked at"));
    let left = store.list().expect("listed");
    assert_eq!(left.len(), 1);
    assert!(
        left[0].created <= long_ago && left[0].disk >= 512,
        "{left:?}"
    );
}

#[test]
fn unfinished_files_are_swept_at_start() {
    let (_dir, store) = store();
    let left = "left by a killed daemon";
    let place = writer::place(&store, 7);
    std::fs::create_dir_all(place.parent().expect("a folder")).expect("made");
    std::fs::write(&place, left).expect("written");
    // As daemons left it when unfinished blobs had one folder.
    std::fs::write(store.root().join("ingest/7000"), left).expect("written");
    let again = Store::open(store.root()).expect("a store");
    assert_eq!(ingests(&again), 0);
    assert!(!store.root().join("ingest/7000").exists());
}

#[test]
fn other_algorithms_are_verified_too() {
    let (_dir, store) = store();
    let expected: Digest = "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
        .parse()
        .expect("a digest");
    let mut writer = store.writer(Some(&expected)).expect("a writer");
    writer.write_all(b"abc").expect("written");
    assert_eq!(writer.commit().expect("stored").0, expected);
    assert!(store.contains(&expected));
}

#[test]
fn what_was_not_synced_can_be_dropped() {
    let (_dir, store) = store();
    let digest = store.put("young").expect("stored");
    let past = SystemTime::now() - std::time::Duration::from_secs(3600);
    let future = SystemTime::now() + std::time::Duration::from_secs(3600);
    assert_eq!(
        store
            .drop_written_since(future, |_| false)
            .expect("nothing to do"),
        0
    );
    assert!(store.contains(&digest));
    assert_eq!(
        store
            .drop_written_since(past, |_| true)
            .expect("nothing to do"),
        0
    );
    assert_eq!(
        store.drop_written_since(past, |_| false).expect("dropped"),
        1
    );
    assert!(!store.contains(&digest));
}

proptest! {
    #[test]
    fn pieces_of_any_size_make_the_same_blob(sizes in prop::collection::vec(0_usize..300_000, 0..6)) {
        let (_dir, store) = store();
        let mut all = Vec::new();
        let mut writer = store.writer(None).expect("a writer");
        for (index, size) in sizes.into_iter().enumerate() {
            let piece = vec![index as u8; size];
            writer.write_all(&piece).expect("written");
            all.extend_from_slice(&piece);
        }
        let (digest, size) = writer.commit().expect("stored");
        prop_assert_eq!(size, all.len() as u64);
        prop_assert_eq!(&digest, &Digest::of(&all));
        prop_assert_eq!(store.read(&digest).expect("read"), all);
    }
}

#[test]
fn a_blob_that_was_damaged_on_disk_is_removed_when_it_is_read() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let written = Store::open(dir.path()).expect("opened");
    let digests = ["one", "two", "three"].map(|text| written.put(text).expect("stored"));
    let long_ago =
        std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    for (digest, text) in digests.iter().zip(["oNe", "tw", "three"]) {
        let path = written.path(digest);
        std::fs::write(&path, text).expect("damaged");
        let file = std::fs::File::open(&path).expect("there");
        file.set_modified(long_ago).expect("set");
    }
    let store = Store::open(dir.path()).expect("opened");
    let opened = store.open_blob(&digests[0]).map(drop);
    assert!(matches!(opened, Err(Error::Damaged { .. })), "{opened:?}");
    let read = store.read(&digests[1]);
    assert!(matches!(read, Err(Error::Damaged { .. })), "{read:?}");
    assert!(!store.contains(&digests[0]) && !store.contains(&digests[1]));
    assert_eq!(store.read(&digests[2]).expect("whole"), "three");
    let mut text = String::new();
    let mut file = store.open_blob(&digests[2]).expect("whole");
    std::io::Read::read_to_string(&mut file, &mut text).expect("read");
    assert_eq!(text, "three");
}
