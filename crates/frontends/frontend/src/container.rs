//! Containers a frontend drives, and frontends that are programs in one.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use diagnostics::Failure;
use futures::future::BoxFuture;
use proto::{fsutil, pb};
use tasks::Cx;

use crate::{Bridge, Outcome, Reference, Request};

pub use executor::{Attach as Wires, Request as Wish, WinSize};

/// What a container is made of.
#[derive(Clone, Default)]
pub struct ContainerRequest {
    /// Chosen by whoever asks.
    pub id: String,
    /// Mounts; `result_id` says what they start from.
    pub mounts: Vec<pb::Mount>,
    /// The results of the build that mounts name. Others are those of failed steps.
    pub references: BTreeMap<String, Arc<dyn Reference>>,
    /// The system it is for; empty: ours.
    pub os: String,
    /// Network.
    pub network: pb::NetMode,
    /// Lines for /etc/hosts.
    pub extra_hosts: Vec<pb::HostIp>,
    /// Name in there.
    pub hostname: String,
    /// Files only this container sees, read-only.
    pub files: Vec<PrivateFile>,
}

/// A file in a directory of its own.
#[derive(Debug, Clone)]
pub struct PrivateFile {
    /// The directory.
    pub directory: String,
    /// The name.
    pub name: String,
    /// The content.
    pub content: Bytes,
}

/// A process for a container.
#[derive(Debug, Clone, Default)]
pub struct Start {
    /// args, env, cwd, user; whether mount points are removed with their parents.
    pub meta: pb::Meta,
    /// Variables with secrets in them.
    pub secret_env: Vec<pb::SecretEnv>,
    /// With a terminal.
    pub tty: bool,
    /// How confined it is, as `pb::SecurityMode` numbers it; counts for the first process.
    pub security: i32,
}

/// How a process ended: well, or why not.
pub type Ended = Result<(), Failure>;

/// A container of a build.
#[async_trait]
pub trait Container: Send + Sync {
    /// Starts a process. The first call decides at once that it is the first process; all others join it. The future
    /// runs it; its failure has the exit code as a detail.
    fn start(&self, start: Start, wires: Wires) -> BoxFuture<'static, Ended>;
    /// Kills what runs, waits for it, and gives everything up. Fails as the first process that failed did.
    async fn release(&self) -> Ended;
    /// Reads a file, or a part of it, in the mount with this number.
    async fn read_file(
        &self,
        mount: i32,
        path: &str,
        range: Option<(i64, i64)>,
    ) -> Result<Bytes, Failure>;
    /// Lists a directory.
    async fn read_dir(
        &self,
        mount: i32,
        path: &str,
        include: &str,
    ) -> Result<Vec<fsutil::Stat>, Failure>;
    /// Looks at a path; links are followed as far as they stay inside.
    async fn stat_file(&self, mount: i32, path: &str) -> Result<fsutil::Stat, Failure>;
}

/// Offers a bridge to a frontend that is a program of its own.
#[async_trait]
pub trait Serve: Send + Sync {
    /// Serves what comes in until the connection ends or `cx` does. The result is what the frontend returned, if it
    /// did.
    async fn serve(
        &self,
        cx: &Cx,
        bridge: Arc<dyn Bridge>,
        request: &Request,
        connection: (OwnedFd, OwnedFd),
    ) -> Option<Result<Outcome, Failure>>;

    /// What the worker is, as frontends read it from their environment: JSON.
    fn workers(&self) -> String;
}
