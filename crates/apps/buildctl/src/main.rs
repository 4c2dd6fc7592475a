//! The command line.

mod answer;
mod args;
mod build;
mod connection;
mod csv;
mod debug;
mod dial;
mod dump;
mod explain;
mod exporters;
mod histories;
mod logs;
mod metadata;
mod metrics;
mod options;
mod places;
mod policy;
mod registries;
mod ssh;
mod table;
mod template;
mod usage;
mod verify;
mod workers;
mod workflow;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use args::{Cli, Command};

/// What the client says it is. Compat: the software whose protocol this is.
const PACKAGE: &str = "github.com/moby/buildkit";
const VERSION: &str = concat!("v0.32.0+kiln.", env!("CARGO_PKG_VERSION"));

/// What shells report of a process that was killed by SIGPIPE.
const BROKEN_PIPE: i32 = 141;

/// Whoever reads what is printed may have seen enough; then this ends, and has nothing to tell of.
fn end_with_the_reader() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload().downcast_ref::<String>();
        let text = text.map(String::as_str).unwrap_or_default();
        if text.starts_with("failed printing to std") && text.contains("Broken pipe") {
            std::process::exit(BROKEN_PIPE);
        }
        usual(panic);
    }));
}

fn main() -> ExitCode {
    tasks::share_memory();
    end_with_the_reader();
    let cli = match Cli::try_parse_from(long_names(std::env::args_os())) {
        Ok(cli) => cli,
        Err(err) => {
            // The text goes where it belongs; help is no failure.
            let code = code_of(err.kind());
            if code == 0 {
                print!("{}", err.render());
            } else {
                let _ = err.print();
            }
            return ExitCode::from(code);
        }
    };
    if cli.global.version {
        println!(
            "buildctl {PACKAGE} {VERSION} {}",
            option_env!("KILN_REVISION").unwrap_or("unknown")
        );
        return ExitCode::SUCCESS;
    }
    // One thread shows what happens and may have to wait for whoever reads; the other one serves the daemon.
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(err) => {
            eprintln!("error: failed to start: {err}");
            return ExitCode::FAILURE;
        }
    };
    let debug = cli.global.debug;
    let ended = runtime.block_on(run(cli));
    // The end of the process is the end of what still runs.
    std::mem::forget(runtime);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprint!("{}", failure_text(&err, debug));
            ExitCode::FAILURE
        }
    }
}

/// Compat: one dash before a long name is enough.
fn long_names(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    fn collect(command: &clap::Command, names: &mut BTreeSet<String>) {
        let own = command.get_arguments().filter_map(clap::Arg::get_long);
        names.extend(own.map(str::to_owned));
        command.get_subcommands().for_each(|it| collect(it, names));
    }
    let mut names = BTreeSet::new();
    collect(&Cli::command(), &mut names);
    let completed = |arg: OsString| {
        let name = arg.to_str().and_then(|arg| arg.strip_prefix('-'));
        let name = name.and_then(|name| name.split('=').next());
        match name {
            Some(name) if names.contains(name) => {
                let mut long = OsString::from("-");
                long.push(&arg);
                long
            }
            _ => arg,
        }
    };
    args.map(completed).collect()
}

/// Compat: a command that does not exist is told from other mistakes, and a list of commands is an answer.
fn code_of(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => 0,
        ErrorKind::InvalidSubcommand => 3,
        _ => 1,
    }
}

async fn run(cli: Cli) -> Result<()> {
    match cli.log_format() {
        "" | "text" | "json" => {}
        other => bail!("unsupported log type {other:?}"),
    }
    start_logging(cli.global.debug);
    match &cli.command {
        Some(Command::Build(args)) => build::run(&cli.global, args).await,
        Some(Command::Debug(command)) => debug::run(&cli.global, command).await,
        Some(Command::DialStdio) => dial::run(&cli.global).await,
        Some(Command::Du(args)) => usage::du(&cli.global, args).await,
        Some(Command::Prune(args)) => usage::prune(&cli.global, args).await,
        Some(Command::PruneHistories(args)) => {
            histories::prune(&cli.global, args.format.as_deref()).await
        }
        None => {
            Cli::command().print_help()?;
            Ok(())
        }
    }
}

impl Cli {
    fn log_format(&self) -> &str {
        &self.global.log_format
    }
}

fn start_logging(debug: bool) {
    let level = match debug {
        true => LevelFilter::DEBUG,
        false => LevelFilter::WARN,
    };
    let quiet = ["h2", "hyper", "tower", "rustls"].map(|name| (name, LevelFilter::WARN));
    let shown = Targets::new().with_default(level).with_targets(quiet);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false);
    tracing_subscriber::registry()
        .with(shown)
        .with(lines)
        .init();
}

/// Excerpts of the source files, then the error on one line.
fn failure_text(err: &anyhow::Error, _debug: bool) -> String {
    let mut text = String::new();
    let failure = err
        .chain()
        .find_map(|err| match err.downcast_ref::<client::Error>() {
            Some(client::Error::Daemon(failure)) => Some(failure),
            _ => None,
        });
    if let Some(failure) = failure {
        text.push_str(&diagnostics::excerpts(failure).concat());
    }
    text.push_str(&format!("error: {err:#}\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(line: &str) -> u8 {
        let parsed = Cli::try_parse_from(line.split(' '));
        parsed.map_or_else(|err| code_of(err.kind()), |_| 0)
    }

    #[test]
    fn one_dash_is_enough_for_a_long_name() {
        let args = [
            "buildctl", "-addr=x", "du", "-filter", "-v", "-verbose", "--", "-nosuch",
        ];
        let got = long_names(args.map(OsString::from).into_iter());
        let wanted = [
            "buildctl",
            "--addr=x",
            "du",
            "--filter",
            "-v",
            "--verbose",
            "--",
            "-nosuch",
        ];
        assert_eq!(got, wanted);
    }

    #[test]
    fn exit_codes_are_those_of_upstream() {
        for (line, wanted) in [
            ("buildctl nosuch", 3),
            ("buildctl debug nosuch", 3),
            ("buildctl debug", 0),
            ("buildctl --help", 0),
            ("buildctl du --nosuch", 1),
            ("buildctl du extra", 0),
            ("buildctl debug workers extra", 0),
            ("buildctl debug info extra", 0),
            ("buildctl debug ctl a b", 0),
            ("buildctl debug histories extra", 0),
            ("buildctl prune-histories extra", 0),
            ("buildctl prune --keep-storage -1", 0),
            ("buildctl build --trace= extra", 0),
        ] {
            assert_eq!(code(line), wanted, "{line}");
        }
    }
}
