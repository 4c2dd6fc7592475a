//! The corpus in `testing/dockerfiles`: what each file means, written down beside it.
//!
//! A case is a folder with a `Dockerfile`, a `case.json` (what it is about, which features of `docs/status.md` it covers,
//! the options it is built with, the files of its context) and `expected.txt`: graphs, image configs, findings, or the
//! error. The bridge is a fake that answers from `bases.json`. `UPDATE_GOLDEN=1` writes the expected texts anew.

#[path = "golden/bridge.rs"]
#[allow(dead_code, reason = "shared with the golden test")]
mod bridge;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bridge::{Fake, text};
use frontend::{Frontend as _, Outcome, Request};
use oci::Digest;
use prost::Message as _;
use proto::{gojson, pb};
use serde_json::{Value, json};
use tasks::Cx;

fn corpus() -> PathBuf {
    Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../testing/dockerfiles"
    ))
    .to_owned()
}

fn cases() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(corpus()).expect("the corpus is part of the tree");
    let mut cases: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir())
        .collect();
    cases.sort();
    cases
}

fn load(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|err| panic!("{path:?}: {err}"));
    serde_json::from_str(&text).unwrap_or_else(|err| panic!("{path:?}: {err}"))
}

/// The case in the words of the fake bridge.
fn meta(case: &Value, dockerfile: &str) -> Value {
    let mut files = BTreeMap::new();
    let context = case["context"].as_object().into_iter().flatten();
    let context: BTreeMap<&String, &Value> = context.collect();
    let ignores = |name: &&&String| name.ends_with(".dockerignore");
    let ignored: BTreeMap<_, _> = context.iter().filter(|(name, _)| ignores(name)).collect();
    files.insert("context".to_owned(), json!(ignored));
    files.insert("dockerfile".to_owned(), json!(ignored));
    if case["extra"].is_object() {
        files.insert("extra".to_owned(), case["extra"].clone());
    }
    if let Some(local) = case["local"].as_str() {
        let name = case["localfile"].as_str().unwrap_or("Dockerfile");
        files.insert(local.to_owned(), json!({name: dockerfile}));
    }
    json!({
        "name": "corpus",
        "opts": case.get("opts").cloned().unwrap_or(json!({})),
        "bases": load(&corpus().join("bases.json")),
        "client_files": files,
        "frontend_inputs": case["inputs"],
        "worker_platforms": ["linux/amd64", "linux/arm64"],
    })
}

async fn meaning(dir: &Path) -> String {
    let case = load(&dir.join("case.json"));
    let dockerfile = std::fs::read(dir.join("Dockerfile")).expect("every case has a Dockerfile");
    let meta = meta(&case, &String::from_utf8_lossy(&dockerfile));
    let fake = Arc::new(Fake::new(&meta, dockerfile));
    let request = Request {
        options: bridge::options(&meta),
        inputs: bridge::inputs(&meta),
        session: "session".to_owned(),
    };
    let outcome = dockerfile::Dockerfile::default()
        .solve(&Cx::root(), fake.clone(), request)
        .await;
    let mut out = String::new();
    for warning in fake.warnings.lock().expect("lock").iter() {
        writeln!(out, "warning: {}", warning.short).expect("text");
    }
    match outcome {
        Err(failure) => {
            writeln!(out, "error: {}", failure.text()).expect("text");
            out.push_str(&diagnostics::excerpts(&failure).concat());
        }
        Ok(outcome) => {
            for forward in fake.forwards.lock().expect("lock").iter() {
                let options = json!(forward.options);
                writeln!(out, "forwarded to {}: {options}", forward.frontend).expect("text");
            }
            let solves = fake.solves.lock().expect("lock");
            let graphs: String = solves.iter().map(graph).collect();
            if case["brief"] == true {
                let ops: usize = solves.iter().map(|graph| graph.def.len()).sum();
                writeln!(out, "{ops} ops: {}", Digest::of(&graphs)).expect("text");
            } else {
                out.push_str(&graphs);
            }
            said(&outcome, case["brief"] == true, &mut out);
        }
    }
    out
}

