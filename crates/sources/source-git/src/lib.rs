//! Git repositories as sources: `git://`.
//!
//! The git command line does the work, because users' set-ups (transports, proxies, agents) are made for it. There is one
//! bare repository per remote, shared by all builds, into which commits are fetched as shallow as the server lets us;
//! a checkout of one of them becomes a tree. Nothing of this machine's git configuration counts, and nothing a
//! repository contains is run.

mod access;
mod attrs;
mod bundle;
mod checkout;
mod cli;
mod error;
mod fetch;
mod remote;
mod resolve;

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use cache::Cache;
use db::Table;
use parking_lot::Mutex;
use progress::Progress;
use session::Group;
use source::{Asked, Facts, GitFacts, Identifier, Index, Instance, Key, Memo, Source};
use tasks::Cx;
use tokio::sync::OwnedMutexGuard;

pub use error::Error;

use attrs::Attrs;
use cli::Cli;
use resolve::Resolved;

/// Checkouts by what they were made of.
const TREES: Table = Table::new("git-trees");

/// The source of git repositories. Clones share everything.
#[derive(Clone)]
pub struct Git(Arc<Inner>);

struct Inner {
    cache: Cache,
    /// For bundles.
    registry: registry::Client,
    trees: Index,
    locks: Locks,
}

impl Git {
    /// Repositories and checkouts are kept in `cache`; bundles may come from registries.
    pub fn new(cache: Cache, registry: registry::Client) -> Self {
        Self(Arc::new(Inner {
            registry,
            trees: Index::new(cache.clone(), TREES),
            cache,
            locks: Locks::default(),
        }))
    }
}

impl Source for Git {
    fn schemes(&self) -> &'static [&'static str] {
        &["git"]
    }

    fn instance(
        &self,
        id: Identifier,
        memo: &Arc<Memo>,
    ) -> Result<Arc<dyn Instance>, source::Error> {
        let attrs = Attrs::parse(&id).map_err(|err| source::Error::new(&err))?;
        Ok(Arc::new(GitInstance {
            git: self.clone(),
            attrs,
            memo: memo.clone(),
        }))
    }

    fn canonical(&self, id: &Identifier) -> String {
        match Attrs::parse(id) {
            Ok(attrs) => attrs.canonical(),
            Err(_) => format!("{}://{}", id.scheme, id.name),
        }
    }
}

/// One holder at a time per name.
#[derive(Default)]
struct Locks(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl Locks {
    async fn lock(&self, cx: &Cx, name: String) -> Result<OwnedMutexGuard<()>, Error> {
        let lock = {
            let mut locks = self.0.lock();
            locks.retain(|_, lock| lock.strong_count() > 0);
            let entry = locks.entry(name).or_default();
            entry.upgrade().unwrap_or_else(|| {
                let lock = Arc::default();
                *entry = Arc::downgrade(&lock);
                lock
            })
        };
        Ok(cx.run(lock.lock_owned()).await?)
    }
}

struct GitInstance {
    git: Git,
    attrs: Attrs,
    memo: Arc<Memo>,
}

/// What a call of a build works with.
struct Call<'a> {
    git: &'a Git,
    memo: &'a Memo,
    cx: &'a Cx,
    sessions: &'a Group,
    progress: &'a Progress,
}

impl GitInstance {
    /// What the remote says, asked once per build.
    async fn resolved(&self, call: &Call<'_>) -> Result<Resolved, Error> {
        resolve::resolve(&self.attrs, call).await
    }

    async fn tree(&self, call: &Call<'_>) -> Result<cache::Ref, Error> {
        let resolved = self.resolved(call).await?;
        let key = format!("{}:{}", self.attrs.key(&resolved), self.attrs.subdir);
        let locks = &self.git.0.locks;
        let _making = locks.lock(call.cx, format!("tree {key}")).await?;
        if let Some((tree, _)) = self.git.0.trees.find(&key).into_iter().next() {
            return Ok(tree);
        }
        let (repository, _using) = self.fetched(call, &resolved).await?;
        let tree = checkout::tree(&self.git.0.cache, &self.attrs, &resolved, &repository).await?;
        self.git.0.trees.add(&key, &tree, "");
        Ok(tree)
    }

    /// The shared repository with the commit in it, for as long as the guard lives.
    async fn fetched(
        &self,
        call: &Call<'_>,
        resolved: &Resolved,
    ) -> Result<(fetch::Repository, OwnedMutexGuard<()>), Error> {
        let locks = &self.git.0.locks;
        let using = locks
            .lock(call.cx, format!("remote {}", self.attrs.remote))
            .await?;
        let access = access::Access::new(&self.attrs, call).await?;
        let cli = Cli::new(call, access);
        let repository = fetch::fetch(call, &self.attrs, resolved, &cli).await?;
        Ok((repository, using))
    }

    async fn git_facts(&self, call: &Call<'_>, objects: bool) -> Result<GitFacts, Error> {
        let resolved = self.resolved(call).await?;
        let mut facts = GitFacts {
            reference: resolved.reference.clone(),
            checksum: resolved.checksum.clone(),
            commit_checksum: match self.attrs.keep_git_dir {
                true => String::new(),
                false => resolved.commit.clone().unwrap_or_default(),
            },
            ..GitFacts::default()
        };
        if objects {
            let (repository, _using) = self.fetched(call, &resolved).await?;
            fetch::objects(&repository, &mut facts).await?;
        }
        Ok(facts)
    }
}

#[async_trait]
impl Instance for GitInstance {
    async fn key(
        &self,
        cx: &Cx,
        sessions: &Group,
        progress: &Progress,
        _: usize,
    ) -> Result<Key, source::Error> {
        let call = Call {
            git: &self.git,
            memo: &self.memo,
            cx,
            sessions,
            progress,
        };
        match self.resolved(&call).await {
            Ok(resolved) => Ok(Key {
                text: self.attrs.key(&resolved),
                done: true,
            }),
            Err(err) => Err(source::Error::new(&err)),
        }
    }

    async fn snapshot(
        &self,
        cx: &Cx,
        sessions: &Group,
        progress: &Progress,
    ) -> Result<Option<cache::Ref>, source::Error> {
        let call = Call {
            git: &self.git,
            memo: &self.memo,
            cx,
            sessions,
            progress,
        };
        let tree = self.tree(&call).await;
        tree.map(Some).map_err(|err| source::Error::new(&err))
    }

    async fn facts(
        &self,
        cx: &Cx,
        sessions: &Group,
        progress: &Progress,
        asked: &Asked,
    ) -> Result<Facts, source::Error> {
        let call = Call {
            git: &self.git,
            memo: &self.memo,
            cx,
            sessions,
            progress,
        };
        let facts = self.git_facts(&call, asked.git_objects).await;
        facts
            .map(Facts::Git)
            .map_err(|err| source::Error::new(&err))
    }
}
