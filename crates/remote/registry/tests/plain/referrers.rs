//! Where the list of what refers to a manifest is looked for.

use crate::server::{Answer, Request, Server};
use crate::world::{World, nobody, reference};
use oci::{Descriptor, Digest, media_type};

const KIND: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

fn list() -> Answer {
    let mut signature = Descriptor::new(media_type::OCI_MANIFEST, Digest::of("signature"), 5);
    signature.artifact_type = Some(KIND.to_owned());
    let list = serde_json::json!({"schemaVersion": 2, "manifests": [signature]});
    Answer::new(200, list.to_string()).with("Content-Type", media_type::OCI_INDEX)
}

/// What kinds of artifacts were found, and what was asked for.
async fn find(
    answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
) -> (Result<Vec<String>, String>, Vec<String>) {
    let server = Server::start(answer);
    find_with(&World::new(), &server).await
}

async fn find_with(world: &World, server: &Server) -> (Result<Vec<String>, String>, Vec<String>) {
    let name = reference(&format!("{}/x:1", server.host()));
    let manifest = Digest::of("manifest");
    let found = world
        .client
        .referrers(&world.cx, &nobody(), &name, &manifest)
        .await;
    let found = found.map_err(|err| fault::chain(&err).replace(&server.host(), "host"));
    let kinds = found.map(|all| all.into_iter().filter_map(|it| it.artifact_type).collect());
    let lines = server.lines().into_iter();
    let lines = lines.map(|line| line.replace(manifest.hex(), "HEX"));
    (kinds, lines.collect())
}

const API: &str = "GET /v2/x/referrers/sha256:HEX";
const TAG: &str = "GET /v2/x/manifests/sha256-HEX";

#[tokio::test]
async fn the_registry_is_asked_first() {
    let (found, asked) = find(|_| list()).await;
    assert_eq!(found, Ok(vec![KIND.to_owned()]));
    assert_eq!(asked, [API]);
}

#[tokio::test]
async fn a_registry_that_keeps_no_list_may_have_a_tag() {
    for status in [404, 400, 403] {
        let (found, asked) = find(move |request| match request.path.contains("/referrers/") {
            true => Answer::new(status, ""),
            false => list(),
        })
        .await;
        assert_eq!(found, Ok(vec![KIND.to_owned()]), "{status}");
        assert_eq!(asked, [API, TAG]);
    }
}

#[tokio::test]
async fn nothing_refers_to_what_is_in_neither() {
    let (found, asked) = find(|_| Answer::new(404, "")).await;
    assert_eq!(found, Ok(Vec::new()));
    assert_eq!(asked, [API, TAG]);
}

#[tokio::test]
async fn what_is_no_list_is_told() {
    let (found, _) = find(|_| Answer::new(200, "<html>")).await;
    let told = found.expect_err("no list");
    assert!(
        told.starts_with("failed to decode referrers index: "),
        "{told}"
    );
    let (found, _) = find(|_| Answer::new(200, " ".repeat((4 << 20) + 1))).await;
    let told = found.expect_err("too large");
    assert!(told.starts_with("rejecting "), "{told}");
    let (found, _) = find(|_| Answer::new(403, "")).await;
    let told = found.expect_err("refused");
    assert!(told.contains("403 Forbidden"), "{told}");
}

#[tokio::test]
async fn a_mirror_without_the_tag_leaves_it_to_the_registry() {
    for from_registry in [200, 404, 403] {
        let server = Server::start(move |request| match (from_registry, &request.path) {
            (200, path) if path.contains("/manifests/") => list(),
            (200 | 404, _) => Answer::new(404, ""),
            (status, _) => Answer::new(status, ""),
        });
        let mirror = Server::start(|_| Answer::new(404, ""));
        let world = World::mirrored(server.host(), &mirror.host());
        let (found, asked) = find_with(&world, &server).await;
        assert_eq!(asked, [API, TAG], "{from_registry}");
        match from_registry {
            200 => assert_eq!(found, Ok(vec![KIND.to_owned()])),
            404 => assert_eq!(found, Ok(Vec::new())),
            _ => assert!(found.expect_err("refused").contains("403 Forbidden")),
        }
    }
}

#[tokio::test]
async fn a_mirror_that_fails_hides_nothing_that_the_registry_says() {
    let server = Server::start(|_| Answer::new(404, ""));
    let mirror = Server::start(|_| Answer::new(403, ""));
    let world = World::mirrored(server.host(), &mirror.host());
    let (found, _) = find_with(&world, &server).await;
    assert_eq!(found, Ok(Vec::new()));
}
