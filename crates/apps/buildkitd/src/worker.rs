//! What the flags and the file mean for the worker.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use oci::Platform;

use crate::args::Args;
use crate::config::{Config, OciWorker, Switch};
use crate::gc::Gc;
use crate::rootless;

/// Where documents about devices are unless somebody says otherwise.
const CDI_DIRS: [&str; 3] = ["/etc/cdi", "/var/run/cdi", "/etc/buildkit/cdi"];

/// Settings of the OCI worker.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    pub labels: BTreeMap<String, String>,
    pub platforms: Vec<Platform>,
    pub snapshotter: String,
    pub binary: Option<String>,
    pub cgroup_parent: String,
    pub apparmor_profile: Option<String>,
    pub selinux: bool,
    /// Whoever runs us is not root of the machine.
    pub rootless: bool,
    pub no_process_sandbox: bool,
    pub parallelism: usize,
    pub gc: Gc,
    /// Transfers at a time per registry.
    pub registry_concurrency: Option<usize>,
    /// Devices; none when they are switched off.
    pub cdi: Option<Cdi>,
}

/// Where devices are described, and which of them every build may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cdi {
    pub dirs: Vec<PathBuf>,
    pub auto_allowed: Vec<String>,
}

impl Worker {
    /// Flags win over the file, the file over defaults.
    pub(crate) fn decide(args: &Args, config: &Config) -> Result<Self> {
        let file = &config.worker.oci;
        check_enabled(args, config)?;
        check_network(args, file)?;
        let path = args.oci_worker_proxy_snapshotter_path.as_ref();
        if let Some(path) = path.or(file.proxy_snapshotter_path.as_ref())
            && !path.as_os_str().is_empty()
        {
            bail!(
                "unimplemented: proxySnapshotterPath ({}): snapshots are kept by buildkitd itself; remove the key and choose a snapshotter with --oci-worker-snapshotter (overlayfs, fuse-overlayfs or native)",
                path.display()
            );
        }
        let rootless = rootless(args, file)?;
        let no_process_sandbox = args.oci_worker_no_process_sandbox;
        let no_process_sandbox = no_process_sandbox.unwrap_or(file.no_process_sandbox);
        if no_process_sandbox && !rootless {
            bail!("can't enable NoProcessSandbox without Rootless");
        }
        let profile = args.oci_worker_apparmor_profile.clone();
        let text = |flag: &Option<String>, file: &Option<String>| {
            flag.clone()
                .or_else(|| file.clone())
                .filter(|text| !text.is_empty())
        };
        Ok(Self {
            labels: labels(args, file)?,
            platforms: platforms(args, file)?,
            snapshotter: text(&args.oci_worker_snapshotter, &file.snapshotter)
                .unwrap_or_else(|| "auto".to_owned()),
            binary: text(&args.oci_worker_binary, &file.binary),
            cgroup_parent: file.default_cgroup_parent.clone().unwrap_or_default(),
            apparmor_profile: text(&profile, &file.apparmor_profile),
            selinux: args.oci_worker_selinux.unwrap_or(file.selinux),
            rootless,
            no_process_sandbox,
            parallelism: args
                .oci_max_parallelism
                .or(file.max_parallelism)
                .unwrap_or(0),
            gc: Gc::decide(args, file)?,
            registry_concurrency: config.system.max_registry_concurrency,
            cdi: cdi(args, config),
        })
    }
}

fn check_enabled(args: &Args, config: &Config) -> Result<()> {
    let word = |flag: &Option<String>, file: &Option<Switch>| match (flag, file) {
        (Some(word), _) | (None, Some(Switch::Word(word))) => word.to_lowercase(),
        (None, Some(Switch::Bool(on))) => on.to_string(),
        (None, None) => "auto".to_owned(),
    };
    let is_on = |name: &str, word: &str| match word {
        "auto" | "" => Ok(None),
        "true" | "1" | "t" => Ok(Some(true)),
        "false" | "0" | "f" => Ok(Some(false)),
        other => bail!("cannot parse --{name}={other:?}: expected true, false or auto"),
    };
    let containerd = word(
        &args.containerd.containerd_worker,
        &config.worker.containerd.enabled,
    );
    // Left to us, it is as if no containerd answered.
    if is_on("containerd-worker", &containerd)? == Some(true) {
        bail!(
            "unimplemented: containerd worker: steps run in the OCI worker, which needs no containerd; remove --containerd-worker=true or [worker.containerd] enabled=true"
        );
    }
    let oci = word(&args.oci_worker, &config.worker.oci.enabled);
    if is_on("oci-worker", &oci)? == Some(false) {
        bail!("no worker found, rebuild the buildkit daemon? --oci-worker=false leaves none");
    }
    Ok(())
}

