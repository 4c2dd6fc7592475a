//! Containers that clients and frontends drive: mounts made of results, kept until they are released.

use std::path::PathBuf;
use std::sync::Arc;

use diagnostics::Failure;
use executor::StepMount;
use progress::Progress;
use proto::pb;
use solver::Work;
use tasks::Cx;

use crate::exec::ExecOp;
use crate::exec_mounts::{Mounts, secret_variables};
use crate::{Value, Worker};

/// The mounts of a container. Dropped, they are gone with everything that was written to them.
pub struct Container {
    mounts: Mounts,
}

/// What such a container asks of the client that wants it.
#[derive(Clone)]
pub struct Asker {
    /// Ends with the container.
    pub cx: Cx,
    /// The client's session.
    pub session: String,
}

impl Asker {
    fn work(&self) -> Work {
        let session = self.session.clone();
        Work {
            cx: self.cx.clone(),
            progress: Progress::none(),
            sessions: Arc::new(move || vec![session.clone()]),
            step: None,
        }
    }
}

impl Container {
    /// Prepares the mounts of container `id`; the result of each is what it starts from.
    pub async fn prepare(
        worker: &Arc<Worker>,
        asker: &Asker,
        id: &str,
        mounts: Vec<(pb::Mount, Option<Value>)>,
    ) -> Result<Self, Failure> {
        let mut inputs = Vec::new();
        let mut list = Vec::new();
        for (mut mount, value) in mounts {
            mount.output = -1;
            mount.input = -1;
            if let Some(value) = value {
                if let Some(tree) = &value.0 {
                    let ready = tree.ensure(&asker.cx, &Progress::none()).await;
                    ready.map_err(|err| Failure::from_error(&err))?;
                }
                mount.input = i64::try_from(inputs.len()).unwrap_or(i64::MAX);
                inputs.push(value);
            }
            list.push(mount);
        }
        let op = ExecOp {
            worker: worker.clone(),
            op: pb::ExecOp {
                meta: Some(pb::Meta {
                    args: vec!["container".to_owned(), id.to_owned()],
                    cwd: "/".to_owned(),
                    ..pb::Meta::default()
                }),
                mounts: list,
                ..pb::ExecOp::default()
            },
            platform: worker.options.platform.clone(),
            inputs: inputs.len(),
            resources: None,
            account: std::sync::Arc::default(),
        };
        let mounts = Mounts::prepare(worker, &asker.work(), &op, &inputs).await?;
        Ok(Self { mounts })
    }

    /// The root filesystem.
    pub fn root(&self) -> mount::Mount {
        self.mounts.root.clone()
    }

    /// What is mounted besides.
    pub fn mounts(&self) -> Vec<StepMount> {
        self.mounts.step.clone()
    }

    /// How many mounts were asked for.
    pub fn count(&self) -> usize {
        self.mounts.places.len()
    }

    /// What can be read at the mount with this number, whether the container runs or not.
    pub fn tree(&self, index: usize) -> Option<mount::Mount> {
        let place = self.mounts.places.get(index)?.as_ref()?;
        Some(match place {
            // What is written shows at once; only the kernel minds a second mount that writes.
            mount::Mount::Overlay {
                lower,
                upper: Some(upper),
                options,
            } => {
                let mut all: Vec<PathBuf> = vec![upper.dir.clone()];
                all.extend(lower.iter().cloned());
                mount::Mount::Overlay {
                    lower: all,
                    upper: None,
                    options: options.clone(),
                }
            }
            other => other.clone(),
        })
    }
}

/// Environment variables with secrets in them.
pub async fn secret_env(
    worker: &Arc<Worker>,
    asker: &Asker,
    secrets: &[pb::SecretEnv],
) -> Result<Vec<String>, Failure> {
    secret_variables(worker, &asker.work(), secrets).await
}
