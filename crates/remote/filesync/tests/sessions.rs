//! Pulls and pushes through a session.

#[path = "../../session/tests/support/daemon.rs"]
mod daemon;
#[path = "support/trees.rs"]
mod trees;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use contenthash::Records;
use daemon::Daemon;
use fault::{Class, Classify};
use filesync::client::{DIR_METHODS, Dirs, TARGET_METHODS, Target, Targets};
use filesync::push::Outcome;
use filesync::{Tree, pull, push};
use fstree::Root;
use proto::fsutil::Packet;
use proto::fsutil::packet::PacketType;
use session::Session;
use session::client::Client;
use tasks::{Cx, Task};
use trees::{describe, mine};

async fn attach(daemon: &Daemon, dirs: Dirs, targets: Targets) -> (Session, Task<()>) {
    let mut client = Client::new("").await;
    client.add(dirs.service(), DIR_METHODS);
    client.add(targets, TARGET_METHODS);
    daemon.attach(&Cx::root(), client).await
}

fn tree(dir: &Path) {
    fs::create_dir_all(dir.join("src/größe")).expect("mkdir");
    for i in 0..300 {
        fs::write(dir.join(format!("src/f{i}")), format!("content {i}")).expect("write");
    }
    fs::write(dir.join("src/größe/x"), vec![7; 3_000_000]).expect("write");
    fs::write(dir.join("junk"), "x").expect("write");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_pulled_with_its_filters() {
    let dirs = tempfile::tempdir().expect("a scratch folder");
    let (from, to) = (dirs.path().join("from"), dirs.path().join("to"));
    fs::create_dir(&from).expect("mkdir");
    fs::create_dir(&to).expect("mkdir");
    tree(&from);
    let daemon = Daemon::start().await;
    let offered = Dirs::new(BTreeMap::from([("context".to_owned(), from.clone())]));
    let (session, _client) = attach(&daemon, offered, Targets::default()).await;
    let cx = Cx::root();
    let wanted = pull::Wanted {
        name: "context".to_owned(),
        include: vec!["src/größe".to_owned(), "junk".to_owned()],
        exclude: vec!["junk".to_owned()],
        follow: Vec::new(),
    };
    let events = Arc::new(Mutex::new(Vec::new()));
    let log = events.clone();
    let sink = move |event| log.lock().expect("lock").push(event);
    let progress = progress::Progress::new(Arc::new(sink), "sha256:v");
    let root = || Root::open(&to).expect("open");
    let pulled = pull::pull(
        &cx,
        &session,
        &wanted,
        root(),
        mine(),
        Some(Records::new()),
        &progress,
    );
    let (received, records) = pulled.await.expect("pulled");
    assert_eq!((received.entries, received.files), (3, 1));
    assert!(records.is_some());
    assert!(received.bytes > 3_000_000);
    assert_eq!(
        fs::read(to.join("src/größe/x")).expect("read").len(),
        3_000_000
    );
    let last = events.lock().expect("lock").pop();
    let Some(progress::Event::Status(status)) = last else {
        panic!("no status: {last:?}");
    };
    assert_eq!(status.id, "transferring context:");
    assert!(status.completed.is_some() && status.current > 0);

    let wanted = pull::Wanted {
        name: "context".to_owned(),
        ..pull::Wanted::default()
    };
    let nobody = progress::Progress::none();
    pull::pull(&cx, &session, &wanted, root(), mine(), records, &nobody)
        .await
        .expect("pulled");
    assert_eq!(describe(&from), describe(&to));
}

#[tokio::test]
async fn a_directory_that_is_not_offered_is_not_found() {
    let to = tempfile::tempdir().expect("a scratch folder");
    let daemon = Daemon::start().await;
    let (session, _client) = attach(&daemon, Dirs::default(), Targets::default()).await;
    let wanted = pull::Wanted {
        name: "secret".to_owned(),
        ..pull::Wanted::default()
    };
    let root = Root::open(to.path()).expect("open");
    let nobody = None::<Records>;
    let progress = progress::Progress::none();
    let cx = Cx::root();
    let pulled = pull::pull(&cx, &session, &wanted, root, mine(), nobody, &progress).await;
    let err = pulled.expect_err("refused");
    assert_eq!(err.to_string(), "no access allowed to dir \"secret\"");
    assert_eq!(err.class(), Class::NotFound);
}

#[tokio::test]
async fn a_client_without_directories_has_no_local_sources() {
    let to = tempfile::tempdir().expect("a scratch folder");
    let daemon = Daemon::start().await;
    let cx = Cx::root();
    let (session, _client) = daemon.attach(&cx, Client::new("").await).await;
    let root = Root::open(to.path()).expect("open");
    let nobody = None::<Records>;
    let progress = progress::Progress::none();
    let wanted = pull::Wanted::default();
    let pulled = pull::pull(&cx, &session, &wanted, root, mine(), nobody, &progress).await;
    assert_eq!(
        pulled.expect_err("refused").to_string(),
        "no local sources enabled"
    );
    let err = push::file(&cx, &session, 0, &BTreeMap::new()).expect_err("refused");
    assert_eq!(
        err.to_string(),
        "method /moby.filesync.v1.FileSend/diffcopy not supported by the client"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_is_pushed_into_a_directory() {
    let dirs = tempfile::tempdir().expect("a scratch folder");
    let (from, to) = (dirs.path().join("from"), dirs.path().join("not/there/yet"));
    fs::create_dir(&from).expect("mkdir");
    tree(&from);
    let daemon = Daemon::start().await;
    let target = |delete| Target::Directory {
        path: to.clone(),
        delete,
    };
    let targets = Targets::new(BTreeMap::from([(0, target(false)), (3, target(true))]));
    let (session, _client) = attach(&daemon, Dirs::default(), targets).await;
    let cx = Cx::root();
    let listing = || Tree::new(Root::open(&from).expect("open"));
    let push = async |exporter, all| {
        push::directory(&cx, &session, exporter, all, listing(), |_| {}).await
    };
    push(0, false).await.expect("pushed");
    assert_eq!(describe(&from), describe(&to));
    fs::write(to.join("mine"), "x").expect("write");
    push(0, false).await.expect("pushed");
    assert!(to.join("mine").exists());
    let err = push(3, false).await.expect_err("refused").to_string();
    assert!(
        err.starts_with("local exporter mode=delete requires"),
        "{err}"
    );
    push(3, true).await.expect("pushed");
    assert_eq!(describe(&from), describe(&to));
    let err = push(1, false).await.expect_err("refused");
    assert_eq!(err.to_string(), "exporter 1 not found");
}

/// A file that says what became of it.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("lock").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_pushed_with_its_facts() {
    let file = Memory::default();
    let facts = Arc::new(Mutex::new(BTreeMap::new()));
    let (opened, known) = (file.clone(), facts.clone());
    let target = Target::File(Arc::new(move |facts| {
        facts.clone_into(&mut known.lock().expect("lock"));
        Ok(Some(Box::new(opened.clone())))
    }));
    let declining = Target::File(Arc::new(|_| Ok(None)));
    let daemon = Daemon::start().await;
    let targets = Targets::new(BTreeMap::from([(0, target), (1, declining)]));
    let (session, _client) = attach(&daemon, Dirs::default(), targets).await;
    let cx = Cx::root();
    let given = BTreeMap::from([("containerimage.digest".to_owned(), "sha256:aa".to_owned())]);
    let upload = push::file(&cx, &session, 0, &given).expect("begun");
    upload.send("head".into()).await.expect("sent");
    let mut writer = upload.writer();
    tasks::blocking(move || {
        for i in 0..1000_u32 {
            writer
                .write_all(&i.to_le_bytes().repeat(700))
                .expect("write");
        }
        writer.flush().expect("flush");
    })
    .await;
    assert_eq!(upload.finish().await.expect("finished"), Outcome::Sent);
    assert_eq!(file.0.lock().expect("lock").len(), 4 + 2_800_000);
    assert_eq!(*facts.lock().expect("lock"), given);

    let upload = push::file(&cx, &session, 1, &given).expect("begun");
    // The client may say no before or after this arrives.
    let _ = upload.send("x".into()).await;
    assert_eq!(upload.finish().await.expect("finished"), Outcome::Declined);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_breaks_off_is_not_taken_for_complete() {
    struct Flagged(Arc<Mutex<bool>>);
    impl Write for Flagged {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            *self.0.lock().expect("lock") = true;
            Ok(())
        }
    }
    let complete = Arc::new(Mutex::new(false));
    let flag = complete.clone();
    let target = Target::File(Arc::new(move |_| Ok(Some(Box::new(Flagged(flag.clone()))))));
    let daemon = Daemon::start().await;
    let targets = Targets::new(BTreeMap::from([(0, target)]));
    let (session, client) = attach(&daemon, Dirs::default(), targets).await;
    let upload = push::file(&Cx::root(), &session, 0, &BTreeMap::new()).expect("begun");
    upload.send(vec![1; 100_000].into()).await.expect("sent");
    drop(upload);
    session.close("context canceled");
    client.await;
    assert!(!*complete.lock().expect("lock"));
}

/// Takes a listing without files, and like a stock client answers the call only when it knows all of it.
#[derive(Clone)]
struct Late;

impl tonic::server::NamedService for Late {
    const NAME: &'static str = "moby.filesync.v1.FileSend";
}

type Boxed<T> = std::pin::Pin<Box<dyn Future<Output = T> + Send>>;

impl tower::Service<http::Request<tonic::body::Body>> for Late {
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = Boxed<Result<Self::Response, Self::Error>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(async {
            let codec = tonic_prost::ProstCodec::default();
            Ok(tonic::server::Grpc::new(codec)
                .streaming(Late, request)
                .await)
        })
    }
}

impl tonic::server::StreamingService<Packet> for Late {
    type Response = Packet;
    type ResponseStream = tokio_stream::Once<Result<Packet, tonic::Status>>;
    type Future = Boxed<Result<tonic::Response<Self::ResponseStream>, tonic::Status>>;

    fn call(&mut self, request: tonic::Request<tonic::Streaming<Packet>>) -> Self::Future {
        Box::pin(async {
            let mut packets = request.into_inner();
            while packets
                .message()
                .await?
                .is_some_and(|packet| packet.stat.is_some())
            {}
            let fin = Packet {
                r#type: PacketType::PacketFin.into(),
                ..Packet::default()
            };
            Ok(tonic::Response::new(tokio_stream::once(Ok(fin))))
        })
    }
}

#[tokio::test]
async fn a_client_that_waits_for_the_listing_gets_it() {
    let from = tempfile::tempdir().expect("a scratch folder");
    fs::create_dir(from.path().join("d")).expect("mkdir");
    let daemon = Daemon::start().await;
    let mut client = Client::new("").await;
    client.add(Late, TARGET_METHODS);
    let cx = Cx::root();
    let (session, _client) = daemon.attach(&cx, client).await;
    let tree = Tree::new(Root::open(from.path()).expect("open"));
    let push = push::directory(&cx, &session, 0, false, tree, |_| {});
    tokio::time::timeout(std::time::Duration::from_secs(60), push)
        .await
        .expect("an end in time")
        .expect("pushed");
}
