//! Processes and what is mounted for them.

use std::sync::Arc;

use proto::pb;

use super::marshal::Defaults;
use super::node::{Kind, Node, Output};
use super::options::Options;
use super::state::{Settings, State};
use crate::{Error, caps};

/// A command to run. Environment, directory, user and so on are those of the state it runs on.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// Program and arguments.
    pub args: Vec<String>,
    /// What is mounted besides the root.
    pub mounts: Vec<Mount>,
    /// Secrets as files or variables.
    pub secrets: Vec<Secret>,
    /// Agent sockets.
    pub ssh: Vec<Ssh>,
    /// Lines for `/etc/hosts`.
    pub extra_hosts: Vec<pb::HostIp>,
    /// Limits.
    pub ulimits: Vec<pb::Ulimit>,
    /// Parent of the cgroup.
    pub cgroup_parent: String,
    /// Proxies; do not count in cache keys.
    pub proxy: Option<pb::ProxyEnv>,
    /// Devices.
    pub devices: Vec<pb::CdiDevice>,
    /// Exit codes that count as success; none: 0.
    pub valid_exit_codes: Vec<i32>,
    /// Network mode instead of the state's.
    pub network: Option<pb::NetMode>,
    /// Security mode instead of the state's.
    pub security: Option<pb::SecurityMode>,
    /// The root cannot be written and yields no result.
    pub readonly_root: bool,
}

/// Something mounted for a command.
#[derive(Debug, Clone)]
pub struct Mount {
    /// Where.
    pub target: String,
    /// What; scratch: an empty directory.
    pub source: State,
    /// How.
    pub kind: MountKind,
    /// Path in the source.
    pub selector: String,
    /// Not writable.
    pub readonly: bool,
    /// What is written is lost.
    pub discard: bool,
    /// Whether the content of a read-only source is a cache key.
    pub content_cache: pb::MountContentCache,
}

/// Kinds of mounts that commands can write to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// The source itself.
    Bind,
    /// A directory that outlives the build.
    Cache {
        /// Its name.
        id: String,
        /// What happens when several use it.
        sharing: pb::CacheSharingOpt,
    },
    /// Memory.
    Tmpfs {
        /// Bytes; 0: no limit.
        size: i64,
    },
}

impl Mount {
    /// A read-only view of a tree.
    pub fn readonly(target: &str, source: &State) -> Self {
        Self {
            readonly: true,
            ..Self::bind(target, source)
        }
    }

    /// A tree that the command may change.
    pub fn bind(target: &str, source: &State) -> Self {
        Self {
            target: target.to_owned(),
            source: source.clone(),
            kind: MountKind::Bind,
            selector: String::new(),
            readonly: false,
            discard: false,
            content_cache: pb::MountContentCache::Default,
        }
    }

    /// A directory that outlives the build.
    pub fn cache(target: &str, id: &str, sharing: pb::CacheSharingOpt) -> Self {
        let kind = MountKind::Cache {
            id: id.to_owned(),
            sharing,
        };
        Self {
            kind,
            ..Self::bind(target, &State::scratch())
        }
    }

    /// Memory.
    pub fn tmpfs(target: &str, size: i64) -> Self {
        Self {
            kind: MountKind::Tmpfs { size },
            ..Self::bind(target, &State::scratch())
        }
    }

    fn has_output(&self) -> bool {
        !self.readonly && !self.discard && self.kind == MountKind::Bind
    }
}

/// A secret of the client.
#[derive(Debug, Clone, Default)]
pub struct Secret {
    /// What the client calls it.
    pub id: String,
    /// File to put it in.
    pub target: Option<String>,
    /// Variable to put it in.
    pub env: Option<String>,
    /// Owner of the file.
    pub uid: u32,
    /// Group of the file.
    pub gid: u32,
    /// Mode of the file.
    pub mode: u32,
    /// The client may not have it.
    pub optional: bool,
}

/// An ssh agent of the client.
#[derive(Debug, Clone, Default)]
pub struct Ssh {
    /// What the client calls it; empty: default.
    pub id: String,
    /// Where the socket is; empty: a place of its own.
    pub target: String,
    /// Owner of the socket.
    pub uid: u32,
    /// Group of the socket.
    pub gid: u32,
    /// Mode of the socket.
    pub mode: u32,
    /// The client may not have it.
    pub optional: bool,
}

