//! Where cache mounts that are not here can be had from: caches that builds import.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use cache::{MutableRef, Ref};
use diagnostics::Failure;
use fault::Class;
use fstree::Root;
use parking_lot::Mutex;
use progress::Progress;
use tasks::Cx;

use super::{Building, Wanted};

/// Brings what a cache mount held elsewhere.
#[async_trait]
pub trait Stock: Send + Sync {
    /// Fills the tree of a new cache mount with this id, which stands on `base`. Whether it had anything.
    ///
    /// After an error the tree may hold anything.
    async fn fill(
        &self,
        cx: &Cx,
        progress: &Progress,
        id: &str,
        base: Option<&Ref>,
        tree: Root,
    ) -> Result<bool, Failure>;
}

/// What builds offer while they run.
#[derive(Default)]
pub(super) struct Stocks {
    /// By session.
    all: Mutex<HashMap<String, Vec<Arc<dyn Stock>>>>,
}

/// Withdraws an offer when dropped.
pub struct Offered {
    stocks: Arc<Stocks>,
    session: String,
    stock: Arc<dyn Stock>,
}

impl Drop for Offered {
    fn drop(&mut self) {
        let mut all = self.stocks.all.lock();
        if let Some(offered) = all.get_mut(&self.session) {
            offered.retain(|stock| !Arc::ptr_eq(stock, &self.stock));
            if offered.is_empty() {
                all.remove(&self.session);
            }
        }
    }
}

impl Stocks {
    pub(super) fn offer(self: &Arc<Self>, session: &str, stock: Arc<dyn Stock>) -> Offered {
        let mut all = self.all.lock();
        let offered = all.entry(session.to_owned()).or_default();
        offered.push(stock.clone());
        Offered {
            stocks: self.clone(),
            session: session.to_owned(),
            stock,
        }
    }

    fn of(&self, build: &Building<'_>) -> Vec<Arc<dyn Stock>> {
        let sessions = (build.work.sessions)();
        let all = self.all.lock();
        let offered = sessions.iter().filter_map(|session| all.get(session));
        offered.flatten().cloned().collect()
    }

    /// Whether a tree that is here had better be replaced by a new one, which may be filled.
    pub(super) fn is_better(&self, build: &Building<'_>, tree: &MutableRef) -> bool {
        !self.of(build).is_empty() && is_empty(tree)
    }

    /// Fills a new tree from the first that has something. `false`: the tree is to be thrown away.
    pub(super) async fn fill(
        &self,
        build: &Building<'_>,
        wanted: &Wanted<'_>,
        tree: &MutableRef,
    ) -> Result<bool, Failure> {
        for stock in self.of(build) {
            match fill(&*stock, build, wanted, tree).await {
                Ok(true) => break,
                Ok(false) => {}
                Err(err) if err.is_cancelled() => return Err(err),
                Err(err) => {
                    warn(build, wanted, &err);
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

async fn fill(
    stock: &dyn Stock,
    build: &Building<'_>,
    wanted: &Wanted<'_>,
    tree: &MutableRef,
) -> Result<bool, Failure> {
    let (cx, progress) = (&build.work.cx, &build.work.progress);
    let mount = tree.mount().map_err(|err| Failure::from_error(&err))?;
    let root = root(&mount)?;
    let base = wanted.base.0.as_ref();
    stock.fill(cx, progress, wanted.id, base, root).await
}

fn warn(build: &Building<'_>, wanted: &Wanted<'_>, err: &Failure) {
    let progress = &build.work.progress;
    tracing::warn!(
        mount = wanted.dest,
        error = err.text(),
        "cache mount not restored"
    );
    progress.warn(format!(
        "cache mount {} starts empty: {}",
        wanted.dest,
        err.text()
    ));
}

/// The files of a tree.
pub(super) fn root(mount: &mount::Mount) -> Result<Root, Failure> {
    let opened = mount.detached();
    let opened = opened.and_then(|tree| Root::from_borrowed(tree.fd()));
    opened.map_err(|err| {
        let text = format!("failed to open cache mount: {err}");
        Failure::new(Class::Internal, text)
    })
}

fn is_empty(tree: &MutableRef) -> bool {
    let opened = tree.mount().ok().and_then(|mount| mount.detached().ok());
    opened.is_some_and(|tree| fstree::dir::names(tree.fd()).is_ok_and(|names| names.is_empty()))
}
