//! Garbage collection by itself: after builds, when a limit is passed, and before the disk is full.
//!
//! 1. [`Keeper::poke`] says that something may have changed, after a build above all, and so does the database when it
//!    wrote its file. A pass follows a second later, but at most one a minute unless a limit is exceeded.
//! 2. Whoever begins a tree goes through [`Inner::make_room`]: when the cache may have passed its limit, or the disk is
//!    nearly full, a pass comes first. So a limit is exceeded by the steps under way at most. Whether it may have is
//!    told by the free space of the disk, which costs a microsecond: what was used at the last measurement, and at most
//!    what the disk lost since then. Others may give room back meanwhile, so after some more trees it is measured again.
//! 3. While trees are being written the disk is watched; one that is nearly full gets a pass that goes on until there is
//!    some room again, whatever is reserved.
//!
//! A pass that finds nothing to remove is not repeated for a while, unless something is no longer in use: then the room
//! is taken by what is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use db::Batch;
use parking_lot::Mutex;
use tasks::{Cx, Task};
use tokio::sync::{Notify, watch};

use crate::gc::{Disk, Pass, Rule, disk};
use crate::record::STATE;
use crate::usage::Care;
use crate::{Cache, Error, Inner};

/// Between a poke and its pass.
const DELAY: Duration = Duration::from_secs(1);
/// Between two passes that were poked.
const PAUSE: Duration = Duration::from_secs(60);
/// A pass at least so often: others fill disks too.
const IDLE: Duration = Duration::from_secs(3600);
/// Between two looks at the disk while trees are written.
const WATCH: Duration = Duration::from_millis(200);
/// The bytes that were used at the last measurement.
const BALANCE: &[u8] = b"used";
/// After a pass that found nothing.
const IN_VAIN: Duration = Duration::from_secs(30);
/// Between two times that somebody hears of removed records, and how many times longer than hearing took.
const TELL_PAUSE: Duration = Duration::from_secs(5);
const TELL_SHARE: u32 = 50;

/// A measurement of so many records costs as much as a tree takes to write: in a large cache it holds for some more.
const RECORDS: usize = 256;
/// What a tree is taken to be at least.
const TREE: u64 = 1_000_000;

/// What is known of limits and room.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// Trees that can be written now.
    pub(crate) writers: AtomicUsize,
    /// Trees begun since the last measurement.
    begun: AtomicUsize,
    /// Records there were at the last measurement.
    records: AtomicUsize,
    /// Uses of records that ended.
    pub(crate) ended: AtomicUsize,
    /// Something may have changed.
    pub(crate) poked: Arc<Notify>,
    keeper: Mutex<Option<Arc<Shared>>>,
    balance: Mutex<Option<Balance>>,
}

/// A measurement.
#[derive(Debug, Clone, Copy)]
struct Balance {
    used: u64,
    free: u64,
    /// What the database says was used.
    noted: u64,
}

#[derive(Debug)]
struct Shared {
    rules: Vec<Rule>,
    /// Bytes the whole cache may take.
    limit: Option<u64>,
    poked: Arc<Notify>,
    /// The first tree is being written.
    begun: Notify,
    /// Somebody waits for a pass.
    urgent: Notify,
    /// How many urgent passes there were.
    passes: watch::Sender<u64>,
    in_vain: Mutex<Option<InVain>>,
}

/// A pass that found nothing.
#[derive(Debug)]
struct InVain {
    at: Instant,
    /// Uses of records that had ended before it.
    ended: usize,
}

/// Sees to it that limits hold, as long as it lives.
#[derive(Debug)]
pub struct Keeper {
    shared: Arc<Shared>,
    _tasks: [Task<()>; 2],
    inner: std::sync::Weak<Inner>,
}

impl Keeper {
    /// Says that there may be something to remove.
    pub fn poke(&self) {
        self.shared.poked.notify_one();
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.upgrade() {
            *inner.room.keeper.lock() = None;
        }
        // Whoever waits for a pass goes on without.
        self.shared.passes.send_modify(|count| *count += 1);
    }
}

impl Cache {
    /// Starts to keep these rules. `after` is called some time after a pass removed something, and may block.
    pub fn keep(&self, rules: Vec<Rule>, after: impl Fn() + Send + Sync + 'static) -> Keeper {
        let shared = Arc::new(Shared {
            limit: limit(&rules),
            rules,
            poked: self.inner.room.poked.clone(),
            begun: Notify::new(),
            urgent: Notify::new(),
            passes: watch::Sender::new(0),
            in_vain: Mutex::new(None),
        });
        *self.inner.room.keeper.lock() = Some(shared.clone());
        let removed = Arc::new(Notify::new());
        let telling = tasks::spawn("removed records", tell(removed.clone(), Arc::new(after)));
        let (cache, work) = (self.clone(), shared.clone());
        let keeping = tasks::spawn("cache keeper", async move {
            cache.keep_rules(&work, &removed).await;
        });
        Keeper {
            shared,
            _tasks: [keeping, telling],
            inner: Arc::downgrade(&self.inner),
        }
    }

