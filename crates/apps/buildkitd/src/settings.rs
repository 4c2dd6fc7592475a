//! What the flags and the file mean together.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::bail;
use tracing_subscriber::filter::LevelFilter;

use crate::args::Args;
use crate::config::Config;
use crate::listen::{Owner, TlsFiles, group_id};
use crate::rootless::Places;
use crate::worker::Worker;

/// Everything the daemon needs to know, decided.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub root: PathBuf,
    pub addresses: Vec<String>,
    pub owner: Owner,
    pub tls: TlsFiles,
    pub entitlements: BTreeSet<String>,
    pub worker: Worker,
    pub config: Config,
}

/// Levels and format of the daemon's own log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogSettings {
    pub level: LevelFilter,
    pub json: bool,
}

/// Where the configuration is when nobody says.
pub(crate) fn config_path(args: &Args) -> (PathBuf, bool) {
    match &args.config {
        Some(path) => (path.clone(), true),
        None => (Places::of_this_process().config, false),
    }
}

/// Decides about logging; needed before anything else can speak.
pub(crate) fn log_settings(args: &Args, config: &Config) -> anyhow::Result<LogSettings> {
    let level = if args.trace.unwrap_or(config.trace) {
        "trace".to_owned()
    } else if args.debug.unwrap_or(config.debug) {
        "debug".to_owned()
    } else {
        let level = args.log_level.clone().or_else(|| config.log.level.clone());
        level.unwrap_or_else(|| "info".to_owned())
    };
    let level = match level.as_str() {
        "error" => LevelFilter::ERROR,
        "warn" | "warning" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => bail!("invalid log level {level:?}: expected error, warn, info, debug or trace"),
    };
    let format = args
        .log_format
        .as_deref()
        .or(config.log.format.as_deref())
        .unwrap_or("text");
    let json = match format {
        "text" | "" => false,
        "json" => true,
        other => bail!("unsupported log format {other:?}: expected json or text"),
    };
    Ok(LogSettings { level, json })
}

impl Settings {
    /// Flags win over the file, the file over defaults.
    pub(crate) fn decide(args: &Args, config: Config) -> anyhow::Result<Self> {
        if args.proxy_network == Some(true) {
            bail!("unimplemented: --proxy-network");
        }
        let places = Places::of_this_process();
        let root = args.root.clone().or_else(|| config.root.clone());
        let mut addresses = if args.addr.is_empty() {
            config.grpc.address.clone()
        } else {
            args.addr.clone()
        };
        if addresses.is_empty() {
            addresses.push(places.address.clone());
        }
        let gid = match &args.group {
            Some(group) => Some(group_id(group)?),
            None => config.grpc.gid,
        };
        let entitlements = if args.allow_insecure_entitlement.is_empty() {
            &config.insecure_entitlements
        } else {
            &args.allow_insecure_entitlement
        };
        for name in entitlements {
            if !["network.host", "security.insecure", "device"].contains(&name.as_str()) {
                bail!(
                    "unknown entitlement {name:?}: expected network.host, security.insecure or device"
                );
            }
        }
        let worker = Worker::decide(args, &config)?;
        // Who may have which device is told by the documents that describe them, and by clients.
        let device = worker.cdi.as_ref().map(|_| "device".to_owned());
        let granted = entitlements.iter().cloned().chain(device);
        Ok(Self {
            root: root.unwrap_or(places.root),
            addresses,
            owner: Owner {
                uid: config.grpc.uid,
                gid,
            },
            tls: TlsFiles {
                cert: args
                    .tlscert
                    .clone()
                    .or_else(|| config.grpc.tls.cert.clone()),
                key: args.tlskey.clone().or_else(|| config.grpc.tls.key.clone()),
                ca: args
                    .tlscacert
                    .clone()
                    .or_else(|| config.grpc.tls.ca.clone()),
            },
            entitlements: granted.collect(),
            worker,
            config,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn decide(args: &[&str], file: &str) -> anyhow::Result<Settings> {
        let args = Args::parse_from([&["buildkitd"], args].concat());
        Settings::decide(&args, toml::from_str(file)?)
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let file = "root = \"/f\"\n[grpc]\naddress = [\"unix:///f.sock\"]\n";
        let settings = decide(&["--root", "/a"], file).expect("valid");
        assert_eq!(settings.root, PathBuf::from("/a"));
        assert_eq!(settings.addresses, ["unix:///f.sock"]);
        let settings = decide(&[], "").expect("valid");
        assert_eq!(settings.addresses, ["unix:///run/buildkit/buildkitd.sock"]);
    }

    #[test]
    fn a_log_level_is_one_of_five() {
        let args = Args::parse_from(["buildkitd", "--log-level", "loud"]);
        assert!(log_settings(&args, &Config::default()).is_err());
    }
}
