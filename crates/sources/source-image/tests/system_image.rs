//! Images of a real registry, from the name to the files.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex};

use cache::{Cache, RecordType};
use oci::{Descriptor, Digest, Platform, Reference, media_type};
use progress::{Event, Progress};
use registry::{Anonymous, Client, Credentials, Push};
use session::Group;
use source::{Asked, Facts, Identifier, Instance, Source};
use source_image::{Images, Offline};
use tasks::Cx;
use tempfile::TempDir;
use testkit::registry::Registry;

/// A registry and a daemon's share of it.
struct World {
    server: Registry,
    cx: Cx,
    client: Client,
    cache: Cache,
    images: Images,
    _dir: TempDir,
}

/// A layer with one file.
struct Layer {
    media_type: &'static str,
    name: &'static str,
    text: &'static str,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let cache = Cache::open(cache::Options::new(dir.path())).expect("a cache");
        let client = Client::new(registry::Config::default());
        Self {
            server: Registry::start(),
            cx: Cx::root(),
            images: Images::new(client.clone(), cache.clone(), Offline::Warn),
            client,
            cache,
            _dir: dir,
        }
    }

    fn name(&self, tag: &str) -> String {
        format!("{}/some/image:{tag}", self.server.host())
    }

    fn put(&self, media_type: &str, bytes: &[u8]) -> Descriptor {
        let digest = self.cache.content().put(bytes).expect("stored");
        Descriptor::new(media_type, digest, bytes.len() as i64)
    }

    /// An image with these layers; returns its manifest.
    fn image(&self, docker: bool, architecture: &str, layers: &[Layer]) -> Descriptor {
        let mut diff_ids = Vec::new();
        let mut blobs = Vec::new();
        for layer in layers {
            let tar = tar_of(layer);
            diff_ids.push(Digest::of(&tar));
            blobs.push(self.put(layer.media_type, &compress(layer.media_type, tar)));
        }
        let config = serde_json::json!({
            "architecture": architecture,
            "os": "linux",
            "config": {"Env": ["A=b"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let (config_type, manifest_type) = if docker {
            (media_type::DOCKER_CONFIG, media_type::DOCKER_MANIFEST)
        } else {
            (media_type::OCI_CONFIG, media_type::OCI_MANIFEST)
        };
        let config = self.put(config_type, config.to_string().as_bytes());
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": config,
            "layers": blobs,
        });
        let mut manifest = self.put(manifest_type, manifest.to_string().as_bytes());
        manifest.platform = Some(Platform {
            architecture: architecture.to_owned(),
            os: "linux".to_owned(),
            ..Platform::default()
        });
        manifest
    }

    fn index(&self, manifests: &[Descriptor]) -> Descriptor {
        let index = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_INDEX,
            "manifests": manifests,
        });
        self.put(media_type::OCI_INDEX, index.to_string().as_bytes())
    }

    /// Pushes, and forgets everything that is here.
    async fn push(&self, tag: &str, root: &Descriptor) {
        let who: Arc<dyn Credentials> = Arc::new(Anonymous);
        let push = Push {
            reference: &Reference::parse(&self.name(tag)).expect("a reference"),
            by_digest: false,
            insecure: false,
            root,
            origins: &BTreeMap::new(),
        };
        let store = self.cache.content();
        self.client
            .push(&self.cx, &who, &push, store, &Progress::none())
            .await
            .expect("pushed");
        for blob in store.list().expect("a list") {
            store.remove(&blob.digest).expect("removed");
        }
    }

    fn source(&self, name: &str, attrs: &[(&str, &str)]) -> Arc<dyn Instance> {
        let attrs = attrs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let id = Identifier {
            scheme: "docker-image".to_owned(),
            name: name.to_owned(),
            attrs: attrs.collect(),
            platform: amd64(),
        };
        self.images
            .instance(id, &Arc::default())
            .expect("an instance")
    }

    /// An image in a store that clients offer.
    fn layout(&self, digest: &Digest) -> Arc<dyn Instance> {
        let id = Identifier {
            scheme: "oci-layout".to_owned(),
            name: format!("some/image@{digest}"),
            attrs: [("oci.store".to_owned(), "s".to_owned())].into(),
            platform: amd64(),
        };
        self.images
            .instance(id, &Arc::default())
            .expect("an instance")
    }

    async fn facts(&self, tag: &str) -> (Digest, bytes::Bytes) {
        let instance = self.source(&self.name(tag), &[]);
        let (nobody, progress) = (Group::none(), Progress::none());
        let asked = Asked::default();
        let facts = instance.facts(&self.cx, &nobody, &progress, &asked);
        match facts.await {
            Ok(Facts::Image { digest, config, .. }) => (digest, config),
            other => panic!("{other:?}"),
        }
    }

    async fn key(&self, instance: &Arc<dyn Instance>, index: usize) -> Result<String, String> {
        let (nobody, progress) = (Group::none(), Progress::none());
        let key = instance.key(&self.cx, &nobody, &progress, index);
        match key.await {
            Ok(key) => {
                assert_eq!(key.done, index > 0);
                Ok(key.text)
            }
            Err(err) => Err(err.message),
        }
    }

    async fn tree(&self, instance: &Arc<dyn Instance>) -> Option<cache::Ref> {
        instance
            .snapshot(&self.cx, &Group::none(), &Progress::none())
            .await
            .expect("a tree")
    }

    async fn file(&self, tree: &cache::Ref, name: &str) -> Option<String> {
        tree.ensure(&self.cx, &Progress::none())
            .await
            .expect("unpacked");
        let tree = tree.tree(&self.cx).await.expect("readable");
        std::fs::read_to_string(tree.path().join(name)).ok()
    }
}