    async fn keep_rules(&self, shared: &Shared, told: &Notify) {
        let mut due = None;
        let mut rested = Instant::now();
        loop {
            let writing = self.inner.room.writers.load(Ordering::Relaxed) > 0;
            let pass_at = due.unwrap_or_else(|| Instant::now() + IDLE);
            let removed = tokio::select! {
                biased;
                () = shared.urgent.notified() => self.urgent_pass(shared).await,
                () = shared.poked.notified() => {
                    let soon = Instant::now() + DELAY;
                    let hurry = self.inner.is_short(shared) && !self.inner.rests(shared);
                    let at = if hurry { soon } else { rested.max(soon) };
                    due = Some(due.map_or(at, |due: Instant| due.min(at)));
                    0
                }
                () = shared.begun.notified() => 0,
                () = tokio::time::sleep_until(pass_at.into()) => {
                    due = None;
                    let removed = self.pass(shared, false).await;
                    rested = Instant::now() + PAUSE;
                    removed
                }
                () = tokio::time::sleep(WATCH), if writing => self.watch(shared).await,
            };
            if removed > 0 {
                tracing::debug!(bytes = removed, "garbage collected");
                told.notify_one();
            }
        }
    }

    /// Looks at the disk while trees are written.
    async fn watch(&self, shared: &Shared) -> u64 {
        let full = disk(&self.inner.root).is_ok_and(|disk| disk.available < floor(disk));
        if !full || self.inner.rests(shared) {
            return 0;
        }
        self.urgent_pass(shared).await
    }

    /// The rules once. What was measured before is good enough to see that there is nothing to do.
    async fn pass(&self, shared: &Shared, early: bool) -> u64 {
        let pass = Pass {
            care: Care::Remembered,
            early,
        };
        let pruned = self
            .prune_with(&Cx::root(), &shared.rules, pass, drop)
            .await;
        pruned.map_or_else(
            |err| {
                tracing::warn!(error = %fault::chain(&err), "garbage collection failed");
                0
            },
            |pruned| pruned.bytes,
        )
    }

    async fn urgent_pass(&self, shared: &Shared) -> u64 {
        let ended = self.inner.room.ended.load(Ordering::Relaxed);
        let mut removed = self.pass(shared, true).await;
        // What is measured and what the disk gets back may differ: shared extents, files still open.
        for _ in 0..3 {
            let Ok(disk) = disk(&self.inner.root) else {
                break;
            };
            if disk.available >= floor(disk) {
                break;
            }
            let rule = Rule {
                all: true,
                min_free: floor(disk) * 2 + disk.free - disk.available.min(disk.free),
                ..Rule::default()
            };
            let pass = Pass {
                care: Care::Remembered,
                early: false,
            };
            let pruned = self.prune_with(&Cx::root(), &[rule], pass, drop).await;
            match pruned {
                Ok(pruned) if pruned.bytes > 0 => removed += pruned.bytes,
                _ => break,
            }
        }
        let in_vain = removed == 0 && self.inner.is_short(shared);
        *shared.in_vain.lock() = in_vain.then(|| InVain {
            at: Instant::now(),
            ended,
        });
        shared.passes.send_modify(|count| *count += 1);
        removed
    }
}

impl Inner {
    /// Whether the last pass was in vain, not long ago, and all that was in use still is.
    fn rests(&self, shared: &Shared) -> bool {
        let ended = self.room.ended.load(Ordering::Relaxed);
        let last = shared.in_vain.lock();
        last.as_ref()
            .is_some_and(|last| last.ended == ended && last.at.elapsed() < IN_VAIN)
    }

    /// Notes that everything was measured.
    pub(crate) fn measured(&self, used: u64, records: usize) {
        self.room.begun.store(0, Ordering::Relaxed);
        self.room.records.store(records, Ordering::Relaxed);
        self.balance(used);
    }

    /// Notes how much room everything takes.
    fn balance(&self, used: u64) {
        let Ok(disk) = disk(&self.root) else {
            return;
        };
        let mut balance = self.room.balance.lock();
        let noted = balance.map(|last| last.noted);
        // Noting it is a change of its own, which is flushed and measured in turn.
        let noted = noted.filter(|noted| noted.abs_diff(used) <= used / 256);
        *balance = Some(Balance {
            used,
            free: disk.free,
            noted: noted.unwrap_or(used),
        });
        drop(balance);
        if noted.is_none() {
            let mut batch = Batch::new();
            batch.put(STATE, BALANCE, used.to_le_bytes());
            if let Err(err) = self.db.commit(batch) {
                tracing::warn!(error = %fault::chain(&err), "size of the cache not noted");
            }
        }
    }

