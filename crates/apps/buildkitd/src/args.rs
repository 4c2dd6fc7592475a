//! What the user typed.

use std::path::PathBuf;

use clap::Parser;
use clap::builder::BoolishValueParser;

/// build daemon
#[derive(Debug, Parser)]
#[command(name = "buildkitd", disable_version_flag = true)]
#[allow(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub(crate) struct Args {
    /// path to config file
    #[arg(long)]
    pub config: Option<PathBuf>,

    /// enable debug output in logs
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub debug: Option<bool>,

    /// deprecated: same as --log-level=trace
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub trace: Option<bool>,

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
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub rootless: Option<bool>,

    /// OTEL collector trace socket path
    #[arg(long)]
    pub otel_socket_path: Option<PathBuf>,

    /// disables support of the Container Device Interface (CDI)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub cdi_disabled: Option<bool>,

    /// list of directories to scan for CDI spec files
    #[arg(long)]
    pub cdi_spec_dir: Vec<PathBuf>,

    /// enable saving cache debug info
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub save_cache_debug: Option<bool>,

    /// enforce proxy networking for all builds
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub proxy_network: Option<bool>,

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
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub oci_worker_selinux: Option<bool>,

    /// maximum number of parallel build steps that can be run at the same time
    #[arg(long)]
    pub oci_max_parallelism: Option<usize>,

    /// enable rootless mode
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub oci_worker_rootless: Option<bool>,

    /// use the host PID namespace and procfs (WARNING: allows build containers to kill host processes)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub oci_worker_no_process_sandbox: Option<bool>,

    /// enable automatic garbage collection on worker
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
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

    #[command(flatten)]
    pub containerd: ContainerdArgs,

    /// print the version
    #[arg(long, short = 'v')]
    pub version: bool,
}

/// Flags of the worker we do not have; only the first one matters.
#[derive(Debug, Default, clap::Args)]
#[allow(dead_code, reason = "taken so that command lines made for others work")]
pub(crate) struct ContainerdArgs {
    /// enable containerd workers (true/false/auto)
    #[arg(long)]
    pub containerd_worker: Option<String>,

    /// containerd socket
    #[arg(long, hide = true)]
    pub containerd_worker_addr: Option<String>,

    /// user-specific annotation labels (com.example.foo=bar)
    #[arg(long, hide = true)]
    pub containerd_worker_labels: Vec<String>,

    /// override supported platforms for worker
    #[arg(long, hide = true)]
    pub containerd_worker_platform: Vec<String>,

    /// override containerd namespace
    #[arg(long, hide = true)]
    pub containerd_worker_namespace: Option<String>,

    /// override containerd runtime
    #[arg(long, hide = true)]
    pub containerd_worker_runtime: Option<String>,

    /// worker network type (auto, bridge, cni or host)
    #[arg(long, hide = true)]
    pub containerd_worker_net: Option<String>,

    /// path of cni config file
    #[arg(long, hide = true)]
    pub containerd_cni_config_path: Option<PathBuf>,

    /// path of cni binary files
    #[arg(long, hide = true)]
    pub containerd_cni_binary_dir: Option<PathBuf>,

    /// size of cni network namespace pool
    #[arg(long, hide = true)]
    pub containerd_cni_pool_size: Option<u32>,

    /// snapshotter name to use
    #[arg(long, hide = true)]
    pub containerd_worker_snapshotter: Option<String>,

    /// set the name of the apparmor profile applied to containers
    #[arg(long, hide = true)]
    pub containerd_worker_apparmor_profile: Option<String>,

    /// apply SELinux labels
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub containerd_worker_selinux: Option<bool>,

    /// limit the number of parallel build steps that can run at the same time
    #[arg(long, hide = true)]
    pub containerd_max_parallelism: Option<usize>,

    /// enable rootless mode
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub containerd_worker_rootless: Option<bool>,

    /// enable automatic garbage collection on worker
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub containerd_worker_gc: Option<bool>,

    /// amount of storage GC keep locally, format `Reserved[,Free[,Maximum]]` (MB)
    #[arg(long, hide = true)]
    pub containerd_worker_gc_keepstorage: Option<String>,
}
