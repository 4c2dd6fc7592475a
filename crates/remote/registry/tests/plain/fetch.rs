//! Blobs come whole and right, or not at all.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::server::{Answer, Request, Server};
use crate::world::{World, layer};
use oci::{Descriptor, Digest, media_type};

fn bytes(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at * 7 % 251) as u8).collect()
}

/// An answer that respects a range.
fn ranged(request: &Request, body: &[u8]) -> Answer {
    match request.range() {
        None => Answer::new(200, body).with("Accept-Ranges", "bytes"),
        Some((start, end)) => {
            let end = end.map_or(body.len(), |end| end + 1).min(body.len());
            Answer::new(206, &body[start..end]).with(
                "Content-Range",
                format!("bytes {start}-{}/{}", end - 1, body.len()),
            )
        }
    }
}

async fn fetch(server: &Server, blob: &Descriptor) -> (World, Result<(), String>) {
    let world = World::new();
    let name = format!("{}/some/image", server.host());
    let fetched = world.fetch(&name, blob).await;
    (world, fetched)
}

#[tokio::test]
async fn a_blob_is_fetched_once() {
    let body = bytes(100_000);
    let blob = layer(&body);
    let server = Server::start(move |request| ranged(request, &body));
    let (world, fetched) = fetch(&server, &blob).await;
    assert_eq!(fetched, Ok(()));
    let name = format!("{}/some/image", server.host());
    world.fetch(&name, &blob).await.expect("there already");
    assert_eq!(
        server.lines(),
        [format!("GET /v2/some/image/blobs/{}", blob.digest)]
    );
    assert_eq!(
        world.store.read(&blob.digest).expect("stored").len(),
        100_000
    );
}

#[tokio::test]
async fn a_broken_connection_is_resumed_where_it_stopped() {
    let body = bytes(1_000_000);
    let blob = layer(&body);
    let count = AtomicUsize::new(0);
    let server = Server::start(move |request| {
        let mut answer = ranged(request, &body);
        if count.fetch_add(1, Ordering::Relaxed) < 3 {
            answer.cut = Some(300_000);
        }
        answer
    });
    let (world, fetched) = fetch(&server, &blob).await;
    assert_eq!(fetched, Ok(()));
    assert!(world.store.contains(&blob.digest));
    let requests = server.requests();
    let ranges: Vec<&str> = requests.iter().map(|one| one.header("range")).collect();
    assert_eq!(
        ranges,
        ["", "bytes=300000-", "bytes=600000-", "bytes=900000-"]
    );
}

#[tokio::test]
async fn a_server_without_ranges_sends_all_again() {
    let body = bytes(1_000_000);
    let blob = layer(&body);
    let count = AtomicUsize::new(0);
    let server = Server::start(move |_| {
        let mut answer = Answer::new(200, body.clone());
        if count.fetch_add(1, Ordering::Relaxed) == 0 {
            answer.cut = Some(700_000);
        }
        answer
    });
    assert_eq!(fetch(&server, &blob).await.1, Ok(()));
    assert_eq!(server.lines().len(), 2);
}

#[tokio::test]
async fn a_connection_that_always_breaks_is_given_up() {
    let body = bytes(1_000_000);
    let blob = layer(&body);
    let server = Server::start(move |_| Answer {
        cut: Some(10),
        ..Answer::new(200, body.clone())
    });
    let (world, fetched) = fetch(&server, &blob).await;
    let err = fetched.expect_err("broken");
    assert!(err.contains("failed to read sha256:"), "{err}");
    assert!(!world.store.contains(&blob.digest));
    assert_eq!(server.lines().len(), 4);
}

#[tokio::test]
async fn a_registry_that_lies_about_a_digest_is_named() {
    let blob = layer(b"what was promised");
    let server = Server::start(|_| Answer::new(200, "what was delivere"));
    let (world, fetched) = fetch(&server, &blob).await;
    assert_eq!(
        fetched,
        Err(format!(
            "registry {} sent content with digest {} for {}",
            server.host(),
            Digest::of("what was delivere"),
            blob.digest
        ))
    );
    assert!(!world.store.contains(&blob.digest));
    assert_eq!(server.lines().len(), 1);
}

#[tokio::test]
async fn a_wrong_length_is_noticed_before_and_while_reading() {
    let blob = layer(b"12345");
    for answer in [
        Answer::new(200, "1234"),
        Answer::new(200, "123456"),
        Answer {
            chunked: true,
            ..Answer::new(200, "123456")
        },
        Answer {
            chunked: true,
            ..Answer::new(200, "1234")
        },
    ] {
        let length = answer.body.len();
        let server = Server::start(move |_| answer.clone());
        assert_eq!(
            fetch(&server, &blob).await.1,
            Err(format!(
                "registry {} sent {length} bytes for {}, expected 5",
                server.host(),
                blob.digest
            ))
        );
    }
}