fn amd64() -> Platform {
    "linux/amd64".parse().expect("a platform")
}

fn tar_of(layer: &Layer) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(layer.text.len() as u64);
    header.set_mode(0o644);
    header.set_entry_type(tar::EntryType::Regular);
    tar.append_data(&mut header, layer.name, layer.text.as_bytes())
        .expect("a tar");
    tar.into_inner().expect("a tar")
}

fn compress(media_type: &str, tar: Vec<u8>) -> Vec<u8> {
    if media_type.ends_with("gzip") {
        let level = flate2::Compression::default();
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), level);
        writer.write_all(&tar).expect("compressed");
        return writer.finish().expect("compressed");
    }
    if media_type.ends_with("zstd") {
        return zstd::encode_all(&tar[..], 3).expect("compressed");
    }
    tar
}

fn one(name: &'static str, text: &'static str) -> [Layer; 1] {
    [Layer {
        media_type: media_type::OCI_LAYER_GZIP,
        name,
        text,
    }]
}

#[tokio::test]
async fn layers_of_all_kinds_become_a_tree() {
    testkit::require!(root, registry);
    let world = World::new();
    for (docker, kinds) in [
        (
            false,
            [
                media_type::OCI_LAYER_GZIP,
                media_type::OCI_LAYER_ZSTD,
                media_type::OCI_LAYER,
            ],
        ),
        (
            true,
            [
                media_type::DOCKER_LAYER_GZIP,
                media_type::DOCKER_LAYER_ZSTD,
                media_type::DOCKER_LAYER,
            ],
        ),
    ] {
        let layer = |index: usize, name, text| Layer {
            media_type: kinds[index],
            name,
            text,
        };
        let image = world.image(
            docker,
            "amd64",
            &[
                layer(0, "a", "first"),
                layer(1, "b", "second"),
                layer(2, "a", "third"),
            ],
        );
        let tag = if docker { "docker" } else { "oci" };
        world.push(tag, &image).await;
        let source = world.source(&world.name(tag), &[]);
        world.key(&source, 0).await.expect("a key");
        let tree = world.tree(&source).await.expect("not scratch");
        assert_eq!(tree.is_unpacked(), docker);
        assert_eq!(world.file(&tree, "a").await.as_deref(), Some("third"));
        assert_eq!(world.file(&tree, "b").await.as_deref(), Some("second"));
    }
}

#[tokio::test]
async fn the_two_keys_are_of_the_index_and_of_the_layers() {
    testkit::require!(root, registry);
    let world = World::new();
    let ours = world.image(false, "amd64", &one("a", "amd64"));
    let theirs = world.image(false, "arm64", &one("a", "arm64"));
    let root = world.index(&[theirs, ours]);
    world.push("v1", &root).await;
    let source = world.source(&world.name("v1"), &[]);
    let first = format!(
        r#"{{"Digest":"{}","OS":"linux","Arch":"amd64"}}"#,
        root.digest
    );
    assert_eq!(
        world.key(&source, 0).await,
        Ok(Digest::of(first).to_string())
    );
    let diff_id = Digest::of(tar_of(&one("a", "amd64")[0]));
    assert_eq!(world.key(&source, 1).await, Ok(diff_id.to_string()));
    let tree = world.tree(&source).await.expect("not scratch");
    assert_eq!(world.file(&tree, "a").await.as_deref(), Some("amd64"));
}

#[tokio::test]
async fn an_index_may_be_in_an_index() {
    testkit::require!(root, registry);
    let world = World::new();
    let arm = world.index(&[world.image(false, "arm64", &one("a", "arm"))]);
    let amd = world.index(&[world.image(false, "amd64", &one("a", "amd"))]);
    world.push("nested", &world.index(&[arm, amd])).await;
    let source = world.source(&world.name("nested"), &[]);
    world.key(&source, 0).await.expect("a key");
    let tree = world.tree(&source).await.expect("not scratch");
    assert_eq!(world.file(&tree, "a").await.as_deref(), Some("amd"));
}

