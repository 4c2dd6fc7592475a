//! Running one step in a container: what goes in, what comes out, and the contract runtimes fulfil.
//!
//! This crate turns a [`Process`] and its mounts into an OCI runtime specification and owns what every runtime needs
//! around it (users, hosts and resolv.conf, mount stubs, seccomp profile as data). Actually starting containers is the
//! embedded `runtime`'s job, or that of an external binary.

pub mod attach;
pub mod caps;
pub mod cdi;
pub mod files;
pub mod generate;
pub mod host;
pub mod output;
pub mod overlays;
pub mod prepare;
pub mod rootfs;
pub mod runc;
mod seccomp;
mod selinux;
pub mod settings;
pub mod spec;
pub mod stubs;
pub mod terminal;
pub mod usage;
pub mod user;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use progress::Stream;
use tasks::Cx;

pub use attach::{Attach, Request, WinSize};
pub use host::Host;
pub use settings::{DefaultNetwork, Dns, Settings};

/// The name a step's machine has when nobody chose one.
pub const DEFAULT_HOSTNAME: &str = "buildkitsandbox";

/// Which network a step gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NetMode {
    /// The daemon's default.
    #[default]
    Sandbox,
    /// The daemon's own.
    Host,
    /// Loopback only.
    None,
}

/// How confined a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Security {
    /// Default capabilities, seccomp, masked paths.
    #[default]
    Sandbox,
    /// Everything the daemon may do.
    Insecure,
}

/// A resource limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ulimit {
    /// Lower-case name without `RLIMIT_`.
    pub name: String,
    /// Soft limit.
    pub soft: i64,
    /// Hard limit.
    pub hard: i64,
}

/// Limits for the step's cgroup. Zero or empty: none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct Resources {
    pub memory: i64,
    pub memory_swap: i64,
    pub cpu_shares: i64,
    pub cpu_period: i64,
    pub cpu_quota: i64,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
}

/// What runs.
#[derive(Debug, Clone, Default)]
pub struct Process {
    /// Arguments; the first is looked up in PATH.
    pub args: Vec<String>,
    /// KEY=VALUE, complete: secrets and proxy variables are in it already. PATH is added when missing.
    pub env: Vec<String>,
    /// Absolute working directory.
    pub cwd: String,
    /// `user[:group]`, by name or id.
    pub user: String,
    /// Hostname; empty: `buildkitsandbox`.
    pub hostname: String,
    /// Further lines for /etc/hosts.
    pub extra_hosts: Vec<(String, IpAddr)>,
    /// Network.
    pub network: NetMode,
    /// Confinement.
    pub security: Security,
    /// rlimits.
    pub ulimits: Vec<Ulimit>,
    /// cgroup parent; empty: the daemon's default.
    pub cgroup_parent: String,
    /// cgroup limits.
    pub resources: Resources,
    /// Mount points made for the step are removed with the parents made for them.
    pub remove_stubs_recursive: bool,
    /// Exit codes that count as success; empty: 0 only.
    pub valid_exit_codes: Vec<i32>,
    /// Attach a pseudo terminal.
    pub tty: bool,
    /// Devices of the host.
    pub devices: Vec<cdi::Wanted>,
    /// Trace context, appended to the environment when a tracing socket is configured.
    pub trace_env: Vec<String>,
}

/// A mount besides the root.
#[derive(Debug, Clone)]
pub struct StepMount {
    /// Absolute path inside the container.
    pub dest: String,
    /// What is mounted there.
    pub source: MountSource,
    /// Path inside the source, resolved without leaving it.
    pub selector: Option<String>,
    /// Read-only.
    pub readonly: bool,
}

/// Where a mount comes from.
#[derive(Debug, Clone)]
pub enum MountSource {
    /// A snapshot.
    Snapshot(mount::Mount),
    /// A file or directory of the daemon's own, with mount options beyond `rbind` (`nosuid`, `noexec`, …).
    Path {
        /// Absolute host path.
        path: PathBuf,
        /// Extra options.
        options: Vec<String>,
    },
    /// Memory. Size in bytes, 0: kernel default.
    Tmpfs {
        /// Bytes.
        size: i64,
        /// Further options; `nosuid` is added.
        options: Vec<String>,
    },
}

