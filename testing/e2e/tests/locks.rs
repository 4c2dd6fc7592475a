//! Cache mounts that one step has to itself.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use e2e::{Daemon, is_ours, on_base, skipped_unless};
use testkit::require;

/// The longest that anything may take, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(100);

/// The path of a file with this name below `dir`, once there is one.
fn appears(dir: &Path, name: &str) -> PathBuf {
    fn find(dir: &Path, name: &str) -> Option<PathBuf> {
        // Folders come and go while the daemon works.
        for entry in std::fs::read_dir(dir).ok()?.flatten() {
            if entry.file_name() == name {
                return Some(entry.path());
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir())
                && let Some(found) = find(&entry.path(), name)
            {
                return Some(found);
            }
        }
        None
    }
    let start = Instant::now();
    loop {
        if let Some(found) = find(dir, name) {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "no {name} appears");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_step_that_waits_for_a_locked_cache_says_for_whom() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let slow = on_base(
        "RUN --mount=type=cache,target=/c,sharing=locked touch /c/holding-it && \
         for i in $(seq 1200); do test -e /c/release && exit; sleep 0.1; done; exit 1",
        "",
    );
    let next = on_base(
        "RUN --mount=type=cache,target=/c,sharing=locked test -e /c/holding-it",
        "",
    );
    std::thread::scope(|scope| {
        let first = scope.spawn(|| daemon.build(slow.path(), &[]).ok());
        let held = appears(&daemon.root(), "holding-it");
        let mut client = daemon.client(&["build", "--progress=plain", "--frontend=dockerfile.v0"]);
        for name in ["context", "dockerfile"] {
            client.arg(format!("--local={name}={}", next.path().display()));
        }
        let mut client = client
            .stderr(Stdio::piped())
            .spawn()
            .expect("the client runs");
        let text = "waiting for cache mount /c, in use as cached mount /c from exec";
        let mut said = String::new();
        for line in BufReader::new(client.stderr.take().expect("piped")).lines() {
            let line = line.expect("text");
            // The stock daemon waits in silence.
            if line.contains(text) || !is_ours() && line.contains("test -e") {
                std::fs::write(held.with_file_name("release"), "").expect("written");
            }
            said += &(line + "\n");
        }
        assert!(client.wait().expect("it ends").success(), "{said}");
        assert!(!is_ours() || said.contains(text), "{said}");
        first.join().expect("it works");
    });
}

#[test]
fn steps_that_lock_the_same_two_caches_never_wait_for_each_other() {
    require!(root, busybox);
    if skipped_unless(is_ours(), "in the stock daemon they may wait for ever") {
        return;
    }
    let daemon = Daemon::start();
    let step = |first: &str, second: &str, number: usize| {
        on_base(
            &format!(
                "RUN --mount=type=cache,id={first},target=/1,sharing=locked --mount=type=cache,id={second},target=/2,sharing=locked echo {number} && sleep 0.1"
            ),
            "",
        )
    };
    let contexts: Vec<_> = (0..6)
        .map(|number| match number % 2 {
            0 => step("a", "b", number),
            _ => step("b", "a", number),
        })
        .collect();
    std::thread::scope(|scope| {
        for context in &contexts {
            let daemon = &daemon;
            scope.spawn(move || daemon.build(context.path(), &[]).ok());
        }
    });
}
