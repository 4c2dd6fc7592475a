//! The embedded runtime by itself: speed, load, cancellation, output.

mod common;

use common::{Sandbox, run};
use runtime::Runtime;

#[tokio::test]
async fn a_step_runs_and_its_output_is_seen() {
    testkit::require!(root, busybox);
    let sandbox = Sandbox::new();
    let runtime = Runtime::new(sandbox.settings("executor")).expect("starts");
    let ran = run(
        &runtime,
        sandbox.shell("echo out; echo err >&2; id; cat /proc/self/mountinfo; ls -la /dev; exit 3"),
    )
    .await;
    println!("{}\n{}", ran.stdout, ran.stderr);
    assert_eq!(ran.code(), 3);
    assert!(
        ran.stdout.starts_with("out\n") && ran.stderr == "err\n",
        "{ran:?}"
    );
}

#[tokio::test]
#[ignore = "measures; run it alone and in release"]
async fn bench_true() {
    testkit::require!(root, busybox);
    let sandbox = Sandbox::new();
    let runtime = Runtime::new(sandbox.settings("executor")).expect("starts");
    let mut times = Vec::new();
    for _ in 0..200 {
        let step = sandbox.step(&["/bin/true"]);
        let start = std::time::Instant::now();
        assert_eq!(run(&runtime, step).await.code(), 0);
        times.push(start.elapsed());
    }
    times.sort();
    println!(
        "median {:?}, best {:?}, 90% {:?}",
        times[100], times[0], times[180]
    );
}
