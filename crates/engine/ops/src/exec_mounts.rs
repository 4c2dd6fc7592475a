//! The mounts of an exec op: from trees of the cache to what the runtime takes, and back to trees.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use cache::{MutableRef, RecordOptions, RecordType};
use diagnostics::Failure;
use executor::{MountSource, StepMount};
use fault::Class;
use proto::pb;
use solver::Work;
use tasks::Cx;

use crate::exec::ExecOp;
use crate::{Remains, Value, Worker};

mod cache_dirs;
mod private;

use cache_dirs::CacheDir;
pub use cache_dirs::{CacheDirs, Lending, Lent, Offered, Stock, checksum};
use private::secret;

/// The mounts of one run.
pub(crate) struct Mounts {
    pub(crate) root: mount::Mount,
    pub(crate) root_readonly: bool,
    pub(crate) step: Vec<StepMount>,
    /// The tree of each mount, in the order of the op.
    pub(crate) places: Vec<Option<mount::Mount>>,
    outputs: Vec<(i64, usize, Output)>,
    /// The input of each mount.
    inputs: Vec<Option<Value>>,
    /// Trees, files and sockets that must live as long as the process.
    kept: Vec<Kept>,
}

enum Output {
    /// The mount was read-only: the input is the output.
    Same(Value),
    /// What the process wrote.
    Written(MutableRef, String),
}

#[allow(dead_code, reason = "held for their Drop")]
enum Kept {
    Tree(Value),
    /// Of this mount.
    Discarded(usize, MutableRef),
    CacheDir(Arc<CacheDir>),
    Private(private::Private),
}

/// What one mount of the op turned into.
struct Prepared {
    source: MountSource,
    readonly: bool,
}

impl Mounts {
    /// Prepares everything, in the order of the op.
    pub(crate) async fn prepare(
        worker: &Arc<Worker>,
        work: &Work,
        op: &ExecOp,
        inputs: &[Value],
    ) -> Result<Self, Failure> {
        let mut build = Building {
            worker,
            work,
            op,
            inputs,
            root: None,
            step: Vec::new(),
            outputs: Vec::new(),
            kept: Vec::new(),
            cache_dirs: HashMap::new(),
            index: 0,
            places: vec![None; op.op.mounts.len()],
        };
        build.take_locked(&op.op.mounts).await?;
        for (index, mount) in op.op.mounts.iter().enumerate() {
            build.index = index;
            build.add(mount).await?;
        }
        let Some((root, root_readonly)) = build.root else {
            return Err(user("process has no root mount"));
        };
        let mut step = build.step;
        step.sort_by(|a, b| a.dest.cmp(&b.dest));
        Ok(Self {
            root,
            root_readonly,
            step,
            places: build.places,
            outputs: build.outputs,
            inputs: inputs_of(op, inputs),
            kept: build.kept,
        })
    }

    /// What is left when the process failed: everything as it was at that moment.
    pub(crate) async fn remains(self) -> Remains {
        let mut mounts = self.inputs.clone();
        let discarded = self.kept.into_iter().filter_map(|kept| match kept {
            Kept::Discarded(index, tree) => Some((index, tree, "failed mount".to_owned())),
            _ => None,
        });
        let written = self.outputs.into_iter().filter_map(|(_, index, output)| {
            let Output::Written(tree, description) = output else {
                return None;
            };
            Some((index, tree, description))
        });
        for (index, tree, description) in written.chain(discarded) {
            // The step is over, and so may be what it could be cancelled by.
            match tree.commit(&Cx::root(), &description).await {
                Ok(tree) => mounts[index] = Some(Value(Some(tree))),
                Err(err) => {
                    tracing::warn!(error = %fault::chain(&err), "state of a failed step is lost");
                }
            }
        }
        Remains {
            inputs: self.inputs,
            mounts,
            subject: None,
        }
    }

    /// Turns what was written into results, in the order of the outputs.
    pub(crate) async fn commit(self, cx: &Cx) -> Result<Vec<Value>, Failure> {
        let mut outputs = self.outputs;
        outputs.sort_by_key(|(index, ..)| *index);
        let mut values = Vec::with_capacity(outputs.len());
        for (_, _, output) in outputs {
            values.push(match output {
                Output::Same(value) => value,
                Output::Written(tree, description) => {
                    let tree = tree
                        .commit(cx, &description)
                        .await
                        .map_err(|err| Failure::from_error(&err))?;
                    Value(Some(tree))
                }
            });
        }
        drop(self.kept);
        Ok(values)
    }
}

struct Building<'a> {
    worker: &'a Arc<Worker>,
    work: &'a Work,
    op: &'a ExecOp,
    inputs: &'a [Value],
    root: Option<(mount::Mount, bool)>,
    step: Vec<StepMount>,
    outputs: Vec<(i64, usize, Output)>,
    kept: Vec<Kept>,
    cache_dirs: HashMap<String, Arc<CacheDir>>,
    /// Which mount is being prepared.
    index: usize,
    places: Vec<Option<mount::Mount>>,
}

