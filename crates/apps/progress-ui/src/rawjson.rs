//! Progress messages as JSON, one object a line. Compat: the shape of upstream's rawjson.

use prost_types::Timestamp;
use proto::control::{StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning};
use proto::gojson;
use serde_json::{Map, Value};

/// A message as one JSON object.
pub fn rawjson(message: &StatusResponse) -> String {
    let mut object = Map::new();
    put_list(&mut object, "vertexes", message.vertexes.iter().map(vertex));
    put_list(&mut object, "statuses", message.statuses.iter().map(status));
    put_list(&mut object, "logs", message.logs.iter().map(log));
    put_list(
        &mut object,
        "warnings",
        message.warnings.iter().map(warning),
    );
    Value::Object(object).to_string()
}

fn put_list(object: &mut Map<String, Value>, key: &str, values: impl Iterator<Item = Value>) {
    let values: Vec<Value> = values.collect();
    if !values.is_empty() {
        object.insert(key.to_owned(), Value::Array(values));
    }
}

fn put_text(object: &mut Map<String, Value>, key: &str, text: &str) {
    if !text.is_empty() {
        object.insert(key.to_owned(), text.into());
    }
}

fn put_time(object: &mut Map<String, Value>, key: &str, time: Option<&Timestamp>) {
    if let Some(time) = time {
        object.insert(key.to_owned(), rfc3339(time).into());
    }
}

/// UTC with nanoseconds, trailing zeros of the fraction cut.
fn rfc3339(time: &Timestamp) -> String {
    let text = time.to_string();
    match text.strip_suffix('Z').and_then(|text| text.split_once('.')) {
        Some((whole, fraction)) => match fraction.trim_end_matches('0') {
            "" => format!("{whole}Z"),
            fraction => format!("{whole}.{fraction}Z"),
        },
        None => text,
    }
}

fn go<M: prost::Message + prost::Name>(message: &M) -> Value {
    serde_json::from_str(&gojson::to_string(message)).unwrap_or(Value::Null)
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn vertex(it: &Vertex) -> Value {
    let mut object = Map::new();
    put_text(&mut object, "digest", &it.digest);
    put_list(
        &mut object,
        "inputs",
        it.inputs.iter().map(|input| input.as_str().into()),
    );
    put_text(&mut object, "name", &it.name);
    put_time(&mut object, "started", it.started.as_ref());
    put_time(&mut object, "completed", it.completed.as_ref());
    if it.cached {
        object.insert("cached".to_owned(), true.into());
    }
    put_text(&mut object, "error", &it.error);
    if let Some(group) = &it.progress_group {
        object.insert("progressGroup".to_owned(), go(group));
    }
    Value::Object(object)
}

fn status(it: &VertexStatus) -> Value {
    let mut object = Map::new();
    object.insert("id".to_owned(), it.id.as_str().into());
    put_text(&mut object, "vertex", &it.vertex);
    put_text(&mut object, "name", &it.name);
    if it.total != 0 {
        object.insert("total".to_owned(), it.total.into());
    }
    object.insert("current".to_owned(), it.current.into());
    put_time(&mut object, "timestamp", it.timestamp.as_ref());
    put_time(&mut object, "started", it.started.as_ref());
    put_time(&mut object, "completed", it.completed.as_ref());
    Value::Object(object)
}

fn log(it: &VertexLog) -> Value {
    let mut object = Map::new();
    put_text(&mut object, "vertex", &it.vertex);
    if it.stream != 0 {
        object.insert("stream".to_owned(), it.stream.into());
    }
    object.insert("data".to_owned(), base64(&it.msg).into());
    put_time(&mut object, "timestamp", it.timestamp.as_ref());
    Value::Object(object)
}

fn warning(it: &VertexWarning) -> Value {
    let mut object = Map::new();
    put_text(&mut object, "vertex", &it.vertex);
    if it.level != 0 {
        object.insert("level".to_owned(), it.level.into());
    }
    if !it.short.is_empty() {
        object.insert("short".to_owned(), base64(&it.short).into());
    }
    put_list(
        &mut object,
        "detail",
        it.detail.iter().map(|line| base64(line).into()),
    );
    put_text(&mut object, "url", &it.url);
    if let Some(info) = &it.info {
        object.insert("sourceInfo".to_owned(), go(info));
    }
    put_list(&mut object, "range", it.ranges.iter().map(go));
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn empty_fields_are_left_out() {
        let message = StatusResponse {
            vertexes: vec![Vertex {
                digest: "sha256:a".into(),
                name: "n".into(),
                started: Some(Timestamp {
                    seconds: 0,
                    nanos: 500_000_000,
                }),
                ..Vertex::default()
            }],
            logs: vec![VertexLog {
                vertex: "sha256:a".into(),
                stream: 1,
                msg: "hi".into(),
                ..VertexLog::default()
            }],
            ..StatusResponse::default()
        };
        let expected = json!({
            "vertexes": [{"digest": "sha256:a", "name": "n", "started": "1970-01-01T00:00:00.5Z"}],
            "logs": [{"vertex": "sha256:a", "stream": 1, "data": "aGk="}],
        });
        assert_eq!(rawjson(&message), expected.to_string());
    }
}
