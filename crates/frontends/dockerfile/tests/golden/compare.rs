//! What differs between a case and what we did.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use diagnostics::{Detail, Failure};
use frontend::Outcome;
use oci::Digest;
use prost::Message as _;
use proto::pb;
use serde_json::{Map, Value, json};

use crate::bridge::{Call, Fake, text};

pub fn calls(meta: &Value, fake: &Fake) -> Vec<String> {
    let mut found = Vec::new();
    let expected = meta["resolve_calls"].as_array().into_iter().flatten();
    let mut expected: Vec<Call> = expected
        .map(|call| Call {
            reference: text(&call["ref"]).to_owned(),
            log_name: text(&call["log_name"]).to_owned(),
            platform: text(&call["platform"]).to_owned(),
            mode: text(&call["resolve_mode"]).to_owned(),
            store: text(&call["oci_store"]).to_owned(),
        })
        .collect();
    let mut actual = fake.calls.lock().expect("lock").clone();
    expected.sort();
    actual.sort();
    if expected != actual {
        found.push(format!("look-ups: {actual:?}\n    expected {expected:?}"));
    }
    found
}

fn lines(ranges: &[pb::Range]) -> Value {
    let line = |position: &Option<pb::Position>| position.as_ref().map_or(0, |at| at.line);
    ranges
        .iter()
        .map(|range| json!([line(&range.start), line(&range.end)]))
        .collect()
}

pub fn warnings(expected: &Value, fake: &Fake, found: &mut Vec<String>) {
    let expected = expected.as_array().cloned().unwrap_or_default();
    let actual = fake.warnings.lock().expect("lock");
    let show = |vertex: &str, short: &str, detail: Value, url: &str, level: i64, ranges: Value| {
        json!([short, ranges, detail, url, level, vertex]).to_string()
    };
    let expected: Vec<String> = expected
        .iter()
        .map(|one| {
            let level = one["level"].as_i64().unwrap_or_default();
            let [vertex, short, url] = ["vertex", "short", "url"].map(|key| text(&one[key]));
            show(
                vertex,
                short,
                one["detail"].clone(),
                url,
                level,
                one["ranges"].clone(),
            )
        })
        .collect();
    let actual: Vec<String> = actual
        .iter()
        .map(|one| {
            let detail = json!(one.detail);
            show(
                &one.vertex,
                &one.short,
                detail,
                &one.url,
                one.level,
                lines(&one.ranges),
            )
        })
        .collect();
    let mut sorted = (expected.clone(), actual.clone());
    sorted.0.sort();
    sorted.1.sort();
    if sorted.0 != sorted.1 {
        found.push(format!(
            "warnings:\n    {}\n   expected\n    {}",
            actual.join("\n    "),
            expected.join("\n    ")
        ));
    } else if expected != actual {
        found.push(format!(
            "order of warnings: {actual:?}\n    expected {expected:?}"
        ));
    }
}

