//! How long a cache with layers of every step takes. Run by hand:
//! `cargo test --release -p remotecache --test system_speed -- --ignored --nocapture`.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use cache::{Cache, Options, RecordOptions, Ref, RefId};
use cachekeys::{Alternative, Key, Memory, ResultId, Stored, Stores};
use oci::Digest;
use progress::Progress;
use remotecache::manifest::Form;
use remotecache::{Collect, Mode, Results, Root, Work, collect};
use session::Group;
use tasks::Cx;

/// The results are records of their names.
struct Here(Cache);

impl Here {
    fn id(result: &ResultId) -> Option<RefId> {
        RefId::parse(result.as_str())
    }
}

impl Results for Here {
    fn exists(&self, result: &ResultId) -> bool {
        Self::id(result).is_some_and(|id| self.0.exists(&id))
    }

    fn load(&self, result: &ResultId) -> Option<Option<Ref>> {
        self.0.get(&Self::id(result)?).map(Some)
    }

    fn cache(&self) -> &Cache {
        &self.0
    }
}

fn setting(name: &str, default: usize) -> usize {
    let value = std::env::var(name).ok();
    value.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// `LAYERS` steps (4,950) in chains of `CHAIN` (50), each with `FILES` files (1) in a folder that is in every layer,
/// on a layer with `BASE` files (1,000).
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn layers_of_every_step() {
    testkit::require!(root);
    let (layers, length) = (setting("LAYERS", 4950), setting("CHAIN", 50));
    let (files, base) = (setting("FILES", 1), setting("BASE", 1000));
    let dir = tempfile::tempdir().expect("a scratch folder");
    let cx = Cx::root();
    let cache = Cache::open(Options::new(dir.path())).expect("a cache");
    let memory = Memory::default();
    let step = async |parent: Option<&Ref>, files: usize, number: usize| {
        let options = RecordOptions::default();
        let tree = cache.new_mutable(&cx, parent, options).await;
        let tree = tree.expect("a tree");
        let at = tree.layer_directory().expect("a directory").join("usr");
        std::fs::create_dir(&at).expect("made");
        for file in 0..files {
            let path = at.join(format!("file-{number}-{file}"));
            std::fs::write(path, format!("{number}")).expect("written");
        }
        tree.commit(&cx, "step").await.expect("committed")
    };
    let save = |key: &Key, tree: &Ref| {
        let result = ResultId::new(tree.id().as_str());
        let created = SystemTime::UNIX_EPOCH;
        cachekeys::save(&memory, key, &Stored { result, created });
    };
    let ground = step(None, base, 0).await;
    let ground_key = Key::root(Digest::of("ground"), 0);
    save(&ground_key, &ground);
    let mut roots = Vec::new();
    let mut number = 0;
    while number < layers {
        let (mut tree, mut key) = (ground.clone(), ground_key.clone());
        for _ in 0..length.min(layers - number) {
            number += 1;
            tree = step(Some(&tree), files, number).await;
            let below = Alternative {
                key,
                selector: None,
            };
            let digest = Digest::of(format!("step {number}"));
            key = Key::with_inputs(digest, 0, vec![vec![below]], None);
            save(&key, &tree);
        }
        roots.push(key);
    }
    let stores = Stores::new(Arc::new(memory));
    let root = |key| Root {
        key,
        stores: stores.clone(),
    };
    let wanted = Collect {
        roots: roots.into_iter().map(root).collect(),
        mode: Mode::Max,
        options: layer::Options::default(),
        results: Arc::new(Here(cache.clone())),
        excluded: Arc::new(|_| false),
    };
    let work = Work {
        cx,
        progress: Progress::none(),
        sessions: Group::none(),
        store: cache.content().clone(),
    };
    for what in ["layers made", "layers there"] {
        let began = Instant::now();
        let graph = collect(&work, &wanted).await.expect("a graph");
        let collected = began.elapsed();
        let form = Form::parse(&std::collections::BTreeMap::new()).expect("a form");
        let written = form.write(&graph).expect("written").expect("a cache");
        let stored = work.store.put(&written.config.1).expect("stored");
        assert_eq!(stored, written.config.0.digest);
        eprintln!(
            "{} layers in chains of {length}, {what}: {:?} (documents {:?})",
            written.blobs.len(),
            began.elapsed(),
            began.elapsed().saturating_sub(collected)
        );
    }
}
