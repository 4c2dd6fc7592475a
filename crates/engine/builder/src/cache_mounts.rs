//! Cache mounts that travel with remote caches, where an export and an import ask for it with `cache-mounts`.
//!
//! An export takes the mounts of the steps of its own build, also of steps that did not run. Those that are not here go
//! on from the caches that the build imports: else a build that found every step would lose them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use cache::Ref;
use diagnostics::Failure;
use fault::Class;
use fstree::Root;
use ops::Worker;
use progress::Progress;
use remotecache::mounts::{Incoming, Listed, Outgoing, Packed, Place, Spool, pack};
use remotecache::{Whence, Work};
use tasks::Cx;

use crate::bridge::BuildBridge;
use crate::imports::Import;

/// Bytes of files that mounts have together at most, unless told otherwise.
const LIMIT: u64 = 4 << 30;

/// Which mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Which {
    All,
    Ids(Vec<String>),
}

impl Which {
    /// Reads the option `cache-mounts`: whether, or the ids of some.
    pub(crate) fn parse(attrs: &BTreeMap<String, String>) -> Option<Self> {
        let text = attrs.get("cache-mounts")?;
        match fault::truth(text) {
            Some(true) => Some(Self::All),
            Some(false) => None,
            None if text.is_empty() => None,
            None => {
                let ids = text.split([',', ';', ' ']).filter(|id| !id.is_empty());
                Some(Self::Ids(ids.map(str::to_owned).collect()))
            }
        }
    }

    /// Whether an id of a step is meant. The Dockerfile frontend puts a name space and a slash before what users write.
    fn has(&self, id: &str) -> bool {
        let Self::Ids(ids) = self else { return true };
        let written = id.split_once('/').map_or(id, |(_, written)| written);
        ids.iter().any(|wanted| wanted == id || wanted == written)
    }
}

/// What an export is to take along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    which: Which,
    limit: u64,
}

impl Wanted {
    /// Reads the options of an export.
    pub(crate) fn parse(attrs: &BTreeMap<String, String>) -> Result<Option<Self>, Failure> {
        let limit = match attrs.get("cache-mounts-max-size") {
            None => LIMIT,
            Some(text) => bytes(text).ok_or_else(|| {
                let text = format!("invalid cache-mounts-max-size {text:?}");
                Failure::new(Class::User, text)
            })?,
        };
        Ok(Which::parse(attrs).map(|which| Self { which, limit }))
    }
}

/// Bytes, or a number with `k`, `m`, `g` or `t`, of 1024 each.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let text = text.strip_suffix('b').unwrap_or(&text);
    let text = text.strip_suffix('i').unwrap_or(text);
    let (number, shift) = match text.chars().last()? {
        'k' => (&text[..text.len() - 1], 10),
        'm' => (&text[..text.len() - 1], 20),
        'g' => (&text[..text.len() - 1], 30),
        't' => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let number: u64 = number.trim().parse().ok()?;
    number.checked_mul(1 << shift)
}

/// The mounts of the steps of a build.
#[derive(Debug, Default)]
pub(crate) struct Used {
    all: BTreeSet<String>,
    /// They are to begin empty.
    stale: BTreeSet<String>,
}

impl Used {
    pub(crate) fn note(&mut self, all: BTreeSet<String>, stale: BTreeSet<String>) {
        self.all.extend(all);
        self.stale.extend(stale);
    }
}

/// What one import offers to the steps of its build.
pub(crate) struct Stock {
    pub(crate) import: Arc<Import>,
    pub(crate) which: Which,
    pub(crate) used: Arc<parking_lot::Mutex<Used>>,
}

impl Stock {
    /// The mounts that a cache brought and that are meant.
    async fn mounts(&self, work: &Work) -> Result<Vec<(Incoming, Listed)>, Failure> {
        let Some(imported) = self.import.imported(&work.cx).await else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        for incoming in &imported.graph().brought {
            let list = incoming.list(work).await;
            let list = list.map_err(|err| Failure::from_error(&err))?;
            let meant = list.mounts.into_iter().filter(|it| self.which.has(&it.id));
            found.extend(meant.map(|listed| (incoming.clone(), listed)));
        }
        Ok(found)
    }
}

#[async_trait]
impl ops::Stock for Stock {
    async fn fill(
        &self,
        cx: &Cx,
        progress: &Progress,
        id: &str,
        base: Option<&Ref>,
        tree: Root,
    ) -> Result<bool, Failure> {
        if !self.which.has(id) || self.used.lock().stale.contains(id) {
            return Ok(false);
        }
        let imported = self.import.imported(cx).await;
        if imported.is_none_or(|imported| imported.graph().brought.is_empty()) {
            return Ok(false);
        }
        let spool = spool(&self.import.worker).await?;
        let work = Work {
            store: spool.store().clone(),
            ..self.import.work(cx, Progress::none())
        };
        let mut found = self.mounts(&work).await?;
        found.retain(|(_, listed)| listed.id == id && listed.base.is_some() == base.is_some());
        if found.is_empty() {
            return Ok(false);
        }
        if let Some(base) = base {
            let checksum = Some(ops::checksum(cx, base).await?);
            found.retain(|(_, listed)| listed.base == checksum);
        }
        let Some((incoming, listed)) = found.into_iter().next() else {
            return Ok(false);
        };
        let _status = progress.status(&format!("restoring cache mount {id}"), "");
        let restored = incoming.restore(&work, &listed, tree).await;
        restored.map_err(|err| Failure::from_error(&err))?;
        Ok(true)
    }
}

