//! Processes and what is mounted for them.

use std::sync::Arc;

use bytestring::ByteString;
use proto::pb;
use smallvec::SmallVec;

use super::env::Env;
use super::marshal::Defaults;
use super::node::{Kind, Node, Output};
use super::options::Options;
use super::state::{Settings, State};
use super::wire::Wire;
use crate::{Error, caps};

/// A command to run. Environment, directory, user and so on are those of the state it runs on.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// Program and arguments.
    pub args: Vec<ByteString>,
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
    pub fn args<S: Into<ByteString>>(args: impl IntoIterator<Item = S>) -> Self {
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
        self.mounts.reserve_exact(1);
        self.mounts.insert(0, root);
        self.mounts
            .sort_by(|a, b| a.target.as_bytes().cmp(b.target.as_bytes()));
        for (at, ssh) in self.ssh.iter_mut().enumerate() {
            if ssh.target.is_empty() {
                ssh.target = format!("/run/buildkit/ssh_agent.{at}");
            }
        }
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
        }
    }
}

/// A command that will have run.
#[derive(Clone)]
pub struct Ran {
    state: State,
    node: Arc<Node>,
}

impl Ran {
    /// The root as the command left it.
    pub fn root(&self) -> State {
        self.output("/").unwrap_or_else(|| self.state.clone())
    }

