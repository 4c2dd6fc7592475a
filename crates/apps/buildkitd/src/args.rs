//! What the user typed.

use std::path::PathBuf;

use clap::Parser;

/// build daemon
#[derive(Debug, Parser)]
#[command(name = "buildkitd", disable_version_flag = true)]
#[allow(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub(crate) struct Args {
    /// path to config file
    #[arg(long)]
    pub config: Option<PathBuf>,

    /// enable debug output in logs
    #[arg(long)]
    pub debug: bool,

    /// deprecated: same as --log-level=trace
    #[arg(long, hide = true)]
    pub trace: bool,

    /// set the log level (error, warn, info, debug, trace)
    #[arg(long, env = "BUILDKITD_LOG_LEVEL")]
    pub log_level: Option<String>,

    /// log formatter: json or text
    #[arg(long)]
    pub log_format: Option<String>,

    /// path to state directory
    #[arg(long)]
    pub root: Option<PathBuf>,

    /// listening address (socket or tcp)
    #[arg(long)]
    pub addr: Vec<String>,

    /// group (name or gid) which will own all Unix socket listening addresses
    #[arg(long)]
    pub group: Option<String>,

    /// certificate file to use
    #[arg(long)]
    pub tlscert: Option<PathBuf>,

    /// key file to use
    #[arg(long)]
    pub tlskey: Option<PathBuf>,

    /// ca certificate to verify clients
    #[arg(long)]
    pub tlscacert: Option<PathBuf>,

    /// allows insecure entitlements e.g. network.host, security.insecure, device
    #[arg(long)]
    pub allow_insecure_entitlement: Vec<String>,

    /// debugging address (eg. 0.0.0.0:6060)
    #[arg(long, env = "BUILDKITD_DEBUGADDR")]
    pub debugaddr: Option<String>,

    /// set all the default options to be compatible with rootless containers
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub rootless: Option<bool>,

    /// OTEL collector trace socket path
    #[arg(long)]
    pub otel_socket_path: Option<PathBuf>,

    /// disables support of the Container Device Interface (CDI)
    #[arg(long)]
    pub cdi_disabled: bool,

    /// list of directories to scan for CDI spec files
    #[arg(long)]
    pub cdi_spec_dir: Vec<PathBuf>,

    /// enable saving cache debug info
    #[arg(long)]
    pub save_cache_debug: bool,

    /// enforce proxy networking for all builds
    #[arg(long)]
    pub proxy_network: bool,

    /// enable oci workers (true/false/auto)
    #[arg(long)]
    pub oci_worker: Option<String>,

    /// user-specific annotation labels (com.example.foo=bar)
    #[arg(long)]
    pub oci_worker_labels: Vec<String>,

    /// name of snapshotter (overlayfs, native, etc.)
    #[arg(long)]
    pub oci_worker_snapshotter: Option<String>,

    /// override supported platforms for worker
    #[arg(long)]
    pub oci_worker_platform: Vec<String>,

    /// worker network type (auto, bridge, cni or host)
    #[arg(long)]
    pub oci_worker_net: Option<String>,

    /// name of specified oci worker binary
    #[arg(long)]
    pub oci_worker_binary: Option<String>,

    /// set the name of the apparmor profile applied to containers
    #[arg(long)]
    pub oci_worker_apparmor_profile: Option<String>,

    /// apply SELinux labels
    #[arg(long)]
    pub oci_worker_selinux: bool,

    /// maximum number of parallel build steps that can be run at the same time
    #[arg(long)]
    pub oci_max_parallelism: Option<usize>,

    /// enable rootless mode
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub oci_worker_rootless: Option<bool>,

    /// use the host PID namespace and procfs (WARNING: allows build containers to kill host processes)
    #[arg(long)]
    pub oci_worker_no_process_sandbox: bool,

    /// enable automatic garbage collection on worker
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub oci_worker_gc: Option<bool>,

    /// amount of storage GC keep locally: RESERVED, RESERVED,FREE or RESERVED,FREE,MAXIMUM (MB)
    #[arg(long)]
    pub oci_worker_gc_keepstorage: Option<String>,

    /// path of cni config file
    #[arg(long)]
    pub oci_cni_config_path: Option<PathBuf>,

    /// path of cni binary files
    #[arg(long)]
    pub oci_cni_binary_dir: Option<PathBuf>,

    /// size of cni network namespace pool
    #[arg(long)]
    pub oci_cni_pool_size: Option<u32>,

    /// path of the external snapshotter's socket
    #[arg(long)]
    pub oci_worker_proxy_snapshotter_path: Option<PathBuf>,

    /// enable containerd workers (true/false/auto)
    #[arg(long)]
    pub containerd_worker: Option<String>,

    /// containerd socket
    #[arg(long)]
    pub containerd_worker_addr: Option<String>,

    /// print the version
    #[arg(long, short = 'v')]
    pub version: bool,
}
