//! Blobs from trees and trees from blobs.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cache::{Cache, Error, ImageLayer, LayerBlob, Options, RecordOptions, Ref, SnapshotterKind};
use layer::Compression;
use progress::Progress;
use tasks::Cx;

/// Brings blobs from another store and counts them.
struct Elsewhere {
    store: content::Store,
    fetched: AtomicUsize,
}

#[async_trait::async_trait]
impl content::Provider for Elsewhere {
    async fn fetch(
        &self,
        _cx: &Cx,
        blob: &oci::Descriptor,
        store: &content::Store,
        _progress: &Progress,
    ) -> Result<(), content::Error> {
        self.fetched.fetch_add(1, Ordering::Relaxed);
        store.put(self.store.read(&blob.digest)?).map(drop)
    }
}

struct Fixture {
    dir: tempfile::TempDir,
    cx: Cx,
    kind: SnapshotterKind,
}

impl Fixture {
    fn new(kind: SnapshotterKind) -> Self {
        Self {
            dir: tempfile::tempdir().expect("a scratch folder"),
            cx: Cx::root(),
            kind,
        }
    }

    fn open(&self) -> Cache {
        let mut options = Options::new(self.dir.path());
        options.snapshotter = self.kind;
        Cache::open(options).expect("a cache")
    }

    async fn layer(&self, cache: &Cache, parent: Option<&Ref>, work: impl FnOnce(&Path)) -> Ref {
        let tree = cache
            .new_mutable(&self.cx, parent, RecordOptions::default())
            .await
            .expect("a tree");
        work(&tree.tree(&self.cx).await.expect("mounted").path());
        tree.commit(&self.cx, "a step").await.expect("committed")
    }

    async fn blobs(&self, tree: &Ref, options: &layer::Options) -> Vec<LayerBlob> {
        tree.layers(&self.cx, options, &Progress::none())
            .await
            .expect("made")
    }

    async fn root(&self, tree: &Ref) -> std::path::PathBuf {
        tree.tree(&self.cx).await.expect("mounted").path()
    }
}

/// Three layers: files, a deletion, nothing.
async fn stack(fixture: &Fixture, cache: &Cache) -> Ref {
    let base = fixture
        .layer(cache, None, |root| {
            std::fs::create_dir(root.join("etc")).expect("made");
            std::fs::write(root.join("etc/os"), "v1").expect("written");
            std::fs::write(root.join("gone"), "x").expect("written");
        })
        .await;
    let next = fixture
        .layer(cache, Some(&base), |root| {
            std::fs::remove_file(root.join("gone")).expect("removed");
            std::fs::write(root.join("etc/new"), "n").expect("written");
        })
        .await;
    fixture.layer(cache, Some(&next), |_| {}).await
}

fn image(blobs: &[LayerBlob], provider: &Arc<Elsewhere>) -> Vec<ImageLayer> {
    blobs
        .iter()
        .map(|blob| ImageLayer {
            descriptor: blob.descriptor.clone(),
            diff_id: blob.diff_id.clone(),
            provider: provider.clone(),
            created: None,
            description: "pulled".to_owned(),
        })
        .collect()
}

fn elsewhere(cache: &Cache) -> Arc<Elsewhere> {
    Arc::new(Elsewhere {
        store: cache.content().clone(),
        fetched: AtomicUsize::new(0),
    })
}

