//! What the daemon keeps: told truly, pruned as asked, and within limits.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use e2e::{Build, Daemon, is_our_client, is_ours, on_base};
use serde_json::Value;
use testkit::require;

fn run(daemon: &Daemon, args: &[&str]) -> String {
    let output = daemon.client(args).output().expect("the client runs");
    let text = String::from_utf8(output.stdout.clone()).expect("text");
    Build::of(output).ok();
    text
}

fn records(daemon: &Daemon, filters: &[&str]) -> Vec<Value> {
    let mut args = vec!["du", "--format", "json"];
    for filter in filters {
        args.extend(["--filter", filter]);
    }
    match serde_json::from_str(&run(daemon, &args)).expect("JSON") {
        Value::Array(records) => records,
        other => {
            assert_eq!(other, Value::Null);
            Vec::new()
        }
    }
}

fn total(records: &[Value]) -> u64 {
    let sizes = records
        .iter()
        .map(|it| it["size"].as_u64().expect("a size"));
    sizes.sum()
}

/// As `du` counts.
fn on_disk(root: &Path) -> u64 {
    let output = Command::new("du")
        .args(["-sx", "--block-size=1"])
        .arg(root)
        .output()
        .expect("du runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let number = text.split_whitespace().next().expect("a number");
    number.parse().expect("a number")
}

#[test]
fn records_have_the_names_of_their_steps() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let context = on_base("COPY x /x\nCOPY --link x /y\nWORKDIR /w", "//- x\nhello");
    daemon.build(context.path(), &[]).ok();
    let records = records(&daemon, &[]);
    let names = records.iter().filter_map(|it| it["description"].as_str());
    let mut names: Vec<_> = names.filter(|name| name.starts_with('[')).collect();
    names.sort_unstable();
    let wanted = [
        "[1/5] COPY --chmod=755 busybox /bin/busybox",
        "[3/5] COPY x /x",
        "[4/5] COPY --link x /y",
        "[4/5] LINK COPY --link x /y",
        "[5/5] WORKDIR /w",
    ];
    assert_eq!(names, wanted);
}

#[test]
fn usage_is_listed_filtered_shown_and_pruned() {
    require!(root, busybox);
    let mut daemon = Daemon::start();
    let dockerfile =
        "FROM base\nRUN --mount=type=cache,target=/c echo kept > /c/x && echo made > /made\n";
    let context = on_base(dockerfile, "");
    daemon.build(context.path(), &[]).ok();

    let mounts = records(&daemon, &["type==exec.cachemount"]);
    assert_eq!(mounts.len(), 1, "{mounts:?}");
    assert_eq!(mounts[0]["mutable"], true);
    let steps = records(&daemon, &["description~=mount.*exec,inuse"]);
    assert_eq!(steps.len(), 0, "nothing is in use: {steps:?}");
    let template = "{{range .}}{{if ne .RecordType `regular`}}{{.RecordType}};{{end}}{{end}}";
    let shown = run(&daemon, &["du", "--format", template]);
    let mut shown: Vec<_> = shown.trim().split(';').collect();
    shown.sort_unstable();
    shown.dedup();
    shown.retain(|kind| *kind != "internal");
    assert_eq!(shown, ["", "exec.cachemount", "source.local"]);
    if is_ours() {
        let (told, real) = (total(&records(&daemon, &[])), on_disk(&daemon.root()));
        assert!(
            told.abs_diff(real) * 50 <= real,
            "{told} told, {real} on disk"
        );
    }

    let gone = run(
        &daemon,
        &[
            "prune",
            "--filter",
            "type==exec.cachemount",
            "--format",
            "{{.ID}}",
        ],
    );
    assert_eq!(gone.trim(), mounts[0]["id"].as_str().expect("text"));
    assert!(records(&daemon, &["type==exec.cachemount"]).is_empty());
    let young = run(
        &daemon,
        &["prune", "--keep-duration", "1h", "--format", "{{.ID}}"],
    );
    assert_eq!(young, "", "everything is young");
    assert!(!records(&daemon, &[]).is_empty());
    run(&daemon, &["prune", "--all"]);
    assert!(records(&daemon, &[]).is_empty());

    let wrong = daemon.client(&["du", "--filter", "id=x"]).output();
    Build::of(wrong.expect("the client runs"))
        .fails_with("failed to parse diskusage filters [id=x]");

    if is_ours() && is_our_client() {
        daemon.build(context.path(), &[]).ok();
        let dump = |daemon: &Daemon| {
            let root = daemon.root().display().to_string();
            let args = ["debug", "dump-metadata", "--root", &root];
            daemon.client(&args).output().expect("the client runs")
        };
        Build::of(dump(&daemon)).fails_with("stop the daemon first");
        daemon.stop();
        let text = String::from_utf8(dump(&daemon).stdout).expect("text");
        assert!(text.contains("bucket \"records\":"), "{text}");
        assert!(text.contains("exec.cachemount"), "{text}");
    }
}

#[test]
fn a_limit_holds_while_builds_go_on() {
    require!(root, busybox);
    let daemon = Daemon::with(&["--oci-worker-gc-keepstorage", "0,0,60"]);
    for number in 0..12 {
        let dockerfile = format!(
            "FROM base\nRUN dd if=/dev/zero of=/big bs=1000000 count=10 && echo {number} > /number\n"
        );
        let context = on_base(&dockerfile, "");
        daemon.build(context.path(), &[]).ok();
        if is_ours() {
            let used = on_disk(&daemon.root());
            assert!(used < 90_000_000, "{used} bytes after build {number}");
        }
    }
    let began = Instant::now();
    while total(&records(&daemon, &[])) > 60_000_000 {
        assert!(began.elapsed() < Duration::from_secs(90), "it is too large");
        std::thread::sleep(Duration::from_millis(500));
    }
    assert!(
        total(&records(&daemon, &[])) > 20_000_000,
        "not more went than had to"
    );
}
