//! What the user typed.

use std::path::{Path, PathBuf};

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};

/// build utility
#[derive(Debug, Parser)]
#[command(
    name = "buildctl",
    disable_version_flag = true,
    args_override_self = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub global: Global,

    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// enable debug output in logs
    #[arg(long)]
    pub debug: bool,

    /// buildkitd address
    #[arg(long, env = "BUILDKIT_HOST")]
    pub addr: Option<String>,

    /// log formatter: json or text
    #[arg(long, default_value = "text")]
    pub log_format: String,

    /// buildkitd server name for certificate validation
    #[arg(long)]
    pub tlsservername: Option<String>,

    /// CA certificate for validation
    #[arg(long, value_parser = path())]
    pub tlscacert: Option<PathBuf>,

    /// client certificate
    #[arg(long, value_parser = path())]
    pub tlscert: Option<PathBuf>,

    /// client key
    #[arg(long, value_parser = path())]
    pub tlskey: Option<PathBuf>,

    /// directory containing CA certificate, client certificate, and client key. Supported file names are (ca.pem,
    /// cert.pem, key.pem) or (ca.crt, tls.crt, tls.key)
    #[arg(long, value_parser = path())]
    pub tlsdir: Option<PathBuf>,

    /// timeout backend connection after value seconds
    #[arg(long, default_value_t = 5, allow_negative_numbers = true)]
    pub timeout: i64,

    /// block RPCs until the connection becomes available
    #[arg(long)]
    pub wait: bool,

    /// print the version
    #[arg(long, short = 'v')]
    pub version: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// build
    #[command(alias = "b")]
    Build(Box<BuildArgs>),
    /// disk usage
    Du(DuArgs),
    /// clean up build cache
    Prune(PruneArgs),
    /// clean up build histories
    PruneHistories(FormatArgs),
    /// debug utilities
    #[command(subcommand)]
    Debug(DebugCommand),
    /// connects standard input and output with the daemon
    #[command(hide = true)]
    DialStdio,
}

/// Arguments of lists without choices.
#[derive(Debug, Args)]
pub(crate) struct FormatArgs {
    /// Format the output using the given Go template, e.g, '{{json .}}'
    #[arg(long)]
    pub format: Option<String>,

    // Compat: upstream takes no notice of them.
    #[arg(hide = true)]
    pub others: Vec<String>,
}

/// Arguments of `debug ctl`.
#[derive(Debug, Args)]
pub(crate) struct CtlArgs {
    /// build ref
    #[arg(value_name = "REF")]
    pub build: Option<String>,

    /// Pin build so it will not be garbage collected
    #[arg(long)]
    pub pin: bool,

    /// Unpin build so it will be garbage collected
    #[arg(long)]
    pub unpin: bool,

    /// Delete build record
    #[arg(long)]
    pub delete: bool,

    // Compat: upstream takes no notice of them.
    #[arg(hide = true)]
    pub others: Vec<String>,
}

/// Arguments of `du`.
#[derive(Debug, Args)]
pub(crate) struct DuArgs {
    /// Filter records
    #[arg(long, short)]
    pub filter: Vec<String>,

    /// Verbose output
    #[arg(long, short)]
    pub verbose: bool,

    /// Format the output using the given Go template, e.g, '{{json .}}'
    #[arg(long)]
    pub format: Option<String>,

    // Compat: upstream takes no notice of them.
    #[arg(hide = true)]
    pub others: Vec<String>,
}

