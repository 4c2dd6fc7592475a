//! Pushing a cache to a name that has one already: what its manifest keeps is not asked for again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use content::Store;
use oci::{Descriptor, Digest, media_type};
use progress::Progress;
use registry::{Client, Config};
use remotecache::{Blob, Graph, Kind, Placed, Whence, Work};
use remotecache_oci::Registry;
use session::Group;
use tasks::Cx;
use testkit::frail::{Fault, Frail, Habits};
use testkit::web::{Request, Response};

struct Fixture {
    server: Frail,
    work: Work,
    _dir: tempfile::TempDir,
}

impl Fixture {
    fn new(faults: impl Fn(&Request) -> Option<Fault> + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().expect("a scratch folder");
        Self {
            server: Frail::start(Habits::default(), faults),
            work: Work {
                cx: Cx::root(),
                progress: Progress::none(),
                sessions: Group::none(),
                store: Store::open(dir.path()).expect("a store"),
            },
            _dir: dir,
        }
    }

    /// A cache of steps with one layer each.
    fn graph(&self, layers: &[&str]) -> Graph {
        let mut graph = Graph::default();
        for text in layers {
            let digest = self.work.store.put(text).expect("stored");
            let size = i64::try_from(text.len()).expect("short");
            let layer = graph.layers.add(
                Blob {
                    descriptor: Descriptor::new(media_type::OCI_LAYER_GZIP, digest.clone(), size),
                    diff_id: digest,
                    created: None,
                    description: String::new(),
                    whence: Whence::Here,
                },
                None,
            );
            let created = SystemTime::UNIX_EPOCH;
            graph.add(&Digest::of(text), &[], [Placed { layer, created }]);
        }
        graph
    }

    /// Exports a cache; how often a blob was asked for, and how often the manifest was put.
    async fn export(&self, layers: &[&str], more: &[(&str, &str)]) -> (usize, usize) {
        let counts = || {
            let asked = self.server.count("HEAD", "/blobs/");
            (asked, self.server.count("PUT", "/manifests/"))
        };
        let before = counts();
        let name = format!("{}/cache:main", self.server.host());
        let attrs = [("ref", name.as_str())]
            .into_iter()
            .chain(more.iter().copied());
        let attrs: BTreeMap<_, _> = attrs
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let kind = Registry::new(Client::new(Config::default()));
        let exporter = kind.exporter(&attrs).expect("an exporter");
        let exported = exporter.export(&self.work, &self.graph(layers)).await;
        exported.expect("exported");
        let after = counts();
        (after.0 - before.0, after.1 - before.1)
    }

    fn has(&self, text: &str) -> bool {
        let digest = Digest::of(text).to_string();
        self.server.blob("cache", &digest).as_deref() == Some(text.as_bytes())
    }
}

#[tokio::test]
async fn what_the_old_manifest_lists_is_not_asked_for() {
    let fixture = Fixture::new(|_| None);
    // The document is a blob as well.
    assert_eq!(fixture.export(&["one", "two"], &[]).await, (3, 1));
    assert_eq!(fixture.export(&["one", "two"], &[]).await, (0, 1));
    assert_eq!(fixture.export(&["one", "two", "three"], &[]).await, (2, 1));
    assert!(["one", "two", "three"].iter().all(|text| fixture.has(text)));
}

#[tokio::test]
async fn what_a_list_of_manifests_names_may_be_gone() {
    let fixture = Fixture::new(|_| None);
    let list = [("image-manifest", "false")];
    assert_eq!(fixture.export(&["one", "two"], &list).await, (3, 1));
    // The same manifest stands there already, so it is not put again.
    assert_eq!(fixture.export(&["one", "two"], &list).await, (3, 0));
}

#[tokio::test]
async fn a_registry_that_lost_a_blob_gets_it_again() {
    let lost = Arc::new(AtomicBool::new(false));
    let told = lost.clone();
    let fixture = Fixture::new(move |request| {
        let gone = || told.load(Ordering::Relaxed);
        let unknown = br#"{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"blob unknown"}]}"#;
        match request.method.as_str() {
            "HEAD" if gone() && request.path.contains("/blobs/") => {
                Some(Fault::Answer(Response::status(404)))
            }
            "POST" => {
                told.store(false, Ordering::Relaxed);
                None
            }
            "PUT" if gone() && request.path.contains("/manifests/") => {
                let mut answer = Response::status(404);
                answer.body = unknown.to_vec();
                Some(Fault::Answer(answer))
            }
            _ => None,
        }
    });
    assert_eq!(fixture.export(&["one"], &[]).await, (2, 1));
    lost.store(true, Ordering::Relaxed);
    let uploads = fixture.server.count("POST", "/blobs/uploads/");
    let (asked, put) = fixture.export(&["one"], &[]).await;
    // After the refusal each blob is asked for; the manifest stands there already.
    assert_eq!((asked, put), (2, 1));
    assert_eq!(
        fixture.server.count("POST", "/blobs/uploads/") - uploads,
        1,
        "what was lost is sent again"
    );
}
