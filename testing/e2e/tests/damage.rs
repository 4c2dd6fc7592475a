//! Files of the state are damaged while the daemon is down: the next one starts, says what it gave up, and builds right.
//!
//! `E2E_DAMAGE` says how often (CI: 6), `E2E_SEED` repeats an earlier run. Trees are left out: they are as good as the
//! disk they are on.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use e2e::{Build, Daemon, is_ours, on_base};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use testkit::require;

fn setting(name: &str, default: u64) -> u64 {
    let given = std::env::var(name).ok().and_then(|text| text.parse().ok());
    given.unwrap_or(default)
}

/// All files of the state but those of trees, in a fixed order.
fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).expect("a directory").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type().expect("a kind");
            let skipped = ["snapshots-", "trash-", "executor"];
            if kind.is_dir() && !skipped.iter().any(|start| name.starts_with(start)) {
                left.push(entry.path());
            } else if kind.is_file() && !name.contains(".damaged-") && name != "buildkitd.lock" {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// Changes a byte, cuts the file short, or empties it.
fn damage(path: &Path, random: &mut StdRng) -> String {
    let mut bytes = std::fs::read(path).expect("read");
    if bytes.is_empty() {
        return "nothing".to_owned();
    }
    let at = random.random_range(0..bytes.len());
    let what = match random.random_range(0..8_u32) {
        0 => {
            bytes.truncate(at);
            format!("cut at {at}")
        }
        1 => {
            bytes.clear();
            "emptied".to_owned()
        }
        _ => {
            bytes[at] ^= 1 << random.random_range(0..8_u32);
            format!("byte {at}")
        }
    };
    std::fs::write(path, bytes).expect("written");
    what
}

/// What does not fit together in the state of a daemon that is not running.
fn problems(root: &Path) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let cache = cache::Cache::open(cache::Options::new(root)).expect("the cache opens");
        cache.settle_removals().await;
        let report = cache
            .verify(&tasks::Cx::root(), cache::Depth::Names)
            .await
            .expect("walked");
        report.problems.iter().map(ToString::to_string).collect()
    })
}

/// Builds into a folder and into an archive, each of whose blobs must be what its name says. A build that comes upon a
/// damaged blob may fail once for each.
fn build(daemon: &Daemon, context: &Path, wanted: &str, note: &str) {
    for _ in 0..20 {
        let out = tempfile::tempdir().expect("a temporary directory");
        let (tree, tar) = (out.path().join("tree"), out.path().join("image.tar"));
        let outputs = [
            format!("--output=type=local,dest={}", tree.display()),
            format!("--output=type=oci,dest={}", tar.display()),
        ];
        let outputs = outputs.each_ref().map(String::as_str);
        let done = daemon.build(context, &outputs);
        if done.code != 0 {
            let told = done
                .text
                .contains("was damaged on disk and has been removed");
            assert!(told, "{note}: {}\n{}", done.text, daemon.log());
            continue;
        }
        let text = std::fs::read_to_string(tree.join("out")).expect("there");
        assert_eq!(text, wanted, "{note}");
        let unpacked = std::process::Command::new("tar")
            .args(["-x", "-C"])
            .arg(out.path())
            .arg("-f")
            .arg(&tar)
            .status();
        assert!(unpacked.expect("tar runs").success(), "{note}");
        let blobs = out.path().join("blobs/sha256");
        for blob in std::fs::read_dir(blobs).expect("blobs").flatten() {
            let name = format!("sha256:{}", blob.file_name().to_string_lossy());
            let bytes = std::fs::read(blob.path()).expect("read");
            assert_eq!(oci::Digest::of(&bytes).as_str(), name, "{note}");
        }
        return;
    }
    panic!("{note}: no build succeeds\n{}", daemon.log());
}

fn example() -> tempfile::TempDir {
    on_base(
        "COPY a /a\nRUN cat /a /a > /out\nFROM base\nCOPY --from=base /out /",
        "//- a\n0",
    )
}

