//! What a build spent its time on, as spans: one for the build, one for each time a step worked.
//!
//! Compat: JSON objects one after another, each as Go's tracing library prints a span for tests, which is what tools
//! that show histories read.

use std::time::SystemTime;

use progress::Event;
use serde_json::{Value, json};

/// What the spans are on the wire.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.buildkit.otlp.json.v0";

/// A span of work.
struct Span<'a> {
    id: String,
    parent: Option<&'a str>,
    name: &'a str,
    started: SystemTime,
    completed: SystemTime,
    attributes: Vec<(&'a str, &'a str)>,
    error: &'a str,
}

/// The document for a build.
pub(crate) fn document(
    build: &str,
    started: SystemTime,
    completed: SystemTime,
    error: &str,
    events: &[Event],
) -> String {
    let trace = random(16);
    let root = random(8);
    let mut spans = Vec::new();
    for event in events {
        if let Event::Vertex(vertex) = event
            && let (Some(begun), Some(ended)) = (vertex.started, vertex.completed)
        {
            let mut attributes = vec![("vertex", vertex.digest.as_str())];
            if vertex.cached {
                attributes.push(("cached", "true"));
            }
            spans.push(Span {
                id: random(8),
                parent: Some(&root),
                name: &vertex.name,
                started: begun,
                completed: ended,
                attributes,
                error: &vertex.error,
            });
        }
    }
    spans.sort_by_key(|span| span.started);
    spans.push(Span {
        id: root.clone(),
        parent: None,
        name: "moby.buildkit.v1.Control/Solve",
        started,
        completed,
        attributes: vec![("ref", build)],
        error,
    });
    let mut text = String::new();
    for span in &spans {
        text.push_str(&print(span, &trace));
        text.push('\n');
    }
    text
}

fn print(span: &Span<'_>, trace: &str) -> String {
    let context = |id: &str, trace: &str, flags: &str| {
        json!({
            "TraceID": trace,
            "SpanID": id,
            "TraceFlags": flags,
            "TraceState": "",
            "Remote": false,
        })
    };
    let parent = match span.parent {
        Some(parent) => context(parent, trace, "01"),
        None => context(&"0".repeat(16), &"0".repeat(32), "00"),
    };
    let failed = u8::from(!span.error.is_empty());
    let scope = json!({
        "Name": "kiln",
        "Version": "",
        "SchemaURL": "",
        "Attributes": {},
    });
    let object = json!({
        "Name": span.name,
        "SpanContext": context(&span.id, trace, "01"),
        "Parent": parent,
        "SpanKind": if span.parent.is_some() { 1 } else { 2 },
        "StartTime": rfc3339(span.started),
        "EndTime": rfc3339(span.completed),
        "Attributes": attributes(&span.attributes),
        "Events": null,
        "Links": null,
        "Status": { "Code": failed, "Description": span.error },
        "DroppedAttributes": 0,
        "DroppedEvents": 0,
        "DroppedLinks": 0,
        "ChildSpanCount": 0,
        "Resource": attributes(&[("service.name", "buildkitd")]),
        "InstrumentationScope": scope,
        "InstrumentationLibrary": scope,
    });
    format!("{object:#}")
}

fn attributes(pairs: &[(&str, &str)]) -> Value {
    pairs
        .iter()
        .map(|(key, value)| json!({ "Key": key, "Value": { "Type": "STRING", "Value": value } }))
        .collect()
}

fn rfc3339(time: SystemTime) -> String {
    prost_types::Timestamp::from(time).to_string()
}

/// So many random bytes as hexadecimal digits.
fn random(bytes: usize) -> String {
    let number: u128 = rand::random();
    let text = format!("{number:032x}");
    text[..bytes * 2].to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_time_a_step_worked_is_a_span_of_the_build() {
        let at = |second| SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        let vertex = |completed: Option<SystemTime>| {
            Event::Vertex(progress::Vertex {
                digest: "sha256:a".to_owned(),
                name: "RUN x".to_owned(),
                started: Some(at(1)),
                completed,
                error: "exit code: 1".to_owned(),
                ..progress::Vertex::default()
            })
        };
        let events = [vertex(None), vertex(Some(at(2)))];
        let text = document("b", at(0), at(3), "", &events);
        let spans: Vec<Value> = serde_json::Deserializer::from_str(&text)
            .into_iter()
            .map(|span| span.expect("JSON"))
            .collect();
        assert_eq!(spans.len(), 2);
        assert_eq!(spans[0]["Name"], "RUN x");
        assert_eq!(spans[0]["StartTime"], "1970-01-01T00:00:01Z");
        assert_eq!(spans[0]["Status"]["Code"], 1);
        assert_eq!(
            spans[0]["Parent"]["SpanID"],
            spans[1]["SpanContext"]["SpanID"]
        );
    }
}
