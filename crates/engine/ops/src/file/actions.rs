//! One file action on an open tree.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use diagnostics::Failure;
use fault::Classify as _;
use fileop::{Account, Adding, Copy, Mkdir, Mkfile, Owner, OwnerSpec, Remove, Symlink, timestamp};
use fstree::Root;
use mount::Mount;
use proto::pb;
use proto::pb::file_action::Action;
use proto::pb::user_opt::User;
use solver::Work;

use super::{FileOp, Open};
use crate::Value;

mod sharing;

/// A tree that is being looked into; what it is mounted by lives as long as this.
pub(super) struct Looked {
    root: Root,
    _tree: Option<Arc<mount::Tree>>,
    /// A tree that is there for this alone.
    _scratch: Option<Open>,
}

impl Looked {
    fn new(tree: Arc<mount::Tree>) -> Result<Self, Failure> {
        let root = Root::from_borrowed(tree.fd())
            .map_err(|err| Failure::new(err.class(), format!("failed to open tree: {err}")))?;
        Ok(Self {
            root,
            _tree: Some(tree),
            _scratch: None,
        })
    }

    /// Scratch as a source: an empty directory.
    async fn nothing(op: &FileOp, work: &Work) -> Result<Self, Failure> {
        let nothing = op.open(work, &Value(None)).await?;
        let tree = nothing.tree.tree(&work.cx).await;
        let looked = Self::new(tree.map_err(|err| Failure::from_error(&err))?)?;
        Ok(Self {
            _scratch: Some(nothing),
            ..looked
        })
    }

    async fn of_value(work: &Work, value: &Value) -> Result<Option<Self>, Failure> {
        let Some(tree) = &value.0 else {
            return Ok(None);
        };
        let tree = tree
            .tree(&work.cx)
            .await
            .map_err(|err| Failure::from_error(&err))?;
        Self::new(tree).map(Some)
    }
}

/// Applies an action to an open tree; a copy reads from `second`.
pub(super) async fn apply(
    op: &FileOp,
    work: &Work,
    inputs: &[Value],
    open: &Open,
    second: &Value,
    action: &pb::FileAction,
) -> Result<(), Failure> {
    let Some(job) = Job::new(op, work, inputs, second, action).await? else {
        return Ok(());
    };
    open.tree.set_linked(None);
    let job = Arc::new(job);
    let target = target(work, open, &job).await?;
    let cx = work.cx.clone();
    let mut sharing = match *job {
        Job::Copy(..) => sharing::Shared::between(second, open),
        _ => None,
    };
    let done = tasks::blocking(move || {
        let shares = sharing.as_mut().map(sharing::Shared::lend);
        job.run(&cx, &target.root, shares).map(|()| sharing)
    })
    .await;
    match done {
        Ok(Some(sharing)) => sharing.keep(second, open).await,
        Ok(None) => Ok(()),
        Err(err) => Err(Failure::from_error(&err)),
    }
}

/// An action with everything it needs but the tree it changes.
enum Job {
    Copy(Looked, Box<Copy>),
    Mkfile(Mkfile),
    Mkdir(Mkdir),
    Remove(Remove),
    Symlink(Symlink),
}

impl Job {
    async fn new(
        op: &FileOp,
        work: &Work,
        inputs: &[Value],
        second: &Value,
        action: &pb::FileAction,
    ) -> Result<Option<Self>, Failure> {
        let job = match &action.action {
            Some(Action::Copy(copy)) => {
                let owner = owner(op, work, inputs, copy.owner.as_ref()).await?;
                let source = match Looked::of_value(work, second).await? {
                    Some(source) => source,
                    None => Looked::nothing(op, work).await?,
                };
                Self::Copy(source, Box::new(copy_action(copy, owner)))
            }
            Some(Action::Mkfile(mkfile)) => Self::Mkfile(Mkfile {
                path: mkfile.path.clone(),
                mode: mode(mkfile.mode),
                data: mkfile.data.to_vec(),
                owner: owner(op, work, inputs, mkfile.owner.as_ref()).await?,
                timestamp: timestamp(mkfile.timestamp),
            }),
            Some(Action::Mkdir(mkdir)) => Self::Mkdir(Mkdir {
                path: mkdir.path.clone(),
                mode: mode(mkdir.mode),
                make_parents: mkdir.make_parents,
                owner: owner(op, work, inputs, mkdir.owner.as_ref()).await?,
                timestamp: timestamp(mkdir.timestamp),
            }),
            Some(Action::Rm(rm)) => Self::Remove(Remove {
                path: rm.path.clone(),
                allow_not_found: rm.allow_not_found,
                wildcard: rm.allow_wildcard,
            }),
            Some(Action::Symlink(link)) => Self::Symlink(Symlink {
                old_path: link.oldpath.clone(),
                new_path: link.newpath.clone(),
                owner: owner(op, work, inputs, link.owner.as_ref()).await?,
                timestamp: timestamp(link.timestamp),
            }),
            None => return Ok(None),
        };
        Ok(Some(job))
    }

