//! A request through frontend, solve and export: one build, start to finish.
//!
//! The builder knows contracts only: which frontends, exporters and sources there are is decided by whoever makes it.

mod attest;
mod bridge;
mod cache_exports;
mod cache_mounts;
mod chosen;
mod container;
mod exports;
mod exposed;
mod files;
mod gateway;
mod hub;
mod imports;
mod jobs;
mod nested;
mod policy;
mod reference;
mod request;
mod requests;
mod result;
mod running;
mod solve;
mod sources;
mod verifier;
mod verify;
mod vertex;

use std::collections::BTreeSet;
use std::sync::Arc;

use diagnostics::Failure;
use export::Exporter;
use frontend::Frontend;
use oci::Platform;
use ops::{Op, Worker};
use parking_lot::Mutex;
use solver::Solver;

pub use gateway::{Gateway, Returned};
pub use hub::{Hub, Reader};
pub use request::{ExporterRequest, SolveRequest};
pub use running::Progress;
pub use solve::Response;

use jobs::Jobs;

/// Everything builds run on.
pub struct Machinery {
    /// Stores and runtime.
    pub worker: Arc<Worker>,
    /// Decides what runs.
    pub solver: Solver<Op>,
    /// Languages.
    pub frontends: Vec<Arc<dyn Frontend>>,
    /// Outputs.
    pub exporters: Vec<Arc<dyn Exporter>>,
    /// Kinds of remote caches.
    pub caches: Vec<Arc<dyn remotecache::Kind>>,
    /// What the worker runs, native first.
    pub platforms: Vec<Platform>,
    /// What the daemon allows builds to ask for.
    pub entitlements: BTreeSet<String>,
    /// Builds on record.
    pub history: history::History,
}

impl Machinery {
    /// Whether there is a frontend of this name.
    pub fn offers(&self, frontend: &str) -> bool {
        self.frontends.iter().any(|it| it.name() == frontend)
    }
}

/// Runs builds. Clones share everything.
#[derive(Clone)]
pub struct Builder {
    machinery: Arc<Machinery>,
    jobs: Arc<Jobs>,
    running: Arc<Mutex<Vec<tasks::Task<()>>>>,
    requests: Arc<requests::Known>,
    environment: Arc<provenance::Environment>,
}

impl Builder {
    /// A builder on this machinery.
    pub fn new(machinery: Machinery) -> Self {
        Self {
            machinery: Arc::new(machinery),
            jobs: Arc::default(),
            running: Arc::default(),
            requests: Arc::default(),
            environment: Arc::default(),
        }
    }

    /// The same, saying this about the machine it runs on.
    #[must_use]
    pub fn in_environment(mut self, environment: provenance::Environment) -> Self {
        self.environment = Arc::new(environment);
        self
    }

    /// What builds run on.
    pub fn machinery(&self) -> &Machinery {
        &self.machinery
    }

    /// Does something short while no build runs, and keeps builds from starting meanwhile; `None` when one runs.
    /// Blocks.
    pub fn while_idle<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        self.jobs.while_idle(work)
    }

    /// Says that there will be no build of this name: its request was refused.
    pub fn refuse(&self, id: &str) {
        self.jobs.refuse(id);
    }

    /// The gateway of a build that its client drives; waits a little for one that is about to come.
    pub async fn gateway(&self, id: &str, method: &str) -> Result<Arc<Gateway>, Failure> {
        self.jobs.gateway(id, method).await
    }
}