fn check_network(args: &Args, file: &OciWorker) -> Result<()> {
    let network = args
        .oci_worker_net
        .as_deref()
        .or(file.network_mode.as_deref())
        .unwrap_or("auto");
    match network {
        "auto" | "host" | "" => Ok(()),
        "cni" | "bridge" => bail!(
            "unimplemented: networkMode={network}: steps use the network of the daemon; choose --oci-worker-net=host"
        ),
        other => bail!("invalid network mode: {other:?}"),
    }
}

/// In a user namespace unless somebody says otherwise; elsewhere when somebody says so, and only where it is possible.
fn rootless(args: &Args, file: &OciWorker) -> Result<bool> {
    let told = args.oci_worker_rootless.or(args.rootless).or(file.rootless);
    let rootless = told.unwrap_or_else(mount::probe::in_user_namespace);
    if rootless {
        rootless::check()?;
    }
    Ok(rootless)
}

fn labels(args: &Args, file: &OciWorker) -> Result<BTreeMap<String, String>> {
    let mut labels = file.labels.clone();
    for label in &args.oci_worker_labels {
        let (key, value) = label
            .split_once('=')
            .with_context(|| format!("invalid label {label:?}: expected KEY=VALUE"))?;
        labels.insert(key.to_owned(), value.to_owned());
    }
    Ok(labels)
}

fn platforms(args: &Args, file: &OciWorker) -> Result<Vec<Platform>> {
    let platforms = if args.oci_worker_platform.is_empty() {
        &file.platforms
    } else {
        &args.oci_worker_platform
    };
    let texts = platforms.iter().flat_map(|text| text.split(','));
    let parsed: Result<Vec<Platform>, _> = texts.map(str::parse).collect();
    parsed.context("invalid platforms")
}

