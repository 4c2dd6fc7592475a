//! `buildctl debug …`.

use anyhow::{Result, bail};
use proto::types::WorkerRecord;

use crate::args::{DebugCommand, Global};
use crate::connection::connect;
use crate::{dump, explain, histories, logs, metadata, verify};

/// Runs one of the debug commands.
pub(crate) async fn run(global: &Global, command: &DebugCommand) -> Result<()> {
    match command {
        DebugCommand::Workers {
            filter,
            verbose,
            format,
        } => {
            let connection = connect(global).await?;
            let workers = connection.client.workers(filter.clone()).await?;
            match format.as_deref() {
                None | Some("") if *verbose => {
                    print!("{}", workers.iter().map(verbose_worker).collect::<String>())
                }
                None | Some("") => print!("{}", table(&workers)),
                Some("json" | "{{json .}}") => {
                    let records: Vec<String> =
                        workers.iter().map(proto::gojson::to_string).collect();
                    println!("[{}]", records.join(","));
                }
                Some(other) => bail!("unimplemented: format {other:?}, use json"),
            }
            Ok(())
        }
        DebugCommand::DumpLlb { dot, file } => dump::llb(file.as_deref(), *dot),
        DebugCommand::DumpMetadata { root } => metadata::dump(root),
        DebugCommand::Monitor { completed, r#ref } => {
            histories::monitor(global, *completed, r#ref).await
        }
        DebugCommand::Logs {
            build,
            progress,
            trace,
        } => logs::logs(global, build.as_deref(), progress, *trace).await,
        DebugCommand::Explain { build, step } => explain::run(global, build.as_deref(), step).await,
        DebugCommand::Verify { names_only } => verify::run(global, *names_only).await,
        DebugCommand::Ctl(args) => histories::ctl(global, args).await,
        DebugCommand::Get { digest } => logs::get(global, digest.as_deref()).await,
        DebugCommand::Histories(args) => histories::list(global, args.format.as_deref()).await,
        DebugCommand::Info { format } => {
            let connection = connect(global).await?;
            let version = connection.client.info().await?;
            match format.as_deref() {
                None | Some("") => println!(
                    "BuildKit:\t{} {} {}",
                    version.package, version.version, version.revision
                ),
                Some("json" | "{{json .}}") => println!("{}", proto::gojson::to_string(&version)),
                Some(other) => bail!("unimplemented: format {other:?}, use json"),
            }
            Ok(())
        }
    }
}

fn platforms(worker: &WorkerRecord) -> String {
    let names: Vec<String> = worker
        .platforms
        .iter()
        .map(|platform| {
            let parts = [&platform.os, &platform.architecture, &platform.variant];
            let parts: Vec<&str> = parts
                .into_iter()
                .map(String::as_str)
                .filter(|part| !part.is_empty())
                .collect();
            parts.join("/")
        })
        .collect();
    names.join(",")
}

fn table(workers: &[WorkerRecord]) -> String {
    let mut text = String::from("ID\t\t\t\tPLATFORMS\n");
    for worker in workers {
        text.push_str(&format!("{}\t{}\n", worker.id, platforms(worker)));
    }
    text
}

fn verbose_worker(worker: &WorkerRecord) -> String {
    let mut text = format!("ID:\t\t{}\nPlatforms:\t{}\n", worker.id, platforms(worker));
    if let Some(version) = &worker.buildkit_version {
        text.push_str(&format!(
            "BuildKit:\t{} {} {}\n",
            version.package, version.version, version.revision
        ));
    }
    text.push_str("Labels:\n");
    for (key, value) in &worker.labels {
        text.push_str(&format!("\t{key}:\t{value}\n"));
    }
    for (index, rule) in worker.gc_policy.iter().enumerate() {
        text.push_str(&format!("GC Policy rule#{index}:\n\tAll:\t{}\n", rule.all));
        if !rule.filters.is_empty() {
            text.push_str(&format!("\tFilters:\t{}\n", rule.filters.join(" ")));
        }
        for (name, bytes) in [
            ("Reserved space", rule.reserved_space),
            ("Minimum free space", rule.min_free_space),
            ("Maximum used space", rule.max_used_space),
        ] {
            if bytes > 0 {
                text.push_str(&format!("\t{name}:\t{bytes}B\n"));
            }
        }
    }
    text.push('\n');
    text
}
