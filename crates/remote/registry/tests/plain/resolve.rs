//! What a name stands for, and what is told when that cannot be found out.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::server::{Answer, Request, Server};
use crate::world::{World, nobody};
use oci::{Digest, media_type};

const MANIFEST: &str = "{\"layers\":[]}";

fn manifest() -> Answer {
    Answer::new(200, MANIFEST)
        .with("Content-Type", media_type::OCI_MANIFEST)
        .with("Docker-Content-Digest", Digest::of(MANIFEST))
}

/// Answers with what `first` says as often as it says something.
fn at_first(
    times: usize,
    first: Answer,
    then: impl Fn(&Request) -> Answer + Send + Sync + 'static,
) -> Server {
    let count = AtomicUsize::new(0);
    Server::start(move |request| {
        if count.fetch_add(1, Ordering::Relaxed) < times {
            return first.clone();
        }
        then(request)
    })
}

async fn resolve(server: &Server) -> Result<oci::Descriptor, String> {
    let name = format!("{}/some/image:tag", server.host());
    World::new().resolve(&nobody(), &name).await
}

#[tokio::test]
async fn a_tag_is_resolved_by_one_head() {
    let server = Server::start(|_| manifest());
    let found = resolve(&server).await.expect("found");
    assert_eq!(found.digest, Digest::of(MANIFEST));
    assert_eq!(found.media_type, media_type::OCI_MANIFEST);
    assert_eq!(found.size, 13);
    assert_eq!(server.lines(), ["HEAD /v2/some/image/manifests/tag"]);
    let request = &server.requests()[0];
    assert_eq!(request.header("user-agent"), "buildkit/v0.0-dev");
    assert_eq!(
        request.header("accept"),
        "application/vnd.docker.distribution.manifest.v2+json, \
         application/vnd.docker.distribution.manifest.list.v2+json, \
         application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*"
    );
}

#[tokio::test]
async fn without_a_digest_in_the_header_the_manifest_is_read() {
    let server = Server::start(|_| {
        Answer::new(200, MANIFEST).with("Content-Type", media_type::OCI_MANIFEST)
    });
    let found = resolve(&server).await.expect("found");
    assert_eq!(found.digest, Digest::of(MANIFEST));
    assert_eq!(
        server.lines(),
        [
            "HEAD /v2/some/image/manifests/tag",
            "GET /v2/some/image/manifests/tag"
        ]
    );
}

#[tokio::test]
async fn a_digest_is_asked_for_as_manifest_and_then_as_blob() {
    let server = Server::start(|request| {
        if request.path.contains("/manifests/") {
            return Answer::new(404, "");
        }
        manifest()
    });
    let digest = Digest::of(MANIFEST);
    let name = format!("{}/some/image@{digest}", server.host());
    let found = World::new().resolve(&nobody(), &name).await.expect("found");
    assert_eq!(found.digest, digest);
    assert_eq!(server.lines().len(), 2);
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let server = Server::start(|_| Answer::new(404, ""));
    assert_eq!(
        resolve(&server).await,
        Err(format!("{}/some/image:tag: not found", server.host()))
    );
    assert_eq!(server.lines().len(), 1);
}

#[tokio::test]
async fn a_registry_without_head_is_asked_with_get() {
    let server = Server::start(|request| match request.method.as_str() {
        "HEAD" => Answer::new(405, ""),
        _ => manifest(),
    });
    assert!(resolve(&server).await.is_ok());
}

#[tokio::test]
async fn a_forbidden_head_is_explained_by_a_get() {
    let server = Server::start(|_| {
        Answer::new(
            403,
            r#"{"errors":[{"code":"DENIED","message":"your address is not allowed"}]}"#,
        )
    });
    let url = format!("http://{}/v2/some/image/manifests/tag", server.host());
    assert_eq!(
        resolve(&server).await,
        Err(format!(
            "unexpected status from HEAD request to {url}: 403 Forbidden\ndenied: your address is \
             not allowed"
        ))
    );
}

