//! Pruning and garbage collection beside builds, and a daemon that is killed in the middle of them.
//!
//! `E2E_KILLS` says how often it is killed (CI: 8), `E2E_SEED` repeats an earlier run, `E2E_RECORDS` says how many
//! records are pruned (CI: 2,000).

use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::{Daemon, is_ours, on_base};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use testkit::require;

fn setting(name: &str, default: u64) -> u64 {
    let given = std::env::var(name).ok().and_then(|text| text.parse().ok());
    given.unwrap_or(default)
}

fn wait<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(work)
}

/// What does not fit together in the state of a daemon that is not running.
fn problems(root: &Path) -> Vec<String> {
    wait(async {
        let cache = cache::Cache::open(cache::Options::new(root)).expect("the cache opens");
        cache.settle_removals().await;
        let report = cache
            .verify(&tasks::Cx::root(), cache::Depth::Content)
            .await
            .expect("walked");
        report.problems.iter().map(ToString::to_string).collect()
    })
}

fn start(daemon: &Daemon, args: &[&str]) -> Child {
    let mut client = daemon.client(args);
    client.stdout(Stdio::null()).stderr(Stdio::null());
    client.spawn().expect("the client runs")
}

#[test]
fn a_daemon_killed_while_it_removes_things_comes_back() {
    require!(root, busybox);
    let seed = setting("E2E_SEED", rand::random::<u32>().into());
    let kills = setting("E2E_KILLS", 8);
    eprintln!("E2E_SEED={seed} E2E_KILLS={kills}");
    let mut random = StdRng::seed_from_u64(seed);
    // Half of the time garbage is collected after each build, since there is room for one or two.
    let limit = "--oci-worker-gc-keepstorage=0,0,6";
    for args in [&[][..], &["--oci-worker-gc=true", limit]] {
        let mut daemon = Daemon::with(args);
        let context = on_base(
            "COPY a /a\nRUN head -c 2000000 /dev/zero > /z && cat /a > /b\nRUN mkdir /d && cp /b /d/c\nFROM scratch\n\
             COPY --from=base /d /",
            "//- a\n0",
        );
        let build = |daemon: &Daemon, number: u64| {
            std::fs::write(context.path().join("a"), format!("{number}\n")).expect("written");
            let out = tempfile::tempdir().expect("a temporary directory");
            let output = format!("--output=type=local,dest={}", out.path().display());
            daemon.build(context.path(), &[&output]).ok();
            let text = std::fs::read_to_string(out.path().join("c")).expect("there");
            assert_eq!(text, format!("{number}\n"));
        };
        for round in 0..kills.div_ceil(2) {
            build(&daemon, 2 * round);
            let prune = args.is_empty();
            let begun = Instant::now();
            let client = prune.then(|| start(&daemon, &["prune", "--all"]));
            // The pass of the collector begins a second after the build.
            let most = if prune { 120 } else { 1300 };
            std::thread::sleep(Duration::from_millis(random.random_range(0..most)));
            daemon.kill();
            if let Some(mut client) = client {
                client.wait().expect("the client ends");
            }
            eprintln!("round {round}: killed after {:?}", begun.elapsed());
            daemon.run();
            build(&daemon, 2 * round);
            build(&daemon, 2 * round + 1);
        }
        let root = daemon.root();
        daemon.stop();
        assert_eq!(problems(&root), Vec::<String>::new());
        assert_eq!(e2e::mounts_below(&root), Vec::<String>::new());
    }
}

#[test]
fn builds_go_on_while_thousands_of_records_are_pruned() {
    require!(root, busybox);
    if !is_ours() {
        return;
    }
    let count = setting("E2E_RECORDS", 2_000);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let root = dir.path().join("root");
    wait(async {
        let cx = tasks::Cx::root();
        let cache = cache::Cache::open(cache::Options::new(&root)).expect("the cache opens");
        let mut parent: Option<cache::Ref> = None;
        for number in 0..count {
            let options = cache::RecordOptions::default();
            let tree = cache.new_mutable(&cx, parent.as_ref(), options).await;
            let tree = tree.expect("a tree");
            let files = tree.tree(&cx).await.expect("mounted");
            std::fs::write(files.path().join("file"), [1; 5000]).expect("written");
            drop(files);
            let made = tree.commit(&cx, "step").await.expect("committed");
            parent = (number % 20 != 19).then_some(made);
        }
        drop(parent);
        cache.close().expect("closed");
    });
    let daemon = Daemon::at(&root);
    let context = on_base("COPY a /a\nRUN cat /a > /b", "//- a\n0");
    let build = |number: u32| {
        std::fs::write(context.path().join("a"), format!("{number}\n")).expect("written");
        let begun = Instant::now();
        daemon.build(context.path(), &[]).ok();
        begun.elapsed()
    };
    for number in 0..3 {
        build(number);
    }
    let mut before: Vec<_> = (3..10).map(build).collect();
    before.sort();
    let (begun, over) = (Instant::now(), AtomicBool::new(false));
    let (took, during) = std::thread::scope(|scope| {
        let pruning = scope.spawn(|| {
            let mut client = start(&daemon, &["prune", "--all"]);
            let status = client.wait().expect("the client ends");
            over.store(true, Ordering::Relaxed);
            assert!(status.success());
            begun.elapsed()
        });
        let mut during = vec![build(10)];
        while !over.load(Ordering::Relaxed) {
            during.push(build(10 + u32::try_from(during.len()).expect("few builds")));
        }
        (pruning.join().expect("pruned"), during)
    });
    let longest = during.iter().max().copied().unwrap_or_default();
    eprintln!(
        "{count} records pruned in {took:?}; a build took {:?} before, and {longest:?} at most of {} meanwhile",
        before[before.len() / 2],
        during.len()
    );
    assert!(took < Duration::from_secs(240), "{took:?}");
    assert!(longest < Duration::from_secs(60), "{longest:?}");
}
