//! How fast the hot paths are. Run by hand: `cargo test --release -p cache --test system_speed -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use cache::{Cache, Options, RecordOptions, Ref};
use tasks::Cx;

fn cpu() -> Duration {
    let usage = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(
        usage.tv_sec.unsigned_abs(),
        u32::try_from(usage.tv_nsec).expect("below 10^9"),
    )
}

fn report(what: &str, count: u32, began: Instant, cpu_began: Duration) {
    eprintln!(
        "{what}: {:?} each, {:?} CPU",
        began.elapsed() / count,
        (cpu() - cpu_began) / count
    );
}

#[tokio::test]
#[ignore = "measures"]
async fn steps_and_starts() {
    testkit::require!(root);
    let dir = tempfile::tempdir().expect("a scratch folder");
    let cx = Cx::root();
    let open = || {
        let began = Instant::now();
        let cache = Cache::open(Options::new(dir.path())).expect("a cache");
        eprintln!("open: {:?}", began.elapsed());
        cache
    };
    let cache = open();
    let step = async |parent: Option<&Ref>| {
        let tree = cache
            .new_mutable(&cx, parent, RecordOptions::default())
            .await
            .expect("a tree");
        tree.commit(&cx, "step").await.expect("committed")
    };
    let base = step(None).await;
    for round in 0..3 {
        let (began, used) = (Instant::now(), cpu());
        for _ in 0..1000 {
            step(Some(&base)).await;
        }
        report(&format!("empty step, round {round}"), 1000, began, used);
    }
    let (began, used) = (Instant::now(), cpu());
    for _ in 0..1000 {
        let parent = dir
            .path()
            .join(format!("plain-{}", began.elapsed().as_nanos()));
        std::fs::create_dir(&parent).expect("made");
        std::fs::create_dir(parent.join("fs")).expect("made");
        std::fs::create_dir(parent.join("work")).expect("made");
    }
    report("three mkdirs for comparison", 1000, began, used);
    let (began, used) = (Instant::now(), cpu());
    for _ in 0..1000 {
        let tree = cache
            .new_mutable(&cx, Some(&base), RecordOptions::default())
            .await
            .expect("a tree");
        drop(tree.tree(&cx).await.expect("mounted"));
        tree.commit(&cx, "step").await.expect("committed");
    }
    report("step that is looked into", 1000, began, used);
    for _ in 0..46 {
        for _ in 0..1000 {
            step(Some(&base)).await;
        }
    }
    let began = Instant::now();
    cache.db().sync().expect("synced");
    eprintln!("sync: {:?}", began.elapsed());
    let last = step(Some(&base)).await.id().clone();
    drop((base, cache));
    let cache = open();
    let began = Instant::now();
    cache.get(&last).expect("found");
    eprintln!("get: {:?}", began.elapsed());
    cache.settle_removals().await;
    eprintln!("sweep: {:?}", began.elapsed());
    let began = Instant::now();
    let count = cache.list(&cx).await.expect("listed").len();
    eprintln!("first list of {count}: {:?}", began.elapsed());
    let began = Instant::now();
    cache.list(&cx).await.expect("listed");
    eprintln!("second list: {:?}", began.elapsed());
}

/// Makes a state for measuring daemons: `STORE=/dir cargo test … fill_a_store -- --ignored`. `RECORDS` says how many
/// records it has (50,000), `BYTES` how large the file is that each has (none).
#[tokio::test]
#[ignore = "makes something to measure with"]
async fn fill_a_store() {
    testkit::require!(root);
    let Some(root) = std::env::var_os("STORE") else {
        panic!("STORE names no directory");
    };
    let setting = |name: &str| std::env::var(name).ok()?.parse::<usize>().ok();
    let bytes = vec![1; setting("BYTES").unwrap_or_default()];
    let cx = Cx::root();
    let cache = Cache::open(Options::new(root)).expect("a cache");
    let mut parent: Option<Ref> = None;
    for number in 0..setting("RECORDS").unwrap_or(50_000) {
        let options = RecordOptions::default();
        let tree = cache.new_mutable(&cx, parent.as_ref(), options).await;
        let tree = tree.expect("a tree");
        if !bytes.is_empty() {
            let path = tree.layer_directory().expect("a directory").join("file");
            std::fs::write(path, &bytes).expect("written");
        }
        let made = tree.commit(&cx, "step").await;
        let made = made.expect("committed");
        parent = (number % 20 != 0).then_some(made);
    }
    cache.close().expect("closed");
}
