//! A daemon that has built a thousand times is as large as one that has built a few times, and so is its disk.
//!
//! `E2E_SOAK` says how many builds (CI: 150).

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use e2e::{Daemon, on_base};
use testkit::require;

const MB: u64 = 1_000_000;
/// What the state may take.
const CAP: u64 = 24 * MB;
/// What each build adds.
const STEP: u64 = MB;
/// What directories, the log and the record of a build take.
const AROUND: u64 = STEP / 8;

fn memory(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.expect("a number of kilobytes")
}

/// Bytes of blocks below a directory.
fn disk(path: &Path) -> u64 {
    let output = std::process::Command::new("du")
        .args(["-s", "-x", "--block-size=1"])
        .arg(path)
        .output()
        .expect("du runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let first = text.split_whitespace().next().unwrap_or_default();
    first.parse().expect("a number of bytes")
}

/// Bytes of the database, which writes that much again at the most when it flushes.
fn database(root: &Path) -> u64 {
    std::fs::metadata(root.join("cache-v1.redb")).map_or(0, |meta| meta.blocks() * 512)
}

/// The smallest value within a while: what is given back in the background takes a moment. The database is flushed some
/// seconds later, and garbage collected a minute after the last time unless the disk lost room, which others may give
/// back at the same time.
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
    let limit = format!("--oci-worker-gc-keepstorage=0,0,{}", CAP / MB);
    let daemon = Daemon::with(&["--oci-worker-gc=true", &limit]);
    let context = on_base(
        &format!("COPY a /a\nRUN head -c {STEP} /dev/urandom > /r && cat /a > /b"),
        "//- a\n0",
    );
    let root = daemon.root();
    let (mut largest, mut furthest) = (0, 0);
    let mut build = |number: u32| {
        std::fs::write(context.path().join("a"), format!("{number}\n")).expect("written");
        daemon.build(context.path(), &[]).ok();
        let used = disk(&root);
        largest = largest.max(used);
        furthest = furthest.max(used.saturating_sub(CAP + STEP + AROUND + database(&root)));
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
    let left = settled(CAP, || disk(&root));
    eprintln!(
        "{count} builds: memory {before} kB, then {after} kB; disk at most {largest}, then {left} of {CAP}"
    );
    assert!(after <= before + 5 * 1024, "{before} kB grew to {after} kB");
    assert!(left <= CAP, "{left} bytes are left of {CAP} allowed");
    assert_eq!(furthest, 0, "a limit is exceeded by one step only");
}
