//! The daemon is killed at any moment: it comes back at once, builds correctly, and leaves nothing behind.

use std::path::Path;
use std::time::{Duration, Instant};

use e2e::{Daemon, on_base};
use rand::{RngExt as _, SeedableRng as _};
use testkit::fixture::list;
use testkit::require;

/// Moments of a build, as parts of the time a whole one takes. `E2E_SEED` repeats those of an earlier run, `E2E_KILLS`
/// says how many.
fn moments() -> Vec<f64> {
    let kills = std::env::var("E2E_KILLS")
        .ok()
        .and_then(|kills| kills.parse().ok());
    let seed = std::env::var("E2E_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(rand::random);
    eprintln!("E2E_SEED={seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    (0..kills.unwrap_or(20_u32))
        .map(|_| random.random_range(0.0..1.05))
        .collect()
}

/// Walks everything in the state of a daemon that is not running: what does not fit together, and what is without an
/// owner.
fn problems(root: &Path) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let cache = cache::Cache::open(cache::Options::new(root)).expect("the cache opens");
        cache.settle_removals().await;
        let report = cache
            .verify(&tasks::Cx::root(), cache::Depth::Content)
            .await
            .expect("walked");
        assert!(report.records > 0, "{report:?}");
        let problems = report.problems.iter().map(ToString::to_string);
        problems.collect()
    })
}

fn control_groups() -> usize {
    fn count(dir: &Path, depth: usize) -> usize {
        let Ok(entries) = std::fs::read_dir(dir) else {
            return 0;
        };
        let below = |path: &Path| if depth > 0 { count(path, depth - 1) } else { 0 };
        entries
            .flatten()
            .filter(|entry| entry.path().is_dir())
            .map(|entry| {
                let path = entry.path();
                let own = usize::from(path.parent().is_some_and(|dir| dir.ends_with("buildkit")));
                own + below(&path)
            })
            .sum()
    }
    count(Path::new("/sys/fs/cgroup"), 3)
}

#[test]
fn a_killed_daemon_comes_back_and_leaks_nothing() {
    require!(root, busybox);
    let mut daemon = Daemon::start();
    let groups = control_groups();
    let context = on_base(
        "COPY a /a\nRUN cat /a /a > /b && sleep 0.05\nRUN mkdir /d && cp /b /d/c && sleep 0.05\nFROM scratch\nCOPY --from=base /d /",
        "//- a\n0",
    );
    let start = Instant::now();
    daemon.build(context.path(), &[]).ok();
    let whole = start.elapsed();
    for (round, moment) in moments().into_iter().enumerate() {
        std::fs::write(context.path().join("a"), format!("{round}\n")).expect("written");
        let out = tempfile::tempdir().expect("a temporary directory");
        let output = format!("--output=type=local,dest={}", out.path().display());
        let path = context.path().display();
        let mut client = daemon.client(&[
            "build".to_owned(),
            "--progress=plain".to_owned(),
            "--frontend=dockerfile.v0".to_owned(),
            format!("--local=context={path}"),
            format!("--local=dockerfile={path}"),
            output.clone(),
        ]);
        let mut client = client
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("the client runs");
        std::thread::sleep(whole.mul_f64(moment));
        daemon.kill();
        client.wait().expect("the client ends");
        let begun = Instant::now();
        daemon.run();
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "round {round}: slow start"
        );
        daemon.build(context.path(), &[&output]).ok();
        let digits = round.to_string().len() + 1;
        assert_eq!(
            list(out.path()).expect("listed"),
            format!("c 0644 {}", 2 * digits),
            "round {round}"
        );
        let text = std::fs::read_to_string(out.path().join("c")).expect("there");
        assert_eq!(text, format!("{round}\n{round}\n"));
    }
    let root = daemon.root();
    daemon.stop();
    if e2e::skipped_unless(
        e2e::is_ours(),
        "the stock daemon leaves mounts behind, and its state is its own",
    ) {
        return;
    }
    assert_eq!(problems(&root), Vec::<String>::new());
    assert_eq!(e2e::mounts_below(&root), Vec::<String>::new());
    assert_eq!(e2e::processes_below(&root), Vec::<String>::new());
    // Others on this machine may have some for a moment.
    let begun = Instant::now();
    while control_groups() > groups {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "control groups were left behind"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_client_that_goes_away_stops_its_build() {
    require!(root, busybox);
    let daemon = Daemon::start();
    // Nobody else sleeps that long.
    let command = format!("sleep {}", 1_000_000 + std::process::id());
    let context = on_base(&format!("RUN {command}"), "");
    let path = context.path().display();
    let mut client = daemon.client(&[
        "build".to_owned(),
        "--progress=plain".to_owned(),
        "--frontend=dockerfile.v0".to_owned(),
        format!("--local=context={path}"),
        format!("--local=dockerfile={path}"),
    ]);
    let log = context.path().join("log");
    let mut client = client
        .stderr(std::fs::File::create(&log).expect("a file"))
        .spawn()
        .expect("the client runs");
    let sleeping = || {
        let output = std::process::Command::new("pgrep")
            .args(["-f", &format!("^{command}$")])
            .output();
        output.is_ok_and(|output| output.status.success())
    };
    let wait = |wanted: bool| {
        let start = Instant::now();
        while sleeping() != wanted {
            assert!(
                start.elapsed() < Duration::from_secs(120),
                "waited for sleeping={wanted}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    wait(true);
    client.kill().expect("killed");
    client.wait().expect("ended");
    wait(false);
    drop(daemon);
}
