//! RUN --mount.

use dockerfile_syntax::{self as syntax, MountKind, Sharing};
use llb::build::{
    Action, Chown, FileOp, Mount, MountKind as Kind, Options as OpOptions, Run, Secret, Ssh, State,
    User,
};
use llb::caps;
use proto::pb;

use super::Lower;
use super::record::Step;
use super::words::note_path;
use crate::error::{Error, Result, text};
use crate::paths;

impl Lower<'_> {
    pub(super) fn add_mounts(
        &mut self,
        at: usize,
        step: &Step,
        mounts: &[syntax::Mount],
        exec: &mut Run,
    ) -> Result<()> {
        for (mount, &source) in mounts.iter().zip(&step.sources) {
            match mount.kind {
                MountKind::Secret => {
                    self.mount_source(mount, source)?;
                    let secret = secret(mount);
                    let outline = &mut self.records[at].outline;
                    outline.need_secret(&secret.id, mount.required, step.instruction.span);
                    exec.secrets.push(secret);
                }
                MountKind::Ssh => {
                    self.mount_source(mount, source)?;
                    exec.ssh.push(ssh(mount)?);
                    let outline = &mut self.records[at].outline;
                    outline.need_ssh(&mount.id, mount.required, step.instruction.span);
                }
                MountKind::Bind | MountKind::Cache | MountKind::Tmpfs => {
                    let tree = self.tree_mount(at, mount, source)?;
                    let from = (!mount.from.is_empty()).then_some(source);
                    let line = step.instruction.span.first;
                    self.taken.note(line, &tree.selector, from);
                    exec.mounts.push(tree);
                }
            }
        }
        Ok(())
    }

    /// The tree a mount is taken from.
    fn mount_source(&self, mount: &syntax::Mount, source: usize) -> Result<State> {
        let from = match (mount.from.as_str(), mount.kind) {
            ("", MountKind::Cache) => super::plan::SCRATCH,
            ("", _) => return Ok(self.context.clone()),
            (from, _) => from,
        };
        let record = &self.records[source];
        if !record.done {
            return Err(text(format!(
                "cannot mount from stage {} to {}, stage needs to be defined before current command",
                dockerfile_syntax::quote::go(from),
                dockerfile_syntax::quote::go(&mount.target)
            ))
            .into());
        }
        Ok(record.state.clone())
    }

    fn tree_mount(&mut self, at: usize, mount: &syntax::Mount, source: usize) -> Result<Mount> {
        let mut tree = self.mount_source(mount, source)?;
        let kind = match mount.kind {
            MountKind::Tmpfs => {
                tree = State::scratch();
                Kind::Tmpfs { size: mount.size }
            }
            MountKind::Cache => self.cache_kind(mount),
            _ => Kind::Bind,
        };
        let discard = mount.kind == MountKind::Bind
            && !mount.readonly
            && self
                .files
                .bridge
                .supports(caps::EXEC_MOUNT_BIND_RW_NO_OUTPUT);
        let target = if mount.target.starts_with('/') {
            mount.target.clone()
        } else {
            let dir = self.records[at].state.current_dir();
            paths::rooted(&format!("{dir}/{}", mount.target)).into_owned()
        };
        if target == "/" {
            return Err(Error::Says("invalid mount target \"/\"").into());
        }
        let path = paths::rooted(&mount.source);
        let owned = mount.uid.is_some() || mount.gid.is_some() || mount.mode.is_some();
        let selector = if path != "/" {
            path.clone().into_owned()
        } else if owned {
            tree = owned_cache(&tree, mount);
            "/cache".to_owned()
        } else {
            String::new()
        };
        match (mount.from.as_str(), mount.kind) {
            ("", kind) if kind != MountKind::Cache => {
                note_path(&mut self.context_paths, path);
            }
            _ => {
                let set = self.records[source].paths;
                note_path(&mut self.path_sets[set], path);
            }
        }
        let readonly = mount.readonly;
        Ok(Mount {
            kind,
            selector,
            readonly,
            discard,
            ..Mount::bind(&target, &tree)
        })
    }

    fn cache_kind(&self, mount: &syntax::Mount) -> Kind {
        let sharing = match mount.sharing {
            None | Some(Sharing::Shared) => pb::CacheSharingOpt::Shared,
            Some(Sharing::Private) => pb::CacheSharingOpt::Private,
            Some(Sharing::Locked) => pb::CacheSharingOpt::Locked,
        };
        let id = match mount.id.as_str() {
            "" => paths::clean(&mount.target),
            id => id.into(),
        };
        Kind::Cache {
            id: format!("{}/{id}", self.files.options.cache_namespace),
            sharing,
        }
    }
}

/// A directory with the owner and mode the cache is to have.
fn owned_cache(tree: &State, mount: &syntax::Mount) -> State {
    let owner = Chown {
        user: Some(User::Id(mount.uid.unwrap_or_default())),
        group: Some(User::Id(mount.gid.unwrap_or_default())),
    };
    let op = FileOp::new().then(Action::Mkdir {
        path: "/cache".to_owned(),
        mode: mount.mode.unwrap_or(0o755),
        parents: false,
        owner: Some(owner),
        timestamp: None,
    });
    tree.file(
        op,
        OpOptions::named("[internal] setting cache mount permissions"),
    )
}

fn secret(mount: &syntax::Mount) -> Secret {
    let id = [&mount.source, &mount.id]
        .into_iter()
        .find(|id| !id.is_empty());
    let id = id.map_or_else(|| paths::base(&mount.target).to_owned(), Clone::clone);
    let target = match (mount.target.as_str(), &mount.env) {
        ("", Some(_)) => None,
        ("", None) => Some(format!("/run/secrets/{}", paths::base(&id))),
        (target, _) => Some(target.to_owned()),
    };
    Secret {
        id,
        target,
        env: mount.env.clone(),
        uid: mount.uid.unwrap_or_default(),
        gid: mount.gid.unwrap_or_default(),
        mode: mount.mode.unwrap_or(0o400),
        optional: !mount.required,
    }
}

fn ssh(mount: &syntax::Mount) -> Result<Ssh> {
    if !mount.source.is_empty() {
        return Err(Error::Says("ssh does not support source").into());
    }
    Ok(Ssh {
        id: mount.id.clone(),
        target: mount.target.clone(),
        uid: mount.uid.unwrap_or_default(),
        gid: mount.gid.unwrap_or_default(),
        mode: mount.mode.unwrap_or(0o600),
        optional: !mount.required,
    })
}