pub fn error(expected: &str, meta: &Value, failure: &Failure, found: &mut Vec<String>) {
    if failure.text() != expected.trim_end_matches('\n') {
        found.push(format!(
            "error:    {}\n    expected: {expected}",
            failure.text()
        ));
    }
    let sources = failure.details().iter().filter_map(|detail| match detail {
        Detail::Source { ranges, .. } => Some(lines(ranges)),
        _ => None,
    });
    // Innermost first, as the print.
    let mut sources: Vec<Value> = sources.collect();
    sources.reverse();
    let wanted = meta["error_source_ranges"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    if sources != wanted {
        found.push(format!("places: {sources:?}, expected {wanted:?}"));
    }
    let print = diagnostics::excerpts(failure).concat();
    let wanted = text(&meta["error_print"]);
    if print != wanted {
        found.push(format!("excerpt:\n{print}\n    expected:\n{wanted}"));
    }
}

pub fn forwards(llb: &Value, fake: &Fake, found: &mut Vec<String>) {
    let forwards = fake.forwards.lock().expect("lock");
    let actual: Vec<Value> = forwards
        .iter()
        .map(|one| json!({"frontend": one.frontend, "opts": one.options}))
        .collect();
    let expected = llb["forwards"].as_array().cloned().unwrap_or_default();
    if actual != expected {
        found.push(format!("forwards: {actual:?}, expected {expected:?}"));
    }
}

pub fn solves(llb: &Value, fake: &Fake, found: &mut Vec<String>) {
    let expected = llb["solves"].as_array().cloned().unwrap_or_default();
    let actual: Vec<Value> = fake
        .solves
        .lock()
        .expect("lock")
        .iter()
        .map(describe)
        .collect();
    if expected.len() != actual.len() {
        found.push(format!(
            "{} solves, expected {}",
            actual.len(),
            expected.len()
        ));
        return;
    }
    let mut expected: Vec<Value> = expected
        .iter()
        .map(|solve| normalize(solve.clone()))
        .collect();
    let mut actual: Vec<Value> = actual;
    if expected.len() > 3 {
        // Made concurrently; the vectors are sorted.
        expected.sort_by_key(last_bytes);
        actual.sort_by_key(last_bytes);
    }
    for (number, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
        compare_solve(number, actual, expected, found);
    }
}

fn last_bytes(solve: &Value) -> String {
    let ops = solve["ops"].as_array().cloned().unwrap_or_default();
    ops.last()
        .map_or(String::new(), |op| text(&op["bytes"]).to_owned())
}

fn compare_solve(number: usize, actual: &Value, expected: &Value, found: &mut Vec<String>) {
    let ops = |solve: &Value| solve["ops"].as_array().cloned().unwrap_or_default();
    let (ours, theirs) = (ops(actual), ops(expected));
    if ours.len() != theirs.len() {
        found.push(format!(
            "solve {number}: {} ops, expected {}",
            ours.len(),
            theirs.len()
        ));
    }
    let mut digests_follow = false;
    for (at, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        let where_ = format!("solve {number} op {at}");
        if ours["bytes"] != theirs["bytes"] {
            let (ours, theirs) = (decoded(&ours["bytes"]), decoded(&theirs["bytes"]));
            // Once one op differs, the digests in those behind it do too.
            let without = |op: &pb::Op| {
                let mut op = op.clone();
                op.inputs.iter_mut().for_each(|input| input.digest.clear());
                op
            };
            if !digests_follow || without(&ours) != without(&theirs) {
                found.push(format!("{where_}: {ours:?}\n    expected {theirs:?}"));
            }
            digests_follow = true;
        }
        for key in ["metadata", "locations"] {
            if ours[key] != theirs[key] {
                found.push(format!(
                    "{where_} {key}: {}\n    expected {}",
                    ours[key], theirs[key]
                ));
            }
        }
    }
    if actual["sources"] != expected["sources"] {
        found.push(format!(
            "solve {number} sources: {}\n    expected {}",
            actual["sources"], expected["sources"]
        ));
    }
}

fn decoded(bytes: &Value) -> pb::Op {
    let bytes = STANDARD.decode(text(bytes)).expect("base64");
    pb::Op::decode(bytes.as_slice()).expect("an op")
}

/// Takes away what is not compared.
fn normalize(mut solve: Value) -> Value {
    for op in solve["ops"].as_array_mut().into_iter().flatten() {
        let op = op.as_object_mut().expect("an op");
        op.retain(|key, _| matches!(key.as_str(), "bytes" | "metadata" | "locations"));
        sort_keys(op);
    }
    solve
}

fn sort_keys(map: &mut Map<String, Value>) {
    map.sort_keys();
    for value in map.values_mut() {
        if let Value::Object(inner) = value {
            sort_keys(inner);
        }
    }
}

fn describe(definition: &pb::Definition) -> Value {
    let mut groups: BTreeMap<String, String> = BTreeMap::new();
    let source = definition.source.clone().unwrap_or_default();
    let mut ops = Vec::new();
    for bytes in &definition.def {
        let digest = Digest::of(bytes);
        let mut op = Map::new();
        op.insert("bytes".to_owned(), STANDARD.encode(bytes).into());
        if let Some(found) = source.locations.get(digest.as_str())
            && !found.locations.is_empty()
        {
            let list = found.locations.iter().map(|location| {
                json!({"ranges": lines(&location.ranges), "source": location.source_index})
            });
            op.insert("locations".to_owned(), list.collect());
        }
        if let Some(metadata) = definition.metadata.get(digest.as_str()) {
            op.insert(
                "metadata".to_owned(),
                describe_metadata(metadata, &mut groups),
            );
        }
        sort_keys(&mut op);
        ops.push(Value::Object(op));
    }
    let mut solve = Map::new();
    solve.insert("ops".to_owned(), ops.into());
    if !source.infos.is_empty() {
        solve.insert(
            "sources".to_owned(),
            source.infos.iter().map(describe_source).collect(),
        );
    }
    Value::Object(solve)
}

fn describe_metadata(metadata: &pb::OpMetadata, groups: &mut BTreeMap<String, String>) -> Value {
    let mut map = Map::new();
    let name = metadata
        .description
        .get("llb.customname")
        .map_or("", String::as_str);
    let mut caps: Vec<&str> = metadata.caps.keys().collect();
    if name.contains("generating sbom using") {
        // Upstream forgets it there, as it marshals that graph without looking at capabilities.
        caps.retain(|cap| *cap != llb::caps::EXEC_META_SETS_DEFAULT_PATH);
    }
    if !caps.is_empty() {
        map.insert("caps".to_owned(), json!(caps));
    }
    if !metadata.description.is_empty() {
        let description: BTreeMap<&str, &String> = metadata.description.iter().collect();
        map.insert("description".to_owned(), json!(description));
    }
    if metadata.ignore_cache {
        map.insert("ignore_cache".to_owned(), true.into());
    }
    if let Some(group) = &metadata.progress_group {
        let next = format!("group-{}", groups.len() + 1);
        let id = groups.entry(group.id.clone()).or_insert(next);
        let group = json!({"id": id, "name": group.name, "weak": group.weak});
        map.insert("progress_group".to_owned(), group);
    }
    if let Some(limits) = &metadata.linux_resources {
        let mut list = Map::new();
        let mut add = |key: &str, value: Value| {
            let empty = value == json!("0") || value == json!("");
            if !empty {
                list.insert(key.to_owned(), value);
            }
        };
        add("memory", limits.memory.to_string().into());
        add("memorySwap", limits.memory_swap.to_string().into());
        add("cpuShares", limits.cpu_shares.to_string().into());
        add("cpuPeriod", limits.cpu_period.to_string().into());
        add("cpuQuota", limits.cpu_quota.to_string().into());
        add("cpusetCpus", limits.cpuset_cpus.clone().into());
        add("cpusetMems", limits.cpuset_mems.clone().into());
        map.insert("linux_resources".to_owned(), Value::Object(list));
    }
    Value::Object(map)
}

fn describe_source(info: &pb::SourceInfo) -> Value {
    let definition = info.definition.clone().unwrap_or_default();
    let head = definition.def.last().map(Digest::of);
    let digest = Digest::of(&info.data);
    json!({
        "data_sha256": digest.hex(),
        "definition_head": head.map(|digest| digest.to_string()),
        "definition_ops": definition.def.len(),
        "filename": info.filename,
        "language": info.language,
    })
}

/// Compact JSON in the order of the vector, escaped as Go does.
fn go_json(value: &Value) -> String {
    let mut escaped = String::new();
    for char in value.to_string().chars() {
        match char {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                escaped.push_str(&format!("\\u{:04x}", u32::from(char)));
            }
            other => escaped.push(other),
        }
    }
    escaped
}

