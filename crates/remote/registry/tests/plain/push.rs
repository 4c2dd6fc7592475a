//! What a push sends, and what it says when that is not taken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::server::{Answer, Request, Server};
use crate::world::{World, nobody, reference};
use oci::{Descriptor, Digest, media_type};
use progress::Progress;
use registry::{Origin, Push, Standing};

/// Takes everything, and knows what it has.
fn registry(change: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static) -> Server {
    let known = Mutex::new(BTreeSet::new());
    Server::start(move |request| {
        if let Some(answer) = change(request) {
            return answer;
        }
        let mut known = known.lock().expect("no panic");
        let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        match request.method.as_str() {
            "HEAD" if known.contains(&name(&request.path)) => {
                Answer::new(200, "").with("Docker-Content-Digest", name(&request.path))
            }
            "HEAD" => Answer::new(404, ""),
            "POST" => Answer::new(202, "").with("Location", "/upload/1?state=x"),
            _ => {
                let digest = request.path.split_once("digest=");
                let digest = digest.map(|(_, digest)| digest.replace("%3A", ":"));
                known.insert(digest.unwrap_or_else(|| name(&request.path)));
                Answer::new(201, "")
            }
        }
    })
}

struct Image {
    root: Descriptor,
    config: Descriptor,
    layer: Descriptor,
}

fn image(world: &World) -> Image {
    let put = |media_type: &str, bytes: &str| {
        let digest = world.store.put(bytes).expect("stored");
        Descriptor::new(media_type, digest, bytes.len() as i64)
    };
    let config = put(media_type::OCI_CONFIG, "{}");
    let layer = put(media_type::OCI_LAYER_GZIP, "a layer");
    let manifest = format!(
        r#"{{"config":{},"layers":[{}]}}"#,
        serde_json::to_string(&config).expect("JSON"),
        serde_json::to_string(&layer).expect("JSON")
    );
    Image {
        root: put(media_type::OCI_MANIFEST, &manifest),
        config,
        layer,
    }
}

async fn push(
    world: &World,
    name: &str,
    root: &Descriptor,
    by_digest: bool,
    origins: &BTreeMap<Digest, Origin>,
) -> Result<(), String> {
    let push = Push {
        reference: &reference(name),
        by_digest,
        insecure: false,
        root,
        origins,
    };
    let progress = Progress::none();
    let pushed = world
        .client
        .push(&world.cx, &nobody(), &push, &world.store, &progress)
        .await;
    pushed.map_err(|err| fault::chain(&err))
}

#[tokio::test]
async fn blobs_go_before_the_manifest_and_everything_goes_once() {
    let server = registry(|_| None);
    let world = World::new();
    let image = image(&world);
    let name = format!("{}/my/image:v1", server.host());
    for _ in 0..2 {
        push(&world, &name, &image.root, false, &BTreeMap::new())
            .await
            .expect("pushed");
    }
    let lines = server.lines();
    let puts: Vec<&String> = lines
        .iter()
        .filter(|line| line.starts_with("PUT"))
        .collect();
    assert_eq!(puts.len(), 4, "{lines:?}");
    // Pushed again under the tag, because this server does not tell the digest of a tag.
    assert_eq!(puts[2], "PUT /v2/my/image/manifests/v1");
    let blob = server
        .requests()
        .into_iter()
        .find(|one| one.method == "PUT" && one.body == b"a layer")
        .expect("the layer");
    let digest = image.layer.digest.as_str().replace(':', "%3A");
    assert_eq!(blob.path, format!("/upload/1?state=x&digest={digest}"));
    assert_eq!(blob.header("content-type"), "application/octet-stream");
    assert_eq!(blob.header("content-length"), "7");
}

#[tokio::test]
async fn two_pushes_never_send_a_blob_at_the_same_time() {
    let underway = Mutex::new(BTreeSet::new());
    let twice = Arc::new(AtomicUsize::new(0));
    let seen = twice.clone();
    let server = registry(move |request| {
        if request.method == "PUT" && request.path.starts_with("/upload/") {
            if !underway
                .lock()
                .expect("no panic")
                .insert(request.path.clone())
            {
                seen.fetch_add(1, Ordering::Relaxed);
            }
            std::thread::sleep(Duration::from_millis(50));
            underway.lock().expect("no panic").remove(&request.path);
        }
        None
    });
    let world = World::new();
    let image = image(&world);
    let origins = BTreeMap::new();
    let to = |tag| {
        let name = format!("{}/my/image:{tag}", server.host());
        let (world, image, origins) = (&world, &image, &origins);
        async move { push(world, &name, &image.root, false, origins).await }
    };
    let (one, other) = tokio::join!(to("a"), to("b"));
    assert_eq!((one, other), (Ok(()), Ok(())));
    assert_eq!(twice.load(Ordering::Relaxed), 0, "{:?}", server.lines());
}

