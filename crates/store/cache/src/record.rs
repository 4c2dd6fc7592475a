//! What is kept of a record between runs, and where in the database.
//!
//! | table | key | value |
//! |---|---|---|
//! | `records` | id | [`Record`] as JSON |
//! | `usage` | id | last used (8 bytes, nanoseconds), usage count (8 bytes) |
//! | `sizes` | id | bytes of its trees (8 bytes), of what they share (8 bytes), number of trees (8 bytes) |
//! | `children` | parent id, 0, child id | |
//! | `snapshots` | snapshot key, big endian | id |
//! | `chains` | chain id | id |
//! | `blobs` | blob digest, 0, id | |
//! | `variants` | id, 0, compression | descriptor as JSON |
//! | `checksums` | snapshot key, big endian, or id | what `contenthash` knows |
//! | `index` | index key, 0, id | |
//! | `indexed` | id, 0, index key | |
//! | `meta` | id, 0, key | free |
//! | `state` | name | the cache's own |
//!
//! All rows of a record are written and removed in one batch.

use std::time::{Duration, SystemTime};

use db::{Batch, Db, Table};
use oci::{Descriptor, Digest};
use serde::{Deserialize, Serialize};
use snapshot::Key;

use crate::{Error, RecordType, RefId};

pub(crate) const RECORDS: Table = Table::new("records");
pub(crate) const USAGE: Table = Table::new("usage");
pub(crate) const SIZES: Table = Table::new("sizes");
pub(crate) const CHILDREN: Table = Table::new("children");
pub(crate) const SNAPSHOTS: Table = Table::new("snapshots");
pub(crate) const CHAINS: Table = Table::new("chains");
pub(crate) const BLOBS: Table = Table::new("blobs");
pub(crate) const VARIANTS: Table = Table::new("variants");
pub(crate) const CHECKSUMS: Table = Table::new("checksums");
pub(crate) const INDEX: Table = Table::new("index");
pub(crate) const INDEXED: Table = Table::new("indexed");
pub(crate) const META: Table = Table::new("meta");
pub(crate) const STATE: Table = Table::new("state");

/// What is kept of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// What it stands on, the lowest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) parents: Vec<RefId>,
    pub(crate) body: Body,
    pub(crate) description: String,
    pub(crate) record_type: RecordType,
    /// Nanoseconds since 1970.
    pub(crate) created: i64,
}

/// What a record is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Body {
    /// A tree that never changes, on top of one parent at most.
    Layer {
        /// Its files; absent as long as nobody unpacked the blob.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        snapshot: Option<u64>,
        /// It differs in nothing from its parent, so mounts can leave it out.
        #[serde(default, skip_serializing_if = "is_false")]
        unchanged: bool,
        /// What to mount instead where it lies on others than those it was made on; absent as long as nobody asked. Its
        /// own files, if they hide no more there than they should.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        elsewhere: Option<u64>,
        /// Its tar.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        blob: Option<Box<Blob>>,
    },
    /// All parents on top of each other.
    Merge {
        /// A tree of its own, where layers cannot be put together.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        snapshot: Option<u64>,
    },
    /// The layers that the second parent has on top of the first.
    Diff {
        /// A tree of its own, where layers cannot be taken apart.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        snapshot: Option<u64>,
    },
    /// A tree that can be written.
    Mutable {
        /// Its files.
        snapshot: u64,
        /// Somebody writes to it, or did when the daemon died.
        open: bool,
        /// The record that shows it as immutable, as long as nobody writes to it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        view: Option<RefId>,
    },
    /// Shows a mutable tree while nobody writes to it.
    View {
        /// Its files: those of the mutable.
        snapshot: u64,
        /// The mutable.
        of: RefId,
    },
}

/// Where the layers of a record come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MadeOf {
    /// It is one, on top of its parent's.
    ItsOwn,
    /// They are those of all its parents.
    AllParents,
    /// They are those of its second parent without those of its first.
    TheDifference,
}

/// The tar of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Blob {
    pub(crate) descriptor: Descriptor,
    pub(crate) diff_id: Digest,
    /// Digest of diff ids and blobs up to here; only for layers of images, which are shared by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) chain_id: Option<Digest>,
}

fn is_false(value: &bool) -> bool {
    !*value
}