    /// What it would add, if it only adds.
    fn adding(&self) -> Option<Adding<'_>> {
        match self {
            Self::Copy(source, copy) => Some(Adding::Copy(&source.root, copy)),
            Self::Mkfile(mkfile) => Some(Adding::Mkfile(mkfile)),
            Self::Mkdir(mkdir) => Some(Adding::Mkdir(mkdir)),
            Self::Symlink(link) => Some(Adding::Symlink(link)),
            Self::Remove(_) => None,
        }
    }

    fn run(
        &self,
        cx: &tasks::Cx,
        target: &Root,
        shares: Option<fileop::Sharing<'_>>,
    ) -> Result<(), fileop::Error> {
        match self {
            Self::Copy(source, copy) => fileop::copy(cx, &source.root, target, copy, shares),
            Self::Mkfile(mkfile) => fileop::mkfile(target, mkfile),
            Self::Mkdir(mkdir) => fileop::mkdir(target, mkdir),
            Self::Remove(remove) => fileop::remove(target, remove),
            Self::Symlink(link) => fileop::symlink(target, link),
        }
    }
}

/// Trees of more layers are mounted: looking into each takes longer.
const LAYERS: usize = 32;

/// Where the action works: in its layer alone if that will do, else in a mount of the whole tree.
async fn target(work: &Work, open: &Open, job: &Arc<Job>) -> Result<Looked, Failure> {
    // A mount does not see what is made beside it.
    if !open.mounted.load(Ordering::Relaxed)
        && let Ok(Mount::Overlay {
            lower,
            upper: Some(upper),
            ..
        }) = open.tree.mount()
        && lower.len() <= LAYERS
    {
        let job = job.clone();
        let alone = tasks::blocking(move || alone(&upper.dir, &lower, &job)).await;
        if let Some(root) = alone.map_err(|err| Failure::from_error(&err))? {
            return Ok(Looked {
                root,
                _tree: None,
                _scratch: None,
            });
        }
    }
    open.mounted.store(true, Ordering::Relaxed);
    let tree = open.tree.tree(&work.cx).await;
    Looked::new(tree.map_err(|err| Failure::from_error(&err))?)
}

fn alone(layer: &Path, below: &[PathBuf], job: &Job) -> Result<Option<Root>, fileop::Error> {
    let Some(adding) = job.adding() else {
        return Ok(None);
    };
    let layers = below.iter().map(Root::open).collect::<Result<Vec<_>, _>>();
    // A layer that cannot be opened shows when the tree is mounted.
    let (Ok(layer), Ok(below)) = (Root::open(layer), layers) else {
        return Ok(None);
    };
    Ok(fileop::prepare_alone(&layer, &below, adding)?.then_some(layer))
}

fn mode(mode: i32) -> u32 {
    u32::try_from(mode).unwrap_or(0o755) & 0o7777
}

fn copy_action(copy: &pb::FileActionCopy, owner: Option<Owner>) -> Copy {
    Copy {
        src: copy.src.clone(),
        dest: copy.dest.clone(),
        owner,
        mode: u32::try_from(copy.mode).ok(),
        mode_str: copy.mode_str.clone(),
        timestamp: timestamp(copy.timestamp),
        follow_symlink: copy.follow_symlink,
        dir_copy_contents: copy.dir_copy_contents,
        attempt_unpack: copy.attempt_unpack_docker_compatibility,
        create_dest_path: copy.create_dest_path,
        allow_wildcard: copy.allow_wildcard,
        allow_empty_wildcard: copy.allow_empty_wildcard,
        include_patterns: copy.include_patterns.clone(),
        exclude_patterns: copy.exclude_patterns.clone(),
        always_replace: copy.always_replace_existing_dest_paths,
    }
}

/// The numbers of an owner. Names are looked up in the trees the op says.
async fn owner(
    op: &FileOp,
    work: &Work,
    inputs: &[Value],
    wanted: Option<&pb::ChownOpt>,
) -> Result<Option<Owner>, Failure> {
    let Some(wanted) = wanted else {
        return Ok(None);
    };
    let (user, users) = account(op, work, inputs, wanted.user.as_ref()).await?;
    let (group, groups) = account(op, work, inputs, wanted.group.as_ref()).await?;
    if user.is_none() && group.is_none() {
        return Ok(None);
    }
    let spec = OwnerSpec { user, group };
    tasks::blocking(move || {
        let users = users.as_ref().map(|looked| &looked.root);
        let groups = groups.as_ref().map(|looked| &looked.root);
        fileop::find_owner(&spec, users, groups)
    })
    .await
    .map(Some)
    .map_err(|err| Failure::from_error(&err))
}

async fn account(
    op: &FileOp,
    work: &Work,
    inputs: &[Value],
    wanted: Option<&pb::UserOpt>,
) -> Result<(Option<Account>, Option<Looked>), Failure> {
    match wanted.and_then(|wanted| wanted.user.as_ref()) {
        None => Ok((None, None)),
        Some(User::ById(id)) => Ok((Some(Account::Id(*id)), None)),
        Some(User::ByName(named)) => {
            let looked = match op.from(named.input) {
                super::From::Input(index) => {
                    let value = inputs.get(index).cloned().unwrap_or_default();
                    Looked::of_value(work, &value).await?
                }
                super::From::Nothing | super::From::Action(_) => None,
            };
            Ok((Some(Account::Name(named.name.clone())), looked))
        }
    }
}
