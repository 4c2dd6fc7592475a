//! The embedded runtime by itself: speed, load, cancellation, output, filters.

#![allow(
    unsafe_code,
    reason = "the probe makes system calls that no library makes"
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{PATIENCE, Sandbox, abandon_after, run, run_in, run_until, until_nobody_makes};
use executor::{Error, Executor, MountSource, NetMode, Security, Step, StepMount};
use runtime::Runtime;
use tasks::Cx;

fn runtime(sandbox: &Sandbox) -> Runtime {
    Runtime::new(sandbox.settings("executor")).expect("starts")
}

/// Mounts, and containers that are still noted, after a moment for what happens in the background.
fn leftovers(sandbox: &Sandbox) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = leftovers_now(sandbox);
        if left.is_empty() || Instant::now() > deadline {
            return left;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn leftovers_now(sandbox: &Sandbox) -> Vec<String> {
    let mut left = Vec::new();
    let notes = std::fs::read_to_string(sandbox.path("executor/running")).expect("readable");
    let ended = |line: &&str| !notes.contains(&line.replace('+', "-"));
    left.extend(
        notes
            .lines()
            .filter(|line| line.starts_with('+'))
            .filter(ended)
            .map(str::to_owned),
    );
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("readable");
    let here = sandbox.dir.path().display().to_string();
    left.extend(
        mounts
            .lines()
            .filter(|line| line.contains(&here))
            .map(str::to_owned),
    );
    left
}

#[tokio::test]
async fn a_step_runs_and_its_output_is_seen() {
    testkit::require!(root, busybox);
    let sandbox = Sandbox::new();
    let runtime = runtime(&sandbox);
    let step = sandbox.shell("echo out; echo err >&2; exit 3");
    let cgroup = format!("/sys/fs/cgroup/memory/buildkit/{}", step.id);
    let ran = run(&runtime, step).await;
    assert_eq!(
        (ran.code(), ran.stdout.as_str(), ran.stderr.as_str()),
        (3, "out\n", "err\n")
    );
    drop(runtime);
    assert!(!std::path::Path::new(&cgroup).exists());
    assert!(leftovers(&sandbox).is_empty(), "{:?}", leftovers(&sandbox));
}

#[tokio::test]
async fn groups_a_step_made_below_its_own_go_with_it() {
    testkit::require!(root, busybox);
    let sandbox = Sandbox::new();
    let runtime = runtime(&sandbox);
    let mut step = sandbox.shell(
        "d=$(ls -d /sys/fs/cgroup/*/ | head -1); mkdir -p $d/one/two && sleep 100 & sleep 0.1",
    );
    step.process.security = Security::Insecure;
    let id = step.id.clone();
    run(&runtime, step).await.ok();
    drop(runtime);
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup")
        .expect("mounted")
        .flatten()
    {
        assert!(
            !hierarchy.path().join("buildkit").join(&id).exists(),
            "{hierarchy:?}"
        );
    }
}

#[tokio::test]
async fn a_cancelled_step_is_killed_with_all_it_started() {
    testkit::require!(root, busybox);
    let sandbox = Sandbox::new();
    let runtime = runtime(&sandbox);
    let started = Instant::now();
    let step = sandbox
        .shell("trap '' TERM INT; sleep 1000 & sleep 1001 & echo up; while :; do sleep 1; done");
    let ran = run_until(&runtime, "up\n", step).await;
    let err = ran.result.expect_err("cancelled");
    assert!(matches!(err, Error::Cancelled { code: 137, .. }), "{err:?}");
    assert_eq!(err.to_string(), "exit code: 137: context canceled");
    assert_eq!(ran.stdout, "up\n");
    assert!(started.elapsed() < PATIENCE);
    assert!(leftovers(&sandbox).is_empty(), "{:?}", leftovers(&sandbox));
}

#[tokio::test]
async fn a_step_cancelled_before_it_starts_does_not_run() {
    testkit::require!(root, busybox);
    let sandbox = Sandbox::new();
    let runtime = runtime(&sandbox);
    let cx = Cx::root();
    cx.cancel("context canceled");
    let ran = run_in(&runtime, &cx, sandbox.shell("touch /ran")).await;
    assert!(matches!(ran.result, Err(Error::Cancelled { .. })));
    assert!(!sandbox.root().join("ran").exists());
}

#[tokio::test]
async fn dropping_the_call_kills_the_step() {
    testkit::require!(root, busybox);
    let sandbox = Sandbox::new();
    let runtime = runtime(&sandbox);
    let step = sandbox.shell("while :; do sleep 0.1; touch /alive; echo alive; done");
    abandon_after(&runtime, "alive\n", step).await;
    until_nobody_makes(&sandbox.root().join("alive")).await;
    assert!(leftovers(&sandbox).is_empty(), "{:?}", leftovers(&sandbox));
}

#[tokio::test]
async fn a_program_that_is_still_open_for_writing_is_waited_for() {
    testkit::require!(root, busybox);
    let sandbox = Sandbox::new();
    let runtime = runtime(&sandbox);
    let program = sandbox.root().join("bin/new");
    std::fs::copy("/bin/busybox", &program).expect("copied");
    let open = std::fs::OpenOptions::new()
        .append(true)
        .open(&program)
        .expect("ours");
    let _closing = tasks::spawn("close", async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(open);
    });
    let ran = run(&runtime, sandbox.step(&["/bin/new", "echo", "works"])).await;
    // Busybox goes by its name.
    assert!(ran.stderr.contains("applet not found"), "{ran:?}");
}

