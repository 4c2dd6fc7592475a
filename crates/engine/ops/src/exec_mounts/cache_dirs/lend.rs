//! Cache mounts that somebody else than a step looks into: they are copied into remote caches.
//!
//! Whoever has one lent is a user like a step: steps that share it may use it at the same time, those that want it for
//! themselves wait.

use std::sync::{Arc, Weak};

use cache::{Cache, MutableRef, Ref};
use contenthash::Query;
use diagnostics::Failure;
use fstree::Root;
use oci::Digest;
use tasks::Cx;

use super::{CacheDir, CacheDirs, User, family, index, stock};

/// A cache mount to be looked into.
pub struct Lent {
    base: Option<Ref>,
    dir: Arc<CacheDir>,
}

impl Lent {
    /// Its files.
    pub fn root(&self) -> Result<Root, Failure> {
        let mount = self.dir.tree().mount();
        stock::root(&mount.map_err(|err| Failure::from_error(&err))?)
    }

    /// What it stands on: the checksum, which is the same on other daemons, and the files.
    pub async fn base(&self, cx: &Cx) -> Result<Option<(Digest, Root)>, Failure> {
        let Some(base) = &self.base else {
            return Ok(None);
        };
        let mount = base.mount().map_err(|err| Failure::from_error(&err))?;
        Ok(Some((checksum(cx, base).await?, stock::root(&mount)?)))
    }
}

/// What a tree below a cache mount is known by on other daemons.
pub async fn checksum(cx: &Cx, tree: &Ref) -> Result<Digest, Failure> {
    let checksum = tree.checksum(cx, &Query::of("/")).await;
    checksum.map_err(|err| Failure::from_error(&err))
}

/// What there is under an id.
pub struct Lending {
    /// Those that can be looked into.
    pub lent: Vec<Lent>,
    /// Steps have others for themselves.
    pub in_use: bool,
}

impl CacheDirs {
    /// The cache mounts with this id; of several that steps have for themselves one.
    pub async fn lend(&self, cache: &Cache, id: &str, description: &str) -> Lending {
        let mut shared = self.shared.lock().await;
        let of_id = |key: &str| {
            let rest = key.strip_prefix(id);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
        };
        let known = shared.iter().filter(|(key, _)| of_id(key));
        let mut found: Vec<(String, Arc<CacheDir>)> = known
            .filter_map(|(key, dir)| Some((key.clone(), dir.upgrade()?)))
            .collect();
        let mut take = |tree: MutableRef| {
            let base = tree.parent();
            let key = match &base {
                None => id.to_owned(),
                Some(base) => format!("{id}:{}", base.id()),
            };
            if found.iter().any(|(known, _)| *known == key) {
                return;
            }
            let dir = Arc::new(CacheDir {
                tree,
                _user: User::enter(&self.users, &key, description),
            });
            shared.insert(key.clone(), Arc::downgrade(&dir));
            found.push((key, dir));
        };
        cache.find_mutable(&index(id)).map(&mut take);
        // Each is held until all are there: the next one is another.
        let mut on_trees = Vec::new();
        while let Some(tree) = cache.find_mutable(&family(id)) {
            on_trees.push(tree);
        }
        on_trees.into_iter().for_each(&mut take);
        shared.retain(|_, dir| Weak::strong_count(dir) > 0);
        drop(shared);
        let users = self.users.list.lock();
        let lent = |key: &String| found.iter().any(|(known, _)| known == key);
        let in_use = users.keys().any(|key| of_id(key) && !lent(key));
        drop(users);
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        let lent = found.into_iter().map(|(_, dir)| Lent {
            base: dir.tree().parent(),
            dir,
        });
        Lending {
            lent: lent.collect(),
            in_use,
        }
    }
}