async fn spool(worker: &Worker) -> Result<Arc<Spool>, Failure> {
    let folder = worker.cache.root().join("spool");
    let opened = tasks::blocking(move || Spool::open(&folder)).await;
    opened
        .map(Arc::new)
        .map_err(|err| Failure::from_error(&err))
}

impl BuildBridge {
    /// The cache mounts that an export takes along.
    pub(crate) async fn outgoing(
        &self,
        work: &Work,
        wanted: &Wanted,
    ) -> Result<Option<Arc<Outgoing>>, Failure> {
        let all = self.imports.mounts.lock().all.clone();
        let ids: BTreeSet<String> = all.into_iter().filter(|id| wanted.which.has(id)).collect();
        if ids.is_empty() {
            return Ok(None);
        }
        let _status = work.progress.status("packing cache mounts", "");
        let spool = spool(&self.machinery.worker).await?;
        let packed = self.packed(work, wanted, &ids, &spool).await?;
        let mut room = wanted.limit.saturating_sub(packed.bytes);
        let mut mounts: Vec<_> = (packed.mounts.into_iter())
            .map(|listed| (listed, Whence::Here))
            .collect();
        let spooled = Work {
            store: spool.store().clone(),
            progress: Progress::none(),
            ..work.clone()
        };
        let stocks = self.imports.stocks.lock().clone();
        for stock in stocks {
            let found = match stock.mounts(&spooled).await {
                Ok(found) => found,
                Err(err) if err.is_cancelled() => return Err(err),
                Err(err) => {
                    warn(
                        &work.progress,
                        format!("imported cache mounts left out: {}", err.text()),
                    );
                    continue;
                }
            };
            for (incoming, listed) in found {
                let is_known =
                    |(known, _): &(Listed, _)| known.id == listed.id && known.base == listed.base;
                if !ids.contains(&listed.id) || mounts.iter().any(is_known) {
                    continue;
                }
                match room.checked_sub(listed.size()) {
                    Some(left) => {
                        room = left;
                        mounts.push((listed, incoming.whence()));
                    }
                    None => warn(
                        &work.progress,
                        format!("cache mount {} left out: too large", listed.id),
                    ),
                }
            }
        }
        let outgoing = Outgoing::new(spool, mounts);
        let outgoing = outgoing.map_err(|err| Failure::from_error(&err))?;
        Ok(outgoing.map(Arc::new))
    }

    /// The mounts that are here.
    async fn packed(
        &self,
        work: &Work,
        wanted: &Wanted,
        ids: &BTreeSet<String>,
        spool: &Spool,
    ) -> Result<Packed, Failure> {
        let worker = &self.machinery.worker;
        let mut held = Vec::new();
        let mut places = Vec::new();
        for id in ids {
            let lending = worker
                .cache_dirs
                .lend(&worker.cache, id, "cache export")
                .await;
            if lending.in_use {
                warn(
                    &work.progress,
                    format!("cache mount {id} is in use and left out"),
                );
            }
            for lent in lending.lent {
                places.push(Place {
                    id: id.clone(),
                    root: lent.root()?,
                    base: lent.base(&work.cx).await?,
                });
                held.push(lent);
            }
        }
        let (cx, limit, store) = (work.cx.clone(), wanted.limit, spool.store().clone());
        let packed = tasks::blocking(move || {
            let packed = pack(&cx, &places, limit, &store);
            drop((places, held));
            packed
        });
        let packed = packed.await.map_err(|err| Failure::from_error(&err))?;
        if packed.too_much > 0 {
            let text = format!(
                "cache mounts are larger than {} bytes: the {} files not used for longest are left out",
                wanted.limit, packed.too_much
            );
            warn(&work.progress, text);
        }
        if packed.busy > 0 {
            tracing::info!(
                files = packed.busy,
                "files of cache mounts left out, they were written to"
            );
        }
        for (id, err) in &packed.failed {
            warn(&work.progress, format!("cache mount {id} left out: {err}"));
        }
        Ok(packed)
    }
}

fn warn(progress: &Progress, short: String) {
    tracing::warn!(warning = short, "cache mounts are not complete");
    progress.warn(short);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attrs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    fn which(text: &str) -> Option<Which> {
        Which::parse(&attrs(&[("cache-mounts", text)]))
    }

    #[test]
    fn mounts_are_named_as_users_write_them() {
        assert_eq!(which("false"), None);
        assert_eq!(which("true"), Some(Which::All));
        let some = which("npm;/root/.cache").expect("some");
        assert!(some.has("/npm") && some.has("npm") && some.has("space/npm"));
        assert!(some.has("//root/.cache"));
        assert!(!some.has("/npm2") && !some.has("//npm"));
        assert!(Which::All.has("anything"));
    }

    #[test]
    fn sizes_have_units() {
        let limit = |text: &str| {
            let given = attrs(&[("cache-mounts", "1"), ("cache-mounts-max-size", text)]);
            let wanted = Wanted::parse(&given);
            wanted
                .map(|wanted| wanted.map(|wanted| wanted.limit))
                .map_err(|err| err.text().to_owned())
        };
        assert_eq!(limit("1000"), Ok(Some(1000)));
        assert_eq!(limit("2GB"), Ok(Some(2 << 30)));
        assert_eq!(limit("2GiB"), Ok(Some(2 << 30)));
        assert_eq!(limit("5m"), Ok(Some(5 << 20)));
        let refused = "invalid cache-mounts-max-size \"much\"".to_owned();
        assert_eq!(limit("much"), Err(refused));
        assert_eq!(
            Wanted::parse(&attrs(&[("cache-mounts", "1")])).expect("valid"),
            Some(Wanted {
                which: Which::All,
                limit: LIMIT
            })
        );
    }
}
