//! Opening the cache: finding the state, putting it in order, and the thread that removes trees.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use content::Store;
use db::{Batch, Db, Start};
use parking_lot::Mutex;
use snapshot::{Key, Native, Overlay, Snapshotter};
use tokio::sync::Notify;

use crate::fresh::NEXT_KEY;
use crate::node::Nodes;
use crate::reaper::{Job, Reaper};
use crate::record::{BLOBS, Body, SNAPSHOTS, STATE, pair};
use crate::{Cache, Error, Inner, RefId, repair};

/// Clocks are not exact, and a blob gets its time before it gets its name.
const DOUBT: Duration = Duration::from_secs(120);

/// Begins the names of directories that are being removed.
const TRASH: &str = "trash-";

/// Which snapshotter to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SnapshotterKind {
    /// overlayfs where it works, else fuse-overlayfs where it works, else native.
    #[default]
    Auto,
    /// overlayfs.
    Overlay,
    /// overlayfs without the kernel.
    FuseOverlay,
    /// Whole copies.
    Native,
}

/// How to open the cache.
#[derive(Clone)]
pub struct Options {
    /// The directory of the state. This process must be its only user.
    pub root: PathBuf,
    /// How trees are stored.
    pub snapshotter: SnapshotterKind,
    /// How long something may be exposed to a power cut.
    pub sync_after: Duration,
    /// What time it is.
    pub clock: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    /// Names the run of the machine; absent: the kernel's boot id.
    pub boot: Option<String>,
}

impl Options {
    /// The defaults, with the state in `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            snapshotter: SnapshotterKind::Auto,
            sync_after: Duration::from_secs(15),
            clock: Arc::new(SystemTime::now),
            boot: None,
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("root", &self.root)
            .field("snapshotter", &self.snapshotter)
            .finish_non_exhaustive()
    }
}

impl Cache {
    /// Opens the cache, making it if need be. What no record names is removed in the background.
    pub fn open(options: Options) -> Result<Self, Error> {
        let root = std::path::absolute(&options.root).map_err(Error::io("find the state"))?;
        std::fs::create_dir_all(&root).map_err(Error::io("make the state directory"))?;
        let layout = Layout::choose(&root, options.snapshotter);
        let room = crate::keeper::Room::default();
        let db = open_db(&root, layout, &options, room.poked.clone())?;
        let start = db.start().clone();
        set_old_trees_aside(&root, layout, &start)?;
        let snapshots = layout.open(&root)?;
        let content = Store::open(&root.join("content-v1"))?;
        let _ = std::fs::remove_dir_all(root.join("mounts"));
        let _ = std::fs::remove_dir_all(root.join("spool"));
        let mut next = db
            .value(STATE, NEXT_KEY)?
            .and_then(|raw| raw.try_into().ok().map(u64::from_le_bytes))
            .unwrap_or(1);
        after_reboot(&start, &db, &content)?;
        if db.was_killed() || matches!(start, Start::Lost { .. } | Start::Shortened { .. }) {
            let trees = snapshots.keys()?.into_iter().collect();
            repair::drop_records_without_trees(&db, &trees)?;
            repair::forget_checksums(&db)?;
            // Keys that were reserved and not logged are not given out again.
            next = next.max(trees.last().map_or(0, |Key(last)| last + 1));
        }
        let reaper = Reaper::new(snapshots.clone(), db.clone(), trash(&root));
        match start {
            Start::Lost { .. } | Start::Shortened { .. } => {
                sweep(&db, snapshots.as_ref(), u64::MAX, &AtomicBool::new(false))?;
            }
            _ => reaper.send(Job::Sweep { below: next }),
        }
        let cache = Self {
            inner: Arc::new(Inner {
                root,
                db,
                content,
                snapshots,
                clock: options.clock,
                nodes: Mutex::new(Nodes::default()),
                next_key: AtomicU64::new(next),
                reserved: Mutex::new(next),
                reaper,
                surveying: Mutex::new(()),
                room,
            }),
        };
        cache.inner.restore_balance()?;
        Ok(cache)
    }

    /// Puts everything on disk, for a shutdown. Trees that wait for their removal are left to the next start.
    pub fn close(&self) -> Result<(), Error> {
        self.inner.reaper.stop();
        Ok(self.inner.db.sync()?)
    }

    /// Waits until the trees that were to be removed are gone.
    pub async fn settle_removals(&self) {
        let (told, hear) = tokio::sync::oneshot::channel();
        self.inner.reaper.send(Job::Tell(told));
        // An error means that the thread has stopped: then there is nothing to wait for.
        let _ = hear.await;
    }
}

/// How trees are stored, and what their directory and database are called. Records name trees of one layout only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Overlay,
    FuseOverlay,
    Native,
}