impl Building<'_> {
    async fn add(&mut self, mount: &pb::Mount) -> Result<(), Failure> {
        let kind = mount.mount_type();
        let dest = self.dest(mount);
        if dest == "/" {
            if kind != pb::MountType::Bind {
                return Err(user(format!(
                    "invalid mount type {} for /",
                    kind.as_str_name()
                )));
            }
            let prepared = self.bind(mount).await?;
            let MountSource::Snapshot(root) = prepared.source else {
                return Err(user("the root mount is not a tree"));
            };
            self.places[self.index] = Some(root.clone());
            self.root = Some((root, mount.readonly));
            return Ok(());
        }
        let prepared = match kind {
            pb::MountType::Bind => Some(self.bind(mount).await?),
            pb::MountType::Cache => Some(self.cache(mount).await?),
            pb::MountType::Tmpfs => Some(tmpfs(mount)),
            pb::MountType::Secret => self.secret(mount).await?,
            pb::MountType::Ssh => self.ssh(mount).await?,
        };
        let Some(prepared) = prepared else {
            return Ok(());
        };
        if let MountSource::Snapshot(tree) = &prepared.source {
            self.places[self.index] = Some(tree.clone());
        }
        let selector = mount.selector.trim_start_matches('/');
        self.step.push(StepMount {
            dest,
            source: prepared.source,
            selector: (!selector.is_empty()).then(|| selector.to_owned()),
            readonly: prepared.readonly,
        });
        Ok(())
    }

    fn dest(&self, mount: &pb::Mount) -> String {
        if mount.dest.starts_with('/') {
            return mount.dest.clone();
        }
        let cwd = self
            .op
            .op
            .meta
            .as_ref()
            .map_or("/", |meta| meta.cwd.as_str());
        format!("/{}/{}", cwd.trim_matches('/'), mount.dest)
    }

    fn input(&self, mount: &pb::Mount) -> Result<Value, Failure> {
        let Ok(index) = usize::try_from(mount.input) else {
            return Ok(Value(None));
        };
        self.inputs
            .get(index)
            .cloned()
            .ok_or_else(|| user(format!("missing input {}", mount.input)))
    }

    async fn bind(&mut self, mount: &pb::Mount) -> Result<Prepared, Failure> {
        let input = self.input(mount)?;
        let wants_output = mount.output >= 0;
        let is_root = mount.dest == "/";
        if mount.readonly
            && let Some(tree) = &input.0
            && (!is_root || wants_output)
        {
            let source =
                MountSource::Snapshot(tree.mount().map_err(|err| Failure::from_error(&err))?);
            if wants_output {
                self.outputs
                    .push((mount.output, self.index, Output::Same(input.clone())));
            }
            self.kept.push(Kept::Tree(input));
            return Ok(Prepared {
                source,
                readonly: true,
            });
        }
        let description = self.describe(mount);
        let tree = self
            .new_mutable(&input, &description, RecordType::Regular)
            .await?;
        let source = MountSource::Snapshot(tree.mount().map_err(|err| Failure::from_error(&err))?);
        if wants_output && !mount.readonly {
            self.outputs
                .push((mount.output, self.index, Output::Written(tree, description)));
        } else {
            if wants_output {
                self.outputs
                    .push((mount.output, self.index, Output::Same(input)));
            }
            self.kept.push(Kept::Discarded(self.index, tree));
        }
        Ok(Prepared {
            source,
            readonly: mount.readonly,
        })
    }

    fn describe(&self, mount: &pb::Mount) -> String {
        let args = self
            .op
            .op
            .meta
            .as_ref()
            .map(|meta| meta.args.join(" "))
            .unwrap_or_default();
        format!("mount {} from exec {args}", mount.dest)
    }

    async fn new_mutable(
        &self,
        parent: &Value,
        description: &str,
        record_type: RecordType,
    ) -> Result<MutableRef, Failure> {
        let options = RecordOptions {
            description: description.to_owned(),
            record_type,
            ..RecordOptions::default()
        };
        self.worker
            .cache
            .new_mutable(&self.work.cx, parent.0.as_ref(), options)
            .await
            .map_err(|err| Failure::from_error(&err))
    }

    async fn cache(&mut self, mount: &pb::Mount) -> Result<Prepared, Failure> {
        let Some(options) = &mount.cache_opt else {
            return Err(user("missing cache mount options"));
        };
        let input = self.input(mount)?;
        let key = key(options, &input);
        if !self.cache_dirs.contains_key(&key) {
            self.open_dir(mount, options, &key, &input).await?;
        }
        let dir = &self.cache_dirs[&key];
        if mount.output >= 0 {
            // Compat: the content of a cache mount is never an output; its base is.
            self.outputs
                .push((mount.output, self.index, Output::Same(input)));
        }
        let tree = dir
            .tree()
            .mount()
            .map_err(|err| Failure::from_error(&err))?;
        Ok(Prepared {
            source: MountSource::Snapshot(tree),
            readonly: mount.readonly,
        })
    }

    async fn open_dir(
        &mut self,
        mount: &pb::Mount,
        options: &pb::CacheOpt,
        key: &str,
        base: &Value,
    ) -> Result<(), Failure> {
        let description = format!("cached {}", self.describe(mount));
        let wanted = cache_dirs::Wanted {
            key,
            id: &options.id,
            base,
            dest: &mount.dest,
            description: &description,
        };
        let dirs = &self.worker.cache_dirs;
        let dir = dirs.open(self, &wanted, options.sharing()).await?;
        self.kept.push(Kept::CacheDir(dir.clone()));
        self.cache_dirs.insert(key.to_owned(), dir);
        Ok(())
    }

    /// Takes the cache mounts that only one step may have, in an order all steps agree on: else two steps that want the
    /// same two could wait for each other.
    async fn take_locked(&mut self, mounts: &[pb::Mount]) -> Result<(), Failure> {
        let mut locked = Vec::new();
        for mount in mounts {
            if mount.mount_type() == pb::MountType::Cache
                && let Some(options) = &mount.cache_opt
                && options.sharing() == pb::CacheSharingOpt::Locked
            {
                let base = self.input(mount)?;
                locked.push((key(options, &base), mount, options, base));
            }
        }
        locked.sort_by(|a, b| a.0.cmp(&b.0));
        locked.dedup_by(|a, b| a.0 == b.0);
        for (key, mount, options, base) in locked {
            self.open_dir(mount, options, &key, &base).await?;
        }
        Ok(())
    }
}

