//! The frontend against what upstream's made of the same files: `testing/vectors/dockerfile`.
//!
//! The bridge is a fake that serves the files of a case and writes down what it is asked. Compared are all definitions
//! (op by op, as bytes), their metadata and places, image configs, result metadata, warnings, errors with their
//! places, and image look-ups.

#[path = "golden/bridge.rs"]
mod bridge;
#[path = "golden/compare.rs"]
mod compare;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bridge::Fake;
use frontend::{Frontend as _, Request};
use serde_json::Value;
use tasks::Cx;

fn vectors() -> PathBuf {
    Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../testing/vectors/dockerfile"
    ))
    .to_owned()
}

/// Cases that cannot be met, and why.
const KNOWN: &[(&str, &str)] = &[(
    "285-err-device",
    "upstream has RUN --device in a variant of its frontend only; ours has it always",
)];

fn load(path: &Path) -> Option<Value> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(serde_json::from_str(&text).expect("vectors are JSON"))
}

async fn differences(dir: &Path) -> Vec<String> {
    let meta = load(&dir.join("meta.json")).expect("every case has meta.json");
    let dockerfile = std::fs::read(dir.join("Dockerfile")).expect("every case has a Dockerfile");
    let fake = Arc::new(Fake::new(&meta, dockerfile));
    let request = Request {
        options: bridge::options(&meta),
        inputs: bridge::inputs(&meta),
        session: "vector-session".to_owned(),
    };
    let cx = Cx::root();
    let outcome = dockerfile::Dockerfile::default()
        .solve(&cx, fake.clone(), request)
        .await;
    let mut found = compare::calls(&meta, &fake);
    let warnings = load(&dir.join("warnings.json")).unwrap_or(Value::Array(Vec::new()));
    compare::warnings(&warnings, &fake, &mut found);
    match (std::fs::read_to_string(dir.join("error.txt")), outcome) {
        (Ok(expected), Err(failure)) => compare::error(&expected, &meta, &failure, &mut found),
        (Ok(expected), Ok(_)) => found.push(format!("builds, expected: {expected}")),
        (Err(_), Err(failure)) => found.push(format!("fails: {}", failure.text())),
        (Err(_), Ok(outcome)) => {
            let llb = load(&dir.join("llb.json")).expect("llb.json");
            compare::forwards(&llb, &fake, &mut found);
            compare::solves(&llb, &fake, &mut found);
            compare::configs(load(&dir.join("config.json")), &outcome, &mut found);
            compare::results(load(&dir.join("result.json")), &outcome, &mut found);
        }
    }
    found
}

#[tokio::test]
async fn every_case_gives_what_upstream_gives() {
    let mut cases: Vec<PathBuf> = std::fs::read_dir(vectors())
        .expect("the vectors are there")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir())
        .collect();
    cases.sort();
    assert!(cases.len() > 370, "only {} cases", cases.len());
    let wanted = std::env::var("GOLDEN_CASE").unwrap_or_default();
    let mut failed = Vec::new();
    for case in cases {
        let name = case
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default()
            .to_owned();
        if !name.starts_with(&wanted) {
            continue;
        }
        let found = differences(&case).await;
        match KNOWN.iter().find(|(known, _)| name.starts_with(known)) {
            Some((_, reason)) if found.is_empty() => {
                failed.push(format!("{name}: passes, but is listed: {reason}"));
            }
            Some(_) => {}
            None if found.is_empty() => {}
            None => failed.push(format!("{name}:\n  {}", found.join("\n  "))),
        }
    }
    assert!(
        failed.is_empty(),
        "{} cases differ\n{}",
        failed.len(),
        failed.join("\n")
    );
}
