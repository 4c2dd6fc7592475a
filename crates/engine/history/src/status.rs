//! Progress events as the messages of the Status stream, live and on record.

use std::time::SystemTime;

use bytes::Bytes;
use progress::{Event, Stream};
use prost::Message as _;
use prost_types::Timestamp;
use proto::control::{StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning};
use proto::pb;

/// No message is much longer. Compat: clients take 16 MB at most.
const MAX_BYTES: usize = 1 << 20;

/// Puts a batch of events into as many messages as it takes. Vertices stand before what refers to them.
pub fn responses(events: &[Event]) -> Vec<StatusResponse> {
    let mut responses = vec![StatusResponse::default()];
    let mut bytes = 0;
    let kinds: [fn(&Event) -> bool; 3] = [
        |event| matches!(event, Event::Vertex(_)),
        |event| matches!(event, Event::Status(_)),
        |event| matches!(event, Event::Log(_) | Event::Warning(_)),
    ];
    for event in kinds
        .iter()
        .flat_map(|is_next| events.iter().filter(|event| is_next(event)))
    {
        let size = size(event);
        if bytes > 0 && bytes + size > MAX_BYTES {
            responses.push(StatusResponse::default());
            bytes = 0;
        }
        bytes += size;
        let last = responses.len() - 1;
        match event {
            Event::Vertex(it) => responses[last].vertexes.push(vertex(it)),
            Event::Status(it) => responses[last].statuses.push(status(it)),
            Event::Warning(it) => responses[last].warnings.push(warning(it)),
            Event::Log(it) => responses[last].logs.push(log_message(it)),
        }
    }
    for response in &mut responses {
        sort(response);
    }
    responses
}

/// About what an event takes in a message. Each warning carries the whole file it is about.
fn size(event: &Event) -> usize {
    /// Times, numbers, and what tells fields apart.
    const FRAME: usize = 64;
    let texts = match event {
        Event::Log(log) => log.data.len(),
        Event::Warning(warning) => warning
            .source
            .as_ref()
            .map_or(0, |source| source.data.len() + source.definition.len()),
        Event::Vertex(vertex) => {
            let inputs: usize = vertex.inputs.iter().map(|input| input.len() + 2).sum();
            inputs + vertex.digest.len() + vertex.name.len() + vertex.error.len()
        }
        Event::Status(status) => status.id.len() + status.vertex.len() + status.name.len(),
    };
    FRAME + texts
}

fn sort(response: &mut StatusResponse) {
    let nanos = |time: &Option<Timestamp>| time.as_ref().map(|time| (time.seconds, time.nanos));
    response.vertexes.sort_by_key(|it| nanos(&it.started));
    response.statuses.sort_by_key(|it| nanos(&it.timestamp));
    response.logs.sort_by_key(|it| nanos(&it.timestamp));
}

fn time(time: Option<SystemTime>) -> Option<Timestamp> {
    time.map(Timestamp::from)
}

fn vertex(it: &progress::Vertex) -> Vertex {
    Vertex {
        digest: it.digest.clone(),
        inputs: it.inputs.clone(),
        name: it.name.clone(),
        cached: it.cached,
        started: time(it.started),
        completed: time(it.completed),
        error: it.error.clone(),
        progress_group: it.group.as_ref().map(|group| pb::ProgressGroup {
            id: group.id.clone(),
            name: group.name.clone(),
            weak: group.weak,
        }),
    }
}

fn status(it: &progress::Status) -> VertexStatus {
    VertexStatus {
        id: it.id.clone(),
        vertex: it.vertex.clone(),
        name: it.name.clone(),
        current: it.current,
        total: it.total,
        timestamp: time(it.timestamp),
        started: time(it.started),
        completed: time(it.completed),
    }
}

pub(crate) fn log_message(it: &progress::Log) -> VertexLog {
    VertexLog {
        vertex: it.vertex.clone(),
        timestamp: time(Some(it.timestamp)),
        stream: match it.stream {
            Stream::Stdout => 1,
            Stream::Stderr => 2,
        },
        msg: it.data.clone(),
    }
}

fn warning(it: &progress::Warning) -> VertexWarning {
    VertexWarning {
        vertex: it.vertex.clone(),
        level: it.level,
        short: Bytes::from(it.short.clone()),
        detail: it
            .detail
            .iter()
            .map(|line| Bytes::from(line.clone()))
            .collect(),
        url: it.url.clone(),
        info: it.source.as_ref().map(|source| pb::SourceInfo {
            filename: source.filename.clone(),
            data: source.data.clone(),
            // Written by whoever made the warning; bytes that are no definition are as good as none.
            definition: (!source.definition.is_empty())
                .then(|| pb::Definition::decode(source.definition.clone()).ok())
                .flatten(),
            language: source.language.clone(),
        }),
        ranges: it
            .source
            .iter()
            .flat_map(|source| source.ranges.iter().map(range))
            .collect(),
    }
}

fn range(&(start_line, start, end_line, end): &(i32, i32, i32, i32)) -> pb::Range {
    pb::Range {
        start: Some(pb::Position {
            line: start_line,
            character: start,
        }),
        end: Some(pb::Position {
            line: end_line,
            character: end,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(bytes: usize) -> Event {
        Event::Log(progress::Log {
            vertex: "v".into(),
            stream: Stream::Stdout,
            data: Bytes::from(vec![b'x'; bytes]),
            timestamp: SystemTime::UNIX_EPOCH,
            audience: progress::Audience::All,
        })
    }

    #[test]
    fn a_megabyte_of_logs_is_a_message() {
        let events = [
            log(700_000),
            log(700_000),
            Event::from(progress::Vertex::default()),
        ];
        let responses = responses(&events);
        assert_eq!(responses.len(), 2);
        assert_eq!(responses[0].vertexes.len(), 1);
        assert_eq!((responses[0].logs.len(), responses[1].logs.len()), (1, 1));
    }

    #[test]
    fn many_steps_are_told_in_several_messages_and_before_what_is_told_of_them() {
        let step = |number: usize| {
            Event::from(progress::Vertex {
                digest: format!("sha256:{number:064}"),
                inputs: vec![format!("sha256:{:064}", number + 1)],
                name: "a step".into(),
                ..progress::Vertex::default()
            })
        };
        let mut events: Vec<_> = (0..100_000).map(step).collect();
        events.insert(0, log(700_000));
        let responses = responses(&events);
        let sizes = responses.iter().map(|it| it.encoded_len());
        assert!(sizes.max().is_some_and(|largest| largest < 2 << 20));
        let steps: usize = responses.iter().map(|it| it.vertexes.len()).sum();
        assert_eq!(steps, 100_000);
        assert_eq!(responses.last().map(|it| it.logs.len()), Some(1));
    }

    #[test]
    fn warnings_about_a_large_file_do_not_share_a_message() {
        let source = progress::SourceExcerpt {
            data: Bytes::from(vec![b'x'; 700_000]),
            ..progress::SourceExcerpt::default()
        };
        let warning = Event::Warning(progress::Warning {
            source: Some(std::sync::Arc::new(source)),
            ..progress::Warning::default()
        });
        let responses = responses(&[warning.clone(), warning, log(1)]);
        let counts: Vec<_> = responses
            .iter()
            .map(|it| (it.warnings.len(), it.logs.len()))
            .collect();
        assert_eq!(counts, [(1, 0), (1, 1)]);
    }
}
