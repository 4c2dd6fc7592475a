//! Damaged Dockerfiles: no panic, an answer within a second, and what parses is printed and parsed to the same.
//!
//! The inputs follow from a fixed seed; only how many are tried depends on the machine. `FUZZ_SECONDS` says how long,
//! CI takes a minute.

#[path = "golden/bridge.rs"]
#[allow(dead_code, reason = "shared with the golden test")]
mod bridge;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use dockerfile_syntax::lint::Linter;
use frontend::{Frontend as _, Request};
use serde_json::{Value, json};
use tasks::Cx;
use testkit::fuzz::{self, Dice, LIMIT};

/// What makes a difference somewhere.
const PIECES: &[&str] = &[
    "FROM ",
    " AS ",
    "\nRUN ",
    "\nCOPY ",
    "\nADD ",
    "\nONBUILD ",
    "\nENV ",
    "\nARG ",
    "\n",
    "\\\n",
    "`",
    "\\",
    "$",
    "${",
    "}",
    "${a:-",
    "${a##*",
    "${a//x/",
    "\"",
    "'",
    "<<EOF",
    "<<-'E'",
    "\nEOF\n",
    "#",
    "# escape=`\n",
    "# check=error=true\n",
    "[\"",
    "\"]",
    "--from=",
    "--mount=type=cache,target=",
    "--mount=from=0,",
    "--platform=",
    "--chmod=u+",
    "scratch",
    "stage-0",
    "=",
    ",",
    ":",
    "/",
    "..",
    "**",
    "!",
    "\0",
    "\u{feff}",
    "\u{fffd}",
    "é",
    "99999999999999999999",
    "-1",
    " ",
    "\t",
];

fn range(dice: &mut Dice, len: usize, longest: usize) -> std::ops::Range<usize> {
    let start = dice.below(len + 1);
    start..(start + dice.below(longest)).min(len)
}

fn damage(dice: &mut Dice, file: &mut Vec<u8>, other: &[u8]) {
    match dice.below(7) {
        0 => {
            let at = dice.below(file.len() + 1);
            let piece = PIECES[dice.below(PIECES.len())];
            file.splice(at..at, piece.bytes());
        }
        1 => drop(file.drain(range(dice, file.len(), 40))),
        2 => {
            let copied = file[range(dice, file.len(), 200)].to_vec();
            let at = dice.below(file.len() + 1);
            file.splice(at..at, copied);
        }
        3 => {
            let at = dice.below(file.len() + 1);
            let from = range(dice, other.len(), 300);
            file.splice(at..at, other[from].iter().copied());
        }
        4 if !file.is_empty() => {
            let at = dice.below(file.len());
            file[at] = u8::try_from(dice.below(256)).expect("a byte");
        }
        5 => {
            let at = dice.below(file.len() + 1);
            let repeated = PIECES[dice.below(PIECES.len())].repeat(dice.below(300));
            file.splice(at..at, repeated.bytes());
        }
        _ => {
            let range = range(dice, file.len(), 3);
            let piece = PIECES[dice.below(PIECES.len())];
            file.splice(range, piece.bytes());
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let testing = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../testing"));
    let folders = ["dockerfiles", "vectors/dockerfile"].map(|name| testing.join(name));
    let cases = folders.iter().flat_map(|folder| {
        let entries = std::fs::read_dir(folder).expect("it is part of the tree");
        entries.filter_map(|entry| std::fs::read(entry.ok()?.path().join("Dockerfile")).ok())
    });
    let mut seeds: Vec<_> = cases.filter(|file| file.len() < 5_000).collect();
    seeds.sort();
    seeds
}

fn meta() -> Value {
    let layer = format!("sha256:{}", "0".repeat(64));
    let image = json!({
        "config": {"architecture": "amd64", "os": "linux", "config": {"Env": ["a=b"], "OnBuild": ["COPY a b"]},
            "rootfs": {"type": "layers", "diff_ids": [layer]}},
        "digest": format!("sha256:{}", "1".repeat(64)),
    });
    let names =
        ["plain", "busybox", "alpine"].map(|name| format!("docker.io/library/{name}:latest"));
    let bases: Value = names
        .iter()
        .map(|name| (name.clone(), image.clone()))
        .collect::<serde_json::Map<_, _>>()
        .into();
    json!({
        "name": "fuzz",
        "opts": {"build-arg:A": "1"},
        "bases": bases,
        "client_files": {"context": {".dockerignore": "*.log\n!keep.log\n"}},
        "worker_platforms": ["linux/amd64"],
    })
}

#[tokio::test]
async fn no_damaged_file_panics_or_takes_long() {
    let end = fuzz::end(2);
    let (seeds, meta) = (seeds(), meta());
    let mut dice = Dice::new(1);
    let mut tried = 0;
    while Instant::now() < end {
        let mut file = seeds[dice.below(seeds.len())].clone();
        for _ in 0..=dice.below(6) {
            let other = dice.below(seeds.len());
            damage(&mut dice, &mut file, &seeds[other]);
        }
        let shown = String::from_utf8_lossy(&file).into_owned();
        let start = Instant::now();
        if let Ok(parsed) = dockerfile_syntax::parse(&file, &mut Linter::off()) {
            let printed = parsed.to_source();
            // Joined, the lines of an instruction may be longer than a line can be.
            if printed
                .split(|&byte| byte == b'\n')
                .all(|line| line.len() < 65_536)
            {
                let again = dockerfile_syntax::parse(&printed, &mut Linter::off());
                let again = again.unwrap_or_else(|err| panic!("{err}: {shown:?}"));
                assert_eq!(again.to_source(), printed, "{shown:?}");
            }
        }
        let fake = Arc::new(bridge::Fake::new(&meta, file));
        let request = Request {
            options: bridge::options(&meta),
            session: "session".to_owned(),
            ..Request::default()
        };
        let answer = dockerfile::Dockerfile::default()
            .solve(&Cx::root(), fake, request)
            .await;
        assert!(answer.is_ok() || !answer.is_err_and(|err| err.text().is_empty()));
        let took = start.elapsed();
        assert!(took < LIMIT, "{took:?}: {shown:?}");
        tried += 1;
    }
    println!("{tried} files");
    assert!(tried > 10, "only {tried} files");
}