pub fn configs(expected: Option<Value>, outcome: &Outcome, found: &mut Vec<String>) {
    let Some(expected) = expected else {
        return;
    };
    let keyed = outcome.platforms.is_empty();
    let expected: Vec<(String, Value)> = if keyed {
        vec![("containerimage.config".to_owned(), expected)]
    } else {
        let map = expected.as_object().cloned().unwrap_or_default();
        map.into_iter().collect()
    };
    for (key, value) in expected {
        let key = match key.starts_with("containerimage.config") {
            true => key,
            false => format!("containerimage.config/{key}"),
        };
        let actual = outcome.metadata.get(&key).cloned().unwrap_or_default();
        let (actual, expected) = (String::from_utf8_lossy(&actual), go_json(&value));
        if actual != expected {
            found.push(format!(
                "config {key}:\n    {actual}\n   expected\n    {expected}"
            ));
        }
    }
}

pub fn results(expected: Option<Value>, outcome: &Outcome, found: &mut Vec<String>) {
    let Some(expected) = expected else {
        return;
    };
    let mut metadata = Map::new();
    for (key, value) in &outcome.metadata {
        if key.starts_with("containerimage.config") {
            continue;
        }
        let text = String::from_utf8_lossy(value).into_owned();
        let wanted = &expected["metadata"][key];
        let parsed = if wanted.is_string() {
            None
        } else {
            serde_json::from_str(&text).ok()
        };
        metadata.insert(key.clone(), parsed.unwrap_or(Value::String(text)));
    }
    let wanted = expected["metadata"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    for key in wanted.keys().chain(metadata.keys()) {
        let (ours, theirs) = (metadata.get(key), wanted.get(key));
        let bytes = |value: Option<&Value>| value.map(go_json);
        if bytes(ours) != bytes(theirs) {
            found.push(format!(
                "metadata {key}:\n    {ours:?}\n   expected\n    {theirs:?}"
            ));
        }
    }
    let refs: Vec<&String> = outcome.platforms.keys().collect();
    if json!(refs) != expected["refs"] {
        found.push(format!("refs: {refs:?}, expected {}", expected["refs"]));
    }
    let single = matches!(outcome.single, Some(Some(_)));
    if json!(single) != expected["single_ref"] {
        found.push(format!(
            "single ref: {single}, expected {}",
            expected["single_ref"]
        ));
    }
    let attestations: BTreeMap<&String, Vec<Value>> = outcome
        .attestations
        .iter()
        .map(|(platform, list)| {
            let list = list.iter().map(|one| {
                let metadata = one.metadata.iter();
                let metadata: BTreeMap<&String, String> = metadata
                    .map(|(key, value)| (key, String::from_utf8_lossy(value).into_owned()))
                    .collect();
                json!({
                    "kind": format!("{:?}", one.kind),
                    "metadata": metadata,
                    "predicate_type": one.predicate_type,
                })
            });
            (platform, list.collect())
        })
        .collect();
    let wanted = expected
        .get("attestations")
        .cloned()
        .unwrap_or_else(|| json!({}));
    if json!(attestations) != wanted {
        found.push(format!("attestations: {attestations:?}, expected {wanted}"));
    }
}
