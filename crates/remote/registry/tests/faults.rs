//! A registry that fails in all the ways that registries do: the right blob or image in the end, or an error that says
//! what is wrong, and nothing that waits for ever.

#[path = "support/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use oci::{Descriptor, Digest, media_type};
use progress::Progress;
use registry::{Config, Origin, Push};
use testkit::frail::{Fault, Frail, Habits};
use testkit::web::{Request, Response};
use world::{World, layer, nobody, reference};

const SIZE: usize = 1_000_000;

/// Bytes in which no part is like another.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005);
        state = state.wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..size).map(|_| next()).collect()
}

/// A client that loses its patience soon.
fn hasty() -> World {
    World::with(Config {
        patience: Duration::from_secs(1),
        ..Config::default()
    })
}

fn sound(_: &Request) -> Option<Fault> {
    None
}

fn is_upload(request: &Request) -> bool {
    request.path.contains("/blobs/uploads/u") && matches!(request.method.as_str(), "PUT" | "PATCH")
}

fn is_download(request: &Request) -> bool {
    request.method == "GET" && request.path.contains("/blobs/sha256:")
}

/// This fault for the first requests of a kind.
fn first(
    count: usize,
    of: fn(&Request) -> bool,
    fault: Fault,
) -> impl Fn(&Request) -> Option<Fault> + Send + Sync {
    let seen = AtomicUsize::new(0);
    move |request| {
        (of(request) && seen.fetch_add(1, Ordering::Relaxed) < count).then(|| fault.clone())
    }
}

fn status(code: u16) -> Fault {
    Fault::Answer(Response::status(code))
}

/// Puts a blob there, and fetches it.
async fn pull(server: &Frail, world: &World) -> Result<(), String> {
    let bytes = noise(SIZE);
    server.add_blob("some/image", &bytes);
    let name = format!("{}/some/image:tag", server.host());
    world.fetch(&name, &layer(&bytes)).await
}

/// The blob is whole in the store.
fn check_stored(world: &World) {
    let bytes = noise(SIZE);
    let stored = world.store.read(&Digest::of(&bytes)).expect("stored");
    assert!(stored == bytes, "another blob");
}

struct Image {
    root: Descriptor,
    layer: Descriptor,
}

/// An image with a large layer.
fn image(world: &World, kind: &str) -> Image {
    let put = |media_type: &str, bytes: &[u8]| {
        let digest = world.store.put(bytes).expect("stored");
        let size = i64::try_from(bytes.len()).expect("small");
        Descriptor::new(media_type, digest, size)
    };
    let config = put(media_type::OCI_CONFIG, b"{}");
    let layer = put(media_type::OCI_LAYER_GZIP, &noise(SIZE));
    let json = |it: &Descriptor| serde_json::to_string(it).expect("JSON");
    let manifest = format!(
        r#"{{"config":{},"layers":[{}]}}"#,
        json(&config),
        json(&layer)
    );
    Image {
        root: put(kind, manifest.as_bytes()),
        layer,
    }
}

async fn push_from(
    server: &Frail,
    world: &World,
    kind: &str,
    origins: &BTreeMap<Digest, Origin>,
) -> Result<Image, String> {
    let image = image(world, kind);
    let push = Push {
        reference: &reference(&format!("{}/my/image:v1", server.host())),
        by_digest: false,
        insecure: false,
        root: &image.root,
        origins,
    };
    let none = Progress::none();
    let pushed = world
        .client
        .push(&world.cx, &nobody(), &push, &world.store, &none)
        .await;
    pushed.map(|()| image).map_err(|err| fault::chain(&err))
}

async fn push(server: &Frail, world: &World) -> Result<Image, String> {
    push_from(server, world, media_type::OCI_MANIFEST, &BTreeMap::new()).await
}

