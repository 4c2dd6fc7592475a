//! `buildctl debug …`.

use anyhow::Result;

use crate::args::{DebugCommand, Global};
use crate::{dump, explain, histories, logs, metadata, verify, workers};

/// Runs one of the debug commands.
pub(crate) async fn run(global: &Global, command: &DebugCommand) -> Result<()> {
    match command {
        DebugCommand::Workers {
            filter,
            verbose,
            format,
            ..
        } => workers::list(global, filter, *verbose, format.as_deref()).await,
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
        DebugCommand::Info { format, .. } => workers::info(global, format.as_deref()).await,
    }
}
