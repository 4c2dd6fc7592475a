//! Daemon and client against each other, in memory.

#[path = "support/daemon.rs"]
mod daemon;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use daemon::Daemon;
use fault::{Class, Classify};
use futures::TryStreamExt;
use session::client::secrets::SecretSource;
use session::client::{Client, DockerConfig, auth, secrets, ssh, stores, upload};
use session::ssh::SocketOptions;
use session::{Error, Group};
use std::sync::Arc;
use tasks::Cx;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;

#[tokio::test]
async fn a_session_is_found_by_id_with_and_without_prefix() {
    let daemon = Daemon::start().await;
    let cx = Cx::root();
    let client = Client::new("shared").await;
    let id = client.id().to_owned();
    assert_eq!(id.len(), 25);
    let (session, _client) = daemon.attach(&cx, client).await;
    assert_eq!(session.shared_key(), "shared");
    assert!(session.supports("/grpc.health.v1.health/CHECK"));
    assert!(!session.supports("/moby.filesync.v1.FileSend/diffcopy"));
    let other = daemon.manager.get(&cx, &format!("build1:{id}")).await;
    assert_eq!(other.expect("the session").id(), id);
}

#[tokio::test]
async fn what_a_client_does_not_offer_is_refused_by_name() {
    let daemon = Daemon::start().await;
    let cx = Cx::root();
    let (session, _client) = daemon.attach(&cx, Client::new("").await).await;
    for (path, text) in [
        ("/a.v1.B/C", "unknown service a.v1.B"),
        (
            "/grpc.health.v1.Health/Guess",
            "unknown method Guess for service grpc.health.v1.Health",
        ),
    ] {
        let mut calls = tonic::client::Grpc::new(session.channel());
        calls.ready().await.expect("a connection");
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        let path = http::uri::PathAndQuery::from_static(path);
        let answer = calls.unary(tonic::Request::new(()), path, codec).await;
        let status = answer.expect_err("refused");
        assert_eq!(
            (status.code(), status.message()),
            (tonic::Code::Unimplemented, text)
        );
    }
}