async fn a_tree_travels_as_blobs(kind: SnapshotterKind) {
    let (here, there) = (Fixture::new(kind), Fixture::new(kind));
    let cache = here.open();
    let tree = stack(&here, &cache).await;
    let blobs = here.blobs(&tree, &layer::Options::default()).await;
    assert_eq!(blobs.len(), 3);
    assert!(
        blobs
            .iter()
            .all(|blob| cache.content().contains(&blob.descriptor.digest))
    );
    assert_eq!(blobs[0].description, "a step");
    let provider = elsewhere(&cache);

    let cache = there.open();
    let lazy = cache
        .image(image(&blobs, &provider))
        .expect("known")
        .expect("layers");
    assert!(!lazy.is_unpacked());
    assert!(matches!(lazy.mount(), Err(Error::Lazy { .. })));
    let again = there.blobs(&lazy, &layer::Options::default()).await;
    assert_eq!(again[1].descriptor, blobs[1].descriptor);
    assert_eq!(
        provider.fetched.load(Ordering::Relaxed),
        0,
        "nothing is fetched to list layers"
    );

    let progress = Progress::none();
    let ensure = || lazy.ensure(&there.cx, &progress);
    let (one, two) = tokio::join!(ensure(), ensure());
    one.expect("unpacked");
    two.expect("unpacked");
    assert_eq!(provider.fetched.load(Ordering::Relaxed), 3);
    let root = there.root(&lazy).await;
    assert_eq!(
        std::fs::read_to_string(root.join("etc/os")).expect("read"),
        "v1"
    );
    assert_eq!(
        std::fs::read_to_string(root.join("etc/new")).expect("read"),
        "n"
    );
    assert!(!root.join("gone").exists());

    let shorter = cache
        .image(image(&blobs[..1], &provider))
        .expect("known")
        .expect("layers");
    assert!(shorter.is_unpacked(), "shared with the longer image");
    assert!(there.root(&shorter).await.join("gone").exists());
    let id = lazy.id().clone();
    drop((lazy, shorter, cache));
    let cache = there.open();
    let tree = cache.get(&id).expect("found");
    assert!(there.root(&tree).await.join("etc/new").exists());
}

#[tokio::test]
async fn a_tree_travels_as_blobs_with_overlayfs() {
    testkit::require!(root);
    a_tree_travels_as_blobs(SnapshotterKind::Overlay).await;
}

#[tokio::test]
async fn a_tree_travels_as_blobs_with_whole_copies() {
    testkit::require!(root);
    a_tree_travels_as_blobs(SnapshotterKind::Native).await;
}

#[tokio::test]
async fn both_snapshotters_make_the_same_layers() {
    testkit::require!(root);
    let mut diff_ids = Vec::new();
    for kind in [SnapshotterKind::Overlay, SnapshotterKind::Native] {
        let fixture = Fixture::new(kind);
        let cache = fixture.open();
        let at = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        let base = fixture
            .layer(&cache, None, |root| {
                for name in ["a", "b"] {
                    let file = std::fs::File::create(root.join(name)).expect("made");
                    file.set_modified(at).expect("changed");
                }
            })
            .await;
        let top = fixture
            .layer(&cache, Some(&base), |root| {
                std::fs::remove_file(root.join("a")).expect("removed")
            })
            .await;
        let blobs = fixture.blobs(&top, &layer::Options::default()).await;
        diff_ids.push(
            blobs
                .into_iter()
                .map(|blob| blob.diff_id)
                .collect::<Vec<_>>(),
        );
    }
    assert_eq!(diff_ids[0], diff_ids[1]);
}

#[tokio::test]
async fn a_layer_nobody_can_bring_is_no_result() {
    testkit::require!(root);
    let (here, there) = (
        Fixture::new(SnapshotterKind::Auto),
        Fixture::new(SnapshotterKind::Auto),
    );
    let cache = here.open();
    let tree = stack(&here, &cache).await;
    let blobs = here.blobs(&tree, &layer::Options::default()).await;
    let provider = elsewhere(&cache);
    let cache = there.open();
    let lazy = cache
        .image(image(&blobs, &provider))
        .expect("known")
        .expect("layers");
    let id = lazy.id().clone();
    assert!(cache.exists(&id));
    drop(lazy);
    assert!(!cache.exists(&id), "its provider is forgotten");
    let lazy = cache
        .image(image(&blobs, &provider))
        .expect("known")
        .expect("layers");
    assert_eq!(lazy.id(), &id, "found by its chain id");
    assert!(cache.image(Vec::new()).expect("known").is_none());
    let wrong = vec![ImageLayer {
        diff_id: oci::Digest::of("something else"),
        ..image(&blobs[..1], &provider).remove(0)
    }];
    let wrong = cache.image(wrong).expect("known").expect("layers");
    let err = wrong
        .ensure(&there.cx, &Progress::none())
        .await
        .expect_err("refused");
    assert!(err.to_string().starts_with("wrong diff id"), "{err}");
    assert!(!wrong.is_unpacked());
}

