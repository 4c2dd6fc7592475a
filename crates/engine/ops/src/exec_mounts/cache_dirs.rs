//! Cache mounts: directories that outlive builds, and who uses which of them now.
//!
//! 1. *Shared*: all steps that want one at a time have the same directory.
//! 2. *Private*: a step has a directory to itself; when all are in use it gets a new one.
//! 3. *Locked*: a step has a directory to itself; when all are in use it waits, in the order in which steps came, and is
//!    woken by the one that ends. Meanwhile its progress says whom it waits for.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use cache::{MutableRef, RecordType};
use diagnostics::Failure;
use parking_lot::Mutex;
use proto::pb;
use tokio::sync::Notify;

use super::Building;
use crate::Value;

/// Cache mounts that running steps use.
#[derive(Default)]
pub struct CacheDirs {
    shared: tokio::sync::Mutex<HashMap<String, Weak<CacheDir>>>,
    /// Who comes next, by key.
    turns: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    users: Arc<Users>,
}

/// Who has what.
#[derive(Default)]
struct Users {
    /// Descriptions of the users by key.
    list: Mutex<HashMap<String, Vec<Arc<str>>>>,
    left: Notify,
}

/// A user in the list.
struct User {
    users: Arc<Users>,
    key: String,
    description: Arc<str>,
}

impl User {
    fn enter(users: &Arc<Users>, key: &str, description: &str) -> Self {
        let description: Arc<str> = description.into();
        let mut list = users.list.lock();
        list.entry(key.to_owned())
            .or_default()
            .push(description.clone());
        drop(list);
        Self {
            users: users.clone(),
            key: key.to_owned(),
            description,
        }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let mut list = self.users.list.lock();
        if let Some(users) = list.get_mut(&self.key) {
            let own = users
                .iter()
                .position(|user| Arc::ptr_eq(user, &self.description));
            own.map(|own| users.remove(own));
            if users.is_empty() {
                list.remove(&self.key);
            }
        }
        drop(list);
        self.users.left.notify_waiters();
    }
}

/// A cache mount in use. Its tree is given back before the others are told.
pub(crate) struct CacheDir {
    tree: MutableRef,
    _user: User,
}

impl CacheDir {
    pub(crate) fn tree(&self) -> &MutableRef {
        &self.tree
    }
}

/// A cache mount somebody wants.
pub(super) struct Wanted<'a> {
    pub(super) key: &'a str,
    /// What it stands on.
    pub(super) base: &'a Value,
    /// Where it is mounted.
    pub(super) dest: &'a str,
    pub(super) description: &'a str,
}

impl CacheDirs {
    /// Removes what the cache mounts with this id hold. Steps that have one now keep it.
    pub async fn forget(&self, cache: &cache::Cache, id: &str) {
        let mut shared = self.shared.lock().await;
        shared.remove(id);
        shared.retain(|key, _| !key.starts_with(&format!("{id}:")));
        for index in [index(id), family(id)] {
            while let Some(tree) = cache.find_mutable(&index) {
                tree.discard();
            }
        }
    }

    pub(super) async fn open(
        &self,
        build: &Building<'_>,
        wanted: &Wanted<'_>,
        sharing: pb::CacheSharingOpt,
    ) -> Result<Arc<CacheDir>, Failure> {
        let enter = || User::enter(&self.users, wanted.key, wanted.description);
        match sharing {
            pb::CacheSharingOpt::Shared => {
                let mut shared = self.shared.lock().await;
                if let Some(dir) = shared.get(wanted.key).and_then(Weak::upgrade) {
                    return Ok(dir);
                }
                let user = enter();
                let tree = find_or_make(build, wanted).await?;
                let dir = Arc::new(CacheDir { tree, _user: user });
                shared.retain(|_, dir| dir.strong_count() > 0);
                shared.insert(wanted.key.to_owned(), Arc::downgrade(&dir));
                Ok(dir)
            }
            pb::CacheSharingOpt::Private => {
                let user = enter();
                let tree = find_or_make(build, wanted).await?;
                Ok(Arc::new(CacheDir { tree, _user: user }))
            }
            pb::CacheSharingOpt::Locked => self.open_locked(build, wanted).await.map(Arc::new),
        }
    }

    async fn open_locked(
        &self,
        build: &Building<'_>,
        wanted: &Wanted<'_>,
    ) -> Result<CacheDir, Failure> {
        let turn = self.turn(wanted.key);
        let waits = async {
            let _turn = match turn.clone().try_lock_owned() {
                Ok(turn) => turn,
                Err(_) => {
                    let _shown = self.show(build, wanted);
                    turn.lock_owned().await
                }
            };
            let mut shown = None;
            loop {
                let left = self.users.left.notified();
                tokio::pin!(left);
                left.as_mut().enable();
                if let Some(found) = self.take(build, wanted) {
                    return found;
                }
                shown.get_or_insert_with(|| self.show(build, wanted));
                left.await;
            }
        };
        let (tree, user) = build
            .work
            .cx
            .run(waits)
            .await
            .map_err(|err| Failure::cancelled(&*err.cause))?;
        let tree = match tree {
            Some(tree) => tree,
            None => make(build, wanted).await?,
        };
        Ok(CacheDir { tree, _user: user })
    }

    /// A directory nobody uses; none to be made new when nobody uses any. Nothing when all are in use.
    fn take(
        &self,
        build: &Building<'_>,
        wanted: &Wanted<'_>,
    ) -> Option<(Option<MutableRef>, User)> {
        let free = build.worker.cache.find_mutable(&index(wanted.key));
        let in_use = self.users.list.lock().contains_key(wanted.key);
        if free.is_none() && in_use {
            return None;
        }
        Some((
            free,
            User::enter(&self.users, wanted.key, wanted.description),
        ))
    }

    /// Whose turn it is for a key.
    fn turn(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock();
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(key).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        turns.insert(key.to_owned(), Arc::downgrade(&turn));
        turn
    }

    /// Tells whom a step waits for, until the result is dropped.
    fn show(&self, build: &Building<'_>, wanted: &Wanted<'_>) -> progress::StatusGuard {
        let list = self.users.list.lock();
        let holder = list.get(wanted.key).and_then(|users| users.first());
        let holder = holder.map_or("another step", |holder| &**holder);
        let text = format!(
            "waiting for cache mount {}, in use as {holder}",
            wanted.dest
        );
        build.work.progress.status(&text, "waiting")
    }
}

fn index(key: &str) -> String {
    format!("cache-dir:{key}")
}

/// Of all cache mounts with this id that stand on some tree.
fn family(id: &str) -> String {
    format!("cache-dirs-on-trees:{id}")
}

async fn find_or_make(build: &Building<'_>, wanted: &Wanted<'_>) -> Result<MutableRef, Failure> {
    match build.worker.cache.find_mutable(&index(wanted.key)) {
        Some(tree) => Ok(tree),
        None => make(build, wanted).await,
    }
}

async fn make(build: &Building<'_>, wanted: &Wanted<'_>) -> Result<MutableRef, Failure> {
    let Wanted {
        key,
        base,
        description,
        ..
    } = wanted;
    let tree = build
        .new_mutable(base, description, RecordType::CacheMount)
        .await?;
    tree.set_index(&index(key))
        .map_err(|err| Failure::from_error(&err))?;
    if let Some(below) = &base.0
        && let Some(id) = key.strip_suffix(&format!(":{}", below.id()))
    {
        tree.set_index(&family(id))
            .map_err(|err| Failure::from_error(&err))?;
    }
    Ok(tree)
}