/// The registry has the image, and verified it.
fn check_pushed(server: &Frail, image: &Image) {
    let layer = server.blob("my/image", image.layer.digest.as_str());
    assert!(
        layer.is_some_and(|layer| layer == noise(SIZE)),
        "another layer"
    );
    assert!(server.manifest("my/image", "v1").is_some());
}

#[tokio::test]
async fn a_download_that_is_cut_anywhere_goes_on_there() {
    for tenth in 0..10 {
        let cut = Fault::CutAnswer(tenth * SIZE / 10);
        let server = Frail::start(Habits::default(), first(1, is_download, cut));
        let world = World::new();
        pull(&server, &world).await.expect("fetched");
        check_stored(&world);
        assert_eq!(
            server.sent(),
            SIZE as u64,
            "tenth {tenth}: bytes came twice"
        );
    }
}

#[tokio::test]
async fn a_download_that_is_cut_at_every_tenth_goes_on_each_time() {
    let cut = Fault::CutAnswer(SIZE / 10);
    let server = Frail::start(Habits::default(), first(9, is_download, cut));
    let world = World::new();
    pull(&server, &world).await.expect("fetched");
    check_stored(&world);
    assert_eq!(server.sent(), SIZE as u64);
    assert_eq!(server.count("GET", "/blobs/"), 10);
}

#[tokio::test]
async fn a_registry_that_ignores_ranges_sends_all_again() {
    let habits = Habits {
        ranges: false,
        ..Habits::default()
    };
    let server = Frail::start(
        habits,
        first(2, is_download, Fault::CutAnswer(6 * SIZE / 10)),
    );
    let world = World::new();
    pull(&server, &world).await.expect("fetched");
    check_stored(&world);
}

#[tokio::test]
async fn a_damaged_download_is_refused_and_the_next_one_is_not_worse_for_it() {
    let mut wrong = noise(SIZE);
    wrong[SIZE / 2] ^= 1;
    let mut long = noise(SIZE);
    long.push(0);
    let short = noise(SIZE - 1);
    for (bytes, told) in [
        (wrong, "sent content with digest"),
        (long, "expected 1000000"),
        (short, "sent 999999 bytes"),
    ] {
        let fault = first(1, is_download, Fault::Replace(bytes));
        let server = Frail::start(Habits::default(), fault);
        let world = World::new();
        let err = pull(&server, &world).await.expect_err("refused");
        assert!(err.contains(told), "{err}");
        assert!(err.contains(&server.host()), "{err}");
        assert!(!world.store.contains(&Digest::of(noise(SIZE))));
        pull(&server, &world).await.expect("fetched");
        check_stored(&world);
    }
}

#[tokio::test]
async fn a_wrong_beginning_does_not_spoil_an_honest_end() {
    // Wrong bytes, and a cut: what follows is right, but the whole is not.
    let seen = AtomicUsize::new(0);
    let server = Frail::start(Habits::default(), move |request| {
        if !is_download(request) || seen.fetch_add(1, Ordering::Relaxed) > 0 {
            return None;
        }
        let wrong = vec![7; SIZE];
        Some(Fault::Answer(Response::file(wrong).cut(SIZE / 2)))
    });
    let world = World::new();
    pull(&server, &world).await.expect("fetched");
    check_stored(&world);
    assert_eq!(server.count("GET", "/blobs/"), 3);
}

#[tokio::test]
async fn a_length_that_is_a_lie_is_noticed() {
    for (told, text) in [(SIZE + 1, "sent 1000001 bytes"), (SIZE - 1, "sent 999999")] {
        let server = Frail::start(Habits::default(), move |request| {
            let lie = Response::file(noise(SIZE)).with("Content-Length", &told.to_string());
            is_download(request).then(|| Fault::Answer(lie.clone()))
        });
        let world = World::new();
        let err = pull(&server, &world).await.expect_err("refused");
        assert!(err.contains(text), "{err}");
    }
}

