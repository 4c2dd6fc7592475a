//! Damaged rows and blobs of the history: no panic, an answer within a second, and bounded memory.
//!
//! The inputs follow from a fixed seed; only how many are tried depends on the machine. `FUZZ_SECONDS` says how long,
//! CI takes a minute.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Instant;

use db::{Batch, Db, Table};
use diagnostics::Failure;
use history::{Ended, History, Limits, Options, Started};
use progress::{Event, Vertex};
use testkit::fuzz::{self, Dice, LIMIT};

async fn build(history: &History, name: &str) {
    let recording = history.begin(Started {
        name: name.to_owned(),
        frontend: "dockerfile.v0".to_owned(),
        attrs: [("build-arg:a".to_owned(), "b".to_owned())].into(),
        exporters: vec![("oci".to_owned(), [].into())],
    });
    let steps = (0..20).map(|at| {
        Event::from(Vertex {
            digest: oci::Digest::of(at.to_string()).to_string(),
            name: format!("step {at}"),
            ..Vertex::default()
        })
    });
    let ended = Ended {
        events: steps.collect(),
        failure: Some(Failure::user("it failed")),
        ..Ended::default()
    };
    recording
        .end(ended, async { Vec::new() })
        .await
        .expect("recorded");
}

/// Everything that can be read. What cannot is an error.
async fn read(history: &History, name: &str) {
    if let Ok(Some(mut log)) = history.log(name).await {
        while let Ok(Some(message)) = log.read() {
            drop(message);
        }
    }
    for blob in history.blobs().unwrap_or_default() {
        if let Ok(reader) = history.open_blob(&blob.digest) {
            // A damaged blob may say of itself that it is large.
            let _ = std::io::copy(&mut reader.take(64 << 20), &mut std::io::sink());
        }
    }
    drop(history.record(name).await);
}

#[tokio::test]
async fn nothing_that_was_damaged_panics_or_takes_long() {
    let end = fuzz::end(1);
    let dir = tempfile::tempdir().expect("a directory");
    let db = Db::open(dir.path(), "cache-v1", db::Options::default()).expect("a database");
    let root = dir.path().join("history-v1");
    let history = History::open(Options {
        root: root.clone(),
        db: db.clone(),
        content: content::Store::open(&dir.path().join("content")).expect("a store"),
        limits: Limits::default(),
    })
    .expect("a history");
    build(&history, "one").await;
    let entries = std::fs::read_dir(root.join("blobs"))
        .expect("read")
        .flatten();
    let blobs: Vec<(PathBuf, Vec<u8>)> = entries
        .map(|entry| (entry.path(), std::fs::read(entry.path()).expect("read")))
        .collect();
    assert!(!blobs.is_empty());
    let mut rows: Vec<(Table, Vec<u8>, Vec<u8>)> = Vec::new();
    db.dump(|table, key, value| {
        let table = Table::new(String::leak(table.to_owned()));
        rows.push((table, key.to_vec(), value.to_vec()));
    })
    .expect("read");
    assert!(!rows.is_empty());
    let mut dice = Dice::new(1);
    while Instant::now() < end {
        let state = dice.clone();
        let blob = (dice.below(2) == 0).then(|| blobs[dice.below(blobs.len())].clone());
        let (table, key, value) = rows[dice.below(rows.len())].clone();
        if let Some((path, bytes)) = &blob {
            let mut bent = bytes.clone();
            (0..=dice.below(3)).for_each(|_| dice.damage(&mut bent, &[]));
            std::fs::write(path, bent).expect("written");
        } else {
            let mut bent = value.clone();
            (0..=dice.below(3)).for_each(|_| dice.damage(&mut bent, &[]));
            let mut batch = Batch::new();
            batch.put(table, key.clone(), bent);
            db.commit(batch).expect("committed");
        }
        let begun = Instant::now();
        read(&history, "one").await;
        assert!(begun.elapsed() < LIMIT, "{state:?}");
        if let Some((path, bytes)) = &blob {
            std::fs::write(path, bytes).expect("written");
        }
        let mut batch = Batch::new();
        batch.put(table, key, value);
        db.commit(batch).expect("committed");
    }
    let mut log = history.log("one").await.expect("read").expect("a log");
    assert!(log.read().expect("whole").is_some());
}
