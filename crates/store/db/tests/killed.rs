//! A process that is killed while the file of a new database is made loses nothing.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use db::{Batch, Db, Options, Start, Table};

const DIRECTORY: &str = "DB_KILLED_DIRECTORY";
const T: Table = Table::new("t");
const ROUNDS: u32 = 40;

fn open(dir: &Path) -> Db {
    let options = Options {
        flush_after: Duration::from_secs(3600),
        ..Options::default()
    };
    Db::open(dir, "test-v1", options).expect("opened")
}

/// Not a test: runs in a process of its own and is killed.
#[test]
#[ignore = "run by the test below"]
fn child_that_makes_the_file_until_it_is_killed() {
    let Some(dir) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let db = open(Path::new(&dir));
    let mut batch = Batch::new();
    batch.put(T, "k", "v");
    db.commit(batch).expect("committed");
    let mut out = std::io::stdout().lock();
    writeln!(out, "acknowledged").expect("told");
    out.flush().expect("told");
    db.sync().expect("synced");
    std::thread::sleep(Duration::from_secs(600));
}

#[test]
fn a_process_killed_while_it_makes_the_file_loses_nothing() {
    for round in 0..ROUNDS {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let name = "child_that_makes_the_file_until_it_is_killed";
        let mut child = Command::new(std::env::current_exe().expect("known"))
            .args([name, "--exact", "--ignored", "--nocapture"])
            .env(DIRECTORY, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        let told = out
            .lines()
            .any(|line| line.is_ok_and(|line| line.ends_with("acknowledged")));
        // Some moment of the few milliseconds that the file takes.
        std::thread::sleep(Duration::from_micros(u64::from(round) * 250));
        child.kill().expect("killed");
        child.wait().expect("gone");
        assert!(told, "round {round}");
        let db = open(dir.path());
        assert_eq!(db.start(), &Start::Complete, "round {round}");
        let value = db.value(T, b"k").expect("read");
        assert_eq!(value.as_deref(), Some(&b"v"[..]), "round {round}");
    }
}
