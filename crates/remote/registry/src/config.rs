//! What the daemon's configuration says about registries.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of a [`Client`](crate::Client).
#[derive(Debug, Clone)]
pub struct Config {
    /// Settings by registry host as it stands in names: `docker.io`, `example.com:5000`.
    pub hosts: BTreeMap<String, HostConfig>,
    /// Transfers at a time per registry; one more is allowed for manifests and configs.
    pub concurrency: usize,
    /// How we name ourselves.
    pub user_agent: String,
    /// The first wait before a failed transfer is tried again; doubled each time.
    pub backoff: Duration,
    /// How long a server may be silent while something is expected of it.
    pub patience: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hosts: BTreeMap::new(),
            concurrency: 4,
            user_agent: "buildkit/v0.0-dev".to_owned(),
            backoff: Duration::from_secs(1),
            patience: Duration::from_secs(60),
        }
    }
}

/// `[registry."host"]` of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostConfig {
    /// Asked first when pulling: `host`, `host:port`, `host/path`.
    pub mirrors: Vec<String>,
    /// Plain HTTP. Not said: HTTPS, but plain for loopback.
    pub http: Option<bool>,
    /// Certificates are not checked.
    pub insecure: Option<bool>,
    /// Files with root certificates to trust besides the system's.
    pub ca: Vec<PathBuf>,
    /// Client certificates.
    pub keypairs: Vec<KeyPair>,
    /// Directories of `*.crt`, `*.cert` and `*.key` files, as docker has them.
    pub tls_config_dirs: Vec<PathBuf>,
}

/// A client certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyPair {
    /// PEM file of the private key.
    pub key: PathBuf,
    /// PEM file of the certificate chain.
    pub cert: PathBuf,
}
