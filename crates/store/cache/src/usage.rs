//! What there is and how much room it takes, so that everything together is what the filesystem says.
//!
//! 1. A record counts with the blocks of its trees and of its blobs; a blob of several records with the first.
//! 2. The tree of a record that does not change is measured once, when somebody first asks, and remembered. What it
//!    shares with other trees by hard links changes with those, so that part is measured again when it matters.
//! 3. Blobs that no record names, manifests and configs of images mostly, are one line of their own.
//! 4. Whatever else is in the directory of the state is another: the database and its logs, trees being removed,
//!    unfinished blobs, history.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::SystemTime;

use content::Info;
use db::Batch;
use oci::{Descriptor, Digest};
use snapshot::Key;
use tasks::Cx;

use crate::record::{Body, RECORDS, Record, SIZES, Size, USAGE, Used, VARIANTS, from_nanos, parse};
use crate::{Cache, Error, Inner, RecordType, RefId, Usage};

/// Everything in the directory of the state.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Sorted by id.
    pub(crate) records: Vec<Usage>,
    /// Blobs that no record names.
    pub(crate) loose: Vec<Info>,
    /// Bytes of all the rest.
    pub(crate) rest: u64,
}

/// How much has to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Care {
    /// What was measured before still holds.
    Remembered,
    /// What may have changed is measured again.
    Exact,
    /// The same, for those who are going to remove most of it: what was never measured is not put in order first.
    Doomed,
}

impl Cache {
    /// All records, sorted by id, and as long as there are any what belongs to none.
    pub async fn list(&self, cx: &Cx) -> Result<Vec<Usage>, Error> {
        let (inner, cx) = (self.inner.clone(), cx.clone());
        let survey = tasks::blocking(move || inner.survey(&cx, Care::Exact)).await?;
        self.inner.measured(survey.total(), survey.records.len());
        Ok(survey.into_list())
    }
}

impl Survey {
    /// Bytes of everything.
    pub(crate) fn total(&self) -> u64 {
        let records: u64 = self.records.iter().map(|record| record.size).sum();
        records + self.loose.iter().map(|blob| blob.disk).sum::<u64>() + self.rest
    }

    /// Records, and lines for what belongs to none. Compat: nothing is listed when there is no record, as everybody
    /// expects who has just removed all of them.
    fn into_list(mut self) -> Vec<Usage> {
        if self.records.is_empty() {
            return self.records;
        }
        let line = |id: &str, description: &str, size| Usage {
            id: RefId::parse(id).expect("letters"),
            mutable: false,
            in_use: false,
            size,
            parents: Vec::new(),
            created: SystemTime::UNIX_EPOCH,
            last_used: None,
            usage_count: 0,
            description: description.to_owned(),
            record_type: RecordType::Internal,
            shared: false,
        };
        if !self.loose.is_empty() {
            let size = self.loose.iter().map(|blob| blob.disk).sum();
            self.records.push(Usage {
                created: self
                    .loose
                    .iter()
                    .map(|blob| blob.created)
                    .min()
                    .unwrap_or(SystemTime::UNIX_EPOCH),
                last_used: self.loose.iter().map(|blob| blob.used).max(),
                ..line(
                    "documents",
                    "manifests and other blobs that belong to no layer",
                    size,
                )
            });
        }
        let state = line(
            "state",
            "database, history and temporary files of the daemon",
            self.rest,
        );
        self.records.push(state);
        self.records.sort_by(|a, b| a.id.cmp(&b.id));
        self.records
    }
}

/// Rows of a table by record.
fn rows<T>(
    inner: &Inner,
    table: db::Table,
    read: impl Fn(&[u8]) -> Option<T>,
) -> Result<HashMap<RefId, T>, Error> {
    let rows = inner.db.prefix(table, b"")?;
    let id = |row: &[u8]| RefId::parse(std::str::from_utf8(row).ok()?);
    Ok(rows
        .iter()
        .filter_map(|(row, value)| Some((id(row)?, read(value)?)))
        .collect())
}