/// A step to run.
#[derive(Debug, Clone)]
pub struct Step {
    /// Container id: letters and digits.
    pub id: String,
    /// Root filesystem.
    pub root: mount::Mount,
    /// The root is mounted read-only.
    pub root_readonly: bool,
    /// Other mounts, in the order of the op.
    pub mounts: Vec<StepMount>,
    /// The process.
    pub process: Process,
    /// Keeps account of what it uses.
    pub usage: Option<Arc<usage::Usage>>,
}

/// Takes the output of a step as it comes. Must not block for long.
pub type Output = Arc<dyn Fn(Stream, Bytes) + Send + Sync>;

/// Why a step failed. The text is what users see behind `process "…" did not complete successfully: `.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process ended with a code that is not allowed.
    #[error("exit code: {code}")]
    Exit {
        /// 128+n for signal n.
        code: i32,
    },
    /// The kernel killed it for memory.
    #[error("cannot allocate memory")]
    OutOfMemory {
        /// Its exit code.
        code: i32,
    },
    /// The step was cancelled; the process was killed.
    #[error("exit code: {code}: {cancelled}")]
    Cancelled {
        /// Its exit code, 137 as a rule.
        code: i32,
        /// Why.
        cancelled: tasks::Cancelled,
    },
    /// It could not be started.
    #[error("{message}")]
    Start {
        /// Complete text.
        message: String,
        /// Cause.
        #[source]
        source: Option<std::io::Error>,
    },
}

impl Error {
    /// It could not be started, for a reason that is all in the text.
    pub fn start(message: impl Into<String>) -> Self {
        Self::Start {
            message: message.into(),
            source: None,
        }
    }

    /// It could not be started because of the system; `doing` says what was tried.
    pub fn start_io(doing: impl std::fmt::Display, source: std::io::Error) -> Self {
        Self::Start {
            message: format!("{doing}: {source}"),
            source: Some(source),
        }
    }

    /// What an exit code means for a step that allows these.
    pub fn from_exit(code: i32, valid: &[i32]) -> Result<(), Self> {
        let good = if valid.is_empty() {
            code == 0
        } else {
            valid.contains(&code)
        };
        if good {
            Ok(())
        } else {
            Err(Self::Exit { code })
        }
    }

    /// The exit code to report; 255 when the process never ran.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Exit { code } | Self::OutOfMemory { code } | Self::Cancelled { code, .. } => {
                *code
            }
            Self::Start { .. } => 255,
        }
    }
}

impl fault::Classify for Error {
    fn class(&self) -> fault::Class {
        match self {
            Self::Exit { .. } => fault::Class::User,
            Self::OutOfMemory { .. } => fault::Class::Exhausted,
            Self::Cancelled { .. } => fault::Class::Cancelled,
            Self::Start { source, .. } => source
                .as_ref()
                .map_or(fault::Class::User, fault::Classify::class),
        }
    }
}

/// Runs steps.
///
/// 1. `run` returns after the process and everything it left behind in its pid namespace is gone, all its output was
///    handed to `output`, and nothing of it remains mounted.
/// 2. When `cx` is cancelled the process is killed and `run` returns `Error::Cancelled`.
/// 3. The root snapshot holds what the process wrote, and no mount stubs.
#[async_trait]
pub trait Executor: Send + Sync {
    /// Runs a step to its end.
    async fn run(&self, cx: &Cx, step: Step, output: Output) -> Result<(), Error>;

    /// As `run`, with somebody at the other end of the process's streams. What it wrote may still be in the pipes when
    /// this returns.
    async fn run_attached(&self, cx: &Cx, step: Step, attach: Attach) -> Result<(), Error>;

    /// Runs one more process in a container that was started under this id; waits until that one has. Ends when the
    /// process does, or the container.
    async fn exec(
        &self,
        cx: &Cx,
        id: &str,
        process: ExecProcess,
        attach: Attach,
    ) -> Result<(), Error>;
}

/// One more process for a container.
#[derive(Debug, Clone, Default)]
pub struct ExecProcess {
    /// Arguments; the first is looked up in PATH.
    pub args: Vec<String>,
    /// KEY=VALUE, complete; empty: as the first process.
    pub env: Vec<String>,
    /// Absolute working directory; empty: as the first process.
    pub cwd: String,
    /// `user[:group]`; empty: as the first process.
    pub user: String,
    /// Attach a pseudo terminal.
    pub tty: bool,
}
