//! `buildctl debug workers` and `buildctl debug info`: what the daemon is and what it can do.

use anyhow::{Context as _, Result};
use proto::pb::Platform;
use proto::types::{BuildkitVersion, CdiDevice, GcPolicy, WorkerRecord};

use crate::args::Global;
use crate::connection::connect;
use crate::table::align;
use crate::template::{Field, Template, Value};

/// Lists the workers that all filters match.
pub(crate) async fn list(
    global: &Global,
    filters: &[String],
    verbose: bool,
    format: Option<&str>,
) -> Result<()> {
    let template = template(format)?;
    let connection = connect(global).await?;
    let workers = connection.client.workers(filters.to_vec()).await;
    let workers = workers.context("failed to list workers")?;
    match template {
        Some(template) => {
            let workers = workers.iter().map(value).collect();
            println!("{}", template.execute(&Value::List(workers))?);
        }
        None if verbose => print!("{}", workers.iter().map(whole).collect::<String>()),
        None => {
            let header = ["ID".to_owned(), "PLATFORMS".to_owned()];
            let row = |worker: &WorkerRecord| [worker.id.clone(), platforms(worker)];
            let lines: Vec<_> = std::iter::once(header)
                .chain(workers.iter().map(row))
                .collect();
            print!("{}", align(&lines));
        }
    }
    Ok(())
}

/// Shows the versions of the daemon.
pub(crate) async fn info(global: &Global, format: Option<&str>) -> Result<()> {
    let template = template(format)?;
    let connection = connect(global).await?;
    let version = connection.client.info().await?;
    match template {
        Some(template) => {
            let about = Field::new("BuildkitVersion", "buildkitVersion", versions(&version));
            println!("{}", template.execute(&Value::Record(vec![about]))?);
        }
        // Compat: here columns are filled with blanks.
        None => {
            for [name, value] in about(&version) {
                println!("{name:<12}{value}");
            }
        }
    }
    Ok(())
}

fn template(format: Option<&str>) -> Result<Option<Template>> {
    let text = match format {
        None | Some("") => return Ok(None),
        Some("json") => "{{json .}}",
        Some(text) => text,
    };
    Ok(Some(Template::parse(text)?))
}

fn about(version: &BuildkitVersion) -> Vec<[String; 2]> {
    let words = [&version.package, &version.version, &version.revision];
    let mut lines = vec![["BuildKit:".to_owned(), words.map(String::as_str).join(" ")]];
    if !version.dockerfile_version.is_empty() {
        lines.push(["Dockerfile:".to_owned(), version.dockerfile_version.clone()]);
    }
    lines
}

fn platforms(worker: &WorkerRecord) -> String {
    let name = |platform: &Platform| {
        let parts = [&platform.os, &platform.architecture, &platform.variant];
        let parts = parts.map(String::as_str);
        let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        parts.join("/")
    };
    let names: Vec<String> = worker.platforms.iter().map(name).collect();
    names.join(",")
}

/// Everything about a worker, for people.
fn whole(worker: &WorkerRecord) -> String {
    let mut head = vec![
        ["ID:".to_owned(), worker.id.clone()],
        ["Platforms:".to_owned(), platforms(worker)],
    ];
    head.extend(worker.buildkit_version.iter().flat_map(about));
    let labels = worker.labels.iter();
    let labels: Vec<_> = labels.map(|(key, value)| line(key, value)).collect();
    let mut text = align(&head) + "Labels:\n" + &align(&labels);
    if !worker.cdi_devices.is_empty() {
        let devices: Vec<_> = worker.cdi_devices.iter().flat_map(device).collect();
        text += &format!("Devices:\n{}\n", align(&devices));
    }
    for (number, rule) in worker.gc_policy.iter().enumerate() {
        text += &format!("GC Policy rule#{number}:\n{}", align(&limits(rule)));
    }
    text + "\n"
}

/// An indented line of two columns.
fn line(key: &str, value: &str) -> [String; 3] {
    [String::new(), format!("{key}:"), value.to_owned()]
}