impl Inner {
    pub(crate) fn survey(&self, cx: &Cx, care: Care) -> Result<Survey, Error> {
        // What one measures the next one knows.
        let _one_at_a_time = self.surveying.lock();
        let mut records: HashMap<RefId, Record> = HashMap::new();
        for (row, json) in self.db.prefix(RECORDS, b"")? {
            let id = std::str::from_utf8(&row).ok().and_then(RefId::parse);
            match id.map(|id| (parse(&id, &json), id)) {
                Some((Ok(record), id)) => drop(records.insert(id, record)),
                Some((Err(err), _)) => {
                    tracing::warn!(error = %fault::chain(&err), "record left out");
                }
                None => {}
            }
        }
        let mut held = HashSet::new();
        let nodes = self.nodes.lock().all();
        for node in nodes {
            held.insert(node.id.clone());
            records.insert(node.id.clone(), node.record.read().clone());
        }
        let used = rows(self, USAGE, Used::parse)?;
        let mut sizes = rows(self, SIZES, Size::parse)?;
        let mut blobs = Blobs::read(self, &records)?;
        // A mutable and its view are one tree: whoever is in use stands for both.
        let hidden: HashSet<RefId> = records
            .iter()
            .filter_map(|(id, record)| match &record.body {
                Body::View { .. } if !held.contains(id) => Some(id.clone()),
                Body::View { of, .. } => Some(of.clone()),
                _ => None,
            })
            .collect();
        let mut own = HashSet::new();
        let mut all: Vec<_> = records.into_iter().collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        let mut survey = Survey::default();
        for (id, record) in all {
            cx.check()?;
            own.extend(record.owned());
            let of_blobs = blobs.take(&id);
            if hidden.contains(&id) {
                continue;
            }
            let in_use = held.contains(&id);
            let known = sizes.remove(&id);
            let used = used.get(&id);
            survey.records.push(Usage {
                in_use,
                mutable: record.is_mutable(),
                size: self.tree_size(&id, &record, in_use, known, care)? + of_blobs,
                created: record.created(),
                last_used: used.map(|used| from_nanos(used.last)),
                usage_count: used.map_or(0, |used| used.count),
                parents: record.parents,
                description: record.description,
                record_type: record.record_type,
                shared: false,
                id,
            });
        }
        survey.loose = blobs.loose();
        survey.rest = self.rest(&own)?;
        Ok(survey)
    }

    /// Bytes of the trees of one record.
    fn tree_size(
        &self,
        id: &RefId,
        record: &Record,
        in_use: bool,
        known: Option<Size>,
        care: Care,
    ) -> Result<u64, Error> {
        let fixed = match record.body {
            Body::Layer { .. } | Body::Merge { .. } | Body::Diff { .. } => true,
            Body::Mutable { .. } => !in_use,
            Body::View { .. } => false,
        };
        let keys: Vec<Key> = match record.body {
            Body::View { .. } => record.snapshot().into_iter().collect(),
            _ => record.owned().collect(),
        };
        let trees = u64::try_from(keys.len()).unwrap_or(u64::MAX);
        if let Some(known) = known.filter(|known| fixed && known.trees == trees)
            && (known.linked == 0 || care == Care::Remembered)
        {
            return Ok(known.bytes);
        }
        let mut size = Size {
            trees,
            ..Size::default()
        };
        for key in keys {
            if fixed && !record.is_mutable() && care != Care::Doomed {
                self.snapshots.finish(key)?;
            }
            let usage = self.snapshots.usage(key)?;
            size.bytes += usage.bytes;
            size.linked += usage.shared;
        }
        if fixed && known != Some(size) && care != Care::Doomed {
            self.remember_size(id, size)?;
        }
        Ok(size.bytes)
    }

