//! Against a small server that checks signatures.

use std::sync::Arc;

use testkit::stores::Azure as Server;
use testkit::web::Response;

use super::*;
use crate::trial::{self, bytes, fails, nowhere, send};

fn container(server: &Server, further: &[(&str, &str)]) -> Container {
    let url = server.url();
    let given = [
        ("account_url", url.as_str()),
        ("account_name", Server::ACCOUNT),
        ("secret_access_key", Server::KEY),
        ("container", "c"),
    ];
    trial::open(&given, further, &nowhere()).expect("a container")
}

async fn prepared(server: &Server) -> Container {
    let container = container(server, &[]);
    container.prepare(&Cx::root()).await.expect("prepared");
    container
}

#[tokio::test]
async fn blobs_come_back_as_they_were_sent() {
    let server = Server::start();
    let container = Arc::new(prepared(&server).await);
    trial::cross(&container, 10).await;
    trial::cross(&container, 300_000).await;
    let digest = Digest::of(bytes(10));
    assert!(server.blob(&format!("c/blobs/{digest}")).is_some());
}

#[tokio::test]
async fn large_blobs_go_in_blocks() {
    let server = Server::start();
    let mut container = prepared(&server).await;
    container.azure.block = 1000;
    trial::cross(&Arc::new(container), 10_500).await;
}

#[tokio::test]
async fn a_container_is_made_once() {
    let server = Server::start();
    let container = prepared(&server).await;
    container.prepare(&Cx::root()).await.expect("prepared");
    let requests = server.requests();
    let made = requests.iter().filter(|it| it.starts_with("PUT ")).count();
    assert_eq!(made, 1);
}

#[tokio::test]
async fn a_document_that_is_not_there_is_none() {
    let server = Server::start();
    let cx = Cx::root();
    let container = container(&server, &[]);
    assert_eq!(container.document(&cx, "x").await.ok(), Some(None));
    let container = prepared(&server).await;
    assert_eq!(container.document(&cx, "x").await.ok(), Some(None));
}

#[tokio::test]
async fn a_blob_that_somebody_else_sent_meanwhile_will_do() {
    let server = Server::start();
    let container = prepared(&server).await;
    for _ in 0..2 {
        send(&container, b"x").await.expect("sent");
    }
}

#[tokio::test]
async fn trouble_passes_or_is_told() {
    let server = Server::start();
    let container = Arc::new(prepared(&server).await);
    trial::trouble_while_reading(&container, &server.troubles, "/blobs").await;
    trial::trouble_while_sending(&container, &server.troubles, "/blobs").await;
    let dead = Response::status(503);
    server.troubles.refuse("PUT", "/blobs", 5, dead);
    fails(send(&*container, b"x").await, ": 503 Service Unavailable");
}

#[tokio::test]
async fn a_wrong_key_is_told_of() {
    let server = Server::start();
    let container = container(&server, &[("secret_access_key", "b3RoZXI=")]);
    fails(
        container.prepare(&Cx::root()).await,
        "failed to get properties of cache container c: 403 Forbidden: AuthenticationFailed",
    );
}