#[tokio::test]
async fn by_digest_there_is_no_tag() {
    let server = registry(|_| None);
    let world = World::new();
    let image = image(&world);
    let name = format!("{}/my/image", server.host());
    let none = BTreeMap::new();
    push(&world, &name, &image.root, true, &none)
        .await
        .expect("pushed");
    let last = server.lines().pop().expect("some");
    assert_eq!(
        last,
        format!("PUT /v2/my/image/manifests/{}", image.root.digest)
    );
    assert_eq!(
        push(&world, &format!("{name}:v1"), &image.root, true, &none).await,
        Err(format!("can't push tagged ref {name}:v1 by digest"))
    );
    let named = format!("{name}@{}", Digest::of("something else"));
    assert_eq!(
        push(&world, &named, &image.root, true, &none).await,
        Err(format!("can't push tagged ref {named} by digest"))
    );
}

#[tokio::test]
async fn a_name_with_a_digest_and_no_tag_gets_none() {
    let server = registry(|_| None);
    let world = World::new();
    let image = image(&world);
    let name = format!("{}/my/image", server.host());
    let digest = Digest::of("something else");
    let none = BTreeMap::new();
    for (object, target) in [("", image.root.digest.as_str()), (":v1", "v1")] {
        let name = format!("{name}{object}@{digest}");
        push(&world, &name, &image.root, false, &none)
            .await
            .expect("pushed");
        let last = server.lines().pop().expect("some");
        assert_eq!(last, format!("PUT /v2/my/image/manifests/{target}"));
    }
}

#[tokio::test]
async fn a_manifest_gets_the_tag_of_a_name_that_means_it() {
    let world = World::new();
    let image = image(&world);
    let own = format!(":v@{}", image.root.digest);
    let other = format!(":v@{}", image.layer.digest);
    for (rest, tagged) in [(":v", true), (own.as_str(), true), (other.as_str(), false)] {
        let server = registry(|_| None);
        let name = reference(&format!("{}/my/cache{rest}", server.host()));
        let repository = world.client.repository(nobody(), &name, false);
        let progress = Progress::none();
        let standing = Standing::PutAgain;
        repository
            .push_manifest(&world.cx, &image.root, standing, &world.store, &progress)
            .await
            .expect("pushed");
        let digest = image.root.digest.as_str();
        let place = if tagged { "v" } else { digest };
        let wanted = format!("PUT /v2/my/cache/manifests/{place}");
        assert_eq!(server.lines(), [wanted], "{rest}");
    }
}

#[tokio::test]
async fn a_blob_that_another_repository_has_is_mounted() {
    let server = registry(|request| {
        request
            .path
            .contains("mount=")
            .then(|| Answer::new(201, ""))
    });
    let world = World::new();
    let mut image = image(&world);
    Origin::note(
        &mut image.layer,
        &reference(&format!("{}/base/image", server.host())),
    );
    let origins = BTreeMap::from([(image.layer.digest.clone(), Origin::of(&image.layer, None))]);
    // It need not even be here.
    world.store.remove(&image.layer.digest).expect("removed");
    let name = format!("{}/my/image:v1", server.host());
    push(&world, &name, &image.root, false, &origins)
        .await
        .expect("pushed");
    let mounted = format!(
        "POST /v2/my/image/blobs/uploads/?mount={}&from=base/image",
        image.layer.digest
    );
    assert!(server.lines().contains(&mounted), "{:?}", server.lines());
}

#[tokio::test]
async fn a_mount_that_is_refused_becomes_an_upload() {
    let server = registry(|request| {
        request
            .path
            .contains("mount=")
            .then(|| Answer::new(401, ""))
    });
    let world = World::new();
    let mut image = image(&world);
    Origin::note(
        &mut image.layer,
        &reference(&format!("{}/base/image", server.host())),
    );
    let origins = BTreeMap::from([(image.layer.digest.clone(), Origin::of(&image.layer, None))]);
    let name = format!("{}/my/image:v1", server.host());
    push(&world, &name, &image.root, false, &origins)
        .await
        .expect("pushed");
    let bodies = server.requests();
    assert!(bodies.iter().any(|one| one.body == b"a layer"));
}