/// What a cache mount is found by: its id and what it stands on.
fn key(options: &pb::CacheOpt, base: &Value) -> String {
    match &base.0 {
        None => options.id.clone(),
        Some(tree) => format!("{}:{}", options.id, tree.id()),
    }
}

/// The input of each mount.
pub(crate) fn inputs_of(op: &ExecOp, inputs: &[Value]) -> Vec<Option<Value>> {
    let input = |mount: &pb::Mount| {
        let index = usize::try_from(mount.input).ok()?;
        inputs.get(index).cloned()
    };
    op.op.mounts.iter().map(input).collect()
}

fn tmpfs(mount: &pb::Mount) -> Prepared {
    Prepared {
        source: MountSource::Tmpfs {
            size: mount.tmpfs_opt.as_ref().map_or(0, |options| options.size),
            options: Vec::new(),
        },
        readonly: mount.readonly,
    }
}

pub(crate) fn user(text: impl Into<String>) -> Failure {
    Failure::new(Class::User, text.into())
}

impl Building<'_> {
    async fn secret(&mut self, mount: &pb::Mount) -> Result<Option<Prepared>, Failure> {
        let Some(options) = &mount.secret_opt else {
            return Err(user("invalid secret mount options"));
        };
        if options.id.is_empty() {
            return Err(user("secret ID missing from mount options"));
        }
        let Some(data) = secret(self.worker, self.work, &options.id, options.optional).await?
        else {
            return Ok(None);
        };
        let (file, source) = private::secret_file(self.worker, options, data).await?;
        self.kept.push(Kept::Private(file));
        Ok(Some(Prepared {
            source,
            readonly: true,
        }))
    }

    async fn ssh(&mut self, mount: &pb::Mount) -> Result<Option<Prepared>, Failure> {
        let Some(options) = &mount.ssh_opt else {
            return Err(user("invalid ssh mount options"));
        };
        let Some((socket, source)) = private::ssh_socket(self.worker, self.work, options).await?
        else {
            return Ok(None);
        };
        self.kept.push(Kept::Private(socket));
        Ok(Some(Prepared {
            source,
            readonly: false,
        }))
    }
}

/// Environment variables with secrets in them.
pub(crate) async fn secret_variables(
    worker: &Arc<Worker>,
    work: &Work,
    secrets: &[pb::SecretEnv],
) -> Result<Vec<String>, Failure> {
    let mut variables = Vec::with_capacity(secrets.len());
    for wanted in secrets {
        if wanted.id.is_empty() {
            return Err(user(format!(
                "secret ID missing for {:?} environment variable",
                wanted.name
            )));
        }
        let value = secret(worker, work, &wanted.id, wanted.optional).await?;
        let value = value.unwrap_or_default();
        variables.push(format!(
            "{}={}",
            wanted.name,
            String::from_utf8_lossy(&value)
        ));
    }
    Ok(variables)
}

/// Bytes of a secret.
pub(crate) type SecretBytes = Bytes;
