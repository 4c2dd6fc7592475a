//! Images whose registry is not asked, or is not there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cache::Cache;
use oci::{Digest, media_type};
use progress::{Event, Progress};
use registry::{Client, Config};
use session::Group;
use source::{Asked, Identifier, Memo, Source as _};
use source_image::{Images, Offline};
use tasks::Cx;
use tempfile::TempDir;
use testkit::web::{Request, Response, Web};

/// What a registry says instead of what it has.
type Mood = fn(&Request) -> Response;

const CONFIG: &str =
    r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;

fn manifest() -> String {
    let (config, size) = (Digest::of(CONFIG), CONFIG.len());
    let kind = media_type::OCI_CONFIG;
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{kind}","digest":"{config}","size":{size}}},"layers":[]}}"#,
        media_type::OCI_MANIFEST
    )
}

/// A manifest as registries answer it.
fn answered(digest: impl AsRef<[u8]>) -> Response {
    Response::file(manifest())
        .with("Content-Type", media_type::OCI_MANIFEST)
        .with("Docker-Content-Digest", Digest::of(digest).as_str())
}

fn status(code: u16) -> Response {
    Response::status(code).with("Retry-After", "0")
}

/// A registry with one image, and the state of a daemon that used it once.
struct World {
    web: Web,
    mood: Arc<Mutex<Option<Mood>>>,
    cache: Cache,
    cx: Cx,
    _dir: TempDir,
}

/// What a build came to.
struct Done {
    result: Result<(), String>,
    warnings: Vec<String>,
}

impl World {
    async fn new() -> Self {
        let mood: Arc<Mutex<Option<Mood>>> = Arc::default();
        let told = mood.clone();
        let web = Web::start(move |request| match *told.lock().expect("no panic") {
            Some(answer) => answer(request),
            None if request.path.contains("/manifests/") => answered(manifest()),
            None => Response::file(CONFIG),
        });
        let dir = tempfile::tempdir().expect("a directory");
        let world = Self {
            web,
            mood,
            cache: Cache::open(cache::Options::new(dir.path())).expect("a cache"),
            cx: Cx::root(),
            _dir: dir,
        };
        let first = world.build(Offline::Warn, &world.name(), "default").await;
        assert_eq!((first.result, first.warnings), (Ok(()), Vec::new()));
        world
    }

    fn name(&self) -> String {
        let url = self.web.url();
        let host = url.strip_prefix("http://").expect("plain");
        format!("{host}/some/image:v1")
    }

    fn feels(&self, mood: Mood) {
        *self.mood.lock().expect("no panic") = Some(mood);
    }

    /// As a build does that asks for the config and then for the tree, on a daemon that was started anew.
    async fn build(&self, offline: Offline, name: &str, mode: &str) -> Done {
        let client = Client::new(Config {
            backoff: Duration::from_millis(5),
            ..Config::default()
        });
        let images = Images::new(client, self.cache.clone(), offline);
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let warnings = seen.clone();
        let sink = move |event: Event| {
            if let Event::Warning(warning) = event {
                warnings.lock().expect("no panic").push(warning.short);
            }
        };
        let progress = Progress::new(Arc::new(sink), "sha256:vertex");
        let (nobody, memo) = (Group::none(), Arc::new(Memo::default()));
        let id = Identifier {
            scheme: "docker-image".to_owned(),
            name: name.to_owned(),
            attrs: BTreeMap::from([("image.resolvemode".to_owned(), mode.to_owned())]),
            platform: "linux/amd64".parse().expect("a platform"),
        };
        let built = async {
            for _ in 0..2 {
                let source = images.instance(id.clone(), &memo)?;
                let asked = Asked::default();
                source.facts(&self.cx, &nobody, &progress, &asked).await?;
                source.key(&self.cx, &nobody, &progress, 0).await?;
            }
            Ok(())
        };
        let built: Result<(), source::Error> = built.await;
        let warnings = seen.lock().expect("no panic").clone();
        Done {
            result: built.map_err(|err| err.message),
            warnings,
        }
    }

    fn warning(&self, what: &str) -> String {
        let (name, digest) = (self.name(), Digest::of(manifest()));
        format!("{name} {what}, using {digest} as it was last time")
    }
}

#[tokio::test]
async fn the_last_answer_of_a_registry_that_is_unreachable_is_used_and_told_once() {
    testkit::require!(root);
    let world = World::new().await;
    let moods: [Mood; 4] = [
        |_| status(500),
        |_| status(502),
        |_| status(429),
        |_| Response::file("x").cut(0),
    ];
    for mood in moods {
        world.feels(mood);
        let done = world.build(Offline::Warn, &world.name(), "default").await;
        assert_eq!(done.result, Ok(()));
        assert_eq!(done.warnings, [world.warning("could not be resolved")]);
        let done = world.build(Offline::Warn, &world.name(), "pull").await;
        assert!(done.result.is_err() && done.warnings.is_empty());
        let done = world.build(Offline::Fail, &world.name(), "default").await;
        assert!(done.result.is_err() && done.warnings.is_empty());
    }
}

#[tokio::test]
async fn what_a_registry_says_is_never_passed_over() {
    testkit::require!(root);
    let world = World::new().await;
    let moods: [(Mood, &str); 5] = [
        (|_| status(404), ": not found"),
        (|_| status(401), "401 Unauthorized"),
        (|_| status(403), "403 Forbidden"),
        (
            |_| Response::file(manifest()).with("Docker-Content-Digest", "x"),
            "in header not a valid digest",
        ),
        (|_| answered("another"), "sent content with digest"),
    ];
    for (mood, wanted) in moods {
        world.feels(mood);
        let done = world.build(Offline::Warn, &world.name(), "default").await;
        let err = done.result.expect_err(wanted);
        assert!(err.contains(wanted), "{err}");
        assert_eq!(done.warnings, [""; 0]);
    }
}

#[tokio::test]
async fn a_build_that_wants_what_is_here_is_told_what_that_is() {
    testkit::require!(root);
    let world = World::new().await;
    world.feels(|_| status(404));
    let asked = world.web.requests().len();
    let done = world.build(Offline::Warn, &world.name(), "local").await;
    assert_eq!(done.result, Ok(()));
    assert_eq!(done.warnings, [world.warning("was not resolved anew")]);
    assert_eq!(world.web.requests().len(), asked);
    let done = world.build(Offline::Fail, &world.name(), "local").await;
    let err = done.result.expect_err("the registry is asked");
    assert!(err.ends_with("not found"), "{err}");
}

#[tokio::test]
async fn a_name_that_says_its_digest_is_no_news() {
    testkit::require!(root);
    let world = World::new().await;
    let pinned = format!("{}@{}", world.name(), Digest::of(manifest()));
    let done = world.build(Offline::Warn, &pinned, "default").await;
    assert_eq!(done.result, Ok(()));
    world.feels(|_| status(500));
    for mode in ["default", "local"] {
        let done = world.build(Offline::Warn, &pinned, mode).await;
        assert_eq!((done.result, done.warnings), (Ok(()), Vec::new()));
    }
}