/// Arguments of `prune`.
#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Keep data newer than this limit
    #[arg(long, value_parser = crate::usage::duration, default_value = "0s")]
    pub keep_duration: std::time::Duration,

    /// Keep data below this limit (in MB)
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub keep_storage: f64,

    /// Always allow data above this limit (in MB)
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub keep_storage_min: f64,

    /// Keep free data below this limit (in MB)
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub free_storage: f64,

    /// Filter records
    #[arg(long, short)]
    pub filter: Vec<String>,

    /// Include internal/frontend references
    #[arg(long)]
    pub all: bool,

    /// Verbose output
    #[arg(long, short)]
    pub verbose: bool,

    /// Format the output using the given Go template, e.g, '{{json .}}'
    #[arg(long)]
    pub format: Option<String>,

    // Compat: upstream takes no notice of them.
    #[arg(hide = true)]
    pub others: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DebugCommand {
    /// list workers
    Workers {
        /// containerd-style filter string slice
        #[arg(long, short)]
        filter: Vec<String>,
        /// verbose output
        #[arg(long, short)]
        verbose: bool,
        /// format the output using the given Go template, e.g, '{{json .}}'
        #[arg(long)]
        format: Option<String>,
        // Compat: upstream takes no notice of them.
        #[arg(hide = true)]
        others: Vec<String>,
    },
    /// dump LLB in human-readable format. LLB can be also passed via stdin. This command does not require the daemon to
    /// be running.
    DumpLlb {
        /// Output dot format
        #[arg(long)]
        dot: bool,
        /// LLB file
        file: Option<PathBuf>,
    },
    /// dump the metadata of the daemon, which must be stopped
    DumpMetadata {
        /// path to state directory
        #[arg(long, default_value = "/var/lib/buildkit")]
        root: PathBuf,
    },
    /// display build events
    Monitor {
        /// show completed builds
        #[arg(long)]
        completed: bool,
        /// show events for a specific build
        #[arg(long, default_value = "")]
        r#ref: String,
    },
    /// display build logs
    Logs {
        /// build ref
        #[arg(value_name = "REF")]
        build: Option<String>,
        /// progress output type
        #[arg(long, default_value = "auto")]
        progress: String,
        /// show opentelemetry trace
        #[arg(long)]
        trace: bool,
    },
    /// say why steps of a build on record ran
    Explain {
        /// build ref
        #[arg(value_name = "REF")]
        build: Option<String>,
        /// digest of a step, or a part of its name; all steps that ran if absent
        #[arg(default_value = "")]
        step: String,
    },
    /// check that everything the daemon has stored fits together
    Verify {
        /// do not read the blobs
        #[arg(long)]
        names_only: bool,
    },
    /// control build records
    Ctl(CtlArgs),
    /// retrieve a blob from contentstore
    Get {
        /// digest of the blob
        digest: Option<String>,
    },
    /// list build records
    Histories(FormatArgs),
    /// display internal information
    Info {
        /// format the output using the given Go template, e.g, '{{json .}}'
        #[arg(long)]
        format: Option<String>,
        // Compat: upstream takes no notice of them.
        #[arg(hide = true)]
        others: Vec<String>,
    },
}

#[derive(Debug, Args, Default)]
pub(crate) struct BuildArgs {
    /// Define exports for build result, e.g. --output type=image,name=docker.io/username/image,push=true
    #[arg(long, short)]
    pub output: Vec<String>,

    /// Set type of progress (auto, plain, tty, rawjson, quiet). Use plain to show container output
    #[arg(long, default_value = "auto")]
    pub progress: String,

    /// Path to trace file. Defaults to no tracing.
    #[arg(long, value_parser = path())]
    pub trace: Option<PathBuf>,

    /// Allow build access to the local directory
    #[arg(long)]
    pub local: Vec<String>,

    /// Allow build access to the local OCI layout
    #[arg(long)]
    pub oci_layout: Vec<String>,

    /// Define frontend used for build
    #[arg(long, default_value = "")]
    pub frontend: String,

    /// Define custom options for frontend, e.g. --opt target=foo --opt build-arg:foo=bar
    #[arg(long)]
    pub opt: Vec<String>,

    /// Disable cache for all the vertices
    #[arg(long)]
    pub no_cache: bool,

    /// Say why steps were not taken from the cache
    #[arg(long)]
    pub explain: bool,

    /// Export build cache, e.g. --export-cache type=registry,ref=example.com/foo/bar
    #[arg(long)]
    pub export_cache: Vec<String>,

    /// Import build cache, e.g. --import-cache type=registry,ref=example.com/foo/bar
    #[arg(long)]
    pub import_cache: Vec<String>,

    /// Secret value exposed to the build. Format id=secretname,src=filepath
    #[arg(long)]
    pub secret: Vec<String>,

    /// Allow extra privileged entitlement, e.g. network.host, security.insecure, device
    #[arg(long)]
    pub allow: Vec<String>,

    /// Allow forwarding SSH agent or a raw Unix socket to the builder
    #[arg(long)]
    pub ssh: Vec<String>,

    /// Output build metadata (e.g., image digest) to a file as JSON
    #[arg(long, value_parser = path())]
    pub metadata_file: Option<PathBuf>,

    /// Read source policy file from a JSON file
    #[arg(long, value_parser = path())]
    pub source_policy_file: Option<PathBuf>,

    /// Run build with proxy network enforcement
    #[arg(long)]
    pub proxy_network: bool,

    /// Write build ref to a file
    #[arg(long, value_parser = path())]
    pub ref_file: Option<PathBuf>,

    /// Overwrite TLS configuration when authenticating with registries
    #[arg(long)]
    pub registry_auth_tlscontext: Vec<String>,

    /// Where to output json cache metrics, use 'stdout' or 'stderr' for standard (error) output.
    #[arg(long)]
    pub debug_json_cache_metrics: Option<String>,

    // Compat: upstream takes no notice of them.
    #[arg(hide = true)]
    pub others: Vec<String>,
}

/// A path; scripts give empty ones for none.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// The path that was given, if it is one.
pub(crate) fn given(path: Option<&PathBuf>) -> Option<&Path> {
    path.map(PathBuf::as_path)
        .filter(|path| !path.as_os_str().is_empty())
}
