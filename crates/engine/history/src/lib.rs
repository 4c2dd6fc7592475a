//! Builds on record: what was asked for, how it ended, what was printed, what came out.
//!
//! A record is the message clients get (`BuildHistoryRecord`), a row of the database. What it points to (the log, the
//! error with all details, the spans, manifests of results) are blobs in a store of this crate's own, so that nothing
//! that is collected elsewhere takes them away; they go when the last record that names them goes.
//!
//! The record of a build is begun when the build starts and written when it ends, however it ends ([`Recording`]). What
//! of its output is too much to show goes to disk as it comes. Who listens is told what happens ([`History::listen`]).
//! A client does not wait for what takes time to write down (where results come from, spans): it is added when the
//! client has its answer, and who reads records waits for it.
//!
//! Nothing here knows how a build is done.

mod blobs;
mod filter;
mod images;
mod listen;
mod log;
mod recording;
mod records;
mod redact;
mod status;
mod trace;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use db::Db;
use fault::{Class, Classify};
use oci::Digest;
use parking_lot::{Mutex, RwLock};
use proto::control::BuildHistoryRecord;

pub use blobs::{BlobInfo, BlobReader};
pub use filter::span;
pub use listen::{Listener, Request};
pub use log::LogReader;
pub use recording::{Ended, Outcome, Recording, Started, Statement};
pub use redact::looks_secret;
pub use status::responses;

use blobs::Blobs;
use listen::State;

/// How often old records are looked for.
const SWEEP: Duration = Duration::from_secs(120);

/// How long records are kept. One goes when there are enough newer ones and it is too old, or there is no room for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Since its build ended.
    pub max_age: Duration,
    /// How many newer ones there are.
    pub max_entries: usize,
    /// Bytes of it and of newer ones. Looked at when a part of it was written, so that bursts of builds do not fill disks.
    pub max_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_age: Duration::from_secs(48 * 3600),
            max_entries: 50,
            max_bytes: u64::MAX,
        }
    }
}

/// What a history is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// A directory of its own, for blobs.
    pub root: PathBuf,
    /// Where the records go.
    pub db: Db,
    /// Where manifests of results are found.
    pub content: content::Store,
    /// How long records are kept.
    pub limits: Limits,
}

/// Why something could not be kept or found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such record.
    #[error("failed to retrieve ref {name}: file does not exist")]
    NotFound {
        /// The build.
        name: String,
    },
    /// A record that was to be deleted is not there. Compat: the text is upstream's.
    #[error("lease \"ref_{name}\": not found")]
    NothingToDelete {
        /// The build.
        name: String,
    },
    /// The record is going away.
    #[error("ref {name} is deleted: file does not exist")]
    Deleted {
        /// The build.
        name: String,
    },
    /// A filter that cannot be read.
    #[error("{0}")]
    Filter(String),
    /// A negative limit.
    #[error("invalid limit {0}")]
    Limit(i32),
    /// No such blob.
    #[error("content digest {0}: not found")]
    NoBlob(Digest),
    /// A blob could not be read or written.
    #[error("failed to {action} history blob")]
    Blob {
        /// What was tried.
        action: &'static str,
        /// What went wrong.
        #[source]
        source: std::io::Error,
    },
    /// A stored record or log is damaged.
    #[error("history of {name} cannot be read")]
    Damaged {
        /// The build.
        name: String,
        /// What is wrong.
        #[source]
        source: prost::DecodeError,
    },
    /// The database.
    #[error(transparent)]
    Db(#[from] db::Error),
}

impl Error {
    fn blob(action: &'static str) -> impl Fn(std::io::Error) -> Self {
        move |source| Self::Blob { action, source }
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            // Compat: upstream has no code for them.
            Self::NotFound { .. } | Self::NothingToDelete { .. } | Self::Deleted { .. } => {
                Class::User
            }
            Self::Filter(_) | Self::Limit(_) => Class::User,
            Self::NoBlob(_) => Class::NotFound,
            Self::Blob { .. } | Self::Damaged { .. } => Class::Internal,
            Self::Db(err) => err.class(),
        }
    }
}

/// The builds of this daemon. Clones share everything.
#[derive(Clone)]
pub struct History {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) db: Db,
    pub(crate) blobs: Blobs,
    pub(crate) content: content::Store,
    pub(crate) limits: Limits,
    pub(crate) state: Mutex<State>,
    /// Held for reading from the first blob of a record until the record names it, so that nobody takes it for unused.
    pub(crate) sweeping: RwLock<()>,
    /// Work that goes on when nobody waits for it any more.
    background: Mutex<Vec<tasks::Task<()>>>,
}