    /// Starts with what was known at the last run.
    pub(crate) fn restore_balance(&self) -> Result<(), Error> {
        let used = self.db.value(STATE, BALANCE)?;
        let used = used.and_then(|raw| raw.try_into().ok().map(u64::from_le_bytes));
        if let (Some(used), Ok(disk)) = (used, disk(&self.root)) {
            let free = disk.free;
            let noted = used;
            *self.room.balance.lock() = Some(Balance { used, free, noted });
        }
        Ok(())
    }

    /// Notes that so much less is taken.
    pub(crate) fn balance_less(&self, bytes: u64) {
        let used = self.room.balance.lock().map(|balance| balance.used);
        if let Some(used) = used {
            self.balance(used.saturating_sub(bytes));
        }
    }

    /// Whether the cache may take more than it should, or the disk is nearly full.
    fn is_short(&self, shared: &Shared) -> bool {
        let Ok(disk) = disk(&self.root) else {
            return false;
        };
        let balance = *self.room.balance.lock();
        let over = match (shared.limit, balance) {
            (Some(limit), Some(last)) => last.used + last.free.saturating_sub(disk.free) > limit,
            _ => false,
        };
        over || disk.available < floor(disk)
    }

    /// Whether there may be more than the limit allows by now, going by the trees begun since the last measurement.
    fn is_stale(&self, shared: &Shared) -> bool {
        let Some(limit) = shared.limit else {
            return false;
        };
        let begun = self.room.begun.load(Ordering::Relaxed);
        let records = self.room.records.load(Ordering::Relaxed);
        let used = self.room.balance.lock().map_or(limit, |last| last.used);
        begun >= records / RECORDS + trees_until(limit, used, records).max(1)
    }

    /// Somebody begins to write a tree.
    pub(crate) fn note_writer(&self) {
        self.room.begun.fetch_add(1, Ordering::Relaxed);
        if self.room.writers.fetch_add(1, Ordering::Relaxed) == 0
            && let Some(shared) = self.room.keeper.lock().as_ref()
        {
            shared.begun.notify_one();
        }
    }

    /// Waits for a pass if a limit may be exceeded.
    pub(crate) async fn make_room(&self, cx: &Cx) -> Result<(), Error> {
        let Some(shared) = self.room.keeper.lock().clone() else {
            return Ok(());
        };
        let wanted = self.is_stale(&shared) || self.is_short(&shared) && !self.rests(&shared);
        if !wanted {
            return Ok(());
        }
        let mut passes = shared.passes.subscribe();
        passes.mark_unchanged();
        shared.urgent.notify_one();
        // An error means that nobody keeps the rules any more.
        let _ = cx.run(passes.changed()).await?;
        Ok(())
    }
}

/// Calls `after` when something was removed.
async fn tell(removed: Arc<Notify>, after: Arc<dyn Fn() + Send + Sync>) {
    loop {
        removed.notified().await;
        let (began, after) = (Instant::now(), after.clone());
        tasks::blocking(move || after()).await;
        tokio::time::sleep(TELL_PAUSE.max(began.elapsed() * TELL_SHARE)).await;
    }
}

/// The bytes that all of the cache may take under these rules.
pub fn limit(rules: &[Rule]) -> Option<u64> {
    let whole = |rule: &&Rule| rule.filter.is_everything() && rule.keep_duration.is_zero();
    let limits = rules.iter().filter(whole).filter(|rule| rule.max_used > 0);
    limits.map(|rule| rule.max_used.max(rule.reserved)).min()
}

/// How many trees of twice the usual size there is room for.
fn trees_until(limit: u64, used: u64, records: usize) -> usize {
    let usual = used / u64::try_from(records.max(1)).unwrap_or(u64::MAX);
    let trees = limit.saturating_sub(used) / (2 * usual.max(TREE));
    usize::try_from(trees).unwrap_or(usize::MAX)
}

/// With less than this free a disk counts as full.
fn floor(disk: Disk) -> u64 {
    const MB: u64 = 1_000_000;
    (disk.total / 50).clamp((64 * MB).min(disk.total / 10), 1000 * MB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_holds_while_there_is_room_for_more_trees_of_the_usual_size() {
        assert_eq!(trees_until(100 * TREE, 0, 0), 50);
        assert_eq!(trees_until(100 * TREE, 20 * TREE, 5), 10);
        assert_eq!(trees_until(100 * TREE, 200 * TREE, 5), 0);
    }

    #[test]
    fn a_disk_counts_as_full_in_relation_to_its_size() {
        const GB: u64 = 1_000_000_000;
        let floor = |total| {
            floor(Disk {
                total,
                free: 0,
                available: 0,
            })
        };
        assert_eq!(floor(1000 * GB), GB);
        assert_eq!(floor(10 * GB), GB / 5);
        assert_eq!(floor(GB), GB / 1000 * 64);
        assert_eq!(floor(GB / 10), GB / 100);
    }
}