#[test]
fn a_damaged_state_never_gives_a_wrong_result() {
    require!(root, busybox);
    let (seed, rounds) = (
        setting("E2E_SEED", rand::random::<u32>().into()),
        setting("E2E_DAMAGE", 6),
    );
    eprintln!("E2E_SEED={seed} E2E_DAMAGE={rounds}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut daemon = Daemon::start();
    let context = example();
    let write = |text: &str| std::fs::write(context.path().join("a"), text).expect("written");
    write("0\n");
    build(&daemon, context.path(), "0\n0\n", "before");
    for round in 0..rounds {
        // A killed daemon leaves logs, one that was stopped has everything in the file.
        if random.random_bool(0.7) {
            daemon.kill();
        } else {
            daemon.stop();
        }
        let mut files = files(&daemon.root());
        // There are many blobs, and few of the others.
        if random.random_bool(0.6) {
            files.retain(|path| !path.components().any(|part| part.as_os_str() == "blobs"));
        }
        let path = files.swap_remove(random.random_range(0..files.len()));
        let what = damage(&path, &mut random);
        let note = format!("round {round}: {}: {what}", path.display());
        eprintln!("{note}");
        daemon.run();
        let old = format!("{}\n", round.saturating_sub(1));
        write(&old);
        build(&daemon, context.path(), &format!("{old}{old}"), &note);
        let new = format!("{round}\n");
        write(&new);
        build(&daemon, context.path(), &format!("{new}{new}"), &note);
    }
    let root = daemon.root();
    daemon.stop();
    assert_eq!(problems(&root), Vec::<String>::new());
}

/// What a daemon that has just begun to listen says, as soon as that is among it.
fn told(daemon: &Daemon, wanted: &str) -> String {
    let start = std::time::Instant::now();
    loop {
        let said = daemon.log();
        if said.contains(wanted) {
            return said;
        }
        assert!(
            start.elapsed().as_secs() < 60,
            "no word of {wanted:?}: {said}"
        );
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn the_log_names_a_damaged_file_and_what_was_given_up() {
    require!(root, busybox);
    if !is_ours() {
        return;
    }
    let mut daemon = Daemon::start();
    let context = example();
    let find = |daemon: &Daemon, end: &str| {
        let mut found = files(&daemon.root()).into_iter();
        found.find(|path| path.to_string_lossy().ends_with(end))
    };
    // The changes of a build are in a log for some seconds, unless others have just made it move to the file.
    let mut attempts = 0;
    let log = loop {
        std::fs::write(context.path().join("a"), format!("{attempts}\n")).expect("written");
        let wanted = format!("{attempts}\n{attempts}\n");
        build(&daemon, context.path(), &wanted, "before");
        daemon.kill();
        if let Some(log) = find(&daemon, ".log") {
            break log;
        }
        attempts += 1;
        assert!(attempts < 100, "no log is there after a build");
        daemon.run();
    };
    std::fs::write(context.path().join("a"), "0\n").expect("written");
    let mut bytes = std::fs::read(&log).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&log, bytes).expect("written");
    daemon.run();
    let said = told(&daemon, "what was committed after the damage is given up");
    assert!(said.contains(&log.display().to_string()), "{said}");
    build(&daemon, context.path(), "0\n0\n", "a damaged log");

    daemon.stop();
    let file = find(&daemon, ".redb").expect("a file after an orderly stop");
    std::fs::write(&file, "this is no database").expect("written");
    daemon.run();
    let said = told(&daemon, "database is damaged, starting with an empty one");
    assert!(said.contains(&file.display().to_string()), "{said}");
    build(&daemon, context.path(), "0\n0\n", "a damaged database");
}

#[test]
fn what_does_not_fit_is_found_and_told() {
    require!(root, busybox);
    if !is_ours() {
        return;
    }
    let daemon = Daemon::start();
    let context = example();
    build(&daemon, context.path(), "0\n0\n", "before");
    let verify = |args: &[&str]| {
        let args = [&["debug", "verify"], args].concat();
        let output = daemon.client(&args).stdin(Stdio::null()).output();
        Build::of(output.expect("the client runs"))
    };
    let fine = verify(&[]).ok();
    assert!(fine.text.contains(": 0 problems"), "{}", fine.text);

    let blobs = daemon.root().join("content-v1/blobs/sha256");
    let blob = std::fs::read_dir(blobs).expect("blobs").flatten().next();
    let blob = blob.expect("a blob").path();
    let mut bytes = std::fs::read(&blob).expect("read");
    bytes[0] ^= 1;
    std::fs::write(&blob, bytes).expect("written");
    let trees = std::fs::read_dir(daemon.root()).expect("read").flatten();
    let mut trees = trees.filter(|it| it.file_name().to_string_lossy().starts_with("snapshots-"));
    let stray = trees.next().expect("trees").path().join("999999");
    std::fs::create_dir(stray).expect("made");

    let found = verify(&[]).fails_with("not everything in the store is as it should be");
    let name = blob
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    assert!(
        found
            .text
            .contains(&format!("blob sha256:{name} is something else")),
        "{}",
        found.text
    );
    let orphan = "tree 999999 belongs to no record\n    takes room only: the next start";
    assert!(found.text.contains(orphan), "{}", found.text);
    assert!(found.text.contains(": 2 problems"), "{}", found.text);
    let names = verify(&["--names-only"]).fails_with(": 1 problems");
    assert!(!names.text.contains("something else"), "{}", names.text);
}