#[tokio::test]
async fn a_blob_is_converted_once_and_goes_with_its_record() {
    testkit::require!(root);
    let fixture = Fixture::new(SnapshotterKind::Auto);
    let cache = fixture.open();
    let tree = stack(&fixture, &cache).await;
    let gzip = fixture.blobs(&tree, &layer::Options::default()).await;
    let zstd = layer::Options {
        compression: Compression::Zstd,
        ..layer::Options::default()
    };
    let kept = fixture.blobs(&tree, &zstd).await;
    assert_eq!(
        kept[0].descriptor, gzip[0].descriptor,
        "what exists is good enough"
    );
    let forced = layer::Options {
        force: true,
        ..zstd
    };
    let first = fixture.blobs(&tree, &forced).await;
    assert_ne!(first[0].descriptor, gzip[0].descriptor);
    assert_eq!(first[0].diff_id, gzip[0].diff_id);
    let second = fixture.blobs(&tree, &forced).await;
    assert_eq!(second[0].descriptor, first[0].descriptor);
    let mut ids = Vec::new();
    let mut at = Some(tree);
    while let Some(tree) = at {
        ids.push(tree.id().clone());
        at = tree.parent();
    }
    assert!(!cache.content().list().expect("listed").is_empty());
    let usage = cache.list(&fixture.cx).await.expect("listed");
    let blobs: u64 = gzip
        .iter()
        .chain(&first)
        .map(|blob| blob.descriptor.size.unsigned_abs())
        .sum();
    assert!(usage.iter().map(|usage| usage.size).sum::<u64>() >= blobs);
    drop((gzip, kept, first, second));
    for id in &ids {
        cache.remove(id).expect("removed");
    }
    assert!(cache.content().list().expect("listed").is_empty());
}

#[tokio::test]
async fn the_same_files_in_other_blobs_are_another_image() {
    let fixture = Fixture::new(SnapshotterKind::Auto);
    let cache = fixture.open();
    let tree = stack(&fixture, &cache).await;
    let gzip = fixture.blobs(&tree, &layer::Options::default()).await;
    let zstd = layer::Options {
        compression: Compression::Zstd,
        force: true,
        ..layer::Options::default()
    };
    let zstd = fixture.blobs(&tree, &zstd).await;
    let provider = Arc::new(Elsewhere {
        store: cache.content().clone(),
        fetched: AtomicUsize::new(0),
    });
    let pulled = |blobs: &[LayerBlob]| {
        let image = cache.image(image(blobs, &provider)).expect("an image");
        image.expect("layers")
    };
    let (one, two) = (pulled(&gzip), pulled(&zstd));
    assert_ne!(one.id(), two.id());
    assert_eq!(pulled(&gzip).id(), one.id());
    for (tree, wanted) in [(&one, &gzip), (&two, &zstd)] {
        let blobs = fixture.blobs(tree, &layer::Options::default()).await;
        let digests = |blobs: &[LayerBlob]| -> Vec<_> {
            blobs
                .iter()
                .map(|blob| blob.descriptor.digest.clone())
                .collect()
        };
        assert_eq!(digests(&blobs), digests(wanted));
    }
}

#[tokio::test]
async fn layers_can_be_asked_for_one_by_one() {
    let fixture = Fixture::new(SnapshotterKind::Auto);
    let cache = fixture.open();
    let tree = stack(&fixture, &cache).await;
    let options = layer::Options::default();
    assert!(tree.is_layer());
    assert!(tree.known_layer(&options).expect("asked").is_none());
    let mut one_by_one = Vec::new();
    let mut at = Some(tree.clone());
    while let Some(here) = at {
        let made = here
            .own_layer(&fixture.cx, &options, &Progress::none())
            .await;
        one_by_one.insert(0, made.expect("made").descriptor.digest);
        assert!(here.known_layer(&options).expect("asked").is_some());
        at = here.parent();
    }
    let all = fixture.blobs(&tree, &options).await;
    let all: Vec<_> = all.into_iter().map(|blob| blob.descriptor.digest).collect();
    assert_eq!(one_by_one, all);
    assert_eq!(tree.layer_refs().len(), all.len());
}