#[tokio::test]
async fn a_server_that_falls_silent_is_left_and_asked_again() {
    let stall = Fault::StallAnswer(SIZE / 2);
    let server = Frail::start(Habits::default(), first(1, is_download, stall));
    let world = hasty();
    pull(&server, &world).await.expect("fetched");
    check_stored(&world);

    let server = Frail::start(Habits::default(), |request| {
        is_download(request).then_some(Fault::StallAnswer(0))
    });
    let began = Instant::now();
    let err = pull(&server, &hasty()).await.expect_err("given up");
    assert!(err.contains("i/o timeout"), "{err}");
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[tokio::test]
async fn answers_that_are_no_blob_are_told() {
    for (code, count, told) in [
        (403, 1, "403 Forbidden"),
        (429, 5, "429 Too Many Requests"),
        // Four tries; those that are repeated at once count twice.
        (500, 8, "500 Internal Server Error"),
        (502, 4, "502 Bad Gateway"),
        (503, 8, "503 Service Unavailable"),
        (404, 1, "could not fetch content descriptor"),
    ] {
        let server = Frail::start(Habits::default(), move |request| {
            let answer = Response::status(code).with("Retry-After", "0");
            is_download(request).then(|| Fault::Answer(answer.clone()))
        });
        let err = pull(&server, &World::new()).await.expect_err("refused");
        assert!(err.contains(told), "{err}");
        assert_eq!(server.count("GET", "/blobs/"), count, "{code}");
    }
    for code in [408, 429, 500, 502, 503, 504] {
        let answer = Response::status(code).with("Retry-After", "0");
        let fault = first(1, is_download, Fault::Answer(answer));
        let server = Frail::start(Habits::default(), fault);
        let world = World::new();
        pull(&server, &world).await.expect("fetched");
        check_stored(&world);
    }
}

#[tokio::test]
async fn a_registry_says_how_long_to_wait() {
    let busy = Response::status(429).with("Retry-After", "1");
    let fault = first(1, is_download, Fault::Answer(busy));
    let server = Frail::start(Habits::default(), fault);
    let began = Instant::now();
    pull(&server, &World::new()).await.expect("fetched");
    assert!(began.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_registry_that_is_down_is_told_at_once() {
    let name = format!("127.0.0.1:{}/some/image", testkit::registry::free_port());
    let began = Instant::now();
    let fetched = World::new().fetch(&name, &layer(b"x")).await;
    let err = fetched.expect_err("nobody there");
    assert!(err.contains("connection refused"), "{err}");
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn blobs_may_lie_elsewhere() {
    let storage = Frail::start(
        Habits::default(),
        first(3, is_download, Fault::CutAnswer(SIZE / 4)),
    );
    storage.add_blob("some/image", &noise(SIZE));
    let habits = Habits {
        storage: Some(storage.host()),
        ..Habits::default()
    };
    let server = Frail::start(habits, guard("secret"));
    let world = World::new();
    let bytes = noise(SIZE);
    server.add_blob("some/image", &bytes);
    let name = format!("{}/some/image:tag", server.host());
    world.fetch(&name, &layer(&bytes)).await.expect("fetched");
    check_stored(&world);
    assert_eq!(storage.sent(), SIZE as u64);
    for request in storage.requests() {
        assert_eq!(request.header("authorization"), "", "shown to a stranger");
    }
}

/// Lets in who has this token, and gives it to everybody.
fn guard(token: &'static str) -> impl Fn(&Request) -> Option<Fault> + Send + Sync {
    let current = Arc::new(Mutex::new(token.to_owned()));
    guard_with(current, "", |_| false)
}

fn first_token() -> Arc<Mutex<String>> {
    Arc::new(Mutex::new("token".to_owned()))
}

/// The same for a token that is not taken any more as soon as `expires` says so: then there is another.
fn guard_with(
    current: Arc<Mutex<String>>,
    error: &'static str,
    expires: impl Fn(&Request) -> bool + Send + Sync,
) -> impl Fn(&Request) -> Option<Fault> + Send + Sync {
    move |request| {
        let mut current = current.lock().expect("no panic");
        if request.path == "/token" {
            let body = format!(r#"{{"token":"{current}","expires_in":300}}"#);
            return Some(Fault::Answer(Response::file(body)));
        }
        if expires(request) {
            current.push('x');
        }
        if request.header("authorization") == format!("Bearer {current}") {
            return None;
        }
        let host = request.header("host");
        let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"x\"{error}");
        let answer = Response::status(401).with("WWW-Authenticate", &challenge);
        Some(Fault::Answer(answer))
    }
}

#[tokio::test]
async fn a_token_that_expires_on_the_way_is_replaced() {
    for error in ["", ",error=\"invalid_token\""] {
        // In the middle of a download.
        let seen = AtomicUsize::new(0);
        let expires = move |request: &Request| {
            is_download(request) && seen.fetch_add(1, Ordering::Relaxed) == 2
        };
        let expire = guard_with(first_token(), error, expires);
        let downloads = AtomicUsize::new(0);
        let server = Frail::start(Habits::default(), move |request| {
            let cut = is_download(request) && downloads.fetch_add(1, Ordering::Relaxed) == 1;
            expire(request).or_else(|| cut.then_some(Fault::CutAnswer(SIZE / 2)))
        });
        let world = World::new();
        pull(&server, &world).await.expect("fetched");
        check_stored(&world);
        // In the middle of a push.
        let seen = AtomicUsize::new(0);
        let expires = move |request: &Request| {
            is_upload(request) && seen.fetch_add(1, Ordering::Relaxed) == 1
        };
        let server = Frail::start(Habits::default(), guard_with(first_token(), error, expires));
        let image = push(&server, &World::new()).await.expect("pushed");
        check_pushed(&server, &image);
    }
}

#[tokio::test]
async fn a_registry_that_lets_nobody_in_is_given_up() {
    let server = Frail::start(Habits::default(), |request| {
        if request.path == "/token" {
            let body = r#"{"token":"abc"}"#;
            return Some(Fault::Answer(Response::file(body)));
        }
        let host = request.header("host");
        let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"x\"");
        let answer = Response::status(401).with("WWW-Authenticate", &challenge);
        Some(Fault::Answer(answer))
    });
    let err = pull(&server, &World::new()).await.expect_err("refused");
    assert!(err.contains("401 Unauthorized"), "{err}");
    let err = push(&server, &World::new()).await.err().expect("refused");
    assert!(err.contains("401 Unauthorized"), "{err}");
    assert!(server.requests().len() < 100);
}

#[tokio::test]
async fn an_upload_that_is_cut_anywhere_goes_on_there() {
    for tenth in 0..10 {
        let cut = Fault::CutBody(tenth * SIZE / 10);
        let large =
            |request: &Request| is_upload(request) && request.header("content-length").len() > 2;
        let server = Frail::start(Habits::default(), first(1, large, cut));
        let image = push(&server, &World::new()).await.expect("pushed");
        check_pushed(&server, &image);
        let config = "{}".len() as u64;
        let sent = server.received() - config;
        assert_eq!(sent, SIZE as u64, "tenth {tenth}: bytes went twice");
    }
}

#[tokio::test]
async fn an_upload_that_is_cut_at_every_tenth_goes_on_each_time() {
    let large =
        |request: &Request| is_upload(request) && request.header("content-length").len() > 2;
    let cut = Fault::CutBody(SIZE / 10);
    let server = Frail::start(Habits::default(), first(9, large, cut));
    let image = push(&server, &World::new()).await.expect("pushed");
    check_pushed(&server, &image);
    assert_eq!(server.received() - 2, SIZE as u64);
}

#[tokio::test]
async fn a_registry_that_takes_no_pieces_or_forgets_them_gets_the_blob_whole() {
    for (pieces, keeps) in [(false, true), (true, false), (false, false)] {
        for relative in [true, false] {
            let habits = Habits {
                pieces,
                keeps,
                relative,
                ..Habits::default()
            };
            let large = |request: &Request| {
                is_upload(request) && request.header("content-length").len() > 2
            };
            let server = Frail::start(habits, first(1, large, Fault::CutBody(SIZE / 2)));
            let image = push(&server, &World::new()).await.expect("pushed");
            check_pushed(&server, &image);
        }
    }
}

#[tokio::test]
async fn a_registry_that_stops_reading_is_left() {
    let large =
        |request: &Request| is_upload(request) && request.header("content-length").len() > 2;
    let server = Frail::start(
        Habits::default(),
        first(1, large, Fault::StallBody(SIZE / 2)),
    );
    let image = push(&server, &hasty()).await.expect("pushed");
    check_pushed(&server, &image);
}

#[tokio::test]
async fn answers_that_take_no_blob_are_told() {
    for (code, told) in [
        (400, "400 Bad Request"),
        (403, "403 Forbidden"),
        (429, "429 Too Many Requests"),
        (500, "500 Internal Server Error"),
        (503, "503 Service Unavailable"),
    ] {
        let server = Frail::start(Habits::default(), move |request| {
            let answer = Response::status(code).with("Retry-After", "0");
            is_upload(request).then(|| Fault::Answer(answer.clone()))
        });
        let err = push(&server, &World::new()).await.err().expect("refused");
        assert!(err.contains(told), "{err}");
        let server = Frail::start(Habits::default(), first(1, is_upload, status(code)));
        let pushed = push(&server, &World::new()).await;
        assert_eq!(pushed.is_ok(), !matches!(code, 400 | 403), "{code}");
    }
}

#[tokio::test]
async fn a_registry_that_mounts_nothing_gets_an_upload() {
    for mounts in [true, false] {
        let habits = Habits {
            mounts,
            ..Habits::default()
        };
        let server = Frail::start(habits, sound);
        let digest = server.add_blob("base/image", &noise(SIZE));
        let origin = Origin {
            provider: None,
            repositories: vec![(server.host(), "base/image".to_owned())],
        };
        let origins = BTreeMap::from([(digest.parse().expect("a digest"), origin)]);
        let pushed = push_from(&server, &World::new(), media_type::OCI_MANIFEST, &origins).await;
        check_pushed(&server, &pushed.expect("pushed"));
        let layer = if mounts { 0 } else { SIZE as u64 };
        assert_eq!(server.received() - 2, layer, "mounts: {mounts}");
    }
}

#[tokio::test]
async fn a_registry_without_the_types_of_oci_is_explained() {
    let habits = Habits {
        oci: false,
        ..Habits::default()
    };
    let server = Frail::start(habits, sound);
    let err = push(&server, &World::new()).await.err().expect("refused");
    assert!(err.contains("oci-mediatypes=false"), "{err}");
    assert!(err.contains("manifest invalid"), "{err}");
    let (world, none) = (World::new(), BTreeMap::new());
    let docker = push_from(&server, &world, media_type::DOCKER_MANIFEST, &none).await;
    check_pushed(&server, &docker.expect("pushed"));
}

#[tokio::test]
async fn no_more_is_transferred_at_a_time_than_is_allowed() {
    let server = Frail::start(Habits::default(), |request| {
        if is_download(request) {
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    });
    let world = World::with(Config {
        concurrency: 2,
        ..Config::default()
    });
    let name = format!("{}/some/image:tag", server.host());
    let blobs: Vec<_> = (0..12_u8).map(|number| vec![number; 1000]).collect();
    let fetches = blobs.iter().map(|bytes| {
        server.add_blob("some/image", bytes);
        let (world, name) = (&world, &name);
        async move { world.fetch(name, &layer(bytes)).await }
    });
    for fetched in futures::future::join_all(fetches).await {
        fetched.expect("fetched");
    }
    assert_eq!(server.busiest(), 2);
}
