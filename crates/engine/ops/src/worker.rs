//! What operations work with: stores, sources, the runtime. One per daemon.

use std::collections::BTreeSet;
use std::sync::Arc;

use executor::Executor;
use oci::Platform;
use session::{Group, Manager};
use solver::Work;

use crate::exec_mounts::CacheDirs;
use crate::explain::Explain;
use crate::logs::LogLimits;
use crate::usage::Usages;

/// Settings of a worker.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// Random, kept in the state directory.
    pub id: String,
    /// What steps run on unless they say otherwise.
    pub platform: Platform,
    /// How much output of a step is shown.
    pub log_limits: LogLimits,
    /// For private files of steps: secrets and sockets.
    pub scratch: std::path::PathBuf,
}

/// What a build may ask for beyond the ordinary.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entitlements(pub BTreeSet<String>);

impl Entitlements {
    /// Whether `name` was granted.
    pub fn allow(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

/// The machinery behind all operations.
pub struct Worker {
    /// Settings.
    pub options: WorkerOptions,
    /// Trees.
    pub cache: cache::Cache,
    /// Kinds of sources.
    pub sources: Vec<Arc<dyn ::source::Source>>,
    /// Runs processes.
    pub executor: Arc<dyn Executor>,
    /// Devices of the host that steps may ask for; none when that is switched off.
    pub devices: Option<Arc<executor::cdi::Registry>>,
    /// Clients.
    pub sessions: Manager,
    /// Cache mounts in use.
    pub cache_dirs: CacheDirs,
    /// What ran before.
    pub explain: Arc<Explain>,
    /// What steps use.
    pub usages: Usages,
}

impl Worker {
    /// The sessions behind a piece of work.
    pub(crate) fn group(&self, work: &Work) -> Group {
        self.sessions.group((work.sessions)())
    }

    /// The source that answers to `scheme`.
    pub(crate) fn source(&self, scheme: &str) -> Option<&Arc<dyn ::source::Source>> {
        self.sources
            .iter()
            .find(|source| source.schemes().contains(&scheme))
    }
}