#[tokio::test]
async fn all_of_a_huge_output_arrives() {
    testkit::require!(root, busybox);
    let sandbox = Sandbox::new();
    let runtime = runtime(&sandbox);
    let bytes = Arc::new(AtomicUsize::new(0));
    let count = bytes.clone();
    let output = Arc::new(move |_, data: bytes::Bytes| {
        count.fetch_add(data.len(), Ordering::Relaxed);
    });
    let step = sandbox.shell("head -c 100000000 /dev/zero; head -c 5000000 /dev/zero >&2");
    runtime
        .run(&Cx::root(), step, output)
        .await
        .expect("succeeds");
    assert_eq!(bytes.load(Ordering::Relaxed), 105_000_000);
}

#[tokio::test]
async fn output_of_what_is_left_behind_neither_hangs_nor_gets_lost() {
    testkit::require!(root, busybox);
    let sandbox = Sandbox::new();
    let runtime = runtime(&sandbox);
    let started = Instant::now();
    let step = sandbox.shell("(echo early; sleep 100; echo late) & sleep 0.2; echo done");
    assert_eq!(run(&runtime, step).await.ok(), "early\ndone\n");
    assert!(started.elapsed() < PATIENCE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_run_hangs_while_many_threads_allocate() {
    testkit::require!(root, busybox);
    let sandbox = Sandbox::new();
    // All steps share one root here, which real ones never do; so there must be no stubs to make and remove.
    for file in ["hosts", "resolv.conf"] {
        std::fs::write(sandbox.root().join("etc").join(file), "").expect("writable");
    }
    let runtime = runtime(&sandbox);
    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..24)
        .map(|seed: usize| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let mut kept: Vec<Vec<u8>> = Vec::new();
                let mut turn = seed;
                while !stop.load(Ordering::Relaxed) {
                    turn = turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    kept.push(vec![1; turn % 50_000]);
                    if kept.len() > 50 {
                        kept.clear();
                    }
                    if turn.is_multiple_of(7) {
                        // The environment has a lock of its own in the C library.
                        let _ = std::env::var("HOME");
                    }
                }
            })
        })
        .collect();
    let begun = Instant::now();
    let mut hung = false;
    for round in 0..75 {
        let step = |n: usize| sandbox.shell(&format!("echo {round} {n}"));
        let runs = async {
            tokio::join!(
                run(&runtime, step(0)),
                run(&runtime, step(1)),
                run(&runtime, step(2)),
                run(&runtime, sandbox.step(&["nope"])),
            )
        };
        let Ok((a, b, c, d)) = tokio::time::timeout(2 * PATIENCE, runs).await else {
            hung = true;
            break;
        };
        for (n, ran) in [a, b, c].into_iter().enumerate() {
            assert_eq!(ran.ok(), format!("{round} {n}\n"));
        }
        assert_eq!(d.code(), 1);
        // A slow machine need not do them all.
        if begun.elapsed() > PATIENCE {
            break;
        }
    }
    stop.store(true, Ordering::Relaxed);
    threads
        .into_iter()
        .for_each(|thread| thread.join().expect("no panic"));
    assert!(!hung, "a run hangs");
    assert!(leftovers(&sandbox).is_empty(), "{:?}", leftovers(&sandbox));
}

#[tokio::test]
async fn a_step_for_which_nothing_can_be_mounted_says_why() {
    testkit::require!(root, busybox);
    let sandbox = Sandbox::new();
    let runtime = runtime(&sandbox);
    let mut step = sandbox.shell("true");
    let source = MountSource::Path {
        path: "/does/not/exist".into(),
        options: vec![],
    };
    step.mounts = vec![StepMount {
        dest: "/x".into(),
        source,
        selector: None,
        readonly: false,
    }];
    let ran = run(&runtime, step).await;
    assert_eq!(ran.code(), 1);
    assert!(
        ran.stderr
            .contains("/does/not/exist: no such file or directory"),
        "{ran:?}"
    );
    assert!(leftovers(&sandbox).is_empty(), "{:?}", leftovers(&sandbox));
}