#[tokio::test]
async fn the_session_ends_with_its_client() {
    let daemon = Daemon::start().await;
    let cx = Cx::root();
    let client_cx = Cx::root();
    let (session, client) = daemon.attach(&client_cx, Client::new("").await).await;
    client_cx.cancel("done");
    client.await;
    tokio::time::timeout(Duration::from_secs(60), session.cx().cancelled())
        .await
        .expect("the session ends");
    let err = session
        .call(&cx, std::future::pending::<Result<(), tonic::Status>>())
        .await
        .expect_err("ended");
    assert_eq!(err.to_string(), "context canceled");
    tokio::time::timeout(Duration::from_secs(60), async {
        // The stream that is answered ends a moment later.
        while daemon.manager.now(session.id()).is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it is forgotten");
}

#[tokio::test]
async fn a_session_that_never_comes_is_given_up_after_five_seconds() {
    let manager = session::Manager::new();
    let begun = tokio::time::Instant::now();
    let err = manager.get(&Cx::root(), "nobody").await.expect_err("none");
    assert_eq!(
        err.to_string(),
        "no active session for nobody: context deadline exceeded"
    );
    assert_eq!(err.class(), Class::TimedOut);
    let waited = begun.elapsed().as_secs();
    assert!((5..60).contains(&waited), "{waited}");
    let err = Group::none().any(&Cx::root(), async |_| Ok(())).await;
    assert_eq!(err.expect_err("none").to_string(), "no active sessions");
}

#[tokio::test]
async fn secrets_come_from_files_and_variables() {
    let daemon = Daemon::start().await;
    let cx = Cx::root();
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(b"top\0secret").expect("write");
    let mut large = tempfile::NamedTempFile::new().expect("a file");
    large.write_all(&vec![0; 512_001]).expect("write");
    let sources = BTreeMap::from([
        ("f".to_owned(), SecretSource::File(file.path().to_owned())),
        (
            "large".to_owned(),
            SecretSource::File(large.path().to_owned()),
        ),
        (
            "e".to_owned(),
            SecretSource::Env("CARGO_PKG_NAME".to_owned()),
        ),
    ]);
    let mut client = Client::new("").await;
    client.add(secrets::service(sources), secrets::METHODS);
    let (session, _client) = daemon.attach(&cx, client).await;
    let group = daemon.manager.group([session.id()]);
    let fetch = async |id: &str| session::secrets::fetch(&cx, &group, id).await;
    assert_eq!(&fetch("f").await.expect("f").reveal()[..], b"top\0secret");
    assert_eq!(&fetch("e").await.expect("e").reveal()[..], b"session");
    let missing = fetch("nope").await.expect_err("nope");
    assert_eq!(missing.to_string(), "secret nope: not found");
    let large = fetch("large").await.expect_err("large");
    assert_eq!(large.to_string(), "invalid secret size 512001");
}

#[tokio::test]
async fn a_client_without_secrets_misses_all_of_them() {
    let daemon = Daemon::start().await;
    let cx = Cx::root();
    let (session, _client) = daemon.attach(&cx, Client::new("").await).await;
    let group = daemon.manager.group([session.id()]);
    let err = session::secrets::fetch(&cx, &group, "x").await;
    assert!(matches!(err, Err(Error::SecretMissing { .. })));
    let err = session::ssh::check(&cx, &group, "")
        .await
        .expect_err("none");
    assert_eq!(err.to_string(), "no SSH key \"\" forwarded from the client");
}

#[tokio::test]
async fn an_upload_can_be_read_once() {
    let daemon = Daemon::start().await;
    let cx = Cx::root();
    let uploads = upload::Uploads::default();
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|i| i as u8).collect();
    let url = uploads.add(std::io::Cursor::new(bytes.clone()));
    let path = url
        .strip_prefix("http://buildkit-session")
        .expect("host")
        .to_owned();
    let mut client = Client::new("").await;
    client.add(uploads.service(), upload::METHODS);
    let (session, _client) = daemon.attach(&cx, client).await;
    let pull = async || -> Result<Vec<u8>, Error> {
        let chunks = session::upload::pull(&cx, &session, &path, "buildkit-session").await?;
        let chunks: Vec<_> = chunks.try_collect().await?;
        Ok(chunks.concat())
    };
    assert_eq!(pull().await.expect("first"), bytes);
    let err = pull().await.expect_err("second").to_string();
    assert!(
        err.starts_with("no http response from session for "),
        "{err}"
    );
}

/// An agent that lists no keys, and shuts up at anything else.
async fn agent(listener: UnixListener) {
    loop {
        let (mut stream, _) = listener.accept().await.expect("accept");
        let mut request = [0; 5];
        while stream.read_exact(&mut request).await.is_ok() {
            assert_eq!(request, [0, 0, 0, 1, 11]);
            let none = [0, 0, 0, 5, 12, 0, 0, 0, 0];
            stream.write_all(&none).await.expect("reply");
        }
    }
}

#[tokio::test]
async fn an_agent_answers_lists_and_is_not_asked_to_change() {
    let daemon = Daemon::start().await;
    let cx = Cx::root();
    let dir = tempfile::tempdir().expect("a scratch folder");
    let socket = dir.path().join("agent");
    let listener = UnixListener::bind(&socket).expect("bind");
    let _agent = tasks::spawn("test agent", agent(listener));
    let agents = BTreeMap::from([(
        "default".to_owned(),
        ssh::Agent::Socket {
            path: socket,
            raw: false,
        },
    )]);
    let mut client = Client::new("").await;
    client.add(ssh::service(agents), ssh::METHODS);
    let (session, _client) = daemon.attach(&cx, client).await;
    let group = daemon.manager.group([session.id()]);
    let err = session::ssh::check(&cx, &group, "other").await;
    assert_eq!(
        err.expect_err("unknown").to_string(),
        "unset ssh forward key other"
    );
    let session = session::ssh::check(&cx, &group, "").await.expect("check");

    let meta = std::fs::metadata(dir.path()).expect("meta");
    let options = SocketOptions {
        uid: std::os::unix::fs::MetadataExt::uid(&meta),
        gid: std::os::unix::fs::MetadataExt::gid(&meta),
        mode: 0o600,
    };
    let path = dir.path().join("forwarded");
    let forward = session::ssh::forward(&cx, session, "", &path, options).expect("forward");
    let mut stream = UnixStream::connect(forward.path()).await.expect("connect");
    for _ in 0..2 {
        stream.write_all(&[0, 0, 0, 1, 11]).await.expect("list");
        let mut reply = [0; 9];
        stream.read_exact(&mut reply).await.expect("reply");
        assert_eq!(reply, [0, 0, 0, 5, 12, 0, 0, 0, 0]);
    }
    stream.write_all(&[0, 0, 0, 1, 19]).await.expect("remove");
    let mut reply = [0; 5];
    stream.read_exact(&mut reply).await.expect("reply");
    assert_eq!(reply, [0, 0, 0, 1, 5]);
    stream.shutdown().await.expect("shutdown");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.expect("end");
    assert!(rest.is_empty());
    drop(forward);
    assert!(!path.exists());
}

async fn with_auth(config: &str, fetch_tokens: bool) -> (Daemon, Group, tasks::Task<()>) {
    let dir = tempfile::tempdir().expect("a scratch folder");
    std::fs::write(dir.path().join("config.json"), config).expect("write");
    let daemon = Daemon::start().await;
    let options = auth::Options {
        config: DockerConfig::load(dir.path()).expect("config"),
        fetch_tokens,
        sink: Arc::new(|_: progress::Event| {}),
    };
    let mut client = Client::new("").await;
    client.add(auth::service(options), auth::METHODS);
    let (session, task) = daemon.attach(&Cx::root(), client).await;
    let group = daemon.manager.group([session.id()]);
    (daemon, group, task)
}

const CONFIG: &str =
    r#"{"auths":{"r.example":{"auth":"dTpw"},"t.example":{"registrytoken":"tok"}}}"#;

#[tokio::test]
async fn credentials_come_from_the_users_configuration() {
    let (_daemon, group, _client) = with_auth(CONFIG, true).await;
    let cx = Cx::root();
    let (_, found) = session::auth::credentials(&cx, &group, "r.example")
        .await
        .expect("credentials");
    assert_eq!(found.username, "u");
    assert_eq!(found.secret.reveal_text(), "p");
    let wanted = session::auth::TokenRequest {
        host: "t.example".to_owned(),
        ..Default::default()
    };
    let token = session::auth::fetch_token(&cx, &group, &wanted)
        .await
        .expect("token");
    assert_eq!(token.token.reveal_text(), "tok");
    assert_eq!(token.expires_in, 60);
}

#[tokio::test]
async fn a_client_proves_its_authority() {
    let (_daemon, group, _client) = with_auth(CONFIG, true).await;
    let (_other_daemon, others, _other_client) = with_auth(CONFIG, true).await;
    let cx = Cx::root();
    let salt = [3; 32];
    let (_, key) = session::auth::token_authority(&cx, &group, "r.example", &salt)
        .await
        .expect("authority")
        .expect("a key");
    let verify = async |group: &Group, host: &str| {
        session::auth::verify_authority(&cx, group, host, &key, &salt)
            .await
            .expect("verify")
            .is_some()
    };
    assert!(verify(&group, "r.example").await);
    assert!(!verify(&others, "r.example").await, "another seed");
    let (_, anonymous) = session::auth::token_authority(&cx, &group, "x", &salt)
        .await
        .expect("authority")
        .expect("a key");
    assert_ne!(anonymous, key);
    let (_, other) = session::auth::token_authority(&cx, &others, "y", &salt)
        .await
        .expect("authority")
        .expect("a key");
    assert_eq!(anonymous, other, "all anonymous clients are one");
}

#[tokio::test]
async fn a_client_that_keeps_tokens_to_the_daemon_has_no_authority() {
    let (_daemon, group, _client) = with_auth(CONFIG, false).await;
    let cx = Cx::root();
    let authority = session::auth::token_authority(&cx, &group, "r.example", &[0; 32]).await;
    assert!(authority.expect("answer").is_none());
}

#[tokio::test]
async fn a_newer_stream_takes_the_id() {
    let daemon = Daemon::start().await;
    let cx = Cx::root();
    let client = Client::new("").await;
    let (first, _old) = daemon.attach(&cx, client.clone()).await;
    let newer = client.clone();
    let control = daemon.control.clone();
    let running = cx.clone();
    let _new = tasks::spawn("test client", async move {
        newer.run(&running, control).await.expect("session");
    });
    tokio::time::timeout(Duration::from_secs(60), async {
        // The table changes when the second stream has been taken.
        while std::ptr::eq(
            daemon.manager.now(first.id()).expect("a session").cx(),
            first.cx(),
        ) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the new one");
    first.close("replaced");
    tokio::task::yield_now().await;
    assert!(daemon.manager.now(first.id()).is_some());
}

fn descriptor(bytes: &[u8]) -> oci::Descriptor {
    let size = bytes.len() as i64;
    oci::Descriptor::new("application/octet-stream", oci::Digest::of(bytes), size)
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_go_to_the_client_and_back() {
    let daemon = Daemon::start().await;
    let cx = Cx::root();
    let theirs = tempfile::tempdir().expect("a scratch folder");
    let ours = tempfile::tempdir().expect("a scratch folder");
    let folders = BTreeMap::from([("export".to_owned(), theirs.path().to_owned())]);
    let mut client = Client::new("").await;
    let folders = stores::Stores::new(folders);
    client.add(folders.service(), stores::METHODS);
    let (session, _client) = daemon.attach(&cx, client).await;
    let group = daemon.manager.group([session.id()]);
    let remote = session::stores::Store::new(&group, "export");
    let store = content::Store::open(ours.path()).expect("a store");

    let large: Vec<u8> = (0..5_000_000_u32).map(|i| (i % 253) as u8).collect();
    let small = b"{}".to_vec();
    for bytes in [&large, &small] {
        let blob = descriptor(bytes);
        assert_eq!(remote.size(&cx, &blob.digest).await.expect("asked"), None);
        store.put(bytes).expect("put");
        remote.push(&cx, &blob, &store).await.expect("pushed");
        remote
            .push(&cx, &blob, &store)
            .await
            .expect("there already");
        let size = remote.size(&cx, &blob.digest).await.expect("asked");
        assert_eq!(size, Some(bytes.len() as u64));
        store.remove(&blob.digest).expect("removed");
        let progress = progress::Progress::none();
        content::Provider::fetch(&remote, &cx, &blob, &store, &progress)
            .await
            .expect("fetched");
        assert_eq!(store.read(&blob.digest).expect("read"), bytes[..]);
        let read = remote.read(&cx, &blob.digest).await.expect("read");
        assert_eq!(read, bytes[..]);
        let file = theirs.path().join("blobs/sha256").join(blob.digest.hex());
        let access = std::fs::metadata(file).expect("a blob").permissions();
        let writable = std::os::unix::fs::PermissionsExt::mode(&access) & 0o333;
        assert_eq!(writable, 0, "nobody writes blobs again");
    }
    let empty = descriptor(b"");
    remote.put(&cx, &empty, "".into()).await.expect("put");
    assert_eq!(
        remote.size(&cx, &empty.digest).await.expect("asked"),
        Some(0)
    );
    let ingest = std::fs::read_dir(theirs.path().join("ingest")).expect("list");
    assert_eq!(ingest.count(), 0, "nothing unfinished is left");
}

/// Says three times that somebody else writes.
#[derive(Clone)]
struct Busy<S> {
    inner: S,
    tries: Arc<AtomicUsize>,
}

impl<S: NamedService> NamedService for Busy<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Busy<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = futures::future::BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if self.tries.fetch_add(1, Ordering::Relaxed) < 3 {
            let said = "ref layer-sha256:0 locked for 1.1ms (since now): unavailable";
            let answer = tonic::Status::unavailable(said).into_http();
            return Box::pin(std::future::ready(Ok(answer)));
        }
        Box::pin(self.inner.call(request))
    }
}

#[tokio::test]
async fn a_blob_that_somebody_else_writes_is_waited_for() {
    let daemon = Daemon::start().await;
    let cx = Cx::root();
    let theirs = tempfile::tempdir().expect("a scratch folder");
    let folders = BTreeMap::from([("export".to_owned(), theirs.path().to_owned())]);
    let mut client = Client::new("").await;
    let tries = Arc::new(AtomicUsize::new(0));
    let busy = Busy {
        inner: stores::Stores::new(folders).service(),
        tries: tries.clone(),
    };
    client.add(busy, stores::METHODS);
    let (session, _client) = daemon.attach(&cx, client).await;
    let group = daemon.manager.group([session.id()]);
    let remote = session::stores::Store::new(&group, "export");
    let blob = descriptor(b"{}");
    remote.put(&cx, &blob, "{}".into()).await.expect("put");
    assert_eq!(tries.load(Ordering::Relaxed), 4);
    let size = remote.size(&cx, &blob.digest).await.expect("asked");
    assert_eq!(size, Some(2));
}

#[tokio::test]
async fn a_blob_that_is_not_what_its_name_says_is_refused() {
    let daemon = Daemon::start().await;
    let cx = Cx::root();
    let theirs = tempfile::tempdir().expect("a scratch folder");
    let folders = BTreeMap::from([("oci:x".to_owned(), theirs.path().to_owned())]);
    let mut client = Client::new("").await;
    client.add(stores::Stores::new(folders).service(), stores::METHODS);
    let (session, _client) = daemon.attach(&cx, client).await;
    let group = daemon.manager.group([session.id()]);
    let remote = session::stores::Store::new(&group, "oci:x");
    let blob = descriptor(b"good");
    let err = remote.put(&cx, &blob, "evil".into()).await;
    let err = err.expect_err("refused").to_string();
    assert!(err.starts_with("unexpected commit digest"), "{err}");
    let dir = theirs.path().join("blobs/sha256");
    std::fs::create_dir_all(&dir).expect("mkdir");
    std::fs::write(dir.join(blob.digest.hex()), "evil").expect("write");
    let err = remote.read(&cx, &blob.digest).await.expect_err("refused");
    assert!(matches!(err, Error::Mismatch { .. }));
    let other = session::stores::Store::new(&group, "oci:y");
    let err = other.read(&cx, &blob.digest).await.expect_err("refused");
    assert_eq!(err.to_string(), "unknown store oci:y");
}

/// Echoes, and like a stock client answers the call only when it has something to say.
struct LateEcho;

type Bytes = proto::sshforward::BytesMessage;

#[tonic::async_trait]
impl proto::sshforward::ssh_server::Ssh for LateEcho {
    type ForwardAgentStream = tokio_stream::Once<Result<Bytes, tonic::Status>>;

    async fn check_agent(
        &self,
        _: tonic::Request<proto::sshforward::CheckAgentRequest>,
    ) -> Result<tonic::Response<proto::sshforward::CheckAgentResponse>, tonic::Status> {
        Ok(tonic::Response::new(Default::default()))
    }

    async fn forward_agent(
        &self,
        request: tonic::Request<tonic::Streaming<Bytes>>,
    ) -> Result<tonic::Response<Self::ForwardAgentStream>, tonic::Status> {
        let first = request.into_inner().message().await?.unwrap_or_default();
        Ok(tonic::Response::new(tokio_stream::once(Ok(first))))
    }
}

#[tokio::test]
async fn an_agent_that_waits_to_be_asked_is_asked() {
    let daemon = Daemon::start().await;
    let cx = Cx::root();
    let mut client = Client::new("").await;
    let service = proto::sshforward::ssh_server::SshServer::new(LateEcho);
    client.add(service, ssh::METHODS);
    let (session, _client) = daemon.attach(&cx, client).await;
    let dir = tempfile::tempdir().expect("a scratch folder");
    let meta = std::fs::metadata(dir.path()).expect("meta");
    let options = SocketOptions {
        uid: std::os::unix::fs::MetadataExt::uid(&meta),
        gid: std::os::unix::fs::MetadataExt::gid(&meta),
        mode: 0o600,
    };
    let path = dir.path().join("forwarded");
    let _forward = session::ssh::forward(&cx, session, "", &path, options).expect("forward");
    let mut stream = UnixStream::connect(&path).await.expect("connect");
    stream.write_all(b"hello").await.expect("write");
    let mut echo = [0; 5];
    let read = stream.read_exact(&mut echo);
    tokio::time::timeout(Duration::from_secs(60), read)
        .await
        .expect("an answer in time")
        .expect("read");
    assert_eq!(&echo, b"hello");
}

/// Wants one exporter, named after what it is told, and hears `finalize_export` out.
struct Chooser {
    finalized: tonic::Code,
}

#[tonic::async_trait]
impl proto::exporter::exporter_server::Exporter for Chooser {
    async fn find_exporters(
        &self,
        request: tonic::Request<proto::exporter::FindExportersRequest>,
    ) -> Result<tonic::Response<proto::exporter::FindExportersResponse>, tonic::Status> {
        let request = request.into_inner();
        let facts: Vec<_> = request.metadata.into_keys().collect();
        let wanted = proto::exporter::ExporterRequest {
            r#type: "oci".to_owned(),
            attrs: [(facts.join(","), request.refs.join(","))].into(),
        };
        Ok(tonic::Response::new(
            proto::exporter::FindExportersResponse {
                exporters: vec![wanted],
            },
        ))
    }

    async fn finalize_export(
        &self,
        request: tonic::Request<proto::exporter::FinalizeExportRequest>,
    ) -> Result<tonic::Response<proto::exporter::FinalizeExportResponse>, tonic::Status> {
        let told = request.into_inner().exporter_response;
        assert_eq!(told.get("a").map(String::as_str), Some("b"));
        match self.finalized {
            tonic::Code::Ok => Ok(tonic::Response::new(Default::default())),
            code => Err(tonic::Status::new(code, "no disk left")),
        }
    }
}

/// What the daemon finds with such a client, and how it ends.
async fn choose(
    finalized: Option<tonic::Code>,
) -> (Vec<proto::exporter::ExporterRequest>, Result<(), Error>) {
    const METHODS: &[&str] = &["FindExporters", "FinalizeExport"];
    let daemon = Daemon::start().await;
    let cx = Cx::root();
    let mut client = Client::new("").await;
    if let Some(finalized) = finalized {
        let service = Chooser { finalized };
        let service = proto::exporter::exporter_server::ExporterServer::new(service);
        client.add(service, METHODS);
    }
    let (session, _client) = daemon.attach(&cx, client).await;
    let group = daemon.manager.group([session.id()]);
    let facts = BTreeMap::from([("fact".to_owned(), bytes::Bytes::from_static(b"1"))]);
    let refs = ["r1".to_owned(), "r2".to_owned()];
    let found = session::exporters::find(&cx, &group, &facts, &refs).await;
    let told = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    let ended = session::exporters::finalize(&cx, &group, &told).await;
    (found.expect("an answer"), ended)
}

#[tokio::test]
async fn a_client_chooses_exporters_when_it_knows_the_results() {
    let (found, ended) = choose(Some(tonic::Code::Ok)).await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].r#type, "oci");
    let attrs: Vec<_> = found[0].attrs.iter().collect();
    assert_eq!(attrs, [(&"fact".to_owned(), &"r1,r2".to_owned())]);
    ended.expect("it is told");
}

#[tokio::test]
async fn a_client_that_chooses_nothing_does_not_fail_the_build() {
    let (found, ended) = choose(None).await;
    assert!(found.is_empty());
    ended.expect("nobody to tell");
    let (_, ended) = choose(Some(tonic::Code::Unavailable)).await;
    ended.expect("it does not want to be told");
    let (_, ended) = choose(Some(tonic::Code::Internal)).await;
    assert_eq!(ended.expect_err("it failed").to_string(), "no disk left");
}
