//! `buildctl du` and `buildctl prune`.

use std::time::Duration;

use crate::args::{DuArgs, Global, PruneArgs};
use crate::connection::connect;
use crate::table::align;
use crate::template::{Field, Template, Value};
use anyhow::{Context as _, Result};
use client::{PruneRequest, UsageRecord};

/// Shows what the daemon keeps.
pub(crate) async fn du(global: &Global, args: &DuArgs) -> Result<()> {
    let format = Format::parse(args.format.as_deref())?;
    let connection = connect(global).await?;
    let records = connection.client.disk_usage(args.filter.clone()).await;
    let records = records.context("failed to call diskusage")?;
    match &format {
        Format::Standard => {}
        Format::Template(template) => {
            let list = Value::List(records.iter().map(value).collect());
            println!("{}", template.execute(&list)?);
            return Ok(());
        }
        Format::Rows(template) => {
            let headings = value(&UsageRecord::default()).headings();
            let rows = std::iter::once(headings).chain(records.iter().map(value));
            let lines = rows.map(|row| cells(template, &row));
            print!("{}", align(&lines.collect::<Result<Vec<_>>>()?));
            return Ok(());
        }
    }
    if args.verbose {
        print!("{}", records.iter().map(verbose).collect::<String>());
    } else {
        let lines: Vec<_> = std::iter::once(header())
            .chain(records.iter().map(row))
            .collect();
        print!("{}", align(&lines));
    }
    if args.filter.is_empty() {
        print!("{}", summary(&records));
    }
    Ok(())
}

/// Has the daemon remove what nobody uses.
pub(crate) async fn prune(global: &Global, args: &PruneArgs) -> Result<()> {
    let format = Format::parse(args.format.as_deref())?;
    let connection = connect(global).await?;
    let request = PruneRequest {
        filter: args.filter.clone(),
        all: args.all,
        keep_duration: i64::try_from(args.keep_duration.as_nanos()).unwrap_or(i64::MAX),
        reserved_space: megabytes(args.keep_storage_min),
        max_used_space: megabytes(args.keep_storage),
        min_free_space: megabytes(args.free_storage),
    };
    let mut total = 0;
    let mut first = true;
    let mut failed = None;
    let show = |record: UsageRecord| {
        total += record.size;
        match &format {
            Format::Standard if args.verbose => print!("{}", verbose(&record)),
            Format::Standard if std::mem::take(&mut first) => {
                print!("{}", align(&[header(), row(&record)]));
            }
            Format::Standard => print!("{}", align(&[row(&record)])),
            Format::Template(template) | Format::Rows(template) => {
                match template.execute(&value(&record)) {
                    Ok(text) => println!("{text}"),
                    Err(err) => failed = failed.take().or(Some(err)),
                }
            }
        }
    };
    connection.client.prune(request, show).await?;
    if let Some(err) = failed {
        return Err(err);
    }
    if matches!(format, Format::Standard) {
        print!("{}", align(&[["Total:".to_owned(), bytes(total)]]));
    }
    Ok(())
}

/// How records are shown.
enum Format {
    /// As a table, or at length.
    Standard,
    /// By a template for all of them.
    Template(Template),
    /// By a template for each, in columns under the names of the fields.
    Rows(Template),
}

impl Format {
    fn parse(text: Option<&str>) -> Result<Self> {
        Ok(match text.map(str::trim) {
            None | Some("" | "table") => Self::Standard,
            Some(text) => match text.strip_prefix("table ") {
                Some(row) => Self::Rows(Template::parse(&row.replace("\\t", "\t"))?),
                None => Self::Template(Template::parse(text)?),
            },
        })
    }
}

fn cells(template: &Template, row: &Value) -> Result<Vec<String>> {
    let text = template.execute(row)?;
    Ok(text.split('\t').map(str::to_owned).collect())
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "saturates, and nobody has so many bytes"
)]
fn megabytes(count: f64) -> i64 {
    (count * 1e6) as i64
}