    /// A mount as the command left it; `None` when nothing could be left there.
    pub fn output(&self, target: &str) -> Option<State> {
        let Kind::Exec(exec) = &self.node.kind else {
            return None;
        };
        let mut outputs = exec.run.mounts.iter().filter(|mount| mount.has_output());
        let index = outputs.position(|mount| mount.target == target)?;
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
    pub(super) fn inputs(&self) -> impl Iterator<Item = &Output> {
        self.run
            .mounts
            .iter()
            .filter_map(|mount| mount.source.output())
    }

    pub(super) fn put_inputs(self, stack: &mut Vec<Output>) {
        let mounts = self.run.mounts.into_iter();
        stack.extend(mounts.filter_map(|mount| mount.source.into_output()));
    }

    pub(super) fn platform(&self) -> Option<&oci::Platform> {
        self.settings.platform.as_deref()
    }

    fn network(&self) -> pb::NetMode {
        self.run.network.unwrap_or(self.settings.network)
    }

    fn security(&self) -> pb::SecurityMode {
        self.run.security.unwrap_or(self.settings.security)
    }

    /// Writes the op; `input` yields the number of an input, adding it if it is new.
    pub(super) fn write(
        &self,
        wire: &mut Wire,
        defaults: &Defaults,
        platform: &oci::Platform,
        input: impl FnMut(&Output) -> i64,
    ) -> Result<(), Error> {
        let run = &self.run;
        if run.args.is_empty() {
            return Err(Error::Build("arguments are required"));
        }
        wire.message(1, |wire| self.write_meta(wire, defaults, platform));
        self.write_mounts(wire, input)?;
        for secret in &run.secrets {
            if let Some(target) = &secret.target {
                wire.message(2, |wire| secret.write(wire, target));
            }
        }
        for ssh in &run.ssh {
            wire.message(2, |wire| ssh.write(wire));
        }
        wire.int(3, i64::from(i32::from(self.network())));
        wire.int(4, i64::from(i32::from(self.security())));
        for secret in &run.secrets {
            if let Some(name) = &secret.env {
                wire.message(5, |wire| {
                    wire.text(1, &secret.id);
                    wire.text(2, name);
                    wire.flag(3, secret.optional);
                });
            }
        }
        for device in &run.devices {
            wire.ready(6, device);
        }
        Ok(())
    }

    fn write_meta(&self, wire: &mut Wire, defaults: &Defaults, platform: &oci::Platform) {
        let (run, settings) = (&self.run, &self.settings);
        wire.list(1, &run.args);
        for (name, value) in self.env(defaults, platform).iter() {
            wire.parts(2, &[name.as_bytes(), b"=", value.as_bytes()]);
        }
        let dir: &str = &settings.dir;
        wire.text(3, if dir.is_empty() { "/" } else { dir });
        wire.text(4, &settings.user);
        if let Some(proxy) = &run.proxy {
            wire.ready(5, proxy);
        }
        for host in &run.extra_hosts {
            wire.ready(6, host);
        }
        wire.text(7, &settings.hostname);
        for limit in &run.ulimits {
            wire.ready(9, limit);
        }
        wire.text(10, &run.cgroup_parent);
        wire.flag(11, true);
        if !run.valid_exit_codes.is_empty() {
            prost::encoding::int32::encode_packed(12, &run.valid_exit_codes, &mut wire.0);
        }
    }

    fn env(&self, defaults: &Defaults, platform: &oci::Platform) -> Env {
        let mut env = self.settings.env.clone();
        if let Some(first) = self.run.ssh.first()
            && env.get("SSH_AUTH_SOCK").is_none()
        {
            env.set("SSH_AUTH_SOCK", &first.target);
        }
        if !defaults.daemon_sets_path && platform.os != "windows" && env.get("PATH").is_none() {
            env.set("PATH", super::marshal::DEFAULT_PATH);
        }
        env
    }

    fn write_mounts(
        &self,
        wire: &mut Wire,
        mut input: impl FnMut(&Output) -> i64,
    ) -> Result<(), Error> {
        let mut outputs = 0;
        for mount in &self.run.mounts {
            let tmpfs = matches!(mount.kind, MountKind::Tmpfs { .. });
            if tmpfs && !mount.source.is_scratch() {
                return Err(Error::Build("tmpfs mounts must use scratch"));
            }
            let input = mount.source.output().map_or(-1, &mut input);
            let output = if mount.has_output() {
                outputs += 1;
                outputs - 1
            } else {
                -1
            };
            wire.message(2, |wire| mount.write(wire, input, output));
        }
        Ok(())
    }

    pub(super) fn caps(
        &self,
        defaults: &Defaults,
        options: &Options,
    ) -> SmallVec<[&'static str; 12]> {
        let run = &self.run;
        let mut caps = SmallVec::new();
        caps.push(caps::EXEC_META_BASE);
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

/// The kind of a mount, as field 6 of it.
fn kind(wire: &mut Wire, kind: pb::MountType) {
    wire.int(6, i64::from(i32::from(kind)));
}

impl Mount {
    fn write(&self, wire: &mut Wire, input: i64, output: i64) {
        wire.int(1, input);
        wire.text(2, &self.selector);
        wire.text(3, &self.target);
        wire.int(4, output);
        wire.flag(5, self.readonly);
        match &self.kind {
            MountKind::Bind => {}
            MountKind::Tmpfs { size } => {
                kind(wire, pb::MountType::Tmpfs);
                wire.message(19, |wire| wire.int(1, *size));
            }
            MountKind::Cache { id, sharing } => {
                kind(wire, pb::MountType::Cache);
                wire.message(20, |wire| {
                    wire.text(1, id);
                    wire.int(2, i64::from(i32::from(*sharing)));
                });
            }
        }
        wire.int(24, i64::from(i32::from(self.content_cache)));
    }
}

impl Secret {
    fn write(&self, wire: &mut Wire, target: &str) {
        wire.int(1, -1);
        wire.text(3, target);
        kind(wire, pb::MountType::Secret);
        wire.message(21, |wire| {
            wire.text(1, &self.id);
            access(wire, self.uid, self.gid, self.mode, self.optional);
        });
    }
}

impl Ssh {
    fn write(&self, wire: &mut Wire) {
        wire.int(1, -1);
        wire.text(3, &self.target);
        kind(wire, pb::MountType::Ssh);
        wire.message(22, |wire| {
            wire.text(1, &self.id);
            access(wire, self.uid, self.gid, self.mode, self.optional);
        });
    }
}

/// What secrets and agents have in common.
fn access(wire: &mut Wire, uid: u32, gid: u32, mode: u32, optional: bool) {
    wire.int(2, i64::from(uid));
    wire.int(3, i64::from(gid));
    wire.int(4, i64::from(mode));
    wire.flag(5, optional);
}