/// One line and one op after the other, inputs as numbers of lines.
fn graph(definition: &pb::Definition) -> String {
    let mut out = "\ngraph:\n".to_owned();
    let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
    for (number, bytes) in definition.def.iter().enumerate() {
        let digest = Digest::of(bytes).to_string();
        let op = pb::Op::decode(bytes.clone()).expect("an op");
        let inputs: Vec<String> = op
            .inputs
            .iter()
            .map(|input| format!("{}:{}", numbers[&input.digest], input.index))
            .collect();
        let metadata = definition.metadata.get(digest.as_str());
        let name = metadata
            .and_then(|metadata| metadata.description.get("llb.customname"))
            .map_or("", String::as_str);
        write!(out, "{number} {name}").expect("text");
        if !inputs.is_empty() {
            write!(out, " <- {}", inputs.join(" ")).expect("text");
        }
        if metadata.is_some_and(|metadata| metadata.ignore_cache) {
            out.push_str(" (not cached)");
        }
        if metadata.is_some_and(|metadata| metadata.progress_group.is_some()) {
            out.push_str(" (grouped)");
        }
        out.push('\n');
        if let Some(kind) = op.op {
            let bare = pb::Op {
                inputs: Vec::new(),
                constraints: None,
                platform: op.platform,
                op: Some(kind),
            };
            writeln!(out, "    {}", gojson::to_string(&bare)).expect("text");
        }
        numbers.insert(digest, number);
    }
    out
}

/// What goes with the result.
fn said(outcome: &Outcome, brief: bool, out: &mut String) {
    for (key, value) in &outcome.metadata {
        let value = String::from_utf8_lossy(value);
        let pretty = serde_json::from_str::<Value>(&value)
            .ok()
            .filter(Value::is_object)
            .map(|value| serde_json::to_string_pretty(&value).expect("JSON"));
        let shown = pretty.as_deref().unwrap_or(&value);
        if brief && shown.len() > 200 {
            writeln!(out, "\n{key}: {}", Digest::of(shown)).expect("text");
        } else if !key.starts_with("containerimage.base.config") {
            writeln!(out, "\n{key}: {shown}").expect("text");
        }
    }
    for (id, attestations) in &outcome.attestations {
        for attestation in attestations {
            let (kind, metadata) = (attestation.kind, &attestation.metadata);
            writeln!(out, "\nattestation of {id}: {kind:?} {metadata:?}").expect("text");
        }
    }
}

#[tokio::test]
async fn every_file_means_what_is_written_beside_it() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let cases = cases();
    assert!(cases.len() >= 60, "only {} cases", cases.len());
    let mut failed = Vec::new();
    for case in cases {
        let meaning = meaning(&case).await;
        let path = case.join("expected.txt");
        if update {
            std::fs::write(&path, &meaning).expect("the corpus can be written");
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        if meaning != expected {
            let ours = meaning.lines().chain(["(end)"]);
            let theirs = expected.lines().chain(["(end)"]);
            let difference = ours.zip(theirs).find(|(a, b)| a != b);
            failed.push(format!("{}: {difference:?}", case.display()));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn every_feature_of_the_language_is_covered() {
    let mut covered = BTreeSet::new();
    for case in cases() {
        let case = load(&case.join("case.json"));
        let ids = case["covers"].as_array().expect("what it covers").iter();
        covered.extend(ids.map(|id| text(id).to_owned()));
    }
    let wanted = [('S', 21), ('T', 36), ('U', 23), ('V', 35)]
        .into_iter()
        .flat_map(|(area, last)| (1..=last).map(move |number| format!("{area}{number:02}")));
    // Sources that files name, and what multi-platform builds and questions need.
    let others = "K04 K08 K09 K10 K11 K12 K13 K14 K15 K16 K19 K20 K21 K23 G09 B07 B25 L19 L22 AC01 AC03 AC04 AE06";
    let wanted = wanted.chain(others.split(' ').map(str::to_owned));
    let missing: Vec<String> = wanted.filter(|id| !covered.contains(id)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
