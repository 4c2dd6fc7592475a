//! A history from outside: builds come and go, somebody lists them, the daemon is started again.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use db::Db;
use diagnostics::Failure;
use history::{Ended, Error, History, Limits, Options, Outcome, Request, Started, Statement};
use oci::Digest;
use proto::control::{BuildHistoryEvent, BuildHistoryEventType as Kind, BuildHistoryRecord};

struct World {
    dir: tempfile::TempDir,
    db: Db,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let db = Db::open(dir.path(), "cache-v1", db::Options::default()).expect("a database");
        Self { dir, db }
    }

    fn content(&self) -> content::Store {
        content::Store::open(&self.dir.path().join("content")).expect("a store")
    }

    fn open(&self) -> History {
        self.open_with(Limits::default())
    }

    fn open_with(&self, limits: Limits) -> History {
        let options = Options {
            root: self.root(),
            db: self.db.clone(),
            content: self.content(),
            limits,
        };
        History::open(options).expect("a history")
    }

    fn root(&self) -> std::path::PathBuf {
        self.dir.path().join("history-v1")
    }
}

fn files(dir: &Path) -> usize {
    std::fs::read_dir(dir.join("blobs")).expect("there").count()
}

fn started(name: &str) -> Started {
    Started {
        name: name.to_owned(),
        frontend: "dockerfile.v0".to_owned(),
        attrs: BTreeMap::from([("build-arg:TOKEN".to_owned(), "x".to_owned())]),
        exporters: vec![("oci".to_owned(), BTreeMap::new())],
    }
}

async fn build(history: &History, name: &str, ended: Ended) {
    let recording = history.begin(started(name));
    recording.end(ended, said(&[])).await.expect("recorded");
    history.finalize(name).await;
}

/// Statements that are there at once.
fn said(all: &[Statement]) -> std::future::Ready<Vec<Statement>> {
    std::future::ready(all.to_vec())
}

async fn list(history: &History, request: Request) -> Vec<BuildHistoryRecord> {
    let mut listener = history
        .listen(Request {
            early_exit: true,
            ..request
        })
        .await
        .expect("a list");
    let mut records = Vec::new();
    while let Some(event) = listener.next().await {
        records.extend(event.record);
    }
    records
}