#[tokio::test]
async fn the_daemon_keeps_its_rights_and_directories() {
    testkit::require!(root, busybox);
    let sandbox = Sandbox::new();
    let runtime = runtime(&sandbox);
    let look = || {
        let read = |path: &str| std::fs::read_to_string(path).expect("readable");
        let status = read("/proc/self/status");
        let kept: Vec<String> = status
            .lines()
            .filter(|l| {
                ["Uid", "Gid", "Cap", "Sig", "Umask", "Seccomp"]
                    .iter()
                    .any(|k| l.starts_with(k))
            })
            .filter(|line| !line.starts_with("SigQ"))
            .map(str::to_owned)
            .collect();
        let link = |path: &str| std::fs::read_link(path).expect("a link");
        (
            kept,
            link("/proc/self/root"),
            link("/proc/self/cwd"),
            link("/proc/self/ns/mnt"),
            rustix::process::dumpable_behavior().ok(),
        )
    };
    let before = look();
    let mut step = sandbox.shell("id");
    step.process.user = "bob".to_owned();
    step.process.network = NetMode::None;
    run(&runtime, step).await.ok();
    let mut step = sandbox.shell("id");
    step.process.security = Security::Insecure;
    run(&runtime, step).await.ok();
    assert_eq!(look(), before);
}

/// This test program, running one of its ignored tests with the sandbox in its environment.
fn helper(name: &str, sandbox: &Sandbox) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().expect("known"));
    command
        .args(["--exact", name, "--ignored", "--nocapture"])
        .env("SANDBOX", sandbox.dir.path());
    command
}

/// A daemon that runs a step until it is killed.
#[tokio::test]
#[ignore = "only makes sense as a helper"]
async fn daemon() {
    let Some(dir) = std::env::var_os("SANDBOX").map(std::path::PathBuf::from) else {
        return;
    };
    let settings = executor::Settings {
        root: dir.join("executor"),
        ..executor::Settings::default()
    };
    let runtime = Runtime::new(settings).expect("starts");
    let script = "trap '' TERM; while :; do touch /alive; sleep 0.05; done";
    let mut step = common::step(dir.join("rootfs"), &["/bin/sh", "-c", script]);
    step.id = "killeddaemonsstep".to_owned();
    run(&runtime, step).await.ok();
}