impl Record {
    pub(crate) fn is_mutable(&self) -> bool {
        matches!(self.body, Body::Mutable { .. })
    }

    pub(crate) fn made_of(&self) -> MadeOf {
        match self.body {
            Body::Layer { .. } | Body::Mutable { .. } | Body::View { .. } => MadeOf::ItsOwn,
            Body::Merge { .. } => MadeOf::AllParents,
            Body::Diff { .. } => MadeOf::TheDifference,
        }
    }

    /// The snapshot this record shows, if it has one.
    pub(crate) fn snapshot(&self) -> Option<Key> {
        match self.body {
            Body::Layer { snapshot, .. } | Body::Merge { snapshot } | Body::Diff { snapshot } => {
                snapshot.map(Key)
            }
            Body::Mutable { snapshot, .. } | Body::View { snapshot, .. } => Some(Key(snapshot)),
        }
    }

    /// What is mounted for this layer on top of others than those it was made on.
    pub(crate) fn elsewhere(&self) -> Option<Key> {
        match self.body {
            Body::Layer { elsewhere, .. } => elsewhere.map(Key),
            _ => None,
        }
    }

    /// The snapshots that go with this record. A view shows that of its mutable, which owns it.
    pub(crate) fn owned(&self) -> impl Iterator<Item = Key> {
        let own = match self.body {
            Body::View { .. } => None,
            _ => self.snapshot(),
        };
        let elsewhere = self.elsewhere().filter(|key| Some(*key) != own);
        own.into_iter().chain(elsewhere)
    }

    pub(crate) fn blob(&self) -> Option<&Blob> {
        match &self.body {
            Body::Layer { blob, .. } => blob.as_deref(),
            _ => None,
        }
    }

    pub(crate) fn created(&self) -> SystemTime {
        from_nanos(self.created)
    }

    /// Rows for a record that is new or changed.
    pub(crate) fn put(&self, id: &RefId, batch: &mut Batch) {
        let json =
            serde_json::to_vec(self).expect("a record has no maps with keys that are not text");
        batch.put(RECORDS, id.as_str(), json);
        for parent in &self.parents {
            batch.put(CHILDREN, pair(parent.as_str(), id.as_str()), "");
        }
        for Key(key) in self.owned() {
            batch.put(SNAPSHOTS, key.to_be_bytes(), id.as_str());
        }
        if let Some(blob) = self.blob() {
            batch.put(
                BLOBS,
                pair(blob.descriptor.digest.as_str(), id.as_str()),
                "",
            );
            if let Some(chain_id) = &blob.chain_id {
                batch.put(CHAINS, chain_id.as_str(), id.as_str());
            }
        }
    }

    /// Removes all rows of a record.
    pub(crate) fn erase(&self, id: &RefId, db: &Db, batch: &mut Batch) -> Result<(), Error> {
        for table in [RECORDS, USAGE, SIZES] {
            batch.remove(table, id.as_str());
        }
        for parent in &self.parents {
            batch.remove(CHILDREN, pair(parent.as_str(), id.as_str()));
        }
        for Key(key) in self.owned() {
            batch.remove(SNAPSHOTS, key.to_be_bytes());
        }
        if !matches!(self.body, Body::View { .. }) {
            batch.remove(CHECKSUMS, crate::checksum::row(id, self));
        }
        if let Some(blob) = self.blob() {
            batch.remove(BLOBS, pair(blob.descriptor.digest.as_str(), id.as_str()));
            if let Some(chain_id) = &blob.chain_id
                && db.value(CHAINS, chain_id.as_str().as_bytes())?.as_deref()
                    == Some(id.as_str().as_bytes())
            {
                batch.remove(CHAINS, chain_id.as_str());
            }
        }
        erase_index(id, db, batch)?;
        for (key, json) in db.prefix(VARIANTS, &pair(id.as_str(), ""))? {
            if let Ok(variant) = serde_json::from_slice::<Descriptor>(&json) {
                batch.remove(BLOBS, pair(variant.digest.as_str(), id.as_str()));
            }
            batch.remove(VARIANTS, key);
        }
        for (key, _) in db.prefix(META, &pair(id.as_str(), ""))? {
            batch.remove(META, key);
        }
        Ok(())
    }
}