impl Layout {
    fn choose(root: &Path, kind: SnapshotterKind) -> Self {
        match kind {
            SnapshotterKind::Overlay => Self::Overlay,
            SnapshotterKind::FuseOverlay => Self::FuseOverlay,
            SnapshotterKind::Native => Self::Native,
            // What was found once need not be found out again.
            SnapshotterKind::Auto if Self::Overlay.trees(root).exists() => Self::Overlay,
            SnapshotterKind::Auto if Self::FuseOverlay.trees(root).exists() => Self::FuseOverlay,
            SnapshotterKind::Auto if Self::Native.trees(root).exists() => Self::Native,
            SnapshotterKind::Auto if Overlay::is_possible(root) => Self::Overlay,
            SnapshotterKind::Auto if Overlay::is_possible_with_fuse(root) => Self::FuseOverlay,
            SnapshotterKind::Auto => Self::Native,
        }
    }

    fn trees(self, root: &Path) -> PathBuf {
        root.join(match self {
            Self::Overlay => "snapshots-overlayfs-v1",
            Self::FuseOverlay => "snapshots-fuse-overlayfs-v1",
            Self::Native => "snapshots-native-v1",
        })
    }

    fn database(self) -> &'static str {
        match self {
            Self::Overlay => "cache-v1",
            Self::FuseOverlay => "cache-fuse-overlayfs-v1",
            Self::Native => "cache-native-v1",
        }
    }

    fn open(self, root: &Path) -> Result<Arc<dyn Snapshotter>, Error> {
        let trees = self.trees(root);
        Ok(match self {
            Self::Overlay => Arc::new(Overlay::open(&trees)?),
            Self::FuseOverlay => Arc::new(Overlay::open_with_fuse(&trees)?),
            Self::Native => Arc::new(Native::open(&trees)?),
        })
    }
}

fn open_db(
    root: &Path,
    layout: Layout,
    options: &Options,
    written: Arc<Notify>,
) -> Result<Db, Error> {
    let directory = Arc::new(File::open(root).map_err(Error::io("open the state directory"))?);
    let options = db::Options {
        flush_after: options.sync_after,
        boot: options.boot.clone(),
        // One call for trees, blobs and everything else: they are all on this filesystem.
        before_flush: Some(Arc::new(move || Ok(rustix::fs::syncfs(&*directory)?))),
        after_flush: Some(Arc::new(move || written.notify_one())),
        ..db::Options::default()
    };
    Ok(Db::open(root, layout.database(), options)?)
}

/// Without a database no record names any tree, and new keys begin at 1 again.
fn set_old_trees_aside(root: &Path, layout: Layout, start: &Start) -> Result<(), Error> {
    let trees = layout.trees(root);
    if matches!(start, Start::New | Start::SetAside { .. }) && trees.exists() {
        std::fs::rename(&trees, trash(root))
            .map_err(Error::io("set aside trees without records"))?;
    }
    for entry in std::fs::read_dir(root).map_err(Error::io("read the state directory"))? {
        let entry = entry.map_err(Error::io("read the state directory"))?;
        if entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(TRASH.as_bytes())
        {
            remove_in_background(entry.path());
        }
    }
    Ok(())
}

/// A directory nobody had before, for what is to be removed.
fn trash(root: &Path) -> PathBuf {
    root.join(format!("{TRASH}{}", RefId::random()))
}

fn remove_in_background(path: PathBuf) {
    let work = move || {
        if let Err(err) = std::fs::remove_dir_all(&path)
            && err.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), error = %err, "old trees left behind");
        }
    };
    // The next start tries again.
    let _ = std::thread::Builder::new()
        .name("cache trash".to_owned())
        .spawn(work);
}

/// Drops what may be half-written because the machine went down, and clients' directories that may be newer than what
/// is known of them.
fn after_reboot(start: &Start, db: &Db, content: &Store) -> Result<(), Error> {
    let lost = match start {
        Start::Lost { synced } => {
            let since = synced
                .and_then(|at| at.checked_sub(DOUBT))
                .unwrap_or(SystemTime::UNIX_EPOCH);
            // Blobs of records that were synced were written before them.
            let dropped = content.drop_written_since(since, |digest| {
                db.prefix(BLOBS, &pair(digest.as_str(), ""))
                    .is_ok_and(|rows| !rows.is_empty())
            })?;
            tracing::warn!(
                blobs = dropped,
                "the machine went down, what was not synced is dropped"
            );
            true
        }
        Start::Shortened { .. } => true,
        Start::Rebooted => false,
        Start::New | Start::Complete | Start::SetAside { .. } => return Ok(()),
    };
    let mut batch = Batch::new();
    for (id, record) in repair::local_sources(db)? {
        // It is compared by times and sizes, and those may be there without the content.
        if lost || matches!(record.body, Body::Mutable { open: true, .. }) {
            repair::erase_mutable(db, &id, &record, &mut batch)?;
        }
    }
    Ok(db.commit(batch)?)
}

/// Removes trees with a key below `below` that no record names.
pub(crate) fn sweep(
    db: &Db,
    snapshots: &dyn Snapshotter,
    below: u64,
    stop: &AtomicBool,
) -> Result<(), Error> {
    let mut removed = 0_u64;
    for key in snapshots.keys()? {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        if key.0 < below && !db.contains(SNAPSHOTS, &key.0.to_be_bytes())? {
            snapshots.remove(key)?;
            removed += 1;
        }
    }
    if removed > 0 {
        tracing::info!(removed, "trees without records removed");
    }
    Ok(())
}