impl Run {
    /// Runs a program.
    pub fn args<S: Into<String>>(args: impl IntoIterator<Item = S>) -> Self {
        Self {
            args: args.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// Runs a line in `/bin/sh`.
    pub fn shell(line: &str) -> Self {
        Self::args(["/bin/sh", "-c", line])
    }

    /// Adds a mount.
    pub fn mount(mut self, mount: Mount) -> Self {
        self.mounts.push(mount);
        self
    }

    pub(super) fn on(mut self, state: &State, options: Options) -> Ran {
        let root = Mount {
            readonly: self.readonly_root,
            ..Mount::bind("/", state)
        };
        self.mounts.insert(0, root);
        self.mounts
            .sort_by(|a, b| a.target.as_bytes().cmp(b.target.as_bytes()));
        for (at, ssh) in self.ssh.iter_mut().enumerate() {
            if ssh.target.is_empty() {
                ssh.target = format!("/run/buildkit/ssh_agent.{at}");
            }
        }
        let outputs = self
            .mounts
            .iter()
            .filter(|mount| mount.has_output())
            .map(|mount| mount.target.clone())
            .collect();
        let exec = Exec {
            run: self,
            settings: state.settings().clone(),
        };
        let node = Arc::new(Node {
            kind: Kind::Exec(Box::new(exec)),
            options,
        });
        Ran {
            state: state.clone(),
            node,
            outputs,
        }
    }
}

/// A command that will have run.
#[derive(Clone)]
pub struct Ran {
    state: State,
    node: Arc<Node>,
    outputs: Vec<String>,
}

impl Ran {
    /// The root as the command left it.
    pub fn root(&self) -> State {
        self.output("/").unwrap_or_else(|| self.state.clone())
    }

    /// A mount as the command left it; `None` when nothing could be left there.
    pub fn output(&self, target: &str) -> Option<State> {
        let index = self.outputs.iter().position(|output| output == target)?;
        let made = State::of(self.node.clone(), u32::try_from(index).ok()?);
        Some(self.state.with_output_of(&made))
    }
}

/// A command bound to the state it runs on. Mounts are sorted.
pub(super) struct Exec {
    run: Run,
    settings: Arc<Settings>,
}

impl Exec {
    pub(super) fn inputs(&self) -> Vec<&Output> {
        self.run
            .mounts
            .iter()
            .filter_map(|mount| mount.source.output())
            .collect()
    }

    pub(super) fn into_inputs(self) -> Vec<Output> {
        self.run
            .mounts
            .into_iter()
            .filter_map(|mount| mount.source.output().cloned())
            .collect()
    }

    pub(super) fn platform(&self) -> Option<&oci::Platform> {
        self.settings.platform.as_ref()
    }

    fn network(&self) -> pb::NetMode {
        self.run.network.unwrap_or(self.settings.network)
    }

    fn security(&self) -> pb::SecurityMode {
        self.run.security.unwrap_or(self.settings.security)
    }

    /// The op; `input` yields the number of an input, adding it if it is new.
    pub(super) fn to_op(
        &self,
        defaults: &Defaults,
        platform: &oci::Platform,
        input: impl FnMut(&Output) -> i64,
    ) -> Result<pb::ExecOp, Error> {
        if self.run.args.is_empty() {
            return Err(Error::Build("arguments are required"));
        }
        let mut mounts = self.plain_mounts(input)?;
        let mut secretenv = Vec::new();
        for secret in &self.run.secrets {
            if let Some(name) = &secret.env {
                secretenv.push(pb::SecretEnv {
                    id: secret.id.clone(),
                    name: name.clone(),
                    optional: secret.optional,
                });
            }
            if let Some(target) = &secret.target {
                mounts.push(secret_mount(secret, target));
            }
        }
        mounts.extend(self.run.ssh.iter().map(ssh_mount));
        Ok(pb::ExecOp {
            meta: Some(self.meta(defaults, platform)),
            mounts,
            network: self.network().into(),
            security: self.security().into(),
            secretenv,
            cdi_devices: self.run.devices.clone(),
        })
    }

    fn meta(&self, defaults: &Defaults, platform: &oci::Platform) -> pb::Meta {
        let mut env = self.settings.env.clone();
        if let Some(first) = self.run.ssh.first()
            && env.get("SSH_AUTH_SOCK").is_none()
        {
            env.set("SSH_AUTH_SOCK", &first.target);
        }
        if !defaults.daemon_sets_path && platform.os != "windows" && env.get("PATH").is_none() {
            env.set("PATH", super::marshal::DEFAULT_PATH);
        }
        let dir = &self.settings.dir;
        pb::Meta {
            args: self.run.args.clone(),
            env: env.to_list(),
            cwd: if dir.is_empty() {
                "/".to_owned()
            } else {
                dir.clone()
            },
            user: self.settings.user.clone(),
            proxy_env: self.run.proxy.clone(),
            extra_hosts: self.run.extra_hosts.clone(),
            hostname: self.settings.hostname.clone(),
            ulimit: self.run.ulimits.clone(),
            cgroup_parent: self.run.cgroup_parent.clone(),
            remove_mount_stubs_recursive: true,
            valid_exit_codes: self.run.valid_exit_codes.clone(),
        }
    }

    fn plain_mounts(&self, mut input: impl FnMut(&Output) -> i64) -> Result<Vec<pb::Mount>, Error> {
        let mut next_output = 0;
        let mut mounts = Vec::with_capacity(self.run.mounts.len());
        for mount in &self.run.mounts {
            let tmpfs = matches!(mount.kind, MountKind::Tmpfs { .. });
            if tmpfs && !mount.source.is_scratch() {
                return Err(Error::Build("tmpfs mounts must use scratch"));
            }
            let output = if mount.has_output() {
                next_output += 1;
                next_output - 1
            } else {
                -1
            };
            let mut message = pb::Mount {
                input: mount.source.output().map_or(-1, &mut input),
                selector: mount.selector.clone(),
                dest: mount.target.clone(),
                output,
                readonly: mount.readonly,
                content_cache: mount.content_cache.into(),
                ..pb::Mount::default()
            };
            match &mount.kind {
                MountKind::Bind => {}
                MountKind::Cache { id, sharing } => {
                    message.mount_type = pb::MountType::Cache.into();
                    let sharing = (*sharing).into();
                    message.cache_opt = Some(pb::CacheOpt {
                        id: id.clone(),
                        sharing,
                    });
                }
                MountKind::Tmpfs { size } => {
                    message.mount_type = pb::MountType::Tmpfs.into();
                    message.tmpfs_opt = Some(pb::TmpfsOpt { size: *size });
                }
            }
            mounts.push(message);
        }
        Ok(mounts)
    }

    pub(super) fn caps(&self, defaults: &Defaults, options: &Options) -> Vec<&'static str> {
        let run = &self.run;
        let mut caps = vec![caps::EXEC_META_BASE];
        let mut need = |wanted: bool, cap: &'static str| {
            if wanted {
                caps.push(cap);
            }
        };
        need(defaults.daemon_sets_path, caps::EXEC_META_SETS_DEFAULT_PATH);
        need(!run.valid_exit_codes.is_empty(), caps::EXEC_VALID_EXIT_CODE);
        need(!run.ulimits.is_empty(), caps::EXEC_META_ULIMIT);
        need(options.resources.is_some(), caps::EXEC_META_LINUX_RESOURCES);
        need(
            self.network() != pb::NetMode::Unset,
            caps::EXEC_META_NETWORK,
        );
        need(
            self.security() == pb::SecurityMode::Insecure,
            caps::EXEC_META_SECURITY,
        );
        need(run.proxy.is_some(), caps::EXEC_META_PROXY_ENV);
        for mount in &run.mounts {
            need(!mount.selector.is_empty(), caps::EXEC_MOUNT_SELECTOR);
            match mount.kind {
                MountKind::Cache { .. } => {
                    need(true, caps::EXEC_MOUNT_CACHE);
                    need(true, caps::EXEC_MOUNT_CACHE_SHARING);
                }
                MountKind::Tmpfs { size } => {
                    need(true, caps::EXEC_MOUNT_TMPFS);
                    need(size > 0, caps::EXEC_MOUNT_TMPFS_SIZE);
                }
                MountKind::Bind => need(!mount.source.is_scratch(), caps::EXEC_MOUNT_BIND),
            }
            let content = mount.content_cache != pb::MountContentCache::Default;
            need(content, caps::EXEC_MOUNT_CACHE_CONTENT);
        }
        need(!run.secrets.is_empty(), caps::EXEC_MOUNT_SECRET);
        need(
            run.secrets.iter().any(|secret| secret.env.is_some()),
            caps::EXEC_SECRET_ENV,
        );
        need(!run.ssh.is_empty(), caps::EXEC_MOUNT_SSH);
        need(!run.devices.is_empty(), caps::EXEC_META_CDI);
        caps
    }
}

fn secret_mount(secret: &Secret, target: &str) -> pb::Mount {
    pb::Mount {
        input: -1,
        dest: target.to_owned(),
        mount_type: pb::MountType::Secret.into(),
        secret_opt: Some(pb::SecretOpt {
            id: secret.id.clone(),
            uid: secret.uid,
            gid: secret.gid,
            mode: secret.mode,
            optional: secret.optional,
        }),
        ..pb::Mount::default()
    }
}

fn ssh_mount(ssh: &Ssh) -> pb::Mount {
    pb::Mount {
        input: -1,
        dest: ssh.target.clone(),
        mount_type: pb::MountType::Ssh.into(),
        ssh_opt: Some(pb::SshOpt {
            id: ssh.id.clone(),
            uid: ssh.uid,
            gid: ssh.gid,
            mode: ssh.mode,
            optional: ssh.optional,
        }),
        ..pb::Mount::default()
    }
}
