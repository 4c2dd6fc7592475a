//! What the daemon's configuration says about running steps.

use std::path::PathBuf;
use std::sync::Arc;

use crate::cdi::Registry;

/// Name servers and the like in place of the host's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dns {
    /// Addresses; empty: the host's.
    pub nameservers: Vec<String>,
    /// Domains; empty: the host's.
    pub search_domains: Vec<String>,
    /// Options; empty: the host's.
    pub options: Vec<String>,
}

/// The network of steps that ask for none in particular.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DefaultNetwork {
    /// The daemon's own.
    #[default]
    Host,
    /// Loopback only.
    None,
}

/// Settings shared by all executors.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Directory of the executor's own files. Swept at start.
    pub root: PathBuf,
    /// Control group parent of steps that name none.
    pub cgroup_parent: String,
    /// Name resolution.
    pub dns: Dns,
    /// Network of steps in sandbox mode.
    pub network: DefaultNetwork,
    /// AppArmor profile of confined steps.
    pub apparmor_profile: Option<String>,
    /// Steps get SELinux labels of their own.
    pub selinux: bool,
    /// Adjustment for the out-of-memory killer.
    pub oom_score_adj: Option<i32>,
    /// Socket traces are sent to from inside steps.
    pub tracing_socket: Option<PathBuf>,
    /// The daemon has no rights over control groups and /sys.
    pub rootless: bool,
    /// Steps share the daemon's process namespace.
    pub no_process_sandbox: bool,
    /// Devices steps may ask for; none when this is switched off.
    pub devices: Option<Arc<Registry>>,
}