fn device(device: &CdiDevice) -> Vec<[String; 3]> {
    let how = match device.on_demand {
        true => line("OnDemand", "true"),
        false => line("AutoAllow", &device.auto_allow.to_string()),
    };
    let notes = device.annotations.iter();
    let notes = notes.map(|(key, value)| line("Annotations", &format!("{key}:\t{value}")));
    [line("Name", &device.name), how]
        .into_iter()
        .chain(notes)
        .collect()
}

fn limits(rule: &GcPolicy) -> Vec<[String; 3]> {
    let mut lines = vec![line("All", &rule.all.to_string())];
    if !rule.filters.is_empty() {
        lines.push(line("Filters", &rule.filters.join(" ")));
    }
    if rule.keep_duration > 0 {
        lines.push(line("Keep duration", &span(rule.keep_duration)));
    }
    for (name, count) in [
        ("Reserved space", rule.reserved_space),
        ("Minimum free space", rule.min_free_space),
        ("Maximum used space", rule.max_used_space),
    ] {
        if count > 0 {
            lines.push(line(name, &bytes(count)));
        }
    }
    lines
}

/// Nanoseconds as `48h0m0s`.
fn span(nanoseconds: i64) -> String {
    const SECOND: i64 = 1_000_000_000;
    let (whole, rest) = (nanoseconds / SECOND, nanoseconds % SECOND);
    let fraction = format!(".{rest:09}");
    let seconds = format!("{}{}", whole % 60, fraction.trim_end_matches(['0', '.']));
    match (whole / 3600, whole / 60 % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// A number of bytes in its decimal unit, exactly.
fn bytes(count: i64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "shown to people")]
    let mut value = count as f64;
    let mut unit = "B";
    for next in ["kB", "MB", "GB", "TB", "PB", "EB"] {
        if value < 1000.0 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    format!("{value}{unit}")
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn texts<'a>(texts: impl IntoIterator<Item = &'a String>) -> Value {
    Value::List(texts.into_iter().map(|it| text(it)).collect())
}

fn names(map: &std::collections::BTreeMap<String, String>) -> Value {
    let pair = |(key, value): (&String, &String)| (key.clone(), text(value));
    Value::Map(map.iter().map(pair).collect())
}

fn versions(version: &BuildkitVersion) -> Value {
    Value::Record(vec![
        Field::new("Package", "package", text(&version.package)),
        Field::new("Version", "version", text(&version.version)),
        Field::new("Revision", "revision", text(&version.revision)),
        Field::unless_empty(
            "DockerfileVersion",
            "dockerfileVersion",
            text(&version.dockerfile_version),
        ),
    ])
}

/// A worker as templates see it.
fn value(worker: &WorkerRecord) -> Value {
    let platform = |platform: &Platform| {
        Value::Record(vec![
            Field::new("Architecture", "architecture", text(&platform.architecture)),
            Field::new("OS", "os", text(&platform.os)),
            Field::unless_empty("OSVersion", "os.version", text(&platform.os_version)),
            Field::unless_empty("OSFeatures", "os.features", texts(&platform.os_features)),
            Field::unless_empty("Variant", "variant", text(&platform.variant)),
        ])
    };
    let rule = |rule: &GcPolicy| {
        Value::Record(vec![
            Field::new("All", "all", Value::Bool(rule.all)),
            Field::new("Filter", "filter", texts(&rule.filters)),
            Field::new(
                "KeepDuration",
                "keepDuration",
                Value::Int(rule.keep_duration),
            ),
            Field::new(
                "ReservedSpace",
                "reservedSpace",
                Value::Int(rule.reserved_space),
            ),
            Field::new(
                "MaxUsedSpace",
                "maxUsedSpace",
                Value::Int(rule.max_used_space),
            ),
            Field::new(
                "MinFreeSpace",
                "minFreeSpace",
                Value::Int(rule.min_free_space),
            ),
        ])
    };
    let device = |device: &CdiDevice| {
        Value::Record(vec![
            Field::new("Name", "name", text(&device.name)),
            Field::new("AutoAllow", "autoAllow", Value::Bool(device.auto_allow)),
            Field::new("Annotations", "annotations", names(&device.annotations)),
            Field::new("OnDemand", "onDemand", Value::Bool(device.on_demand)),
        ])
    };
    let version = worker.buildkit_version.clone().unwrap_or_default();
    let list = |values: Vec<Value>| Value::List(values);
    Value::Record(vec![
        Field::new("ID", "id", text(&worker.id)),
        Field::new("Labels", "labels", names(&worker.labels)),
        Field::new(
            "Platforms",
            "platforms",
            list(worker.platforms.iter().map(platform).collect()),
        ),
        Field::new(
            "GCPolicy",
            "gcPolicy",
            list(worker.gc_policy.iter().map(rule).collect()),
        ),
        Field::new("BuildkitVersion", "buildkitVersion", versions(&version)),
        Field::new(
            "CDIDevices",
            "cdiDevices",
            list(worker.cdi_devices.iter().map(device).collect()),
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker() -> WorkerRecord {
        let version = BuildkitVersion {
            package: "p".into(),
            version: "v1".into(),
            revision: "r".into(),
            dockerfile_version: "1.26.0".into(),
        };
        WorkerRecord {
            id: "w".into(),
            labels: [
                ("foo".into(), "bar".into()),
                ("longer.key".into(), "b".into()),
            ]
            .into(),
            platforms: vec![Platform {
                os: "linux".into(),
                architecture: "arm".into(),
                variant: "v7".into(),
                ..Platform::default()
            }],
            gc_policy: vec![GcPolicy {
                keep_duration: 172_800_000_000_000,
                filters: vec!["type==a".into(), "type==b".into()],
                max_used_space: 512_000_000,
                reserved_space: 1_500_000_000,
                ..GcPolicy::default()
            }],
            buildkit_version: Some(version),
            ..WorkerRecord::default()
        }
    }

    #[test]
    fn a_worker_is_shown_whole() {
        let expected = [
            "ID:»»w",
            "Platforms:»linux/arm/v7",
            "BuildKit:»p v1 r",
            "Dockerfile:»1.26.0",
            "Labels:",
            "»foo:»»bar",
            "»longer.key:»b",
            "GC Policy rule#0:",
            "»All:»»»false",
            "»Filters:»»type==a type==b",
            "»Keep duration:»»48h0m0s",
            "»Reserved space:»»1.5GB",
            "»Maximum used space:»512MB",
            "\n",
        ];
        assert_eq!(whole(&worker()).replace('\t', "»"), expected.join("\n"));
    }

    #[test]
    fn a_worker_in_a_template_has_the_names_of_upstream() {
        let shown = |template: &str| {
            let template = Template::parse(template).expect("a template");
            template.execute(&value(&worker())).expect("executed")
        };
        assert_eq!(
            shown("{{json .}}"),
            r#"{"id":"w","labels":{"foo":"bar","longer.key":"b"},"platforms":[{"architecture":"arm","os":"linux","variant":"v7"}],"gcPolicy":[{"all":false,"filter":["type==a","type==b"],"keepDuration":172800000000000,"reservedSpace":1500000000,"maxUsedSpace":512000000,"minFreeSpace":0}],"buildkitVersion":{"package":"p","version":"v1","revision":"r","dockerfileVersion":"1.26.0"},"cdiDevices":null}"#
        );
        assert_eq!(
            shown("{{.ID}} {{.Labels}} {{.BuildkitVersion.Version}}"),
            "w map[foo:bar longer.key:b] v1"
        );
        assert_eq!(
            shown("{{range $k, $v := .Labels}}{{$k}}={{$v}},{{end}}"),
            "foo=bar,longer.key=b,"
        );
        assert_eq!(
            shown("{{range .Platforms}}{{.OS}}/{{.Variant}}{{end}}"),
            "linux/v7"
        );
    }

    #[test]
    fn spans_and_bytes_are_exact() {
        assert_eq!(span(5_184_000_000_000_000), "1440h0m0s");
        assert_eq!(span(61_500_000_000), "1m1.5s");
        assert_eq!(span(10_000_000_000), "10s");
        assert_eq!(bytes(999), "999B");
        assert_eq!(bytes(10_737_418_240), "10.73741824GB");
    }
}