#[tokio::test]
async fn a_mirror_that_lies_is_replaced_by_the_registry() {
    let body = b"the truth".to_vec();
    let blob = layer(&body);
    let server = Server::start(move |request| ranged(request, &body));
    let mirror = Server::start(|_| Answer::new(200, "the trath"));
    let world = World::mirrored(server.host(), &mirror.host());
    let name = format!("{}/some/image", server.host());
    assert_eq!(world.fetch(&name, &blob).await, Ok(()));
    assert_eq!(mirror.lines().len(), 1);
    assert_eq!(server.lines().len(), 1);
}

#[tokio::test]
async fn a_missing_blob_is_told_with_its_type() {
    let blob = layer(b"x");
    let server = Server::start(|_| Answer::new(404, ""));
    assert_eq!(
        fetch(&server, &blob).await.1,
        Err(format!(
            "could not fetch content descriptor {} ({}) from remote: not found",
            blob.digest, blob.media_type
        ))
    );
}

#[tokio::test]
async fn a_manifest_that_is_only_a_blob_is_found() {
    let text = "{}";
    let blob = Descriptor::new(media_type::OCI_MANIFEST, Digest::of(text), 2);
    let server = Server::start(move |request| {
        if request.path.contains("/blobs/") {
            return Answer::new(200, text);
        }
        Answer::new(404, "")
    });
    assert_eq!(fetch(&server, &blob).await.1, Ok(()));
}

#[tokio::test]
async fn a_blob_of_unknown_size_is_fetched() {
    let mut blob = layer(b"12345");
    blob.size = 0;
    let server = Server::start(|_| Answer::new(200, "12345"));
    assert_eq!(fetch(&server, &blob).await.1, Ok(()));
}

#[tokio::test]
async fn a_large_blob_that_comes_slowly_is_fetched_in_ranges() {
    let body = bytes(40 << 20);
    let blob = layer(&body);
    let server = Server::start(move |request| Answer {
        slow: Some(Duration::from_millis(4)),
        ..ranged(request, &body)
    });
    assert_eq!(fetch(&server, &blob).await.1, Ok(()));
    let requests = server.requests();
    assert!(requests.len() > 4, "{}", requests.len());
    assert_eq!(requests[0].header("range"), "");
    let (start, end) = requests[1].range().expect("a range");
    assert_eq!(end.expect("an end") - start, (4 << 20) - 1);
}

#[tokio::test]
async fn a_slow_server_without_ranges_is_read_to_its_end() {
    let body = bytes(24 << 20);
    let blob = layer(&body);
    let server = Server::start(move |_| Answer {
        slow: Some(Duration::from_millis(4)),
        ..Answer::new(200, body.clone())
    });
    assert_eq!(fetch(&server, &blob).await.1, Ok(()));
}

#[tokio::test]
async fn a_layer_at_another_address_is_fetched_from_there() {
    let body = b"far away".to_vec();
    let mut blob = layer(&body);
    let server = Server::start(|_| Answer::new(404, ""));
    let elsewhere = Server::start(move |request| ranged(request, &body));
    blob.urls = vec![format!("http://{}/layer", elsewhere.host())];
    assert_eq!(fetch(&server, &blob).await.1, Ok(()));
    assert_eq!(elsewhere.lines(), ["GET /layer"]);
}

#[tokio::test]
async fn progress_tells_bytes() {
    let body = bytes(100_000);
    let blob = layer(&body);
    let server = Server::start(move |request| ranged(request, &body));
    let events = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = events.clone();
    let sink = move |event: progress::Event| {
        if let progress::Event::Status(status) = event {
            seen.lock().expect("no panic").push(status);
        }
    };
    let world = World::new();
    let progress = progress::Progress::new(std::sync::Arc::new(sink), "sha256:vertex");
    let name = crate::world::reference(&format!("{}/some/image", server.host()));
    world
        .client
        .fetch(
            &world.cx,
            &crate::world::nobody(),
            &name,
            &blob,
            &world.store,
            &progress,
        )
        .await
        .expect("fetched");
    let events = events.lock().expect("no panic");
    let last = events.last().expect("some");
    assert_eq!(last.id, blob.digest.as_str());
    assert_eq!((last.current, last.total), (100_000, 100_000));
    assert!(last.completed.is_some());
}
