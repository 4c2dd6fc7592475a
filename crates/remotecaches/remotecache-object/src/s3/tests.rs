//! Against a small server that checks signatures.

use std::sync::Arc;

use testkit::stores::S3 as Server;
use testkit::web::Response;

use super::*;
use crate::trial::{self, bytes, fails, nowhere, send};

fn bucket(server: &Server, further: &[(&str, &str)]) -> Bucket {
    let url = server.url();
    let given = [
        ("bucket", "b"),
        ("region", Server::REGION),
        ("endpoint_url", url.as_str()),
        ("use_path_style", "true"),
        ("access_key_id", Server::ID),
        ("secret_access_key", Server::SECRET),
    ];
    trial::open(&given, further, &nowhere()).expect("a bucket")
}

#[tokio::test]
async fn blobs_come_back_as_they_were_sent() {
    let server = Server::start();
    let bucket = Arc::new(bucket(&server, &[("prefix", "a b/")]));
    trial::cross(&bucket, 10).await;
    trial::cross(&bucket, 300_000).await;
    let digest = Digest::of(bytes(10));
    assert!(server.object(&format!("/b/a b/blobs/{digest}")).is_some());
}

#[tokio::test]
async fn large_blobs_go_in_parts() {
    let server = Server::start();
    let mut bucket = bucket(&server, &[]);
    bucket.part = 1000;
    trial::cross(&Arc::new(bucket), 10_500).await;
    let requests = server.requests();
    let parts = requests.iter().filter(|it| it.starts_with("PUT ")).count();
    assert_eq!(parts, 11);
}

#[tokio::test]
async fn an_upload_that_fails_is_given_up() {
    let server = Server::start();
    let mut bucket = bucket(&server, &[]);
    bucket.part = 1000;
    let part = "partNumber=2";
    server
        .troubles
        .refuse("PUT", part, 1, Response::status(200));
    fails(send(&bucket, &bytes(3000)).await, "a part without ETag");
    let requests = server.requests();
    assert!(requests.iter().any(|it| it.starts_with("DELETE ")));
}

#[tokio::test]
async fn old_objects_are_touched_and_very_large_ones_in_parts() {
    let server = Server::start();
    let mut bucket = bucket(&server, &[]);
    let blob = send(&bucket, &bytes(2500)).await.expect("sent");
    let path = format!("/b/blobs/{}", blob.digest);
    let cx = Cx::root();
    for limit in [5000, 2500, 1000] {
        bucket.copy_limit = limit;
        server.age();
        assert!(bucket.keep(&cx, &blob.digest).await.expect("an answer"));
        assert!(server.is_new(&path), "limit {limit}");
        assert_eq!(server.object(&path), Some(bytes(2500)), "limit {limit}");
    }
    let before = server.requests().len();
    assert!(bucket.keep(&cx, &blob.digest).await.expect("an answer"));
    assert_eq!(server.requests().len(), before + 1);
}

#[tokio::test]
async fn who_adapts_slows_down_after_a_refusal() {
    for (mode, waits) in [("standard", false), ("adaptive", true)] {
        let server = Server::start();
        let bucket = bucket(&server, &[("retry_mode", mode)]);
        let busy = Response::status(503);
        server.troubles.refuse("PUT", "blobs/", 1, busy);
        let began = std::time::Instant::now();
        send(&bucket, &bytes(10)).await.expect("sent");
        // One request in two seconds is the slowest rate, and that of who has just begun.
        assert_eq!(began.elapsed().as_secs() >= 1, waits, "{mode}");
    }
}

#[tokio::test]
async fn trouble_passes_or_is_told() {
    let server = Server::start();
    let bucket = Arc::new(bucket(&server, &[]));
    trial::trouble_while_reading(&bucket, &server.troubles, "/blobs/").await;
    trial::trouble_while_sending(&bucket, &server.troubles, "/blobs/").await;
    let dead = Response::status(503);
    server.troubles.refuse("PUT", "/blobs/", 3, dead);
    fails(
        send(&*bucket, b"x").await,
        "error writing layer blob: 503 Service Unavailable",
    );
}

#[tokio::test]
async fn a_token_that_ended_is_told_of_at_once() {
    let server = Server::start();
    let bucket = bucket(&server, &[]);
    let mut expired = Response::file(
        "<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>",
    );
    expired.status = 400;
    server.troubles.refuse("PUT", "", 1, expired);
    fails(
        send(&bucket, b"x").await,
        "400 Bad Request: ExpiredToken: The provided token has expired.",
    );
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_wrong_secret_is_told_of() {
    let server = Server::start();
    let bucket = bucket(&server, &[("secret_access_key", "other")]);
    fails(
        send(&bucket, b"x").await,
        "403 Forbidden: SignatureDoesNotMatch",
    );
}

#[test]
fn times_of_headers_are_understood() {
    let old = age("Wed, 21 Oct 2015 07:28:00 GMT").expect("a time");
    assert!(old > Duration::from_secs(10 * 365 * 86_400));
    assert!(age("yesterday").is_none());
}