fn cdi(args: &Args, config: &Config) -> Option<Cdi> {
    if args.cdi_disabled.or(config.cdi.disabled) == Some(true) {
        return None;
    }
    let mut dirs = if args.cdi_spec_dir.is_empty() {
        config.cdi.spec_dirs.clone()
    } else {
        args.cdi_spec_dir.clone()
    };
    if dirs.is_empty() {
        dirs = CDI_DIRS.map(PathBuf::from).to_vec();
    }
    Some(Cdi {
        dirs,
        auto_allowed: config.cdi.auto_allowed.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn decide(args: &[&str], file: &str) -> Result<Worker> {
        let args = Args::try_parse_from([&["buildkitd"], args].concat())?;
        Worker::decide(&args, &toml::from_str(file)?)
    }

    fn refused(args: &[&str], file: &str) -> String {
        decide(args, file).expect_err("refused").to_string()
    }

    #[test]
    fn what_we_cannot_do_names_the_key_and_the_remedy() {
        for (args, file, parts) in [
            (
                &["--oci-worker=false"][..],
                "",
                ["no worker", "--oci-worker=false"],
            ),
            (
                &[],
                "[worker.oci]\nenabled = false",
                ["no worker", "leaves none"],
            ),
            (
                &["--oci-worker-net=cni"],
                "",
                ["unimplemented: networkMode=cni", "host"],
            ),
            (
                &["--containerd-worker=true"],
                "",
                ["unimplemented: containerd worker", "remove"],
            ),
            (
                &[],
                "[worker.containerd]\nenabled = true",
                ["unimplemented: containerd worker", "remove"],
            ),
            (
                &["--containerd-worker=maybe"],
                "",
                ["--containerd-worker", "expected true, false or auto"],
            ),
            (
                &["--oci-worker-proxy-snapshotter-path=/s"],
                "",
                [
                    "unimplemented: proxySnapshotterPath",
                    "--oci-worker-snapshotter",
                ],
            ),
            (
                &[],
                "[worker.oci]\nproxySnapshotterPath = \"/s\"",
                ["unimplemented: proxySnapshotterPath", "remove the key"],
            ),
            (
                &["--oci-worker-no-process-sandbox", "--rootless=false"],
                "",
                ["can't enable NoProcessSandbox", "without Rootless"],
            ),
        ] {
            let text = refused(args, file);
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        }
    }

    #[test]
    fn flags_of_the_other_worker_do_no_harm() {
        let args = [
            "--containerd-worker=auto",
            "--containerd-worker-addr=/run/containerd/containerd.sock",
            "--containerd-worker-labels=a=b",
            "--containerd-worker-platform=linux/arm64",
            "--containerd-worker-namespace=n",
            "--containerd-worker-runtime=r",
            "--containerd-worker-net=cni",
            "--containerd-cni-config-path=/c",
            "--containerd-cni-binary-dir=/b",
            "--containerd-cni-pool-size=3",
            "--containerd-worker-snapshotter=stargz",
            "--containerd-worker-apparmor-profile=p",
            "--containerd-worker-selinux",
            "--containerd-max-parallelism=2",
            "--containerd-worker-rootless=false",
            "--containerd-worker-gc=false",
            "--containerd-worker-gc-keepstorage=1,2,3",
        ];
        let file = "[worker.containerd]\nenabled = \"auto\"\nnamespace = \"n\"\n[worker.containerd.runtime]\nname = \"r\"\n";
        let worker = decide(&args, file).expect("taken");
        assert!(worker.labels.is_empty() && worker.parallelism == 0);
    }

    #[test]
    fn every_key_of_the_worker_acts_and_flags_win() {
        let file = r#"
            [worker.oci]
            enabled = true
            platforms = ["linux/arm64"]
            snapshotter = "native"
            rootless = false
            noProcessSandbox = false
            binary = "crun"
            defaultCgroupParent = "p"
            apparmor-profile = "a"
            selinux = true
            max-parallelism = 3
            [worker.oci.labels]
            k = "v"
            [worker.oci.stargzSnapshotter]
            anything = 1
        "#;
        let worker = decide(&[], file).expect("valid");
        assert_eq!(worker.platforms[0].to_string(), "linux/arm64");
        assert_eq!(worker.snapshotter, "native");
        assert_eq!(worker.binary.as_deref(), Some("crun"));
        assert_eq!(
            (worker.cgroup_parent.as_str(), worker.parallelism),
            ("p", 3)
        );
        assert_eq!(
            (worker.apparmor_profile.as_deref(), worker.selinux),
            (Some("a"), true)
        );
        assert_eq!(worker.labels["k"], "v");
        let flags = [
            "--oci-worker-platform=linux/amd64",
            "--oci-worker-snapshotter=overlayfs",
            "--oci-worker-binary=runc",
            "--oci-worker-apparmor-profile=b",
            "--oci-worker-selinux=false",
            "--oci-max-parallelism=1",
            "--oci-worker-labels=k=w",
        ];
        let worker = decide(&flags, file).expect("valid");
        assert_eq!(worker.platforms[0].to_string(), "linux/amd64");
        assert_eq!(worker.snapshotter, "overlayfs");
        assert_eq!(
            (worker.binary.as_deref(), worker.parallelism),
            (Some("runc"), 1)
        );
        assert_eq!(
            (worker.apparmor_profile.as_deref(), worker.selinux),
            (Some("b"), false)
        );
        assert_eq!(worker.labels["k"], "w");
    }

    #[test]
    fn devices_are_described_where_the_configuration_says() {
        let cdi = |args: &[&str], file: &str| decide(args, file).expect("valid").cdi;
        assert_eq!(cdi(&[], "").expect("on").dirs.len(), 3);
        let file = "[cdi]\nspecDirs = [\"/a\"]\nautoAllowed = [\"v/d\"]\n";
        let told = cdi(&[], file).expect("on");
        assert_eq!(
            (told.dirs, told.auto_allowed),
            (vec!["/a".into()], vec!["v/d".to_owned()])
        );
        let flagged = cdi(&["--cdi-spec-dir=/b", "--cdi-spec-dir=/c"], file).expect("on");
        assert_eq!(flagged.dirs, [PathBuf::from("/b"), "/c".into()]);
        assert_eq!(cdi(&["--cdi-disabled"], file), None);
        assert_eq!(cdi(&[], "[cdi]\ndisabled = true\n"), None);
        assert!(cdi(&["--cdi-disabled=false"], "[cdi]\ndisabled = true\n").is_some());
    }
}