#[tokio::test]
async fn one_internal_error_is_forgiven_and_two_are_told() {
    let server = at_first(1, Answer::new(500, ""), |_| manifest());
    assert!(resolve(&server).await.is_ok());
    let server = at_first(9, Answer::new(500, ""), |_| manifest());
    let err = resolve(&server).await.expect_err("broken");
    assert!(err.ends_with("500 Internal Server Error"), "{err}");
    assert_eq!(server.lines().len(), 2);
}

#[tokio::test]
async fn a_busy_registry_is_asked_again_but_not_for_ever() {
    let busy = || Answer::new(429, "").with("Retry-After", 0);
    let server = at_first(3, busy(), |_| manifest());
    assert!(resolve(&server).await.is_ok());
    let server = at_first(99, busy(), |_| manifest());
    let err = resolve(&server).await.expect_err("busy");
    assert!(err.ends_with("429 Too Many Requests"), "{err}");
    assert_eq!(server.lines().len(), 5);
}

#[tokio::test]
async fn a_registry_that_is_down_is_told_in_so_many_words() {
    let port = testkit::registry::free_port();
    let name = format!("127.0.0.1:{port}/some/image:tag");
    assert_eq!(
        World::new().resolve(&nobody(), &name).await,
        Err(format!(
            "failed to do request: Head \"http://127.0.0.1:{port}/v2/some/image/manifests/tag\": dial tcp \
             127.0.0.1:{port}: connect: connection refused"
        ))
    );
}

#[tokio::test]
async fn a_connection_that_ends_without_an_answer_is_tried_again() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let server = std::thread::spawn(move || {
        for _ in 0..5 {
            let _ = listener.accept();
        }
    });
    let name = format!("127.0.0.1:{port}/some/image:tag");
    let err = World::new().resolve(&nobody(), &name).await;
    let err = err.expect_err("no answer");
    assert!(err.contains("failed to do request: Head"), "{err}");
    server.join().expect("five connections");
}

#[tokio::test]
async fn a_registry_that_answers_nothing_useful_is_unreachable() {
    let unreachable = async |server: &Server| {
        let name = format!("{}/some/image:tag", server.host());
        World::new().unreachable(&name).await
    };
    let busy = Answer::new(429, "").with("Retry-After", 0);
    for answer in [500, 502, 503, 504, 507].map(|code| Answer::new(code, "")) {
        let server = Server::start(move |_| answer.clone());
        let (unreachable, why) = unreachable(&server).await;
        assert!(unreachable, "{why}");
    }
    let slow = Server::start(move |_| busy.clone());
    let (is, why) = unreachable(&slow).await;
    assert!(is, "{why}");
    let cut = Server::start(|request| {
        let mut answer = Answer::new(200, MANIFEST);
        answer.cut = (request.method == "GET").then_some(3);
        answer
    });
    let (is, why) = unreachable(&cut).await;
    assert!(is, "{why}");
    // The one that gives tokens counts as the registry.
    let closed = Server::start(|request| {
        let realm = format!("Bearer realm=\"http://{}/token\"", request.header("host"));
        match request.path.starts_with("/token") {
            true => Answer::new(503, ""),
            false => Answer::new(401, "").with("WWW-Authenticate", realm),
        }
    });
    let (is, why) = unreachable(&closed).await;
    assert!(is && why.contains("503"), "{why}");
    let port = testkit::registry::free_port();
    let nobody_there = format!("127.0.0.1:{port}/some/image:tag");
    let (is, why) = World::new().unreachable(&nobody_there).await;
    assert!(is, "{why}");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let hasty = World::with(registry::Config {
        patience: std::time::Duration::from_millis(20),
        ..registry::Config::default()
    });
    let silent = format!("127.0.0.1:{port}/some/image:tag");
    let (is, why) = hasty.unreachable(&silent).await;
    assert!(is && why.contains("timeout"), "{why}");
}

