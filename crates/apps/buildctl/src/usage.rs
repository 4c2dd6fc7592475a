//! `buildctl du` and `buildctl prune`.

use std::time::Duration;

use anyhow::{Result, bail};
use client::{PruneRequest, UsageRecord};
use serde_json::{Value, json};

use crate::args::{DuArgs, Global, PruneArgs};
use crate::connection::connect;
use crate::table::align;

/// Shows what the daemon keeps.
pub(crate) async fn du(global: &Global, args: &DuArgs) -> Result<()> {
    let as_json = wants_json(args.format.as_deref())?;
    let connection = connect(global).await?;
    let records = connection.client.disk_usage(args.filter.clone()).await?;
    if as_json {
        println!("{}", Value::from_iter(records.iter().map(object)));
        return Ok(());
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
    let as_json = wants_json(args.format.as_deref())?;
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
    let show = |record: UsageRecord| {
        total += record.size;
        if as_json {
            println!("{}", object(&record));
        } else if args.verbose {
            print!("{}", verbose(&record));
        } else if std::mem::take(&mut first) {
            print!("{}", align(&[header(), row(&record)]));
        } else {
            print!("{}", align(&[row(&record)]));
        }
    };
    connection.client.prune(request, show).await?;
    if !as_json {
        print!("{}", align(&[["Total:".to_owned(), bytes(total)]]));
    }
    Ok(())
}

fn wants_json(format: Option<&str>) -> Result<bool> {
    match format {
        None | Some("") => Ok(false),
        Some("json" | "{{json .}}") => Ok(true),
        Some(other) => bail!("unimplemented: format {other:?}, use json"),
    }
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
    let text = stamp.to_string();
    text.trim_end_matches('Z').replacen('T', " ", 1) + " +0000 UTC"
}

fn object(record: &UsageRecord) -> Value {
    json!({
        "id": record.id,
        "mutable": record.mutable,
        "inUse": record.in_use,
        "size": record.size,
        "createdAt": record.created_at.as_ref().map(ToString::to_string),
        "lastUsedAt": record.last_used_at.as_ref().map(ToString::to_string),
        "usageCount": record.usage_count,
        "parents": (!record.parents.is_empty()).then_some(&record.parents),
        "description": record.description,
        "recordType": record.record_type,
        "shared": record.shared,
    })
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