#[tokio::test]
async fn steps_of_a_killed_daemon_die_and_are_swept() {
    testkit::require!(root, busybox);
    let sandbox = Sandbox::new();
    let alive = sandbox.root().join("alive");
    let mut daemon = helper("daemon", &sandbox).spawn().expect("starts");
    let deadline = Instant::now() + PATIENCE;
    while !alive.exists() {
        assert!(Instant::now() < deadline, "the step does not start");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    daemon.kill().expect("ours");
    daemon.wait().expect("ours");
    until_nobody_makes(&alive).await;
    let groups = || {
        let dirs = std::fs::read_dir("/sys/fs/cgroup")
            .expect("mounted")
            .flatten();
        dirs.filter(|dir| dir.path().join("buildkit/killeddaemonsstep").exists())
            .count()
    };
    assert!(groups() > 0);
    let _runtime = runtime(&sandbox);
    assert_eq!(groups(), 0);
}

/// Starts itself again and tells about its program file.
#[test]
#[ignore = "only makes sense as a helper"]
fn protected() {
    runtime::protect_program().expect("possible");
    // Writing fails in any case while the program runs; what counts is that the mount refuses it for ever.
    let flags = rustix::fs::statvfs("/proc/self/exe").expect("there").f_flag;
    let again = flags.contains(rustix::fs::StatVfsMountFlags::RDONLY);
    println!(
        "protected: {again:?}; arguments {:?}",
        std::env::args().skip(1).collect::<Vec<_>>()
    );
}

#[test]
fn the_program_file_cannot_be_written_through_the_process() {
    testkit::require!(root, busybox);
    let sandbox = Sandbox::new();
    let output = helper("protected", &sandbox).output().expect("starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let expected = "protected: true; \
                    arguments [\"--exact\", \"protected\", \"--ignored\", \"--nocapture\"]";
    assert!(
        said.contains(expected),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Runs in a container: makes calls and tells what came back.
#[test]
#[ignore = "only makes sense inside a container"]
fn probe() {
    use syscalls::{Sysno, syscall};
    let calls: [(&str, Result<usize, syscalls::Errno>); 9] = unsafe {
        [
            ("keyctl", syscall!(Sysno::keyctl, 0, 0, 0)),
            (
                "unshare user",
                syscall!(Sysno::unshare, libc::CLONE_NEWUSER),
            ),
            ("AF_ALG", syscall!(Sysno::socket, 38, 5, 0)),
            ("AF_VSOCK", syscall!(Sysno::socket, 40, 1, 0)),
            ("clone3", syscall!(Sysno::clone3, 0, 0)),
            ("bpf", syscall!(Sysno::bpf, 0, 0, 0)),
            (
                "ptrace itself",
                syscall!(Sysno::ptrace, libc::PTRACE_PEEKUSER, 1, 0, 0),
            ),
            ("personality", syscall!(Sysno::personality, 0x0004_0000)),
            (
                "open_by_handle_at",
                syscall!(Sysno::open_by_handle_at, -1_i32, 0, 0),
            ),
        ]
    };
    for (name, result) in calls {
        println!(
            "probe: {name}: {}",
            result.map_or_else(|errno| errno.into_raw().to_string(), |_| "allowed".into())
        );
    }
    let environ = std::fs::read_to_string("/proc/1/environ").unwrap_or_default();
    println!("probe: environ of 1: {}", environ.len());
    // The old way out of a changed root: leave the working directory behind and walk up.
    std::fs::create_dir_all("/tmp/jail").expect("writable");
    rustix::process::chroot("/tmp/jail").expect("allowed");
    for _ in 0..20 {
        rustix::process::chdir("..").expect("there is always something above");
    }
    let mut above: Vec<_> = std::fs::read_dir(".")
        .expect("readable")
        .flatten()
        .map(|e| e.file_name())
        .collect();
    above.sort();
    println!("probe: above everything: {above:?}");
    let _ = std::fs::remove_dir("tmp/jail");
}

#[tokio::test]
async fn filtered_calls_fail_in_the_way_the_profile_says() {
    testkit::require!(root, busybox, runc);
    let sandbox = Sandbox::new();
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
    let runc = executor::runc::Runc::new(sandbox.settings("runc"), None, &path)
        .expect("runc is installed");
    let mut step = sandbox.step(&["/probe", "--exact", "probe", "--ignored", "--nocapture"]);
    let bind = |from: &str, to: &str| StepMount {
        dest: to.to_owned(),
        source: MountSource::Path {
            path: from.into(),
            options: vec![],
        },
        selector: None,
        readonly: true,
    };
    let this = std::env::current_exe().expect("known");
    step.mounts = vec![
        bind(&this.display().to_string(), "/probe"),
        bind("/usr", "/usr"),
        bind("/lib", "/lib"),
    ];
    if std::path::Path::new("/lib64").exists() {
        step.mounts.push(bind("/lib64", "/lib64"));
    }
    let mut seen = Vec::new();
    for executor in [&runtime(&sandbox) as &dyn Executor, &runc] {
        for security in [Security::Sandbox, Security::Insecure] {
            let mut step = Step {
                id: identity::new_id(),
                ..step.clone()
            };
            step.process.security = security;
            let out = run(executor, step).await.ok();
            // On one processor the test harness begins the first line.
            let lines = out.lines();
            let lines = lines.filter_map(|line| line.find("probe:").map(|at| &line[at..]));
            seen.push(lines.collect::<Vec<_>>().join("\n"));
        }
    }
    assert_eq!(seen[0], seen[2], "confined");
    assert_eq!(seen[1], seen[3], "insecure");
    assert!(
        seen.iter()
            .all(|seen| seen.contains("\"home\", \"lib\"") && seen.contains("\"probe\"")),
        "{}",
        seen[0]
    );
    let expected = [
        "keyctl: 1",
        "unshare user: 1",
        "AF_ALG: 1",
        "AF_VSOCK: 1",
        "clone3: 38",
        "bpf: 1",
        "personality: 1",
    ];
    for line in expected {
        assert!(
            seen[0].contains(&format!("probe: {line}\n")),
            "{line} in\n{}",
            seen[0]
        );
    }
}

#[tokio::test]
#[ignore = "measures; run it alone and in release"]
async fn bench_true() {
    testkit::require!(root, busybox);
    let sandbox = Sandbox::new();
    let runtime = runtime(&sandbox);
    let mut times = Vec::new();
    for _ in 0..300 {
        let step = sandbox.step(&["/bin/true"]);
        let start = Instant::now();
        assert_eq!(run(&runtime, step).await.code(), 0);
        times.push(start.elapsed());
    }
    times.sort();
    println!(
        "median {:?}, best {:?}, 90% {:?}",
        times[150], times[0], times[270]
    );
}
