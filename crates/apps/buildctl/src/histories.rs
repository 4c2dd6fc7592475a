//! Builds on record: `debug histories`, `prune-histories`, `debug monitor`, `debug ctl`.

use std::cell::Cell;

use anyhow::{Context as _, Result, bail};
use proto::control::{
    BuildHistoryEvent, BuildHistoryRecord, BuildHistoryRequest, Descriptor,
    UpdateBuildHistoryRequest,
};

use crate::args::{CtlArgs, Global};
use crate::connection::connect;
use crate::table::align;
use crate::template::{Field, Template, Value};

const HEADER: [&str; 6] = [
    "TYPE",
    "REF",
    "CREATED",
    "COMPLETED",
    "GENERATION",
    "PINNED",
];

/// Lists builds on record.
pub(crate) async fn list(global: &Global, format: Option<&str>) -> Result<()> {
    let format = Format::parse(format)?;
    let events = all(global).await?.1;
    for event in &events {
        if let Some(line) = format.line(event)? {
            println!("{line}");
        }
    }
    if let Format::Table = format {
        print!("{}", table(&events, HEADER.len()));
    }
    Ok(())
}

/// Removes all builds on record that are not pinned.
pub(crate) async fn prune(global: &Global, format: Option<&str>) -> Result<()> {
    let format = Format::parse(format)?;
    let (connection, events) = all(global).await?;
    let mut removed = Vec::new();
    let mut failed = Vec::new();
    for event in events {
        let Some(record) = event.record.as_ref().filter(|record| !record.pinned) else {
            continue;
        };
        let request = UpdateBuildHistoryRequest {
            r#ref: record.r#ref.clone(),
            delete: true,
            ..UpdateBuildHistoryRequest::default()
        };
        if let Err(err) = connection.client.update_history(request).await {
            failed.push(err.to_string());
            continue;
        }
        match format.line(&event)? {
            Some(line) => println!("{line}"),
            None => removed.push(event),
        }
    }
    if let Format::Table = format {
        print!("{}", table(&removed, HEADER.len() - 1));
    }
    if !failed.is_empty() {
        bail!(failed.join("\n"));
    }
    Ok(())
}

/// How events are written.
enum Format {
    Table,
    Json,
    Template(Template),
}

impl Format {
    fn parse(text: Option<&str>) -> Result<Self> {
        Ok(match text {
            None | Some("") => Self::Table,
            // The messages as they are, with fields that templates do not know.
            Some("json" | "{{json .}}") => Self::Json,
            Some(text) => Self::Template(Template::parse(text)?),
        })
    }

    /// The line of an event; none in a table.
    fn line(&self, event: &BuildHistoryEvent) -> Result<Option<String>> {
        Ok(match self {
            Self::Table => None,
            Self::Json => Some(proto::gojson::to_string(event)),
            Self::Template(template) => Some(template.execute(&value(event))?),
        })
    }
}