#[tokio::test]
async fn a_registry_that_answers_is_reachable_whatever_it_says() {
    let answers = [
        Answer::new(401, ""),
        Answer::new(403, ""),
        Answer::new(404, ""),
        Answer::new(418, ""),
        Answer::new(200, MANIFEST).with("Docker-Content-Digest", "sha256:abc"),
        Answer::new(307, "").with("Location", "http://["),
        Answer::new(302, "").with("Location", "/again"),
        manifest().with("Content-Length", 5 << 20),
    ];
    for answer in answers {
        let server = Server::start(move |_| answer.clone());
        let name = format!("{}/some/image:tag", server.host());
        let (unreachable, why) = World::new().unreachable(&name).await;
        assert!(!unreachable, "{why}");
    }
    // Something else than a registry.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 512]);
            let _ = stream.write_all(b"220 mail ready\r\n");
        }
    });
    let name = format!("127.0.0.1:{port}/some/image:tag");
    let (unreachable, why) = World::new().unreachable(&name).await;
    assert!(!unreachable, "{why}");
}

#[tokio::test]
async fn a_huge_manifest_is_refused() {
    let server = Server::start(|_| manifest().with("Content-Length", 5 << 20));
    let host = server.host();
    assert_eq!(
        resolve(&server).await,
        Err(format!(
            "rejecting 5242880 byte manifest for {host}/some/image:tag: not found"
        ))
    );
}

#[tokio::test]
async fn a_digest_header_must_be_one() {
    let server =
        Server::start(|_| Answer::new(200, MANIFEST).with("Docker-Content-Digest", "sha256:abc"));
    assert_eq!(
        resolve(&server).await,
        Err("\"sha256:abc\" in header not a valid digest".to_owned())
    );
}

#[tokio::test]
async fn a_mirror_is_asked_first_and_told_for_whom_it_stands() {
    let server = Server::start(|_| manifest());
    let mirror = Server::start(|_| manifest());
    let world = World::mirrored(server.host(), &format!("{}/proxy", mirror.host()));
    let name = format!("{}/some/image:tag", server.host());
    world.resolve(&nobody(), &name).await.expect("found");
    assert_eq!(
        mirror.lines(),
        [format!(
            "HEAD /v2/proxy/some/image/manifests/tag?ns={}",
            server.host()
        )]
    );
    assert_eq!(server.lines(), [""; 0]);
}

#[tokio::test]
async fn the_registry_is_asked_when_its_mirror_fails_in_any_way() {
    let server = Server::start(|_| manifest());
    let name = format!("{}/some/image:tag", server.host());
    for status in [401, 403, 404, 500, 503] {
        let mirror = Server::start(move |_| Answer::new(status, ""));
        let world = World::mirrored(server.host(), &mirror.host());
        world.resolve(&nobody(), &name).await.expect("found");
    }
    let nobody_there = format!("127.0.0.1:{}", testkit::registry::free_port());
    let world = World::mirrored(server.host(), &nobody_there);
    world.resolve(&nobody(), &name).await.expect("found");
}

#[tokio::test]
async fn of_all_failures_the_one_that_got_furthest_is_told() {
    let server = Server::start(|_| Answer::new(404, ""));
    let mirror = Server::start(|_| Answer::new(502, "bad gateway"));
    let world = World::mirrored(server.host(), &mirror.host());
    let name = format!("{}/some/image:tag", server.host());
    let err = world.resolve(&nobody(), &name).await.expect_err("failed");
    assert!(err.ends_with("502 Bad Gateway"), "{err}");
}

#[tokio::test]
async fn redirects_are_followed_but_not_for_ever() {
    let server = Server::start(|request| {
        if request.path.ends_with("/tag") {
            return Answer::new(307, "").with("Location", "/elsewhere");
        }
        manifest()
    });
    assert!(resolve(&server).await.is_ok());
    let server = Server::start(|_| Answer::new(302, "").with("Location", "/again"));
    assert_eq!(
        resolve(&server).await,
        Err("stopped after 10 redirects".to_owned())
    );
}

#[tokio::test]
async fn one_build_asks_for_a_name_once() {
    let server = Server::start(|_| manifest());
    let world = World::new();
    let name = format!("{}/some/image:tag", server.host());
    let (one, two) = (
        crate::world::Somebody::with("one", "", ""),
        crate::world::Somebody::with("two", "", ""),
    );
    for who in [&one, &one, &two, &one] {
        world.resolve(who, &name).await.expect("found");
    }
    assert_eq!(server.lines().len(), 2);
}
