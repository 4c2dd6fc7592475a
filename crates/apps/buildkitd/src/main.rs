//! The daemon: flags and configuration, wiring, listeners, shutdown.
//!
//! The only place that names implementations of the contracts below.

mod args;
mod caches;
mod config;
mod environment;
mod frontends;
mod gc;
mod history;
mod listen;
mod platforms;
mod rootless;
mod serve;
mod settings;
mod state;
mod wiring;
mod worker;

use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use args::Args;
use config::{Config, Loaded};
use settings::{LogSettings, Settings};

/// What the daemon says it is. Compat: clients compare the version of the software whose protocol this is.
const PACKAGE: &str = "github.com/moby/buildkit";
const VERSION: &str = concat!("v0.32.0+kiln.", env!("CARGO_PKG_VERSION"));
const DOCKERFILE_VERSION: &str = "1.26.0";

/// After so long everything that starts with the daemon has.
const STARTED: std::time::Duration = std::time::Duration::from_millis(500);

fn main() -> ExitCode {
    // Before anything else: where it works, the program starts again.
    let protected = runtime::protect_program();
    tasks::keep_little_memory();
    let args = Args::parse();
    if args.version {
        println!("buildkitd {PACKAGE} {VERSION} {}", revision());
        return ExitCode::SUCCESS;
    }
    if let Err(err) = protected {
        eprintln!("buildkitd: the daemon's own file is not protected from steps: {err}");
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("buildkitd: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn revision() -> &'static str {
    option_env!("KILN_REVISION").unwrap_or("unknown")
}

fn run(args: &Args) -> anyhow::Result<()> {
    let (path, named) = settings::config_path(args);
    let Loaded { config, warnings } = Config::load(&path, named)?;
    start_logging(&settings::log_settings(args, &config)?);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let settings = Settings::decide(args, config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(tasks::cores())
        .enable_all()
        .build()?;
    let ended = runtime.block_on(daemon(settings));
    // A blocking call that does not come back must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    ended
}

fn start_logging(settings: &LogSettings) {
    let quiet = ["h2", "hyper", "tower", "rustls"].map(|name| (name, LevelFilter::INFO));
    let shown = Targets::new()
        .with_default(settings.level)
        .with_targets(quiet);
    let shown = tracing_subscriber::registry().with(shown);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    if settings.json {
        shown.with(lines.json()).init();
    } else {
        shown.with(lines.with_ansi(false).with_target(false)).init();
    }
}

async fn daemon(settings: Settings) -> anyhow::Result<()> {
    let state = state::State::open(&settings.root)?;
    let mut listeners = Vec::new();
    for address in &settings.addresses {
        listeners.push(listen::bind(address, settings.owner, &settings.tls).await?);
    }
    let (services, cache) = wiring::wire(&settings, &state)?;
    for address in &settings.addresses {
        tracing::info!(
            "running server on {}",
            address.trim_start_matches("unix://")
        );
    }
    let builder = services.builder.clone();
    let _describer = tasks::spawn("describe on SIGUSR1", async move {
        let kind = tokio::signal::unix::SignalKind::user_defined1();
        let Ok(mut signals) = tokio::signal::unix::signal(kind) else {
            return;
        };
        while signals.recv().await.is_some() {
            let state = builder.machinery().solver.describe().await;
            tracing::info!("what the builds wait for:\n{state}");
        }
    });
    let _started = tasks::spawn("release what starting took", async {
        tokio::time::sleep(STARTED).await;
        tasks::blocking(tasks::release_memory).await;
    });
    let recorded = services.builder.clone();
    let served = serve::serve(listeners, services).await;
    recorded.machinery().history.settled().await;
    tasks::blocking(move || cache.close()).await?;
    served
}