/// Takes a record out of the index.
pub(crate) fn erase_index(id: &RefId, db: &Db, batch: &mut Batch) -> Result<(), Error> {
    let own = pair(id.as_str(), "");
    for (row, _) in db.prefix(INDEXED, &own)? {
        let key = &row[own.len()..];
        let mut indexed = key.to_vec();
        indexed.push(0);
        indexed.extend_from_slice(id.as_str().as_bytes());
        batch.remove(INDEX, indexed);
        batch.remove(INDEXED, row);
    }
    Ok(())
}

/// The record of this id.
pub(crate) fn read(db: &Db, id: &RefId) -> Result<Option<Record>, Error> {
    let Some(json) = db.value(RECORDS, id.as_str().as_bytes())? else {
        return Ok(None);
    };
    parse(id, &json).map(Some)
}

pub(crate) fn parse(id: &RefId, json: &[u8]) -> Result<Record, Error> {
    serde_json::from_slice(json).map_err(|source| Error::Damaged {
        id: id.clone(),
        source,
    })
}

/// Two texts as one key. No id, digest or key holds a zero byte.
pub(crate) fn pair(first: &str, second: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(first.len() + second.len() + 1);
    key.extend_from_slice(first.as_bytes());
    key.push(0);
    key.extend_from_slice(second.as_bytes());
    key
}

/// The second text of such a key, as an id.
pub(crate) fn second_id(key: &[u8]) -> Option<RefId> {
    let at = key.iter().position(|byte| *byte == 0)?;
    RefId::parse(std::str::from_utf8(&key[at + 1..]).ok()?)
}

/// When and how often a record was used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) last: i64,
    pub(crate) count: u64,
}

impl Used {
    pub(crate) fn parse(raw: &[u8]) -> Option<Self> {
        let (last, count) = raw.split_at_checked(8)?;
        Some(Self {
            last: i64::from_le_bytes(last.try_into().ok()?),
            count: u64::from_le_bytes(count.try_into().ok()?),
        })
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        let mut raw = self.last.to_le_bytes().to_vec();
        raw.extend_from_slice(&self.count.to_le_bytes());
        raw
    }
}

/// How much room the trees of a record take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) bytes: u64,
    /// The part that changes when other trees come or go.
    pub(crate) linked: u64,
    pub(crate) trees: u64,
}

impl Size {
    pub(crate) fn parse(raw: &[u8]) -> Option<Self> {
        let raw: [u8; 24] = raw.try_into().ok()?;
        let number = |at: usize| {
            let bytes = raw[at..at + 8].try_into();
            bytes.ok().map(u64::from_le_bytes)
        };
        Some(Self {
            bytes: number(0)?,
            linked: number(8)?,
            trees: number(16)?,
        })
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        [self.bytes, self.linked, self.trees]
            .into_iter()
            .flat_map(u64::to_le_bytes)
            .collect()
    }
}

pub(crate) fn to_nanos(time: SystemTime) -> i64 {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos),
    }
}

pub(crate) fn from_nanos(nanos: i64) -> SystemTime {
    let distance = Duration::from_nanos(nanos.unsigned_abs());
    let time = if nanos < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    };
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let record = Record {
            parents: vec![RefId::random()],
            body: Body::Layer {
                snapshot: Some(7),
                unchanged: true,
                elsewhere: Some(8),
                blob: Some(Box::new(Blob {
                    descriptor: Descriptor::new("type", Digest::of("blob"), 4),
                    diff_id: Digest::of("tar"),
                    chain_id: None,
                })),
            },
            description: "a step".to_owned(),
            record_type: RecordType::Regular,
            created: to_nanos(SystemTime::UNIX_EPOCH + Duration::from_millis(1500)),
        };
        let id = RefId::random();
        let json = serde_json::to_vec(&record).expect("JSON");
        assert_eq!(parse(&id, &json).expect("a record"), record);
        let mut lazy = record.clone();
        lazy.body = Body::Merge { snapshot: None };
        let json = serde_json::to_vec(&lazy).expect("JSON");
        assert_eq!(parse(&id, &json).expect("a record"), lazy);
    }

    #[test]
    fn times_before_1970_come_back() {
        let time = SystemTime::UNIX_EPOCH - Duration::from_secs(5);
        assert_eq!(from_nanos(to_nanos(time)), time);
    }
}
