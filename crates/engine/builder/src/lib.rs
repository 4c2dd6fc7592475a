//! A request through frontend, solve and export: one build, start to finish.
//!
//! The builder knows contracts only: which frontends, exporters and sources there are is decided by whoever makes it.

mod bridge;
mod files;
mod gateway;
mod hub;
mod imports;
mod jobs;
mod reference;
mod request;
mod result;
mod solve;
mod verify;
mod vertex;

use std::collections::BTreeSet;
use std::sync::Arc;

use diagnostics::Failure;
use export::Exporter;
use frontend::Frontend;
use oci::Platform;
use ops::{Op, Worker};
use solver::Solver;

pub use gateway::{Gateway, Returned};
pub use hub::{Hub, Reader};
pub use request::{ExporterRequest, SolveRequest};
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
    /// Resolves image names.
    pub images: Arc<dyn source::ImageResolver>,
    /// What the worker runs, native first.
    pub platforms: Vec<Platform>,
    /// What the daemon allows builds to ask for.
    pub entitlements: BTreeSet<String>,
}

impl Machinery {
    /// Whether there is a frontend of this name.
    pub fn offers(&self, frontend: &str) -> bool {
        self.frontends.iter().any(|it| it.name() == frontend)
    }
}

/// Runs builds.
pub struct Builder {
    machinery: Arc<Machinery>,
    jobs: Arc<Jobs>,
}

impl Builder {
    /// A builder on this machinery.
    pub fn new(machinery: Machinery) -> Self {
        Self {
            machinery: Arc::new(machinery),
            jobs: Arc::default(),
        }
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

    /// Follows the progress of a build from its beginning; waits a little for one that is about to come.
    pub async fn status(&self, id: &str) -> Result<Reader, Failure> {
        Ok(self.jobs.hub(id).await?.reader())
    }

    /// The gateway of a build that its client drives; waits a little for one that is about to come.
    pub async fn gateway(&self, id: &str, method: &str) -> Result<Arc<Gateway>, Failure> {
        self.jobs.gateway(id, method).await
    }
}
