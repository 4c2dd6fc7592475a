//! One file action on an open tree.

use std::sync::Arc;

use diagnostics::Failure;
use fault::Classify as _;
use fileop::{Account, Copy, Mkdir, Mkfile, Owner, OwnerSpec, Remove, Symlink, timestamp};
use fstree::Root;
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
    _tree: Arc<mount::Tree>,
}

impl Looked {
    fn new(tree: Arc<mount::Tree>) -> Result<Self, Failure> {
        let root = Root::from_borrowed(tree.fd())
            .map_err(|err| Failure::new(err.class(), format!("failed to open tree: {err}")))?;
        Ok(Self { root, _tree: tree })
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
    let target = open
        .tree
        .tree(&work.cx)
        .await
        .map_err(|err| Failure::from_error(&err))?;
    let target = Looked::new(target)?;
    let result = match &action.action {
        Some(Action::Copy(copy)) => {
            let owner = owner(op, work, inputs, copy.owner.as_ref()).await?;
            // Scratch as a source is an empty directory.
            let nothing = match &second.0 {
                Some(_) => None,
                None => Some(op.open(work, &Value(None), "scratch").await?),
            };
            let source = match &nothing {
                Some(nothing) => {
                    let tree = nothing.tree.tree(&work.cx).await;
                    Some(Looked::new(tree.map_err(|err| Failure::from_error(&err))?)?)
                }
                None => Looked::of_value(work, second).await?,
            };
            let Some(source) = source else {
                return Ok(());
            };
            let action = copy_action(copy, owner);
            let cx = work.cx.clone();
            let mut sharing = sharing::Shared::between(second, open);
            let copied = tasks::blocking(move || {
                let shares = sharing.as_mut().map(sharing::Shared::lend);
                let copied = fileop::copy(&cx, &source.root, &target.root, &action, shares);
                copied.map(|()| sharing)
            })
            .await;
            match copied {
                Ok(Some(sharing)) => return sharing.keep(open).await,
                Ok(None) => Ok(()),
                Err(err) => Err(err),
            }
        }
        Some(Action::Mkfile(mkfile)) => {
            let action = Mkfile {
                path: mkfile.path.clone(),
                mode: mode(mkfile.mode),
                data: mkfile.data.to_vec(),
                owner: owner(op, work, inputs, mkfile.owner.as_ref()).await?,
                timestamp: timestamp(mkfile.timestamp),
            };
            tasks::blocking(move || fileop::mkfile(&target.root, &action)).await
        }
        Some(Action::Mkdir(mkdir)) => {
            let action = Mkdir {
                path: mkdir.path.clone(),
                mode: mode(mkdir.mode),
                make_parents: mkdir.make_parents,
                owner: owner(op, work, inputs, mkdir.owner.as_ref()).await?,
                timestamp: timestamp(mkdir.timestamp),
            };
            tasks::blocking(move || fileop::mkdir(&target.root, &action)).await
        }
        Some(Action::Rm(rm)) => {
            let action = Remove {
                path: rm.path.clone(),
                allow_not_found: rm.allow_not_found,
                wildcard: rm.allow_wildcard,
            };
            tasks::blocking(move || fileop::remove(&target.root, &action)).await
        }
        Some(Action::Symlink(link)) => {
            let action = Symlink {
                old_path: link.oldpath.clone(),
                new_path: link.newpath.clone(),
                owner: owner(op, work, inputs, link.owner.as_ref()).await?,
                timestamp: timestamp(link.timestamp),
            };
            tasks::blocking(move || fileop::symlink(&target.root, &action)).await
        }
        None => Ok(()),
    };
    result.map_err(|err| Failure::from_error(&err))
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