impl History {
    /// Opens the history; must be called within a runtime. Records that lost their blobs are dropped in the background.
    pub fn open(options: Options) -> Result<Self, Error> {
        let inner = Arc::new(Inner {
            db: options.db,
            blobs: Blobs::open(&options.root).map_err(Error::blob("open"))?,
            content: options.content,
            limits: options.limits,
            state: Mutex::default(),
            sweeping: RwLock::default(),
            background: Mutex::default(),
        });
        let sweeper = tasks::spawn("history", sweep(Arc::downgrade(&inner)));
        inner.background.lock().push(sweeper);
        Ok(Self { inner })
    }

    /// The record of a build that has ended.
    pub async fn record(&self, name: &str) -> Result<BuildHistoryRecord, Error> {
        self.finalize(name).await;
        let (inner, name) = (self.inner.clone(), name.to_owned());
        tasks::blocking(move || inner.record(&name)).await
    }

    /// Pins or unpins a record.
    pub async fn pin(&self, name: &str, pinned: bool) -> Result<(), Error> {
        let (inner, name) = (self.inner.clone(), name.to_owned());
        tasks::blocking(move || inner.change(&name, |record| record.pinned = pinned)).await
    }

    /// Removes a record; at once, or when the last one who follows it has left.
    pub async fn delete(&self, name: &str) -> Result<(), Error> {
        self.finalize(name).await;
        let (inner, name) = (self.inner.clone(), name.to_owned());
        tasks::blocking(move || inner.delete(&name)).await
    }

    /// Waits until a record is complete.
    pub async fn finalize(&self, name: &str) {
        let waiting = self.inner.state.lock().unfinished.get(name).cloned();
        if let Some(mut done) = waiting {
            // Whoever writes it may have been stopped.
            let _ = done.wait_for(|done| *done).await;
        }
    }

    /// Waits until the records of all builds that have ended by now are complete.
    pub async fn settled(&self) {
        let unfinished = self.inner.state.lock().unfinished.clone();
        for mut done in unfinished.into_values() {
            // The same.
            let _ = done.wait_for(|done| *done).await;
        }
    }

    /// The log of a build that has ended; `None` when there is none.
    pub async fn log(&self, name: &str) -> Result<Option<LogReader>, Error> {
        let (inner, name) = (self.inner.clone(), name.to_owned());
        tasks::blocking(move || {
            let record = inner.record(&name)?;
            let Some(log) = record.logs else {
                return Ok(None);
            };
            let reader = inner.blobs.open_text(&log.digest)?;
            Ok(Some(LogReader::new(name, reader)))
        })
        .await
    }

    /// What is known of a blob. Blocks.
    pub fn blob(&self, digest: &Digest) -> Result<BlobInfo, Error> {
        self.inner.blobs.info(digest)
    }

    /// Opens a blob. Blocks.
    pub fn open_blob(&self, digest: &Digest) -> Result<BlobReader, Error> {
        self.inner.blobs.reader(digest)
    }

    /// All blobs. Blocks.
    pub fn blobs(&self) -> Result<Vec<BlobInfo>, Error> {
        self.inner.blobs.list()
    }

    /// Removes records over the limits now.
    pub async fn collect(&self) -> Result<(), Error> {
        let inner = self.inner.clone();
        tasks::blocking(move || inner.collect(std::time::SystemTime::now())).await
    }
}

impl Inner {
    pub(crate) fn keep(&self, task: tasks::Task<()>) {
        let mut background = self.background.lock();
        background.retain(|task| !task.is_finished());
        background.push(task);
    }
}

async fn sweep(history: Weak<Inner>) {
    let once = |work: fn(&Inner) -> Result<(), Error>| {
        let history = history.clone();
        tasks::blocking(move || {
            let inner = history.upgrade()?;
            if let Err(err) = work(&inner) {
                tracing::warn!(error = %fault::chain(&err), "build history cannot be cleaned");
            }
            Some(())
        })
    };
    if once(Inner::drop_orphans).await.is_none() {
        return;
    }
    while once(|inner| inner.collect(std::time::SystemTime::now()))
        .await
        .is_some()
    {
        tokio::time::sleep(SWEEP).await;
    }
}

/// Text by text, as records have it.
pub(crate) type Attrs = BTreeMap<String, String>;
