//! `buildkitd.toml`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde::de::IgnoredAny;
use source_image::Offline;

/// The file as it is written. Keys we do not know are warned about, never refused: the file may be newer than we are.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    pub debug: bool,
    pub trace: bool,
    pub root: Option<PathBuf>,
    #[serde(rename = "insecure-entitlements")]
    pub insecure_entitlements: Vec<String>,
    pub log: Log,
    pub grpc: Grpc,
    pub registry: BTreeMap<String, Registry>,
    pub worker: Workers,
    pub cdi: Cdi,
    pub dns: Option<Dns>,
    pub system: System,
    pub history: crate::history::History,
    pub frontend: crate::frontends::Frontends,
    pub cache: crate::caches::Caches,
    #[serde(rename = "provenanceEnvDir")]
    pub provenance_env_dir: Option<PathBuf>,
}

/// What came of reading the file. The warnings wait for the log, which the file configures.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub config: Config,
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct System {
    #[serde(rename = "maxRegistryConcurrency")]
    pub max_registry_concurrency: Option<usize>,
    #[serde(rename = "offlineImages")]
    pub offline_images: Option<String>,
}

impl System {
    /// What becomes of builds that have an image whose registry is not asked or not there.
    pub(crate) fn offline(&self) -> anyhow::Result<Offline> {
        match &self.offline_images {
            None => Ok(Offline::default()),
            Some(text) => text.parse().context("invalid system.offlineImages"),
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Log {
    pub format: Option<String>,
    pub level: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Grpc {
    pub address: Vec<String>,
    #[serde(rename = "debugAddress")]
    pub debug_address: Option<String>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub tls: Tls,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Tls {
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub ca: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Registry {
    pub mirrors: Vec<String>,
    pub http: Option<bool>,
    pub insecure: Option<bool>,
    pub ca: Vec<PathBuf>,
    pub keypair: Vec<KeyPair>,
    pub tlsconfigdir: Vec<PathBuf>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct KeyPair {
    pub key: PathBuf,
    pub cert: PathBuf,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Workers {
    pub oci: OciWorker,
    pub containerd: ContainerdWorker,
}

/// A worker we do not have; its settings matter as little as those of one that is switched off.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ContainerdWorker {
    pub enabled: Option<Switch>,
    #[serde(flatten)]
    _others: BTreeMap<String, IgnoredAny>,
}

/// Devices.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Cdi {
    pub disabled: Option<bool>,
    #[serde(rename = "specDirs")]
    pub spec_dirs: Vec<PathBuf>,
    #[serde(rename = "autoAllowed")]
    pub auto_allowed: Vec<String>,
}

/// A value that may be written as a word or as a bool.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Switch {
    Bool(bool),
    Word(String),
}

/// Bytes, `"512MB"` or `"10%"`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Space {
    Bytes(i64),
    Text(String),
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct OciWorker {
    pub enabled: Option<Switch>,
    pub labels: BTreeMap<String, String>,
    pub platforms: Vec<String>,
    pub snapshotter: Option<String>,
    pub rootless: Option<bool>,
    #[serde(rename = "noProcessSandbox")]
    pub no_process_sandbox: bool,
    pub binary: Option<String>,
    #[serde(rename = "proxySnapshotterPath")]
    pub proxy_snapshotter_path: Option<PathBuf>,
    /// Settings of a snapshotter we do not have; choosing it is refused.
    #[serde(rename = "stargzSnapshotter")]
    _stargz: Option<IgnoredAny>,
    #[serde(rename = "defaultCgroupParent")]
    pub default_cgroup_parent: Option<String>,
    #[serde(rename = "apparmor-profile")]
    pub apparmor_profile: Option<String>,
    pub selinux: bool,
    #[serde(rename = "max-parallelism")]
    pub max_parallelism: Option<usize>,
    #[serde(rename = "networkMode")]
    pub network_mode: Option<String>,
    pub gc: Option<bool>,
    #[serde(rename = "gckeepstorage")]
    pub gc_keep_storage: Option<Space>,
    #[serde(rename = "gcpolicy")]
    pub gc_policy: Vec<GcPolicy>,
    #[serde(rename = "reservedSpace")]
    pub reserved_space: Option<Space>,
    #[serde(rename = "maxUsedSpace")]
    pub max_used_space: Option<Space>,
    #[serde(rename = "minFreeSpace")]
    pub min_free_space: Option<Space>,
}

/// A rule of garbage collection.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct GcPolicy {
    pub all: bool,
    pub filters: Vec<String>,
    #[serde(rename = "keepDuration")]
    pub keep_duration: Option<crate::history::Age>,
    #[serde(rename = "keepBytes")]
    pub keep_bytes: Option<Space>,
    #[serde(rename = "reservedSpace")]
    pub reserved_space: Option<Space>,
    #[serde(rename = "maxUsedSpace")]
    pub max_used_space: Option<Space>,
    #[serde(rename = "minFreeSpace")]
    pub min_free_space: Option<Space>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Dns {
    pub nameservers: Vec<String>,
    pub options: Vec<String>,
    #[serde(rename = "searchDomains")]
    pub search_domains: Vec<String>,
}

impl Config {
    /// Reads the file. A missing one is empty, unless the user named it.
    pub(crate) fn load(path: &Path, named: bool) -> anyhow::Result<Loaded> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {
                let missing = || {
                    format!(
                        "config file {} does not exist, using defaults",
                        path.display()
                    )
                };
                return Ok(Loaded {
                    config: Self::default(),
                    warnings: named.then(missing).into_iter().collect(),
                });
            }
            Err(err) => bail!("failed to read config {}: {err}", path.display()),
        };
        let (config, unknown) = Self::parse(&text)
            .with_context(|| format!("failed to load config from {}", path.display()))?;
        let warning = |key| {
            let path = path.display();
            format!("{key} in {path} does nothing: there is no such key, or it is not built in yet")
        };
        Ok(Loaded {
            config,
            warnings: unknown.into_iter().map(warning).collect(),
        })
    }

    /// The file, and the keys in it that mean nothing to us.
    fn parse(text: &str) -> anyhow::Result<(Self, Vec<String>)> {
        let mut unknown = Vec::new();
        let file = toml::Deserializer::parse(text)?;
        let config = serde_ignored::deserialize(file, |path| unknown.push(path.to_string()))?;
        Ok((config, unknown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usual_file_is_read() {
        let (config, unknown) = Config::parse(
            r#"
            root = "/state"
            insecure-entitlements = ["network.host"]
            [grpc]
              address = ["tcp://0.0.0.0:1234"]
              [grpc.tls]
                cert = "/c"
            [worker.oci]
              enabled = "auto"
              max-parallelism = 4
              reservedSpace = "10%"
              maxUsedSpace = 1000
            [registry."docker.io"]
              mirrors = ["mirror:5000/path"]
              http = true
            [unknown]
              key = 1
            [worker.oci.tpyo]
              key = 1
            "#,
        )
        .expect("valid");
        assert_eq!(unknown, ["unknown", "worker.oci.tpyo"]);
        assert_eq!(config.root.as_deref(), Some(Path::new("/state")));
        assert_eq!(config.worker.oci.max_parallelism, Some(4));
        assert_eq!(config.worker.oci.max_used_space, Some(Space::Bytes(1000)));
        assert_eq!(config.registry["docker.io"].mirrors, ["mirror:5000/path"]);
    }

    #[test]
    fn what_images_do_offline_is_one_of_two_words() {
        let offline = |text: &str| {
            let (config, unknown) = Config::parse(text).expect("TOML");
            assert_eq!(unknown, [""; 0]);
            config.system.offline().map_err(|err| format!("{err:#}"))
        };
        assert_eq!(offline(""), Ok(Offline::Warn));
        let set = |value| offline(&format!("[system]\nofflineImages = {value:?}\n"));
        assert_eq!(set("warn"), Ok(Offline::Warn));
        assert_eq!(set("fail"), Ok(Offline::Fail));
        assert_eq!(
            set("maybe"),
            Err("invalid system.offlineImages: \"maybe\": expected warn or fail".to_owned())
        );
    }

    #[test]
    fn what_a_file_lacks_is_told_and_a_file_that_may_be_missing_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("buildkitd.toml");
        let warnings = |named| Config::load(&path, named).expect("loaded").warnings;
        assert_eq!(warnings(false), [""; 0]);
        assert!(warnings(true)[0].ends_with("buildkitd.toml does not exist, using defaults"));
        std::fs::write(&path, "debg = true\n").expect("written");
        assert!(warnings(false)[0].starts_with("debg in /"));
    }

    #[test]
    fn a_wrong_type_names_the_place() {
        let err = Config::parse("[worker.oci]\nmax-parallelism = \"x\"\n").expect_err("wrong");
        assert!(format!("{err:#}").contains("line 2"), "{err:#}");
    }
}
