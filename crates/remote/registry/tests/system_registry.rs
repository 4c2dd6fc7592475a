//! Against a real registry server.

#[path = "support/world.rs"]
mod world;

use std::collections::BTreeMap;

use oci::{Descriptor, Digest, media_type};
use progress::Progress;
use registry::{Origin, Push};
use world::{World, layer, nobody, reference};

fn put(world: &World, media_type: &str, bytes: &[u8]) -> Descriptor {
    let digest = world.store.put(bytes).expect("stored");
    Descriptor::new(media_type, digest, bytes.len() as i64)
}

/// An index of one image with two layers.
fn image(world: &World) -> (Descriptor, Vec<Descriptor>) {
    let large: Vec<u8> = (0..3_000_000u32).map(|at| (at * 31 % 253) as u8).collect();
    let layers = vec![
        put(world, media_type::OCI_LAYER_GZIP, &large),
        put(world, media_type::OCI_LAYER_GZIP, b"small"),
    ];
    let config = put(
        world,
        media_type::OCI_CONFIG,
        b"{\"architecture\":\"amd64\"}",
    );
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": config,
        "layers": layers,
    });
    let manifest = put(
        world,
        media_type::OCI_MANIFEST,
        manifest.to_string().as_bytes(),
    );
    let index = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_INDEX,
        "manifests": [manifest],
    });
    let index = put(world, media_type::OCI_INDEX, index.to_string().as_bytes());
    (index, layers)
}

async fn push(world: &World, name: &str, root: &Descriptor, origins: &BTreeMap<Digest, Origin>) {
    push_to(world, name, root, origins, false).await;
}

async fn push_to(
    world: &World,
    name: &str,
    root: &Descriptor,
    origins: &BTreeMap<Digest, Origin>,
    insecure: bool,
) {
    let push = Push {
        reference: &reference(name),
        by_digest: false,
        insecure,
        root,
        origins,
    };
    world
        .client
        .push(&world.cx, &nobody(), &push, &world.store, &Progress::none())
        .await
        .expect("pushed");
}

#[tokio::test]
async fn what_is_pushed_can_be_pulled() {
    testkit::require!(registry);
    let server = testkit::registry::Registry::start();
    let world = World::new();
    let (root, layers) = image(&world);
    let name = format!("{}/some/image:v1", server.host());
    push(&world, &name, &root, &BTreeMap::new()).await;

    let other = World::new();
    let found = other.resolve(&nobody(), &name).await.expect("resolved");
    assert_eq!(found, root);
    let by_digest = format!("{}/some/image@{}", server.host(), root.digest);
    let found = other.resolve(&nobody(), &by_digest).await;
    assert_eq!(found, Ok(root.clone()));
    for blob in layers.iter().chain([&root]) {
        other.fetch(&name, blob).await.expect("fetched");
    }
    assert_eq!(
        other.store.read(&layers[0].digest).expect("stored").len(),
        3_000_000
    );
}

#[tokio::test]
async fn an_insecure_push_finds_out_that_a_registry_is_plain_with_many_requests_under_way() {
    testkit::require!(registry);
    let server = testkit::registry::Registry::start();
    for round in 0..20 {
        // Knows nothing of the registry yet.
        let world = World::new();
        let (root, _) = image(&world);
        let name = format!("{}/some/image:v{round}", server.host());
        push_to(&world, &name, &root, &BTreeMap::new(), true).await;
    }
}

#[tokio::test]
async fn a_layer_of_another_repository_is_mounted_without_having_it() {
    testkit::require!(registry);
    let server = testkit::registry::Registry::start();
    let world = World::new();
    let (root, layers) = image(&world);
    let base = format!("{}/base/image:v1", server.host());
    push(&world, &base, &root, &BTreeMap::new()).await;

    // Another daemon that never fetched the layers.
    let other = World::new();
    let (root, _) = image(&other);
    let mut origins = BTreeMap::new();
    for blob in &layers {
        other.store.remove(&blob.digest).expect("removed");
        let mut noted = blob.clone();
        Origin::note(&mut noted, &reference(&base));
        origins.insert(blob.digest.clone(), Origin::of(&noted, None));
    }
    let name = format!("{}/my/image:v1", server.host());
    push(&other, &name, &root, &origins).await;
    let third = World::new();
    third.fetch(&name, &layers[0]).await.expect("fetched");
}

#[tokio::test]
async fn a_name_that_is_not_there_is_told_as_upstream_does() {
    testkit::require!(registry);
    let server = testkit::registry::Registry::start();
    let world = World::new();
    let name = format!("{}/some/image:v1", server.host());
    assert_eq!(
        world.resolve(&nobody(), &name).await,
        Err(format!("{name}: not found"))
    );
    let blob = layer(b"nothing");
    assert_eq!(
        world.fetch(&name, &blob).await,
        Err(format!(
            "could not fetch content descriptor {} ({}) from remote: not found",
            blob.digest, blob.media_type
        ))
    );
}