async fn names(history: &History) -> Vec<String> {
    let records = list(history, Request::default()).await;
    records.into_iter().map(|record| record.r#ref).collect()
}

fn kind_and_name(event: Option<BuildHistoryEvent>) -> (Kind, String) {
    let event = event.expect("an event");
    let name = event.record.as_ref().map(|it| it.r#ref.clone());
    (event.r#type(), name.unwrap_or_default())
}

fn vertex(cached: bool) -> progress::Event {
    progress::Event::from(progress::Vertex {
        digest: format!("sha256:{cached}"),
        started: Some(SystemTime::UNIX_EPOCH),
        completed: Some(SystemTime::UNIX_EPOCH),
        cached,
        ..progress::Vertex::default()
    })
}

#[tokio::test]
async fn a_build_goes_on_record_when_it_ends() {
    let world = World::new();
    let history = world.open();
    let mut listener = history.listen(Request::default()).await.expect("listen");
    let recording = history.begin(started("a"));
    let event = listener.next().await;
    assert_eq!(kind_and_name(event), (Kind::Started, "a".to_owned()));
    let ended = Ended {
        events: vec![vertex(true), vertex(false)],
        outcome: Outcome {
            metadata: BTreeMap::from([("config".to_owned(), "{\"Env\":[\"TOKEN=x\"]}".into())]),
            ..Outcome::default()
        },
        ..Ended::default()
    };
    recording.end(ended, said(&[])).await.expect("recorded");
    let event = listener.next().await.expect("an event");
    let record = event.record.expect("a record");
    assert_eq!((record.num_cached_steps, record.num_total_steps), (1, 2));
    assert_eq!(record.frontend_attrs["build-arg:TOKEN"], "<redacted>");
    let config = &record.exporter_response["config"];
    assert_eq!(config, "{\"Env\":[\"TOKEN=<redacted>\"]}");
    assert_eq!(record.exporters[0].r#type, "oci");
    assert!(record.error.is_none() && record.completed_at.is_some());
    history.finalize("a").await;
    let record = history.record("a").await.expect("a record");
    assert_eq!(record.generation, 1, "the trace came");
    assert!(record.trace.is_some());
    let mut log = history.log("a").await.expect("readable").expect("a log");
    let message = log.read().expect("readable").expect("a message");
    assert_eq!(message.vertexes.len(), 2);
    assert!(log.read().expect("readable").is_none());
}

#[tokio::test]
async fn a_failure_is_kept_twice_short_and_whole() {
    let world = World::new();
    let history = world.open();
    let failure = Failure::user("no").with(diagnostics::Detail::Exit { code: 3 });
    let ended = Ended {
        failure: Some(failure.clone()),
        ..Ended::default()
    };
    build(&history, "a", ended).await;
    let record = history.record("a").await.expect("a record");
    let error = record.error.expect("an error");
    assert_eq!((error.message.as_str(), error.details.len()), ("no", 0));
    let blob = record.external_error.expect("a blob");
    let digest: Digest = blob.digest.parse().expect("a digest");
    let mut bytes = Vec::new();
    let mut reader = history.open_blob(&digest).expect("there");
    std::io::Read::read_to_end(&mut reader, &mut bytes).expect("readable");
    let whole: proto::rpc::Status = prost::Message::decode(bytes.as_slice()).expect("a status");
    assert_eq!(whole, failure.to_rpc());
}

#[tokio::test]
async fn records_survive_the_daemon_and_go_with_their_blobs() {
    let world = World::new();
    let history = world.open();
    build(&history, "a", Ended::default()).await;
    build(&history, "b", Ended::default()).await;
    drop(history);
    let history = world.open();
    assert_eq!(names(&history).await, ["a", "b"]);
    let before = files(&world.root());
    history.delete("a").await.expect("deleted");
    assert_eq!(names(&history).await, ["b"]);
    assert_eq!(files(&world.root()), before - 1, "the empty log is shared");
    history.delete("b").await.expect("deleted");
    assert_eq!(files(&world.root()), 0);
    let err = history.delete("b").await.expect_err("gone");
    assert_eq!(err.to_string(), "lease \"ref_b\": not found");
    let err = history.pin("b", true).await.expect_err("gone");
    let text = "failed to retrieve ref b: file does not exist";
    assert_eq!(err.to_string(), text);
}

#[tokio::test]
async fn a_record_that_is_followed_goes_when_it_is_let_go() {
    let world = World::new();
    let history = world.open();
    build(&history, "a", Ended::default()).await;
    let one = || Request {
        name: "a".to_owned(),
        ..Request::default()
    };
    let mut listener = history.listen(one()).await.expect("listen");
    let event = listener.next().await;
    assert_eq!(kind_and_name(event), (Kind::Complete, "a".to_owned()));
    history.delete("a").await.expect("marked");
    assert!(names(&history).await.is_empty());
    let Err(err) = history.listen(one()).await else {
        panic!("it is going away");
    };
    assert!(matches!(err, Error::Deleted { .. }));
    history.record("a").await.expect("still there");
    let mut others = history.listen(Request::default()).await.expect("listen");
    drop(listener);
    let event = others.next().await;
    assert_eq!(kind_and_name(event), (Kind::Deleted, "a".to_owned()));
}

#[tokio::test]
async fn only_what_is_over_both_limits_goes() {
    let world = World::new();
    let limits = |max_age| Limits {
        max_age,
        max_entries: 2,
        ..Limits::default()
    };
    let history = world.open_with(limits(Duration::from_secs(3600)));
    for name in ["a", "b", "c", "d"] {
        build(&history, name, Ended::default()).await;
    }
    history.pin("a", true).await.expect("pinned");
    history.collect().await.expect("collected");
    assert_eq!(names(&history).await, ["a", "b", "c", "d"], "none is old");
    drop(history);
    let history = world.open_with(limits(Duration::ZERO));
    history.collect().await.expect("collected");
    assert_eq!(
        names(&history).await,
        ["a", "c", "d"],
        "two, and the pinned"
    );
}

#[tokio::test]
async fn a_burst_of_builds_leaves_what_there_is_room_for() {
    let world = World::new();
    let limits = |max_bytes| Limits {
        max_entries: 2,
        max_bytes,
        ..Limits::default()
    };
    // Each has a log and spans.
    let history = world.open_with(limits(100_000));
    for number in 0..60 {
        build(&history, &format!("{number:02}"), Ended::default()).await;
        history.settled().await;
    }
    drop(history);
    let history = world.open_with(limits(u64::MAX));
    let left = names(&history).await;
    assert!((5..30).contains(&left.len()), "{left:?}");
    assert_eq!(left.last().map(String::as_str), Some("59"), "the newest");
    drop(history);
    let history = world.open_with(limits(1));
    history.collect().await.expect("collected");
    assert_eq!(names(&history).await, ["58", "59"], "so many always stay");
    assert!(history.blobs().expect("listed").len() <= 4);
}

#[tokio::test]
async fn a_record_without_its_log_is_dropped_at_the_next_start() {
    let world = World::new();
    let history = world.open();
    build(&history, "a", Ended::default()).await;
    let ended = Ended {
        events: vec![vertex(false)],
        ..Ended::default()
    };
    build(&history, "b", ended).await;
    let log = history.record("a").await.expect("a record").logs;
    let digest: Digest = log.expect("a log").digest.parse().expect("a digest");
    drop(history);
    std::fs::remove_file(world.root().join("blobs").join(digest.hex())).expect("there");
    let stray = world.root().join("blobs").join(Digest::of("x").hex());
    std::fs::write(&stray, "x").expect("written");
    let history = world.open();
    for _ in 0..6000 {
        if !stray.exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!stray.exists(), "nobody names it");
    assert_eq!(names(&history).await, ["b"]);
}

#[tokio::test]
async fn lists_have_filters_and_limits() {
    let world = World::new();
    let history = world.open();
    let failed = Ended {
        failure: Some(Failure::user("no")),
        ..Ended::default()
    };
    build(&history, "a", failed).await;
    build(&history, "b", Ended::default()).await;
    build(&history, "c", Ended::default()).await;
    let of = |filters: &[&str], limit| Request {
        filters: filters.iter().map(|&it| it.to_owned()).collect(),
        limit,
        ..Request::default()
    };
    let listed = async |request| {
        let records = list(&history, request).await;
        let names: Vec<_> = records.into_iter().map(|record| record.r#ref).collect();
        names.concat()
    };
    assert_eq!(listed(of(&["status==error"], 0)).await, "a");
    assert_eq!(listed(of(&["status==completed", "ref==a"], 0)).await, "abc");
    assert_eq!(
        listed(of(&["status==completed"], 1)).await,
        "c",
        "the newest"
    );
    assert_eq!(listed(of(&["duration>1h"], 0)).await, "");
    let Err(err) = history.listen(of(&[], -1)).await else {
        panic!("refused");
    };
    assert_eq!(err.to_string(), "invalid limit -1");
}

#[tokio::test]
async fn a_result_keeps_its_manifests_but_no_layers() {
    let world = World::new();
    let content = world.content();
    let put = |bytes: &[u8], media_type: &str| {
        let digest = content.put(bytes).expect("put");
        oci::Descriptor::new(
            media_type,
            digest,
            i64::try_from(bytes.len()).expect("small"),
        )
    };
    let config = put(b"{}", "application/vnd.oci.image.config.v1+json");
    let layer = put(b"layer", "application/vnd.oci.image.layer.v1.tar+gzip");
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = oci::Manifest::new(media_type, config.clone(), vec![layer.clone()]);
    let manifest = put(&serde_json::to_vec(&manifest).expect("JSON"), media_type);
    let history = world.open();
    let outcome = Outcome {
        made: vec![None, Some(manifest.clone())],
        ..Outcome::default()
    };
    let ended = Ended {
        outcome,
        ..Ended::default()
    };
    let statement = Statement {
        kind: "https://example.com".to_owned(),
        predicate: b"{}".to_vec(),
        ..Statement::default()
    };
    let recording = history.begin(started("a"));
    recording
        .end(ended, said(&[statement]))
        .await
        .expect("recorded");
    let record = history.record("a").await.expect("a record");
    let result = record.result.expect("a result");
    assert_eq!(result.results[&1].digest, manifest.digest.to_string());
    assert_eq!(result.attestations.len(), 1);
    for kept in [&manifest.digest, &config.digest] {
        assert!(history.blob(kept).is_ok());
    }
    assert!(history.blob(&layer.digest).is_err());
    history.delete("a").await.expect("deleted");
    assert_eq!(files(&world.root()), 0);
}

#[tokio::test]
async fn a_build_that_leaves_no_record_is_forgotten() {
    let world = World::new();
    let history = world.open();
    let recording = history.begin(started("a"));
    assert_eq!(names(&history).await, ["a"], "it goes on");
    drop(recording);
    assert!(names(&history).await.is_empty());
}

#[tokio::test]
async fn who_reads_a_record_waits_for_what_is_added_later() {
    let world = World::new();
    let history = world.open();
    let (sender, later) = tokio::sync::oneshot::channel();
    let statements = async { later.await.into_iter().collect() };
    let recording = history.begin(started("a"));
    let mut listener = history.listen(Request::default()).await.expect("listen");
    listener.next().await.expect("it goes on");
    // It ends though nobody has said anything so far, and its log is there.
    recording
        .end(Ended::default(), statements)
        .await
        .expect("recorded");
    assert!(history.log("a").await.expect("readable").is_some());
    let active = Request {
        active_only: true,
        ..Request::default()
    };
    assert!(list(&history, active).await.is_empty());
    let say = async {
        tokio::task::yield_now().await;
        let statement = Statement {
            kind: "https://example.com".to_owned(),
            predicate: b"{}".to_vec(),
            ..Statement::default()
        };
        sender.send(statement).expect("waited for");
    };
    let (listed, record, told, ()) = tokio::join!(
        list(&history, Request::default()),
        history.record("a"),
        listener.next(),
        say
    );
    let told = told.and_then(|event| event.record).expect("a record");
    assert_eq!(listed, [record.expect("a record")]);
    assert_eq!(listed, [told]);
    let result = listed[0].result.as_ref().expect("a result");
    assert_eq!(result.attestations.len(), 1);
    assert!(listed[0].trace.is_some());
    history.settled().await;
}