#[tokio::test]
async fn a_lazy_layer_is_brought_and_pushed() {
    let world = World::new();
    let image = image(&world);
    world.store.remove(&image.layer.digest).expect("removed");
    let base = Server::start(|_| Answer::new(200, "a layer"));
    let provider = world
        .client
        .provider(nobody(), &reference(&format!("{}/base/image", base.host())));
    let origin = Origin::of(&image.layer, Some(provider));
    let origins = BTreeMap::from([(image.layer.digest.clone(), origin)]);
    let server = registry(|_| None);
    let name = format!("{}/my/image:v1", server.host());
    push(&world, &name, &image.root, false, &origins)
        .await
        .expect("pushed");
    assert_eq!(base.lines().len(), 1);
    // What the registry has need not be brought.
    world.store.remove(&image.layer.digest).expect("removed");
    push(&world, &name, &image.root, false, &origins)
        .await
        .expect("pushed");
    assert_eq!(base.lines().len(), 1);
}

#[tokio::test]
async fn a_blob_that_nobody_has_is_missing() {
    let server = registry(|_| None);
    let world = World::new();
    let image = image(&world);
    world.store.remove(&image.layer.digest).expect("removed");
    let name = format!("{}/my/image:v1", server.host());
    let pushed = push(&world, &name, &image.root, false, &BTreeMap::new()).await;
    assert_eq!(
        pushed,
        Err(format!("content {}: not found", image.layer.digest))
    );
}

/// Fails the first so many uploads.
fn flaky(times: usize, answer: Answer) -> (Server, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = count.clone();
    let server = registry(move |request| {
        let upload = request.method == "PUT" && request.body == b"a layer";
        let fails = upload && seen.fetch_add(1, Ordering::Relaxed) < times;
        fails.then(|| answer.clone())
    });
    (server, count)
}

#[tokio::test]
async fn an_upload_that_fails_is_started_anew() {
    let (server, uploads) = flaky(3, Answer::new(502, ""));
    let world = World::new();
    let image = image(&world);
    let name = format!("{}/my/image:v1", server.host());
    push(&world, &name, &image.root, false, &BTreeMap::new())
        .await
        .expect("pushed");
    assert_eq!(uploads.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn the_registrys_own_words_are_told_in_the_end() {
    let boom = r#"{"errors":[{"code":"BOOM","message":"boom"}]}"#;
    let (server, uploads) = flaky(99, Answer::new(500, boom));
    let world = World::new();
    let image = image(&world);
    let name = format!("{}/my/image:v1", server.host());
    assert_eq!(
        push(&world, &name, &image.root, false, &BTreeMap::new()).await,
        Err("unknown: boom".to_owned())
    );
    // Four tries, each repeated at once as it is a 500.
    assert_eq!(uploads.load(Ordering::Relaxed), 8);
    let (server, _) = flaky(99, Answer::new(418, "I am a teapot"));
    let name = format!("{}/my/image:v1", server.host());
    assert_eq!(
        push(&world, &name, &image.root, false, &BTreeMap::new()).await,
        Err("418 I'm a teapot: I am a teapot".to_owned())
    );
}

#[tokio::test]
async fn a_connection_that_breaks_during_an_upload_is_replaced() {
    let (server, uploads) = flaky(
        1,
        Answer {
            cut: Some(0),
            ..Answer::new(200, "never sent")
        },
    );
    let world = World::new();
    let image = image(&world);
    let name = format!("{}/my/image:v1", server.host());
    push(&world, &name, &image.root, false, &BTreeMap::new())
        .await
        .expect("pushed");
    assert!(uploads.load(Ordering::Relaxed) >= 1);
    let _ = &image.config;
}

#[tokio::test]
async fn an_upload_may_go_to_another_host() {
    let storage = Server::start(|_| Answer::new(201, ""));
    let place = format!("http://{}/bucket", storage.host());
    let server = registry(move |request| {
        (request.method == "POST").then(|| Answer::new(202, "").with("Location", &place))
    });
    let world = World::new();
    let image = image(&world);
    let name = format!("{}/my/image:v1", server.host());
    push(&world, &name, &image.root, false, &BTreeMap::new())
        .await
        .expect("pushed");
    assert_eq!(storage.lines().len(), 2);
}

#[tokio::test]
async fn pushing_without_permission_is_denied() {
    let tokens = Server::start(|_| Answer::new(200, r#"{"token":"abc"}"#));
    let challenge = format!(
        "Bearer realm=\"http://{}/token\",service=\"x\",scope=\"repository:my/image:pull,push\",\
         error=\"insufficient_scope\"",
        tokens.host()
    );
    let server = Server::start(move |_| Answer::new(401, "").with("WWW-Authenticate", &challenge));
    let world = World::new();
    let image = image(&world);
    let name = format!("{}/my/image:v1", server.host());
    assert_eq!(
        push(&world, &name, &image.root, false, &BTreeMap::new()).await,
        Err(
            "push access denied, repository does not exist or may require authorization: server \
             message: insufficient_scope: authorization failed"
                .to_owned()
        )
    );
}
