//! A daemon that has built a thousand times is as large as one that has built a few times, and so is its disk.
//!
//! `E2E_SOAK` says how many builds (CI: 150).

use std::time::{Duration, Instant};

use e2e::{Daemon, on_base};
use testkit::require;

/// What the state may take, in megabytes.
const CAP: u64 = 24;
/// What each build adds, in megabytes.
const STEP: u64 = 1;

fn memory(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.expect("a number of kilobytes")
}

/// Megabytes of blocks below the state directory.
fn disk(daemon: &Daemon) -> u64 {
    let output = std::process::Command::new("du")
        .args(["-s", "-x", "--block-size=1M"])
        .arg(daemon.root())
        .output()
        .expect("du runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let first = text.split_whitespace().next().unwrap_or_default();
    first.parse().expect("a number of megabytes")
}

/// The smallest value within a while: what is given back in the background takes a moment. Unless the disk loses room,
/// which others may make at the same time, garbage is collected once a minute.
fn settled(limit: u64, value: impl Fn() -> u64) -> u64 {
    let start = Instant::now();
    loop {
        let now = value();
        if now <= limit || start.elapsed() > Duration::from_secs(150) {
            return now;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

#[test]
fn many_builds_leave_memory_and_disk_as_they_were() {
    require!(root, busybox);
    if e2e::skipped_unless(e2e::is_ours(), "the stock daemon goes over its limit") {
        return;
    }
    let count = std::env::var("E2E_SOAK")
        .ok()
        .and_then(|text| text.parse().ok());
    let count: u32 = count.unwrap_or(150);
    let limit = format!("--oci-worker-gc-keepstorage=0,0,{CAP}");
    let daemon = Daemon::with(&["--oci-worker-gc=true", &limit]);
    let context = on_base(
        &format!("COPY a /a\nRUN head -c {STEP}000000 /dev/urandom > /r && cat /a > /b"),
        "//- a\n0",
    );
    let mut largest = 0;
    let mut build = |number: u32| {
        std::fs::write(context.path().join("a"), format!("{number}\n")).expect("written");
        daemon.build(context.path(), &[]).ok();
        largest = largest.max(disk(&daemon));
        if number % 100 == 99 {
            eprintln!("{} builds: {} kB", number + 1, memory(&daemon));
        }
    };
    let warm = count / 5;
    (0..warm).for_each(&mut build);
    // Builds are forgotten, and memory given back, some seconds after they ended.
    std::thread::sleep(Duration::from_secs(12));
    let before = memory(&daemon);
    (warm..count).for_each(&mut build);
    let after = settled(before + 5 * 1024, || memory(&daemon));
    let left = settled(CAP, || disk(&daemon));
    eprintln!(
        "{count} builds: memory {before} kB, then {after} kB; disk at most {largest} MB, then {left} MB of {CAP}"
    );
    assert!(after <= before + 5 * 1024, "{before} kB grew to {after} kB");
    assert!(left <= CAP, "{left} MB are left of {CAP} MB allowed");
    assert!(largest <= CAP + 8 * STEP, "{largest} MB at the most");
}
