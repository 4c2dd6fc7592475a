//! Requests that are no builds: what is in a Dockerfile, and what is wrong with it.

mod lint;
mod outline;
mod table;

use std::collections::BTreeMap;

use bytes::Bytes;
use dockerfile_syntax::Span;
use frontend::Outcome;
use oci::Digest;
use prost::Message as _;
use proto::{gojson, pb, protojson};
use serde_json::{Map, Value, json};

use crate::error::{Error, Locate, Result, ranges, text};
use crate::files::{Files, Source};
use crate::lower::Wish;
use crate::lower_and_warn;

const OUTLINE: &str = "frontend.outline";
const TARGETS: &str = "frontend.targets";
const LINT: &str = "frontend.lint";
const CONVERT: &str = "frontend.convertllb";
const DESCRIBE: &str = "frontend.subrequests.describe";

pub(crate) async fn answer(files: &Files, source: &Source, name: &str) -> Result<Outcome> {
    let metadata = match name {
        OUTLINE => outline::outline(files, source).await?,
        TARGETS => outline::targets(source)?,
        LINT => lint::lint(files, source).await?,
        CONVERT => convert(files, source).await?,
        DESCRIBE => describe(),
        other => return Err(Error::Subrequest(other.to_owned()).into()),
    };
    let metadata = metadata
        .into_iter()
        .map(|(key, value)| (key.to_owned(), Bytes::from(value)))
        .collect();
    Ok(Outcome {
        metadata,
        ..Outcome::default()
    })
}

/// What an answer consists of.
type Answer = BTreeMap<&'static str, String>;

fn new_answer(json: &Value, shown: Option<String>, version: &str) -> Answer {
    let mut answer = Answer::from([
        ("result.json", pretty(json)),
        ("version", version.to_owned()),
    ]);
    answer.extend(shown.map(|text| ("result.txt", text)));
    answer
}

/// Indented JSON as Go writes it.
fn pretty(value: &Value) -> String {
    let bytes = oci::json::indented(value).unwrap_or_default();
    String::from_utf8(bytes).unwrap_or_default()
}

/// The JSON of a text that is JSON.
fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

/// The lines of a place.
fn location(span: Span) -> Value {
    let location = pb::Location {
        source_index: 0,
        ranges: ranges(span),
    };
    parsed(&gojson::to_string(&location))
}

/// An object without the members that are empty.
fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
    let empty = |value: &Value| match value {
        Value::String(text) => text.is_empty(),
        Value::Bool(flag) => !flag,
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    let members = members.into_iter().filter(|(_, value)| !empty(value));
    Value::Object(
        members
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
    )
}

/// The LLB of a build.
async fn convert(files: &Files, source: &Source) -> Result<Answer> {
    let lowered = lower_and_warn(files, source, Wish::default()).await?;
    let definition = lowered
        .state
        .marshal(&lowered.defaults)
        .map_err(|err| text(err.to_string()))?;
    let mut ops: BTreeMap<String, Value> = BTreeMap::new();
    for bytes in &definition.def {
        let op = pb::Op::decode(bytes.clone())
            .map_err(|err| text(err.to_string()))
            .context("failed to parse llb proto op")?;
        ops.insert(
            Digest::of(bytes).to_string(),
            parsed(&protojson::to_string(&op)),
        );
    }
    let metadata: Map<String, Value> = definition
        .metadata
        .iter()
        .map(|(digest, metadata)| (digest.to_string(), parsed(&gojson::to_string(metadata))))
        .collect();
    let map = definition.source.unwrap_or_default();
    let json = json!({
        "def": ops,
        "metadata": metadata,
        "source": parsed(&protojson::to_string(&map)),
    });
    Ok(new_answer(&json, None, "0.1.0"))
}

/// Which requests there are. Compat: lint and convertllb are not in upstream's list either.
fn describe() -> Answer {
    let result = json!([
        {"name": "result.json", "description": ""},
        {"name": "result.txt", "description": ""},
    ]);
    let request = |name: &str, description: &str, options: Value| {
        json!({
            "name": name,
            "version": "1.0.0",
            "type": "rpc",
            "description": description,
            "opts": options,
            "inputs": null,
            "metadata": result.clone(),
            "refs": null,
        })
    };
    let target = json!([{"name": "target", "description": "Target build stage"}]);
    let list = [
        request(
            OUTLINE,
            "List all parameters current build target supports",
            target,
        ),
        request(
            TARGETS,
            "List all targets current build supports",
            json!([]),
        ),
        request(DESCRIBE, "List available subrequest types", Value::Null),
    ];
    let mut rows = vec![["NAME", "VERSION", "DESCRIPTION"].map(str::to_owned)];
    for request in &list {
        let member = |key: &str| request[key].as_str().unwrap_or_default();
        let name = member("name").trim_start_matches("frontend.");
        rows.push([name, member("version"), member("description")].map(str::to_owned));
    }
    new_answer(&json!(list), Some(table::table(&rows, 1)), "1.0.0")
}