#[tokio::test]
async fn what_a_client_offered_once_need_not_be_offered_again() {
    testkit::require!(root);
    let world = World::new();
    let image = world.image(false, "amd64", &one("a", "kept"));
    let source = world.layout(&image.digest);
    world.key(&source, 0).await.expect("a key");
    let tree = world.tree(&source).await.expect("not scratch");
    assert_eq!(world.file(&tree, "a").await.as_deref(), Some("kept"));
    let other = world.layout(&Digest::of("nowhere"));
    world.key(&other, 0).await.expect_err("nobody has it");
}

#[tokio::test]
async fn indexes_are_not_followed_for_ever() {
    testkit::require!(root, registry);
    let world = World::new();
    let image = world.image(false, "amd64", &one("a", "deep"));
    let deep = |depth: usize| {
        let within = |inner: Descriptor, _| world.index(&[inner]);
        (0..depth).fold(image.clone(), within)
    };
    world.push("deep", &deep(100)).await;
    let source = world.source(&world.name("deep"), &[]);
    world.key(&source, 0).await.expect("a key");
    let root = deep(200);
    world.push("deeper", &root).await;
    let source = world.source(&world.name("deeper"), &[]);
    let told = world.key(&source, 0).await.expect_err("too many");
    let expected = format!("no image within 128 documents of index {}", root.digest);
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_signature_of_what_is_attested_is_told() {
    testkit::require!(root, registry);
    let world = World::new();
    let image = world.image(false, "amd64", &one("a", "1"));
    let artifact = |kind: Option<&str>, layer: &[u8]| {
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "config": world.put(media_type::OCI_EMPTY, b"{}"),
            "layers": [world.put("application/json", layer)],
        });
        let mut made = world.put(media_type::OCI_MANIFEST, manifest.to_string().as_bytes());
        made.artifact_type = kind.map(str::to_owned);
        made
    };
    let mut list = artifact(None, b"statement");
    list.annotations = [
        ("vnd.docker.reference.type", "attestation-manifest"),
        ("vnd.docker.reference.digest", image.digest.as_str()),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    let root = world.index(&[image, list.clone()]);
    let cosign = artifact(
        Some("application/vnd.dev.cosign.artifact.sig.v1+json"),
        b"older",
    );
    let bundle = artifact(
        Some("application/vnd.dev.sigstore.bundle.v0.3+json"),
        b"newer",
    );
    // The registry keeps no list of referrers.
    let signatures = world.index(&[artifact(Some("text/plain"), b"x"), cosign, bundle.clone()]);
    let blobs = world.cache.content().clone();
    let kept: Vec<_> = blobs.list().expect("a list");
    let kept: Vec<_> = kept
        .iter()
        .map(|blob| blobs.read(&blob.digest).expect("a blob"))
        .collect();
    world.push("signed", &root).await;
    for blob in kept {
        blobs.put(blob).expect("kept");
    }
    let tag = list.digest.as_str().replacen(':', "-", 1);
    world.push(&tag, &signatures).await;

    let instance = world.source(&world.name("signed"), &[]);
    let asked = Asked {
        attestations: Some(Vec::new()),
        ..Asked::default()
    };
    let (nobody, progress) = (Group::none(), Progress::none());
    let facts = instance.facts(&world.cx, &nobody, &progress, &asked).await;
    let Ok(Facts::Image {
        attested: Some(attested),
        ..
    }) = facts
    else {
        panic!("{facts:?}");
    };
    assert_eq!(attested.manifest, Some(list.digest));
    assert_eq!(attested.signature, Some(bundle.digest));
    assert_eq!(attested.blobs.len(), 4, "index, list, signature, its part");
    assert_eq!(&attested.blobs[3].1[..], b"newer");
}

#[tokio::test]
async fn about_an_image_without_an_index_nothing_is_attested() {
    testkit::require!(root, registry);
    let world = World::new();
    let image = world.image(true, "amd64", &one("a", "1"));
    world.push("plain", &image).await;
    let instance = world.source(&world.name("plain"), &[]);
    let asked = Asked {
        attestations: Some(Vec::new()),
        ..Asked::default()
    };
    let (nobody, progress) = (Group::none(), Progress::none());
    let facts = instance.facts(&world.cx, &nobody, &progress, &asked).await;
    let Ok(Facts::Image {
        attested: Some(attested),
        ..
    }) = facts
    else {
        panic!("{facts:?}");
    };
    assert_eq!(
        (attested.root, attested.image),
        (image.digest.clone(), image.digest)
    );
    assert_eq!((attested.manifest, attested.signature), (None, None));
}