    fn remember_size(&self, id: &RefId, size: Size) -> Result<(), Error> {
        self.db.transaction(|tx| {
            // A record that was removed meanwhile leaves nothing behind.
            if tx.contains(RECORDS, id.as_str().as_bytes())? {
                tx.put(SIZES, id.as_str(), size.bytes());
            }
            Ok(())
        })
    }

    /// Bytes in the directory of the state but for the trees `own` and finished blobs.
    fn rest(&self, own: &HashSet<Key>) -> Result<u64, Error> {
        let mut bytes = entry_size(&self.root);
        let blobs = self.content.root().join("blobs");
        let snapshots = self.snapshots.root();
        for name in names(&self.root)? {
            let path = self.root.join(name);
            if path == snapshots {
                bytes += entry_size(&path);
                for name in names(&path)? {
                    let key = name.to_str().and_then(|name| name.parse::<Key>().ok());
                    if !key.is_some_and(|key| own.contains(&key)) {
                        bytes += size_of(&path.join(name))?;
                    }
                }
            } else if path == self.content.root() {
                bytes += size_of(&path.join("ingest"))? + entry_size(&path) + entry_size(&blobs);
                for name in names(&blobs)? {
                    bytes += entry_size(&blobs.join(name));
                }
            } else {
                bytes += size_of(&path)?;
            }
        }
        Ok(bytes)
    }
}

fn names(path: &Path) -> Result<Vec<OsString>, Error> {
    let fail = Error::io("read the state directory");
    let entries = match std::fs::read_dir(path) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries,
    };
    let names = entries.and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect());
    names.map_err(fail)
}

/// A file or a directory without what is in it.
fn entry_size(path: &Path) -> u64 {
    std::fs::symlink_metadata(path).map_or(0, |meta| meta.blocks() * 512)
}

fn size_of(path: &Path) -> Result<u64, Error> {
    if !path.is_dir() || path.is_symlink() {
        return Ok(entry_size(path));
    }
    Ok(snapshot::usage(path)?.bytes)
}

/// The finished blobs, and whose they are.
struct Blobs {
    left: HashMap<Digest, Info>,
    of: HashMap<RefId, Vec<Digest>>,
    owned: HashSet<Digest>,
}

impl Blobs {
    fn read(inner: &Inner, records: &HashMap<RefId, Record>) -> Result<Self, Error> {
        let mut of: HashMap<RefId, Vec<Digest>> = HashMap::new();
        for (id, record) in records {
            if let Some(blob) = record.blob() {
                of.entry(id.clone())
                    .or_default()
                    .push(blob.descriptor.digest.clone());
            }
        }
        for (row, json) in inner.db.prefix(VARIANTS, b"")? {
            let id = row.split(|byte| *byte == 0).next();
            let id = id.and_then(|id| RefId::parse(std::str::from_utf8(id).ok()?));
            if let (Some(id), Ok(variant)) = (id, serde_json::from_slice::<Descriptor>(&json)) {
                of.entry(id).or_default().push(variant.digest);
            }
        }
        let owned = of.values().flatten().cloned().collect();
        let left = inner.content.list()?.into_iter();
        Ok(Self {
            left: left.map(|info| (info.digest.clone(), info)).collect(),
            of,
            owned,
        })
    }

    /// Bytes of the blobs of a record that nobody took before.
    fn take(&mut self, id: &RefId) -> u64 {
        let digests = self.of.get(id).into_iter().flatten();
        digests
            .filter_map(|digest| self.left.remove(digest))
            .map(|info| info.disk)
            .sum()
    }

    fn loose(self) -> Vec<Info> {
        let mut loose: Vec<_> = self
            .left
            .into_values()
            .filter(|info| !self.owned.contains(&info.digest))
            .collect();
        loose.sort_by(|a, b| a.digest.cmp(&b.digest));
        loose
    }
}

impl Inner {
    /// Forgets how large a tree was that is about to change.
    pub(crate) fn forget_size(id: &RefId, batch: &mut Batch) {
        batch.remove(SIZES, id.as_str());
    }
}