/// A span of time as Go writes it: `1h30m`, `2.5s`, `100ms`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("invalid duration {text:?}");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest
            .find(|it: char| !it.is_ascii_digit() && it != '.')
            .ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(end);
        let end = tail
            .find(|it: char| it.is_ascii_digit() || it == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let factor = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        seconds += number.parse::<f64>().map_err(|_| wrong())? * factor;
        rest = tail;
    }
    if text.is_empty() {
        return Err(wrong());
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

/// A number of bytes with a decimal unit.
fn bytes(count: i64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "shown with two digits")]
    let mut value = count as f64;
    let mut unit = "B";
    for next in ["kB", "MB", "GB", "TB", "PB", "EB"] {
        if value.abs() < 1000.0 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    if unit == "B" {
        return format!("{count}B");
    }
    format!("{value:.2}{unit}")
}

fn header() -> [String; 4] {
    ["ID", "RECLAIMABLE", "SIZE", "LAST ACCESSED"].map(str::to_owned)
}

/// Compat: the last column is empty, as upstream leaves it.
fn row(record: &UsageRecord) -> [String; 4] {
    let id = format!("{}{}", record.id, if record.mutable { "*" } else { "" });
    let size = format!(
        "{}{}",
        bytes(record.size),
        if record.shared { "*" } else { "" }
    );
    [
        format!("{id:<71}"),
        format!("{:<11}", !record.in_use),
        size,
        String::new(),
    ]
}

fn verbose(record: &UsageRecord) -> String {
    let mut lines: Vec<[String; 2]> = Vec::new();
    let mut put = |key: &str, value: String| lines.push([format!("{key}:"), value]);
    put("ID", record.id.clone());
    if !record.parents.is_empty() {
        put("Parents", record.parents.join(";"));
    }
    put(
        "Created at",
        record.created_at.as_ref().map_or_else(String::new, time),
    );
    put("Mutable", record.mutable.to_string());
    put("Reclaimable", (!record.in_use).to_string());
    put("Shared", record.shared.to_string());
    put("Size", bytes(record.size));
    if !record.description.is_empty() {
        put("Description", record.description.clone());
    }
    put("Usage count", record.usage_count.to_string());
    if let Some(last) = &record.last_used_at {
        put("Last used", time(last));
    }
    if !record.record_type.is_empty() {
        put("Type", record.record_type.clone());
    }
    align(&lines) + "\n"
}

fn summary(records: &[UsageRecord]) -> String {
    let sum = |wanted: fn(&UsageRecord) -> bool| -> i64 {
        let sizes = records.iter().filter(|it| wanted(it)).map(|it| it.size);
        sizes.filter(|size| *size > 0).sum()
    };
    let total = sum(|_| true);
    let shared = sum(|it| it.shared);
    let mut lines = Vec::new();
    if shared > 0 {
        lines.push(["Shared:".to_owned(), bytes(shared)]);
        lines.push(["Private:".to_owned(), bytes(total - shared)]);
    }
    lines.push(["Reclaimable:".to_owned(), bytes(sum(|it| !it.in_use))]);
    lines.push(["Total:".to_owned(), bytes(total)]);
    align(&lines)
}

/// As `2006-01-02 15:04:05.123 +0000 UTC`.
fn time(stamp: &impl ToString) -> String {
    let text = json_time(stamp);
    text.trim_end_matches('Z').replacen('T', " ", 1) + " +0000 UTC"
}

/// As `2006-01-02T15:04:05.123Z`, without zeros at the end of the fraction.
fn json_time(stamp: &impl ToString) -> String {
    let text = stamp.to_string();
    let whole = text.trim_end_matches('Z');
    let short = match whole.split_once('.') {
        Some(_) => whole.trim_end_matches('0').trim_end_matches('.'),
        None => whole,
    };
    format!("{short}Z")
}

