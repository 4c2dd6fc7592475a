//! What a start finds: the file, and the logs that are not in it yet.

use std::path::{Path, PathBuf};

use super::Files;
use crate::base::{self, Base, Meta, Opened};
use crate::log::{self, Found};
use crate::memory::Memory;
use crate::{Error, Options};

/// A log found at the start, by its name.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OldLog {
    pub(super) generation: u64,
    pub(super) boot: String,
    pub(super) path: PathBuf,
}

/// The file and what it says about itself; the new name of one that was damaged.
pub(super) fn open_base(
    files: &Files,
    options: &Options,
) -> Result<(Option<Base>, Meta, Option<PathBuf>), Error> {
    let path = files.database();
    if !path.exists() {
        return Ok((None, Meta::default(), None));
    }
    let err = match Base::open_checked(&path, options.cache_bytes)? {
        Opened::Ready(base, meta) if meta.generation > 0 => return Ok((Some(base), meta, None)),
        // redb makes a new database of an empty file.
        Opened::Ready(..) => redb::Error::Corrupted("it is empty".to_owned()),
        Opened::Damaged(err) => err,
    };
    let aside = base::set_aside(&path)?;
    tracing::warn!(
        path = %path.display(), set_aside = %aside.display(), error = %err,
        "database is damaged, starting with an empty one"
    );
    Ok((None, Meta::default(), Some(aside)))
}

#[derive(Default)]
pub(super) struct Replayed {
    pub(super) changes: Memory,
    pub(super) kept: Vec<PathBuf>,
    /// The length of the last one of these.
    pub(super) length: u64,
    /// Whether there are logs of this boot that are not in the file: nobody saw to that at the end.
    pub(super) killed: bool,
    pub(super) lost: bool,
    /// The new name of a damaged log.
    pub(super) damaged: Option<PathBuf>,
}

/// Reads the logs that are not in the file yet; removes those that are, and those of another boot.
pub(super) fn replay(
    logs: Vec<OldLog>,
    meta: &Meta,
    boot: &str,
    set_aside: bool,
) -> Result<Replayed, Error> {
    let mut replayed = Replayed::default();
    // The last log that was read, so that the next one can say that it was longer.
    let mut last: Option<PathBuf> = None;
    for log in logs {
        let fail = |source| Error::File {
            path: log.path.clone(),
            source,
        };
        // Without the file it was an addition to, a log says nothing.
        if log.generation > meta.generation && !set_aside {
            if log.boot != boot {
                // Even an empty one: it may have been cut off by the power cut.
                replayed.lost = true;
            } else if replayed.damaged.is_some() {
                // What it says may build on what is gone.
                let aside = base::set_aside(&log.path)?;
                tracing::warn!(set_aside = %aside.display(), "log behind a damaged one is given up");
                continue;
            } else {
                replayed.killed = true;
                match log::read(&log.path, log.generation).map_err(fail)? {
                    Found::Changes {
                        changes,
                        good,
                        before,
                    } => {
                        if let Some(last) = &last
                            && before > replayed.length
                        {
                            let aside = base::set_aside(&log.path)?;
                            tracing::warn!(
                                path = %last.display(), set_aside = %aside.display(),
                                bytes = before - replayed.length,
                                "database log was cut short, what was committed after that is given up"
                            );
                            replayed.damaged = Some(aside);
                            continue;
                        }
                        replayed.length = good as u64;
                        replayed.changes.absorb(changes);
                        last = Some(log.path.clone());
                        replayed.kept.push(log.path);
                        continue;
                    }
                    Found::Begun => {
                        replayed.length = 0;
                        last = Some(log.path.clone());
                    }
                    Found::Damaged { changes, good } => {
                        replayed.damaged = Some(shorten(&log.path, good)?);
                        replayed.length = good as u64;
                        replayed.changes.absorb(changes);
                        replayed.kept.push(log.path);
                        continue;
                    }
                }
            }
        }
        std::fs::remove_file(&log.path).map_err(fail)?;
    }
    Ok(replayed)
}

/// Sets a damaged log aside and leaves what is good of it in its place.
fn shorten(path: &Path, good: usize) -> Result<PathBuf, Error> {
    let fail = |source| Error::File {
        path: path.to_owned(),
        source,
    };
    let mut bytes = std::fs::read(path).map_err(fail)?;
    let given_up = bytes.len().saturating_sub(good);
    bytes.truncate(good);
    let aside = base::set_aside(path)?;
    std::fs::write(path, bytes).map_err(fail)?;
    tracing::warn!(
        path = %path.display(), set_aside = %aside.display(), bytes = given_up,
        "database log is damaged, what was committed after the damage is given up"
    );
    Ok(aside)
}