/// An event as templates see it.
fn value(event: &BuildHistoryEvent) -> Value {
    let text = |text: &str| Value::Text(text.to_owned());
    let count = |count: i32| Value::Int(i64::from(count));
    let blob = |blob: &Option<Descriptor>| {
        blob.as_ref().map_or(Value::Nil, |blob| {
            Value::Record(vec![
                Field::new("MediaType", "media_type", text(&blob.media_type)),
                Field::new("Digest", "digest", text(&blob.digest)),
                Field::new("Size", "size", Value::Int(blob.size)),
            ])
        })
    };
    let time = |time: &Option<_>| time.as_ref().map_or(Value::Nil, |it| text(&seconds(it)));
    let record = event.record.as_ref().map_or(Value::Nil, |record| {
        let error = record.error.as_ref().map_or(Value::Nil, |error| {
            Value::Record(vec![
                Field::new("Code", "code", count(error.code)),
                Field::new("Message", "message", text(&error.message)),
            ])
        });
        Value::Record(vec![
            Field::new("Ref", "Ref", text(&record.r#ref)),
            Field::new("Frontend", "Frontend", text(&record.frontend)),
            Field::new("Error", "error", error),
            Field::new("CreatedAt", "CreatedAt", time(&record.created_at)),
            Field::new("CompletedAt", "CompletedAt", time(&record.completed_at)),
            Field::new("Logs", "logs", blob(&record.logs)),
            Field::new("Generation", "Generation", count(record.generation)),
            Field::new("Trace", "trace", blob(&record.trace)),
            Field::new("Pinned", "pinned", Value::Bool(record.pinned)),
            Field::new(
                "NumCachedSteps",
                "numCachedSteps",
                count(record.num_cached_steps),
            ),
            Field::new(
                "NumTotalSteps",
                "numTotalSteps",
                count(record.num_total_steps),
            ),
            Field::new(
                "NumCompletedSteps",
                "numCompletedSteps",
                count(record.num_completed_steps),
            ),
            Field::new(
                "ExternalError",
                "externalError",
                blob(&record.external_error),
            ),
            Field::new("NumWarnings", "numWarnings", count(record.num_warnings)),
        ])
    });
    Value::Record(vec![
        Field::new("Type", "type", text(event.r#type().as_str_name())),
        Field::new("Record", "record", record),
    ])
}

async fn all(global: &Global) -> Result<(crate::connection::Connection, Vec<BuildHistoryEvent>)> {
    let connection = connect(global).await?;
    let mut events = Vec::new();
    let request = BuildHistoryRequest {
        early_exit: true,
        ..BuildHistoryRequest::default()
    };
    let take = |event| {
        events.push(event);
        true
    };
    connection.client.histories(request, take).await?;
    Ok((connection, events))
}

/// The first `columns` of the list.
fn table(events: &[BuildHistoryEvent], columns: usize) -> String {
    let header: Vec<String> = HEADER.map(str::to_owned).into();
    let lines: Vec<Vec<String>> = std::iter::once(header)
        .chain(events.iter().map(row))
        .map(|mut cells| {
            cells.truncate(columns);
            cells
        })
        .collect();
    align(&lines)
}

fn row(event: &BuildHistoryEvent) -> Vec<String> {
    let none = BuildHistoryRecord::default();
    let record = event.record.as_ref().unwrap_or(&none);
    let time = |time: &Option<_>| time.as_ref().map_or_else(String::new, seconds);
    vec![
        event.r#type().as_str_name().to_owned(),
        record.r#ref.clone(),
        time(&record.created_at),
        time(&record.completed_at),
        record.generation.to_string(),
        if record.pinned { "*" } else { "" }.to_owned(),
    ]
}

/// A time without parts of a second.
fn seconds(time: &impl ToString) -> String {
    let text = time.to_string();
    match text.split_once('.') {
        Some((whole, _)) => format!("{whole}Z"),
        None => text,
    }
}

/// Shows what happens to builds, for ever.
pub(crate) async fn monitor(global: &Global, completed: bool, name: &str) -> Result<()> {
    let connection = connect(global).await?;
    let request = BuildHistoryRequest {
        active_only: !completed,
        r#ref: name.to_owned(),
        ..BuildHistoryRequest::default()
    };
    let take = |event: BuildHistoryEvent| {
        print!("{}", description(&event));
        true
    };
    connection.client.histories(request, take).await?;
    // Compat: that nothing more comes counts as a failure.
    bail!("EOF")
}

fn description(event: &BuildHistoryEvent) -> String {
    let none = BuildHistoryRecord::default();
    let record = event.record.as_ref().unwrap_or(&none);
    let kind = event.r#type().as_str_name();
    let mut text = format!("event: {kind} ref:{}\n", record.r#ref);
    if record.num_total_steps != 0 {
        let (cached, total) = (record.num_cached_steps, record.num_total_steps);
        text.push_str(&format!("  cache: {cached}/{total}\n"));
    }
    if record.num_warnings != 0 {
        text.push_str(&format!("  warnings: {}\n", record.num_warnings));
    }
    let mut put = |what: &str, blob: &Descriptor| {
        text.push_str(&format!("  {what}: {}\n", words(blob)));
    };
    for (what, blob) in [("logs", &record.logs), ("trace", &record.trace)] {
        if let Some(blob) = blob {
            put(what, blob);
        }
    }
    let single = record.result.iter().map(|info| (String::new(), info));
    let platforms = record
        .results
        .iter()
        .map(|(platform, info)| (format!("[{platform}] "), info));
    for (prefix, info) in single.chain(platforms) {
        if info.results.is_empty()
            && let Some(blob) = &info.result_deprecated
        {
            put(&format!("{prefix}descriptor"), blob);
        }
        for blob in info.results.values() {
            put(&format!("{prefix}descriptor"), blob);
        }
        for blob in &info.attestations {
            put(&format!("{prefix}attestation"), blob);
        }
    }
    text
}

/// A descriptor as messages are written for people.
fn words(blob: &Descriptor) -> String {
    let mut text = format!(
        "media_type:{:?} digest:{:?} size:{}",
        blob.media_type, blob.digest, blob.size
    );
    for (key, value) in &blob.annotations {
        text.push_str(&format!(" annotations:{{key:{key:?} value:{value:?}}}"));
    }
    text
}

/// Pins, unpins or removes a record.
pub(crate) async fn ctl(global: &Global, args: &CtlArgs) -> Result<()> {
    let name = args.build.as_ref().context("build ref must be specified")?;
    let CtlArgs {
        pin, unpin, delete, ..
    } = *args;
    if !pin && !unpin && !delete {
        bail!("must specify one of --pin, --unpin, --delete");
    }
    if pin && unpin {
        bail!("cannot specify both --pin and --unpin");
    }
    if delete && (pin || unpin) {
        bail!("cannot specify --delete with --pin or --unpin");
    }
    let connection = connect(global).await?;
    let request = UpdateBuildHistoryRequest {
        r#ref: name.clone(),
        pinned: pin,
        delete,
        ..UpdateBuildHistoryRequest::default()
    };
    Ok(connection.client.update_history(request).await?)
}

/// The record of a build that has ended, or the one that goes on.
pub(crate) async fn find(client: &client::Client, name: &str) -> Result<BuildHistoryRecord> {
    let found = Cell::new(None);
    let request = BuildHistoryRequest {
        r#ref: name.to_owned(),
        early_exit: true,
        ..BuildHistoryRequest::default()
    };
    let take = |event: BuildHistoryEvent| {
        found.set(event.record);
        true
    };
    client.histories(request, take).await?;
    found
        .into_inner()
        .with_context(|| format!("ref {name} not found"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_types::Timestamp;
    use proto::control::BuildHistoryEventType;

    fn event() -> BuildHistoryEvent {
        BuildHistoryEvent {
            r#type: BuildHistoryEventType::Complete.into(),
            record: Some(BuildHistoryRecord {
                r#ref: "abc".into(),
                created_at: Some(Timestamp {
                    seconds: 0,
                    nanos: 500_000_000,
                }),
                pinned: true,
                num_total_steps: 3,
                num_cached_steps: 1,
                logs: Some(Descriptor {
                    media_type: "m".into(),
                    digest: "sha256:d".into(),
                    size: 4,
                    ..Descriptor::default()
                }),
                ..BuildHistoryRecord::default()
            }),
        }
    }

    #[test]
    fn records_are_listed() {
        assert_eq!(
            table(&[event()], 6),
            "TYPE\t\tREF\tCREATED\t\t\tCOMPLETED\tGENERATION\tPINNED\n\
             COMPLETE\tabc\t1970-01-01T00:00:00Z\t\t\t0\t\t*\n"
        );
    }

    #[test]
    fn templates_see_the_fields_of_records() {
        let line = |format: &str| {
            let format = Format::parse(Some(format)).expect("a template");
            format.line(&event()).expect("made").expect("a line")
        };
        let text = "{{.Type}} {{.Record.Ref}} {{.Record.NumTotalSteps}} {{.Record.Logs.Size}}";
        assert_eq!(line(text), "COMPLETE abc 3 4");
        assert!(line("json").starts_with("{\"type\":1,\"record\":{\"Ref\":\"abc\""));
    }

    #[test]
    fn events_are_described() {
        let expected = "event: COMPLETE ref:abc\n  cache: 1/3\n  \
                        logs: media_type:\"m\" digest:\"sha256:d\" size:4\n";
        assert_eq!(description(&event()), expected);
    }
}
