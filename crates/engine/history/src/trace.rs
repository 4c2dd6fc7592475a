//! What a build spent its time on, as spans: one for the build, one for each time a step worked.
//!
//! Compat: JSON objects one after another, each as Go's tracing library prints a span for tests, which is what tools
//! that show histories read.

use std::time::SystemTime;

use progress::Event;
use serde::Serialize;

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
    let mut text = Vec::new();
    for span in &spans {
        // Texts in memory can be written, and all keys are texts.
        let _ = serde_json::to_writer_pretty(&mut text, &span.printed(&trace));
        text.push(b'\n');
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Printed<'a> {
    name: &'a str,
    span_context: Context<'a>,
    parent: Context<'a>,
    span_kind: u8,
    start_time: String,
    end_time: String,
    attributes: Vec<Attribute<'a>>,
    events: (),
    links: (),
    status: Status<'a>,
    dropped_attributes: u8,
    dropped_events: u8,
    dropped_links: u8,
    child_span_count: u8,
    resource: [Attribute<'a>; 1],
    instrumentation_scope: Instrumentation,
    instrumentation_library: Instrumentation,
}

#[derive(Serialize)]
struct Context<'a> {
    #[serde(rename = "TraceID")]
    trace: &'a str,
    #[serde(rename = "SpanID")]
    span: &'a str,
    #[serde(rename = "TraceFlags")]
    flags: &'a str,
    #[serde(rename = "TraceState")]
    state: &'a str,
    #[serde(rename = "Remote")]
    remote: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Attribute<'a> {
    key: &'a str,
    value: Text<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Text<'a> {
    r#type: &'a str,
    value: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Status<'a> {
    code: u8,
    description: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Instrumentation {
    name: &'static str,
    version: &'static str,
    #[serde(rename = "SchemaURL")]
    schema: &'static str,
    attributes: Nothing,
}

/// An empty object.
#[derive(Serialize)]
struct Nothing {}

impl Span<'_> {
    fn printed<'a>(&'a self, trace: &'a str) -> Printed<'a> {
        let context = |span: &'a str, trace: &'a str, flags: &'a str| Context {
            trace,
            span,
            flags,
            state: "",
            remote: false,
        };
        let scope = || Instrumentation {
            name: "kiln",
            version: "",
            schema: "",
            attributes: Nothing {},
        };
        Printed {
            name: self.name,
            span_context: context(&self.id, trace, "01"),
            parent: match self.parent {
                Some(parent) => context(parent, trace, "01"),
                None => context(NO_SPAN, NO_TRACE, "00"),
            },
            span_kind: if self.parent.is_some() { 1 } else { 2 },
            start_time: rfc3339(self.started),
            end_time: rfc3339(self.completed),
            attributes: self.attributes.iter().map(attribute).collect(),
            events: (),
            links: (),
            status: Status {
                code: u8::from(!self.error.is_empty()),
                description: self.error,
            },
            dropped_attributes: 0,
            dropped_events: 0,
            dropped_links: 0,
            child_span_count: 0,
            resource: [attribute(&("service.name", "buildkitd"))],
            instrumentation_scope: scope(),
            instrumentation_library: scope(),
        }
    }
}

/// Stand for what is not there.
const NO_SPAN: &str = "0000000000000000";
const NO_TRACE: &str = "00000000000000000000000000000000";

fn attribute<'a>(&(key, value): &(&'a str, &'a str)) -> Attribute<'a> {
    Attribute {
        key,
        value: Text {
            r#type: "STRING",
            value,
        },
    }
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

    use serde_json::Value;

    use super::*;

    #[test]
    fn every_time_a_step_worked_is_a_span_of_the_build() {
        let at = |second| SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        let vertex = |completed: Option<SystemTime>| {
            Event::from(progress::Vertex {
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
        let begin = "{\n  \"Name\": \"RUN x\",\n  \"SpanContext\": {\n    \"TraceID\": \"";
        assert!(text.starts_with(begin), "{text}");
        let empty = "\n    \"SchemaURL\": \"\",\n    \"Attributes\": {}\n  },\n";
        assert!(text.contains(empty), "{text}");
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
