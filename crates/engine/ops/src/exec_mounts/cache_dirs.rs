//! Cache mounts: directories that outlive builds, and who uses which of them now.
//!
//! 1. *Shared*: all steps that want one at a time have the same directory.
//! 2. *Private*: a step has a directory to itself; when all are in use it gets a new one.
//! 3. *Locked*: a step has a directory to itself; when all are in use it waits, in the order in which steps came, and is
//!    woken by the one that ends. Meanwhile its progress says whom it waits for.
//!
//! One that is new may be filled with what it held on another daemon ([`Stock`]), before anybody sees it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use cache::{MutableRef, RecordType};
use diagnostics::Failure;
use parking_lot::Mutex;
use proto::pb;
use tokio::sync::Notify;

use super::Building;
use crate::Value;

mod lend;
mod stock;

pub use lend::{Lending, Lent, checksum};
use stock::Stocks;
pub use stock::{Offered, Stock};

/// Cache mounts that running steps use.
#[derive(Default)]
pub struct CacheDirs {
    shared: tokio::sync::Mutex<HashMap<String, Weak<CacheDir>>>,
    /// Who comes next, by key.
    turns: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    users: Arc<Users>,
    stocks: Arc<Stocks>,
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
    /// As the step has it.
    pub(super) id: &'a str,
    /// What it stands on.
    pub(super) base: &'a Value,
    /// Where it is mounted.
    pub(super) dest: &'a str,
    pub(super) description: &'a str,
}

impl CacheDirs {
    /// Has new cache mounts of the steps of a session filled from `stock`, until the result is dropped.
    pub fn offer(&self, session: &str, stock: Arc<dyn Stock>) -> Offered {
        self.stocks.offer(session, stock)
    }

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
                // Filling a new one may take long: only those who want the same one wait.
                let turn = self.turn(&format!("shared {}", wanted.key));
                let _turn = turn.lock().await;
                let known = self.shared.lock().await.get(wanted.key).cloned();
                if let Some(dir) = known.as_ref().and_then(Weak::upgrade) {
                    return Ok(dir);
                }
                let user = enter();
                let tree = self.find_or_make(build, wanted).await?;
                let dir = Arc::new(CacheDir { tree, _user: user });
                let mut shared = self.shared.lock().await;
                shared.retain(|_, dir| dir.strong_count() > 0);
                shared.insert(wanted.key.to_owned(), Arc::downgrade(&dir));
                Ok(dir)
            }
            pb::CacheSharingOpt::Private => {
                let user = enter();
                let tree = self.find_or_make(build, wanted).await?;
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
        let tree = self.usable(build, wanted, tree).await?;
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

async fn new_tree(build: &Building<'_>, wanted: &Wanted<'_>) -> Result<MutableRef, Failure> {
    let Wanted {
        base, description, ..
    } = wanted;
    build
        .new_mutable(base, description, RecordType::CacheMount)
        .await
}

impl CacheDirs {
    async fn find_or_make(
        &self,
        build: &Building<'_>,
        wanted: &Wanted<'_>,
    ) -> Result<MutableRef, Failure> {
        let found = build.worker.cache.find_mutable(&index(wanted.key));
        self.usable(build, wanted, found).await
    }

    /// What was found, or a new tree.
    async fn usable(
        &self,
        build: &Building<'_>,
        wanted: &Wanted<'_>,
        found: Option<MutableRef>,
    ) -> Result<MutableRef, Failure> {
        match found {
            Some(tree) if self.stocks.is_better(build, &tree) => tree.discard(),
            Some(tree) => return Ok(tree),
            None => {}
        }
        let mut tree = new_tree(build, wanted).await?;
        if !self.stocks.fill(build, wanted, &tree).await? {
            tree = new_tree(build, wanted).await?;
        }
        tree.set_index(&index(wanted.key))
            .map_err(|err| Failure::from_error(&err))?;
        if wanted.base.0.is_some() {
            tree.set_index(&family(wanted.id))
                .map_err(|err| Failure::from_error(&err))?;
        }
        Ok(tree)
    }
}