/// A record for templates.
fn value(record: &UsageRecord) -> Value {
    let text = |text: &str| Value::Text(text.to_owned());
    let parents: Vec<_> = record.parents.iter().map(|parent| text(parent)).collect();
    Value::Record(vec![
        Field::new("ID", "id", text(&record.id)),
        Field::new("Mutable", "mutable", Value::Bool(record.mutable)),
        Field::new("InUse", "inUse", Value::Bool(record.in_use)),
        Field::new("Size", "size", Value::Int(record.size)),
        Field::new(
            "CreatedAt",
            "createdAt",
            record.created_at.as_ref().map_or_else(
                // Compat: what is absent on the wire is 1970.
                || moment(&"1970-01-01T00:00:00Z"),
                moment,
            ),
        ),
        Field::new(
            "LastUsedAt",
            "lastUsedAt",
            record.last_used_at.as_ref().map_or(Value::Nil, moment),
        ),
        Field::new("UsageCount", "usageCount", Value::Int(record.usage_count)),
        Field::new("Parents", "parents", Value::List(parents)),
        Field::new("Description", "description", text(&record.description)),
        Field::new("RecordType", "recordType", text(&record.record_type)),
        Field::new("Shared", "shared", Value::Bool(record.shared)),
    ])
}

fn moment(stamp: &impl ToString) -> Value {
    Value::Time(json_time(stamp), time(stamp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_time_are_read() {
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("2.5s"), Ok(Duration::from_millis(2500)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        for wrong in ["", "5", "h", "1x", "1.2.3s", "-1s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn bytes_have_decimal_units() {
        assert_eq!(bytes(999), "999B");
        assert_eq!(bytes(1000), "1.00kB");
        assert_eq!(bytes(34_560_000), "34.56MB");
    }

    #[test]
    fn records_are_shown_by_templates() {
        let record = UsageRecord {
            id: "abc".into(),
            size: 7,
            parents: vec!["p".into()],
            record_type: "regular".into(),
            ..UsageRecord::default()
        };
        let of = |format: &str| match Format::parse(Some(format)).expect("valid") {
            Format::Template(template) => template.execute(&value(&record)).expect("made"),
            Format::Rows(template) => {
                let rows = [value(&record).headings(), value(&record)];
                let cells = rows.iter().map(|row| cells(&template, row).expect("made"));
                align(&cells.collect::<Vec<_>>())
            }
            Format::Standard => "standard".to_owned(),
        };
        assert_eq!(
            of("json"),
            "{\"id\":\"abc\",\"mutable\":false,\"inUse\":false,\"size\":7,\"createdAt\":\"1970-01-01T00:00:00Z\",\
             \"lastUsedAt\":null,\"usageCount\":0,\"parents\":[\"p\"],\"description\":\"\",\
             \"recordType\":\"regular\",\"shared\":false}"
        );
        assert_eq!(
            of("{{.ID}} {{.CreatedAt}}"),
            "abc 1970-01-01 00:00:00 +0000 UTC"
        );
        assert_eq!(
            of("table {{.ID}}\\t{{.RecordType}}"),
            "ID\tRECORD TYPE\nabc\tregular\n"
        );
        assert_eq!(of("table"), "standard");
    }

    #[test]
    fn times_end_where_they_are_exact() {
        assert_eq!(
            json_time(&"2026-11-21T02:03:04.120000000Z"),
            "2026-11-21T02:03:04.12Z"
        );
        assert_eq!(
            time(&"2026-11-21T02:03:04.000Z"),
            "2026-11-21 02:03:04 +0000 UTC"
        );
    }

    #[test]
    fn the_summary_tells_shared_from_private() {
        let record = |size, shared, in_use| UsageRecord {
            size,
            shared,
            in_use,
            ..UsageRecord::default()
        };
        assert_eq!(
            summary(&[record(10, true, false), record(5, false, true)]),
            "Shared:\t\t10B\nPrivate:\t5B\nReclaimable:\t10B\nTotal:\t\t15B\n"
        );
    }
}