#[tokio::test]
async fn directories_a_layer_does_not_list_look_as_below_however_layers_are_unpacked() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let fixture = Fixture::new(SnapshotterKind::Auto);
    let cache = fixture.open();
    let provider = Arc::new(Elsewhere {
        store: cache.content().clone(),
        fetched: AtomicUsize::new(0),
    });
    // Layers written by hand: the first lists a folder, the others only files in it.
    let blob = |members: &[(&str, layer::archive::Kind, u32)]| {
        let mut bytes = Vec::new();
        let mut archive = layer::archive::Writer::new(&mut bytes);
        for (name, kind, mode) in members {
            let header = layer::archive::Header::new(name.as_bytes(), *kind, *mode);
            archive.member(&header).expect("written");
        }
        archive.finish().expect("written");
        let digest = cache.content().put(&bytes).expect("stored");
        let size = i64::try_from(bytes.len()).expect("small");
        ImageLayer {
            descriptor: oci::Descriptor::new(oci::media_type::OCI_LAYER, digest.clone(), size),
            diff_id: digest,
            provider: provider.clone(),
            created: None,
            description: String::new(),
        }
    };
    use layer::archive::Kind::{Dir, File};
    let mut layers = vec![blob(&[("a/", Dir, 0o700), ("a/b/", Dir, 0o711)])];
    for number in 0..8 {
        layers.push(blob(&[(&format!("a/b/f{number}"), File, 0o600)]));
    }
    let tree = cache.image(layers).expect("an image").expect("layers");
    let both = [tree.clone(), tree.parent().expect("a parent")];
    let unpack = |tree: Ref| {
        let cx = fixture.cx.clone();
        async move { tree.ensure(&cx, &Progress::none()).await }
    };
    let [one, two] = both.map(unpack);
    let (one, two) = tokio::join!(one, two);
    one.and(two).expect("unpacked");
    let root = fixture.root(&tree).await;
    for (dir, mode) in [("a", 0o700), ("a/b", 0o711), ("", 0o755)] {
        let meta = std::fs::metadata(root.join(dir)).expect("there");
        assert_eq!(meta.permissions().mode() & 0o7777, mode, "{dir}");
        assert_eq!(meta.uid(), 0);
    }
    let files = std::fs::read_dir(root.join("a/b")).expect("listed").count();
    assert_eq!(files, 8);
}

#[tokio::test]
async fn layers_on_many_others_have_what_they_change_and_no_more() {
    testkit::require!(root);
    let fixture = Fixture::new(SnapshotterKind::Overlay);
    let cache = fixture.open();
    let write = |path: std::path::PathBuf| std::fs::write(path, "x").expect("written");
    let mut tree = fixture
        .layer(&cache, None, |root| {
            std::fs::create_dir_all(root.join("a/deep")).expect("made");
            write(root.join("a/deep/old"));
            write(root.join("gone"));
        })
        .await;
    let steps: [&dyn Fn(&Path); 5] = [
        &|root| write(root.join("a/deep/new")),
        &|root| std::fs::remove_file(root.join("gone")).expect("removed"),
        // Made and removed again: there is nothing to say.
        &|root| {
            write(root.join("gone"));
            std::fs::remove_file(root.join("gone")).expect("removed");
        },
        // Another directory of the same name.
        &|root| {
            std::fs::remove_dir_all(root.join("a")).expect("removed");
            std::fs::create_dir(root.join("a")).expect("made");
            write(root.join("a/again"));
        },
        &|root| write(root.join("a/last")),
    ];
    for step in steps {
        tree = fixture.layer(&cache, Some(&tree), step).await;
    }
    let mut found = Vec::new();
    for blob in fixture.blobs(&tree, &layer::Options::default()).await {
        let mut names = Vec::new();
        let mut each = |name: &[u8]| names.push(String::from_utf8_lossy(name).into_owned());
        layer::names(&fixture.cx, cache.content(), &blob.descriptor, &mut each).expect("read");
        found.push(names.join(" "));
    }
    let wanted = [
        "a/ a/deep/ a/deep/old gone",
        "a/ a/deep/ a/deep/new",
        ".wh.gone",
        "",
        "a/ a/again a/.wh.deep",
        "a/ a/last",
    ];
    assert_eq!(found, wanted);
}
