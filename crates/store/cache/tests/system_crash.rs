//! A daemon that is killed loses nothing it had acknowledged, and leaves nothing behind.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use cache::{Cache, Depth, Options, RecordOptions, Ref, RefId};
use tasks::Cx;

const DIRECTORY: &str = "CACHE_CRASH_DIRECTORY";
const ROUNDS: u64 = 20;

fn open(root: &Path) -> Cache {
    let mut options = Options::new(root);
    // Flushes fall into the rounds as well.
    options.sync_after = Duration::from_millis(20);
    Cache::open(options).expect("a cache")
}

/// Not a test: runs in a process of its own and is killed. Prints what it has committed.
#[tokio::test]
#[ignore = "run by the test below"]
async fn child_that_commits_until_it_is_killed() {
    let Some(root) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let cx = Cx::root();
    let cache = open(Path::new(&root));
    let mut top: Option<Ref> = None;
    for count in 0_u64.. {
        let parent = top.as_ref().filter(|_| count % 20 != 0);
        let tree = cache
            .new_mutable(&cx, parent, RecordOptions::default())
            .await
            .expect("a tree");
        let name = format!("f{}", count % 20);
        let content = tree.id().to_string();
        let mounted = tree.tree(&cx).await.expect("mounted");
        std::fs::write(mounted.path().join(&name), &content).expect("written");
        drop(mounted);
        let blob = cache.content().put(&content).expect("stored");
        let committed = tree.commit(&cx, &name).await.expect("committed");
        committed
            .set_meta("blob", blob.as_str().as_bytes())
            .expect("kept");
        let mut out = std::io::stdout().lock();
        writeln!(out, "ack {} {name}", committed.id()).expect("told");
        out.flush().expect("told");
        top = Some(committed);
    }
}

fn list(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).expect("a folder");
    entries
        .map(|entry| entry.expect("an entry").path())
        .collect()
}

/// Kills the child some time after it has committed so many.
fn run_and_kill(root: &Path, commits: usize, after: Duration) -> Vec<(RefId, String)> {
    let mut child = Command::new(std::env::current_exe().expect("known"))
        .args([
            "child_that_commits_until_it_is_killed",
            "--exact",
            "--ignored",
            "--nocapture",
        ])
        .env(DIRECTORY, root)
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let out = child.stdout.take().expect("a pipe");
    let mut lines = BufReader::new(out)
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| {
            // The test harness may print in front of the first one.
            let (_, rest) = line.split_once("ack ")?;
            let (id, name) = rest.split_once(' ')?;
            // A line that was cut off was not told.
            let id = RefId::parse(id).filter(|id| id.as_str().len() == 25)?;
            Some((id, name.to_owned()))
        });
    let mut acknowledged: Vec<_> = lines.by_ref().take(commits).collect();
    assert_eq!(acknowledged.len(), commits, "the child ended by itself");
    std::thread::sleep(after);
    child.kill().expect("killed");
    child.wait().expect("gone");
    acknowledged.extend(lines);
    acknowledged
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_kill_9() {
    testkit::require!(root);
    let dir = tempfile::tempdir().expect("a scratch folder");
    let cx = Cx::root();
    let mut all = Vec::new();
    for round in 0..ROUNDS {
        // Moments in the middle of a commit, and of the flush that follows the first ones.
        let commits = 1 + round as usize * 3 % 25;
        let after = Duration::from_micros(round * 3_700 % 31_000);
        let acknowledged = run_and_kill(dir.path(), commits, after);
        all.extend(acknowledged);
        let cache = open(dir.path());
        for (id, name) in &all {
            let tree = cache
                .get(id)
                .unwrap_or_else(|| panic!("{id} was acknowledged, round {round}"));
            let root = tree.tree(&cx).await.expect("mounted").path();
            let content = std::fs::read_to_string(root.join(name)).expect("read");
            assert_eq!(content, id.as_str());
            let blob = tree.meta("blob").expect("kept");
            let blob = std::str::from_utf8(&blob)
                .expect("text")
                .parse()
                .expect("a digest");
            assert_eq!(cache.content().read(&blob).expect("read"), id.as_str());
        }
        let report = cache.verify(&cx, Depth::Content).await.expect("walked");
        assert_eq!(report.problems, [], "round {round}");
        assert_eq!(report.trees, report.records);
        let unfinished = list(&dir.path().join("content-v1/ingest"));
        let unfinished: Vec<_> = unfinished.iter().flat_map(|place| list(place)).collect();
        assert!(unfinished.is_empty(), "{unfinished:?}");
    }
    let distinct: BTreeSet<_> = all.iter().map(|(id, _)| id).collect();
    assert_eq!(distinct.len(), all.len());
    eprintln!("{} commits in {ROUNDS} rounds", all.len());
}
