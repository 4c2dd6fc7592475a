//! Graphs of builds that a stock daemon ran: `testing/vectors/cachekeys/dockerfiles`.
//!
//! The daemon recorded its ops without sessions, so digests cannot be compared where a local directory is involved.
//! Instead both graphs are written out as trees, and these must be equal.

#[path = "golden/bridge.rs"]
#[allow(dead_code, reason = "shared with the golden test")]
mod bridge;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use frontend::{Frontend as _, Request};
use oci::Digest;
use prost::Message as _;
use proto::pb;
use serde_json::{Map, Value, json};
use tasks::Cx;

fn vectors() -> PathBuf {
    let path = "/../../../testing/vectors/cachekeys/dockerfiles";
    Path::new(&format!("{}{path}", env!("CARGO_MANIFEST_DIR"))).to_owned()
}

fn load(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).expect("the vectors are there");
    serde_json::from_str(&text).expect("vectors are JSON")
}

/// An op without what differs from build to build.
fn bare(mut op: Value) -> Value {
    if let Some(op) = op.as_object_mut() {
        op.remove("inputs");
    }
    if let Some(attrs) = op
        .pointer_mut("/Op/source/attrs")
        .and_then(Value::as_object_mut)
    {
        attrs.remove("local.session");
    }
    sorted(op)
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut sorted: Map<String, Value> = map
                .into_iter()
                .map(|(key, value)| (key, sorted_value(value)))
                .collect();
            sorted.sort_keys();
            Value::Object(sorted)
        }
        other => sorted_value(other),
    }
}

fn sorted_value(value: Value) -> Value {
    match value {
        Value::Object(_) => sorted(value),
        Value::Array(list) => list.into_iter().map(sorted).collect(),
        other => other,
    }
}

/// A text that names a tree of ops.
fn name(op: Value, inputs: Vec<String>) -> String {
    Digest::of(json!([op, inputs]).to_string()).to_string()
}

fn ours(definition: &pb::Definition) -> (String, Vec<Value>) {
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let mut ops = Vec::new();
    let mut last = String::new();
    for bytes in &definition.def {
        let op = pb::Op::decode(bytes.clone()).expect("an op");
        let inputs = op
            .inputs
            .iter()
            .map(|input| format!("{}:{}", names[&input.digest], input.index));
        let inputs: Vec<String> = inputs.collect();
        let json = serde_json::from_str(&proto::gojson::to_string(&op)).expect("JSON");
        let json = bare(json);
        ops.push(json.clone());
        last = name(json, inputs);
        names.insert(Digest::of(bytes).to_string(), last.clone());
    }
    (last, ops)
}

fn theirs(steps: &Value) -> (String, Vec<Value>) {
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let mut ops = Vec::new();
    let mut last = String::new();
    for step in steps.as_array().into_iter().flatten() {
        let inputs = step["inputs"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|input| {
                let (step, index) = bridge::text(input).split_once(':').expect("step:output");
                format!("{}:{index}", names[step])
            });
        let inputs: Vec<String> = inputs.collect();
        let json = bare(step["op"].clone());
        ops.push(json.clone());
        last = name(json, inputs);
        names.insert(bridge::text(&step["id"]).to_owned(), last.clone());
    }
    (last, ops)
}

async fn check(path: &Path, base: &Value) {
    let case = load(path);
    let mut options = case["frontend_options"].clone();
    let mut ignore = Map::new();
    if let Some(file) = case["context"].get(".dockerignore") {
        ignore.insert(".dockerignore".to_owned(), file["content"].clone());
    }
    if !options.is_object() {
        options = json!({});
    }
    let meta = json!({
        "name": "build",
        "opts": options,
        "bases": {"docker.io/library/busybox:latest": base},
        "client_files": {"context": ignore},
        "worker_platforms": ["linux/amd64"],
    });
    let file = bridge::text(&case["dockerfile"]).to_owned();
    let fake = Arc::new(bridge::Fake::new(&meta, file.into_bytes()));
    let request = Request {
        options: bridge::options(&meta),
        session: "session".to_owned(),
        ..Request::default()
    };
    let outcome = dockerfile::Dockerfile::default()
        .solve(&Cx::root(), fake.clone(), request)
        .await;
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    outcome.unwrap_or_else(|err| panic!("{name}: {}", err.text()));
    let solves = fake.solves.lock().expect("lock");
    let platforms = case["llb"].as_array().expect("graphs");
    let graphs = &solves[solves.len() - platforms.len()..];
    for (graph, platform) in graphs.iter().zip(platforms) {
        let (ours, our_ops) = ours(graph);
        let (theirs, their_ops) = theirs(&platform["steps"]);
        if ours == theirs {
            continue;
        }
        for op in our_ops.iter().filter(|op| !their_ops.contains(op)) {
            println!("{name} only ours:   {op}");
        }
        for op in their_ops.iter().filter(|op| !our_ops.contains(op)) {
            println!("{name} only theirs: {op}");
        }
        panic!("{name}: another graph");
    }
}

#[tokio::test]
async fn graphs_are_those_a_stock_daemon_recorded() {
    let base = load(&vectors().join("base-busybox.json"));
    let base = json!({"config": base["config"], "digest": base["digest"]});
    let mut cases: Vec<PathBuf> = std::fs::read_dir(vectors())
        .expect("the vectors are there")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| !path.ends_with("base-busybox.json"))
        .collect();
    cases.sort();
    assert_eq!(cases.len(), 24);
    for case in cases {
        check(&case, &base).await;
    }
}
