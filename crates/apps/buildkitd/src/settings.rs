//! What the flags and the file mean together.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use oci::Platform;

use crate::args::Args;
use crate::config::{Config, Switch};
use crate::gc::Gc;
use crate::listen::{Owner, TlsFiles, group_id};

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

/// Settings of the OCI worker.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    pub labels: BTreeMap<String, String>,
    pub platforms: Vec<Platform>,
    pub snapshotter: String,
    pub binary: Option<String>,
    pub cgroup_parent: String,
    pub parallelism: usize,
    pub gc: Gc,
    /// Transfers at a time per registry.
    pub registry_concurrency: Option<usize>,
}

/// Levels and format of the daemon's own log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogSettings {
    pub level: String,
    pub json: bool,
}

/// Where the configuration is when nobody says.
pub(crate) fn config_path(args: &Args) -> (PathBuf, bool) {
    match &args.config {
        Some(path) => (path.clone(), true),
        None => (PathBuf::from("/etc/buildkit/buildkitd.toml"), false),
    }
}

/// Decides about logging; needed before anything else can speak.
pub(crate) fn log_settings(args: &Args, config: &Config) -> anyhow::Result<LogSettings> {
    let level = if args.trace || config.trace {
        "trace".to_owned()
    } else if args.debug || config.debug {
        "debug".to_owned()
    } else {
        let level = args.log_level.clone().or_else(|| config.log.level.clone());
        level.unwrap_or_else(|| "info".to_owned())
    };
    if !["error", "warn", "warning", "info", "debug", "trace"].contains(&level.as_str()) {
        bail!("invalid log level {level:?}: expected error, warn, info, debug or trace");
    }
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
    Ok(LogSettings {
        level: if level == "warning" {
            "warn".into()
        } else {
            level
        },
        json,
    })
}

impl Settings {
    /// Flags win over the file, the file over defaults.
    pub(crate) fn decide(args: &Args, config: Config) -> anyhow::Result<Self> {
        if args.proxy_network {
            bail!("unimplemented: --proxy-network");
        }
        if args.rootless == Some(true)
            || args.oci_worker_rootless == Some(true)
            || config.worker.oci.rootless
        {
            bail!("unimplemented: rootless mode");
        }
        let root = args.root.clone().or_else(|| config.root.clone());
        let mut addresses = if args.addr.is_empty() {
            config.grpc.address.clone()
        } else {
            args.addr.clone()
        };
        if addresses.is_empty() {
            addresses.push("unix:///run/buildkit/buildkitd.sock".to_owned());
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
        Ok(Self {
            root: root.unwrap_or_else(|| PathBuf::from("/var/lib/buildkit")),
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
            entitlements: entitlements.iter().cloned().collect(),
            worker: Worker::decide(args, &config)?,
            config,
        })
    }
}

impl Worker {
    fn decide(args: &Args, config: &Config) -> anyhow::Result<Self> {
        let file = &config.worker.oci;
        let enabled = match (&args.oci_worker, &file.enabled) {
            (Some(word), _) => word.clone(),
            (None, Some(Switch::Word(word))) => word.clone(),
            (None, Some(Switch::Bool(on))) => on.to_string(),
            (None, None) => "auto".to_owned(),
        };
        match enabled.as_str() {
            "auto" | "true" => {}
            "false" => bail!(
                "no worker found, rebuild the buildkit daemon? --oci-worker=false leaves none"
            ),
            other => bail!("cannot parse --oci-worker={other:?}: expected true, false or auto"),
        }
        if args.containerd_worker.as_deref() == Some("true") {
            bail!("unimplemented: containerd worker");
        }
        let network = args
            .oci_worker_net
            .as_deref()
            .or(file.network_mode.as_deref())
            .unwrap_or("auto");
        match network {
            "auto" | "host" | "" => {}
            "cni" | "bridge" => bail!("unimplemented: worker network {network}"),
            other => bail!("invalid network mode: {other:?}"),
        }
        let mut labels = file.labels.clone();
        for label in &args.oci_worker_labels {
            let (key, value) = label
                .split_once('=')
                .with_context(|| format!("invalid label {label:?}: expected KEY=VALUE"))?;
            labels.insert(key.to_owned(), value.to_owned());
        }
        let platforms = if args.oci_worker_platform.is_empty() {
            &file.platforms
        } else {
            &args.oci_worker_platform
        };
        let platforms = platforms
            .iter()
            .flat_map(|text| text.split(','))
            .map(str::parse)
            .collect::<Result<Vec<Platform>, _>>()?;
        Ok(Self {
            labels,
            platforms,
            snapshotter: args
                .oci_worker_snapshotter
                .clone()
                .or_else(|| file.snapshotter.clone())
                .unwrap_or_else(|| "auto".to_owned()),
            binary: args
                .oci_worker_binary
                .clone()
                .or_else(|| file.binary.clone()),
            cgroup_parent: file.default_cgroup_parent.clone().unwrap_or_default(),
            parallelism: args
                .oci_max_parallelism
                .or(file.max_parallelism)
                .unwrap_or(0),
            gc: Gc::decide(args, file)?,
            registry_concurrency: config.system.max_registry_concurrency,
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
    fn what_we_cannot_do_is_said() {
        for args in [
            &["--oci-worker=false"][..],
            &["--oci-worker-net=cni"],
            &["--containerd-worker=true"],
        ] {
            assert!(decide(args, "").is_err(), "{args:?}");
        }
    }

    #[test]
    fn a_log_level_is_one_of_five() {
        let args = Args::parse_from(["buildkitd", "--log-level", "loud"]);
        assert!(log_settings(&args, &Config::default()).is_err());
    }
}