#[tokio::test]
async fn a_limit_takes_the_lowest_layers() {
    testkit::require!(root, registry);
    let world = World::new();
    let [first] = one("a", "first");
    let [second] = one("b", "second");
    let image = world.image(false, "amd64", &[first, second]);
    world.push("v1", &image).await;
    let source = world.source(&world.name("v1"), &[("image.layerlimit", "1")]);
    let diff_id = Digest::of(tar_of(&one("a", "first")[0]));
    assert_eq!(world.key(&source, 1).await, Ok(diff_id.to_string()));
    let tree = world.tree(&source).await.expect("not scratch");
    assert_eq!(world.file(&tree, "a").await.as_deref(), Some("first"));
    assert_eq!(world.file(&tree, "b").await, None);
    let source = world.source(&world.name("v1"), &[("image.layerlimit", "3")]);
    assert_eq!(
        world.key(&source, 0).await,
        Err("layer limit 3 is greater than the number of layers in the image 2".to_owned())
    );
}

#[tokio::test]
async fn a_frontends_image_is_recorded_as_such() {
    testkit::require!(root, registry);
    let world = World::new();
    let image = world.image(false, "amd64", &one("a", "x"));
    world.push("v1", &image).await;
    let source = world.source(&world.name("v1"), &[("image.recordtype", "frontend")]);
    let tree = world.tree(&source).await.expect("not scratch");
    assert_eq!(tree.record_type(), RecordType::Frontend);
    assert_eq!(
        tree.description(),
        format!("pulled from {}", world.name("v1"))
    );
}

#[tokio::test]
async fn an_image_without_layers_is_scratch_and_has_one_key() {
    testkit::require!(root, registry);
    let world = World::new();
    let image = world.image(false, "amd64", &[]);
    world.push("v1", &image).await;
    let source = world.source(&world.name("v1"), &[]);
    assert!(world.tree(&source).await.is_none());
    assert_eq!(world.key(&source, 0).await, world.key(&source, 1).await);
}

#[tokio::test]
async fn failures_are_told_in_upstreams_words() {
    testkit::require!(root, registry);
    let world = World::new();
    let image = world.image(false, "arm64", &one("a", "x"));
    let root = world.index(&[image]);
    world.push("v1", &root).await;
    let other = Digest::of("other");
    let error = async |tag: &str, attrs: &[(&str, &str)]| {
        let source = world.source(&world.name(tag), attrs);
        world.key(&source, 0).await.expect_err("refused")
    };
    assert_eq!(
        error("v1", &[]).await,
        "no match for platform in manifest: not found"
    );
    assert_eq!(
        error("v2", &[]).await,
        format!("{}: not found", world.name("v2"))
    );
    let image = world.image(false, "amd64", &one("a", "x"));
    world.push("v3", &image).await;
    assert_eq!(
        error("v3", &[("image.checksum", other.as_str())]).await,
        format!(
            "image digest {} for {} does not match expected checksum {other}",
            image.digest,
            world.name("v3")
        )
    );
}

#[tokio::test]
async fn a_config_is_answered_without_fetching_layers() {
    testkit::require!(root, registry);
    let world = World::new();
    let image = world.image(false, "amd64", &one("a", "x"));
    let root = world.index(std::slice::from_ref(&image));
    world.push("v1", &root).await;
    let (digest, config) = world.facts("v1").await;
    assert_eq!(digest, root.digest);
    let config: serde_json::Value = serde_json::from_slice(&config).expect("JSON");
    assert_eq!(config["config"]["Env"][0], "A=b");
    // Index, manifest, config.
    assert_eq!(world.cache.content().list().expect("a list").len(), 3);
}

#[tokio::test]
async fn what_a_frontend_resolved_is_pulled_while_the_registry_is_down() {
    testkit::require!(root, registry);
    let world = World::new();
    let image = world.image(false, "amd64", &one("a", "x"));
    world.push("v1", &image).await;
    let (digest, _) = world.facts("v1").await;
    let none = Group::none();
    let pinned = format!("{}@{digest}", world.name("v1"));
    let World {
        server,
        images,
        cx,
        cache: _cache,
        _dir,
        ..
    } = world;
    drop(server);
    let id = Identifier {
        scheme: "docker-image".to_owned(),
        name: pinned.clone(),
        attrs: BTreeMap::new(),
        platform: amd64(),
    };
    let source = images.instance(id, &Arc::default()).expect("an instance");
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let names = seen.clone();
    let sink = move |event: Event| {
        if let Event::Status(status) = event {
            names.lock().expect("no panic").push(status.id);
        }
    };
    let progress = Progress::new(Arc::new(sink), "sha256:vertex");
    let key = source.key(&cx, &none, &progress, 0).await;
    assert!(key.is_ok(), "{key:?}");
    let seen = seen.lock().expect("no panic");
    assert_eq!(seen.first(), Some(&format!("resolve {pinned}")));
}
