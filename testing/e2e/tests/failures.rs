//! What goes wrong is said, and the daemon serves on.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use e2e::{Build, Daemon, on_base};
use testkit::require;

#[test]
fn malformed_definitions_are_refused() {
    require!(root, busybox);
    let daemon = Daemon::start();
    daemon
        .build_llb(b"this is no definition", &[])
        .fails_with("");
    daemon
        .build_llb(b"", &[])
        .fails_with("empty definition sent to build");
    // One op of a kind nobody knows: field 1, two bytes.
    daemon.build_llb(&[0x0a, 2, 0x0a, 0], &[]).fails_with("");
    // One op that is no message.
    daemon
        .build_llb(&[0x0a, 3, 0xff, 0xff, 0xff], &[])
        .fails_with("");
    daemon.build(on_base("", "").path(), &[]).ok();
}

#[test]
fn a_folder_the_client_may_not_read_is_named() {
    is_named_when_locked("locked");
}

#[test]
fn a_file_the_client_may_not_read_is_named() {
    let why = "the stock client sends such a file as an empty one";
    if e2e::skipped_unless(e2e::is_our_client(), why) {
        return;
    }
    is_named_when_locked("locked/f");
}

fn is_named_when_locked(locked: &str) {
    require!(root, busybox);
    let daemon = Daemon::with(&["--group", "65534"]);
    let context = on_base("FROM scratch\nCOPY . /", "//- locked/f\n1");
    let open = |path: &Path, mode| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(path, mode).expect("mode set");
    };
    open(context.path(), 0o755);
    open(&context.path().join(locked), 0);
    open(daemon.socket().parent().expect("a folder"), 0o755);
    let files = tempfile::tempdir().expect("a temporary directory");
    open(files.path(), 0o755);
    let client = files.path().join("buildctl");
    // By another process: what is open for writing here may be inherited by a daemon that starts at this moment, and what
    // is open for writing cannot be run.
    let copied = Command::new("cp")
        .arg(e2e::buildctl())
        .arg(&client)
        .status();
    assert!(copied.expect("cp runs").success());
    let output = Command::new(&client)
        .uid(65534)
        .gid(65534)
        .env("HOME", "/nonexistent")
        .current_dir("/")
        .args(["--addr", &daemon.address(), "build", "--progress=plain"])
        .arg("--frontend=dockerfile.v0")
        .arg(format!("--local=context={}", context.path().display()))
        .arg(format!("--local=dockerfile={}", context.path().display()))
        .output()
        .expect("the client runs");
    let build = Build::of(output).fails_with("permission denied");
    assert!(build.text.contains(locked), "{}", build.text);
    daemon.build(on_base("", "").path(), &[]).ok();
}

#[test]
fn a_value_that_is_no_boolean_is_refused_by_the_exporter() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let output = "--output=type=image,name=example.com/a,push=perhaps";
    daemon
        .build(on_base("", "").path(), &[output])
        .fails_with("push");
}

/// A small disk; gone when dropped.
struct Disk(tempfile::TempDir);

impl Disk {
    fn of(megabytes: u32) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
            .arg(dir.path())
            .status()
            .expect("mount runs");
        assert!(status.success());
        Self(dir)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_fails_the_build_and_not_the_daemon() {
    require!(root, busybox);
    let disk = Disk::of(64);
    let daemon = Daemon::at(disk.0.path());
    let small = on_base("RUN echo 1 > /x", "");
    daemon.build(small.path(), &[]).ok();
    let step = on_base("RUN dd if=/dev/zero of=/big bs=1M count=100", "");
    daemon
        .build(step.path(), &[])
        .fails_with("No space left on device");
    let large = on_base("FROM scratch\nCOPY big /", "");
    let file = std::fs::File::create(large.path().join("big")).expect("created");
    std::io::copy(
        &mut std::io::Read::take(std::io::repeat(7), 100 << 20),
        &mut &file,
    )
    .expect("written");
    daemon
        .build(large.path(), &[])
        .fails_with("no space left on device");
    // Upstream keeps what was received before the disk was full, so nothing more can be built there.
    if e2e::is_ours() {
        let other = on_base("RUN echo 2 > /x", "");
        daemon.build(other.path(), &[]).ok();
    }
    let output = daemon.client(&["debug", "workers"]).output();
    Build::of(output.expect("the client runs")).ok();
}
