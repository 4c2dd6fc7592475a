//! Running steps with an external OCI runtime: runc, crun, or whatever the configuration names.
//!
//! A bundle directory per container, `run --keep`, `kill` when the step is cancelled, `delete` at the end. The
//! runtime's own messages go to the step's standard error, and its exit status is the step's.

mod attached;
mod bundle;
mod command;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use progress::Stream;
use tasks::Cx;

use crate::output::pump;
use crate::overlays::Overlays;
use crate::prepare::Shared;
use crate::{Attach, Error, ExecProcess, Executor, Output, Settings, Step, usage};
use bundle::Bundle;
use command::Runtime;

/// Names looked for when the configuration gives none.
const NAMES: [&str; 2] = ["buildkit-runc", "runc"];

/// Between attempts to kill a container that does not end.
const KILL_AGAIN: Duration = Duration::from_millis(50);

/// Exit code where there is none.
const NO_CODE: i32 = 255;

/// Runs steps with an external runtime.
#[derive(Debug, Clone)]
pub struct Runc {
    shared: Arc<Shared>,
    overlays: Arc<Overlays>,
    runtime: Runtime,
    running: attached::Containers,
}

/// No external runtime is installed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum NewError {
    #[error("failed to find runc binary")]
    NotFound,
    #[error("failed to prepare {path}")]
    Directory {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl fault::Classify for NewError {
    fn class(&self) -> fault::Class {
        match self {
            Self::NotFound => fault::Class::NotFound,
            Self::Directory { source, .. } => source.class(),
        }
    }
}

impl Runc {
    /// Uses `binary` (a path, or a name looked up in `search_path`), or else the first of the usual names. Blocking.
    pub fn new(
        settings: Settings,
        binary: Option<&str>,
        search_path: &str,
    ) -> Result<Self, NewError> {
        let found = match binary {
            Some(name) => find(name, search_path),
            None => NAMES.iter().find_map(|name| find(name, search_path)),
        };
        let binary = found.ok_or(NewError::NotFound)?;
        let directory = |source| NewError::Directory {
            path: settings.root.clone(),
            source,
        };
        bundle::sweep(&settings.root).map_err(directory)?;
        let shared = Shared::new(settings.clone()).map_err(directory)?;
        let runtime = Runtime::new(binary, shared.settings.root.join("runc-log.json"));
        let overlays = Overlays::new(shared.settings.root.join(bundle::OVERLAYS));
        Ok(Self {
            shared: Arc::new(shared),
            overlays: Arc::new(overlays),
            runtime,
            running: attached::Containers::default(),
        })
    }

    async fn run_bundle(&self, cx: &Cx, bundle: &Bundle, output: &Output) -> Result<i32, Error> {
        let mut child = self
            .runtime
            .run(bundle.path(), bundle.id())
            .map_err(|err| Error::start_io("failed to start the runtime", err))?;
        let stdout = child
            .stdout
            .take()
            .map(|pipe| pump(pipe, Stream::Stdout, output.clone()));
        let stderr = child
            .stderr
            .take()
            .map(|pipe| pump(pipe, Stream::Stderr, output.clone()));
        let drain = async {
            tokio::join!(
                async {
                    if let Some(pump) = stdout {
                        pump.await
                    }
                },
                async {
                    if let Some(pump) = stderr {
                        pump.await
                    }
                },
            )
        };
        let work = async { tokio::join!(child.wait(), drain).0 };
        tokio::pin!(work);
        let (status, cancelled) = tokio::select! {
            biased;
            status = &mut work => (status, None),
            cancelled = cx.cancelled() => {
                loop {
                    self.runtime.kill(bundle.id()).await;
                    if let Ok(status) = tokio::time::timeout(KILL_AGAIN, &mut work).await {
                        break (status, Some(cancelled));
                    }
                    tracing::warn!(id = bundle.id(), "container is taking a long time to exit after kill");
                }
            }
        };
        let code = match status {
            Ok(status) => command::code(status),
            Err(err) => return Err(Error::start_io("failed to wait for the runtime", err)),
        };
        match cancelled {
            Some(cancelled) if code != 0 => Err(Error::Cancelled { code, cancelled }),
            _ => Ok(code),
        }
    }
}

#[async_trait]
impl Executor for Runc {
    async fn run(&self, cx: &Cx, step: Step, output: Output) -> Result<(), Error> {
        cx.check().map_err(|cancelled| Error::Cancelled {
            code: NO_CODE,
            cancelled,
        })?;
        let valid = step.process.valid_exit_codes.clone();
        let (shared, overlays) = (self.shared.clone(), self.overlays.clone());
        let usage = step.usage.clone();
        let bundle = tasks::blocking(move || Bundle::create(&shared, &overlays, &step)).await?;
        let mut running = Running {
            runtime: &self.runtime,
            bundle: Some(bundle),
        };
        let Some(bundle) = &running.bundle else {
            return Err(Error::start("bundle is gone"));
        };
        if let Some(usage) = &usage {
            usage.begin(bundle.cgroups_path());
        }
        let result = tokio::select! {
            result = self.run_bundle(cx, bundle, &output) => result,
            never = usage::watch(usage.as_deref()) => match never {},
        };
        if let Some(usage) = usage {
            tasks::blocking(move || usage.end()).await;
        }
        let out_of_memory = matches!(result, Ok(code) if code != 0) && bundle.out_of_memory();
        self.runtime.delete(bundle.id()).await;
        if let Some(bundle) = running.bundle.take() {
            tasks::blocking(move || bundle.remove()).await;
        }
        match Error::from_exit(result?, &valid) {
            Err(Error::Exit { code }) if out_of_memory => Err(Error::OutOfMemory { code }),
            other => other,
        }
    }

    async fn run_attached(&self, cx: &Cx, step: Step, attach: Attach) -> Result<(), Error> {
        let valid = step.process.valid_exit_codes.clone();
        let tty = step.process.tty;
        let (shared, overlays) = (self.shared.clone(), self.overlays.clone());
        let bundle = tasks::blocking(move || Bundle::create(&shared, &overlays, &step)).await?;
        let mut running = Running {
            runtime: &self.runtime,
            bundle: Some(bundle),
        };
        let Some(bundle) = &running.bundle else {
            return Err(Error::start("bundle is gone"));
        };
        let result = self.attend_bundle(cx, bundle, attach, tty).await;
        self.runtime.delete(bundle.id()).await;
        if let Some(bundle) = running.bundle.take() {
            tasks::blocking(move || bundle.remove()).await;
        }
        Error::from_exit(result?, &valid)
    }

    async fn exec(
        &self,
        cx: &Cx,
        id: &str,
        process: ExecProcess,
        attach: Attach,
    ) -> Result<(), Error> {
        Error::from_exit(self.exec_in(cx, id, process, attach).await?, &[])
    }
}

/// A container that may be running. If nobody waits for its end any more, it is killed and removed in the background.
struct Running<'a> {
    runtime: &'a Runtime,
    bundle: Option<Bundle>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let Some(bundle) = self.bundle.take() else {
            return;
        };
        let runtime = self.runtime.clone();
        let cleanup = std::thread::Builder::new()
            .name("abandoned".to_owned())
            .spawn(move || {
                runtime.delete_by_force(bundle.id());
                bundle.remove();
            });
        if let Err(err) = cleanup {
            tracing::warn!(error = %err, "abandoned container stays behind");
        }
    }
}

/// A binary by path or by name.
fn find(name: &str, search_path: &str) -> Option<PathBuf> {
    if name.contains('/') {
        let path = PathBuf::from(name);
        return path.is_file().then_some(path);
    }
    std::env::split_paths(search_path)
        .map(|dir| dir.join(name))
        .find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_runtime_is_told_as_upstream_does() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let settings = Settings {
            root: dir.path().join("executor"),
            ..Settings::default()
        };
        let err = Runc::new(settings, None, "/nonexistent/runc").expect_err("nothing there");
        assert_eq!(err.to_string(), "failed to find runc binary");
    }
}
