//! Whether everything in the state fits together: every row belongs to a record, every record finds what it names, and
//! nothing on disk is without an owner.
//!
//! Blobs without a record are no fault (manifests and configs are such), and neither are records whose blob is elsewhere.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::io::Read as _;

use db::Table;
use oci::{Digest, Hasher};
use snapshot::Key;
use tasks::Cx;

use crate::record::{
    BLOBS, Body, CHAINS, CHECKSUMS, CHILDREN, INDEX, INDEXED, META, RECORDS, Record, SIZES,
    SNAPSHOTS, USAGE, VARIANTS, pair, parse, second_id,
};
use crate::{Cache, Error, Inner, RefId};

/// What a walk over everything found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Records looked at.
    pub records: usize,
    /// Trees on disk.
    pub trees: usize,
    /// Blobs on disk.
    pub blobs: usize,
    /// Blobs that no record names.
    pub loose: usize,
    /// What does not fit, in a fixed order.
    pub problems: Vec<Problem>,
}

/// Something that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Problem {
    /// The record cannot be read.
    Damaged(RefId),
    /// A record names another that is not there.
    NoRecord {
        /// Who names it.
        by: RefId,
        /// What it names.
        wanted: RefId,
    },
    /// A record names a tree that is not there.
    NoTree {
        /// Who names it.
        by: RefId,
        /// The directory.
        key: u64,
    },
    /// No record names the tree.
    OrphanTree(u64),
    /// A row that a record should have is missing.
    NoRow {
        /// Where.
        table: &'static str,
        /// Its key.
        key: String,
    },
    /// A row belongs to no record.
    StrayRow {
        /// Where.
        table: &'static str,
        /// Its key.
        key: String,
    },
    /// What is stored is not what the name says.
    WrongBlob(Digest),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(id) => write!(f, "record {id} cannot be read"),
            Self::NoRecord { by, wanted } => write!(f, "record {by} needs {wanted}, which is gone"),
            Self::NoTree { by, key } => write!(f, "tree {key} of record {by} is gone"),
            Self::OrphanTree(key) => write!(f, "tree {key} belongs to no record"),
            Self::NoRow { table, key } => write!(f, "{table} has no row {key}"),
            Self::StrayRow { table, key } => write!(f, "row {key} of {table} belongs to no record"),
            Self::WrongBlob(digest) => write!(f, "blob {digest} is something else"),
        }
    }
}

impl Problem {
    /// What to do about it, for people.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Damaged(_) | Self::NoRecord { .. } | Self::NoTree { .. } => {
                "steps that use it fail: buildctl prune --all removes it"
            }
            Self::OrphanTree(_) => "takes room only: the next start of the daemon removes it",
            Self::NoRow { .. } | Self::StrayRow { .. } => {
                "harms no build; buildctl prune --all puts it right"
            }
            Self::WrongBlob(_) => {
                "never used: it is removed, and made or fetched again, when a build asks for it"
            }
        }
    }
}

/// How much is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Names.
    Names,
    /// Blobs as well.
    Content,
}

impl Cache {
    /// Walks over every record, tree and blob. Nothing may be going on meanwhile; what is open is left out.
    pub async fn verify(&self, cx: &Cx, depth: Depth) -> Result<Report, Error> {
        self.settle_removals().await;
        let (cache, cx) = (self.clone(), cx.clone());
        tasks::blocking(move || {
            let mut report = cache.verify_names()?;
            if depth == Depth::Content {
                cache.verify_blobs(&cx, |_, problem| report.problems.extend(problem))?;
            }
            report.problems.sort();
            Ok(report)
        })
        .await
    }

    /// Whether everything that is named is there, and everything that is there is named. Nothing may be going on
    /// meanwhile. Blocks, not for long.
    pub fn verify_names(&self) -> Result<Report, Error> {
        self.inner.verify()
    }

    /// Reads all blobs, and tells the size of each and whether it is wrong. Builds may run. Blocks, for long.
    pub fn verify_blobs(
        &self,
        cx: &Cx,
        mut tell: impl FnMut(u64, Option<Problem>),
    ) -> Result<(), Error> {
        for blob in self.inner.content.list()? {
            cx.check()?;
            let right = blob.digest.algorithm() != "sha256" || self.inner.is_right(&blob.digest)?;
            tell(
                blob.size,
                (!right).then_some(Problem::WrongBlob(blob.digest)),
            );
        }
        Ok(())
    }
}

impl Inner {
    fn verify(&self) -> Result<Report, Error> {
        let mut report = Report::default();
        let mut records = BTreeMap::new();
        for (row, json) in self.db.prefix(RECORDS, b"")? {
            let Some(id) = id_of(&row) else {
                report.stray(RECORDS, &row);
                continue;
            };
            match parse(&id, &json) {
                Ok(record) => drop(records.insert(id, record)),
                Err(_) => report.problems.push(Problem::Damaged(id)),
            }
        }
        report.records = records.len();
        self.check_rows(&records, &mut report)?;
        self.check_trees(&records, &mut report)?;
        self.count_blobs(&records, &mut report)?;
        report.problems.sort();
        report.problems.dedup();
        Ok(report)
    }

    fn check_rows(
        &self,
        records: &BTreeMap<RefId, Record>,
        report: &mut Report,
    ) -> Result<(), Error> {
        let mut expected: BTreeSet<(Table, Vec<u8>)> = BTreeSet::new();
        for (id, record) in records {
            let others = match &record.body {
                Body::View { of, .. } => Some(of),
                Body::Mutable { view, .. } => view.as_ref(),
                _ => None,
            };
            for wanted in record.parents.iter().chain(others) {
                if !records.contains_key(wanted) {
                    let (by, wanted) = (id.clone(), wanted.clone());
                    report.problems.push(Problem::NoRecord { by, wanted });
                }
            }
            for parent in &record.parents {
                expected.insert((CHILDREN, pair(parent.as_str(), id.as_str())));
            }
            for Key(key) in record.owned() {
                expected.insert((SNAPSHOTS, key.to_be_bytes().to_vec()));
            }
            for digest in self.blobs_of(id, record)? {
                expected.insert((BLOBS, pair(digest.as_str(), id.as_str())));
            }
        }
        for table in [CHILDREN, SNAPSHOTS, BLOBS] {
            for (row, _) in self.db.prefix(table, b"")? {
                if !expected.remove(&(table, row.clone())) {
                    report.stray(table, &row);
                }
            }
        }
        for (table, row) in expected {
            let (table, key) = (table.name(), text(&row));
            report.problems.push(Problem::NoRow { table, key });
        }
        self.check_owners(records, report)
    }

    /// Rows that may be missing, but not without their record.
    fn check_owners(
        &self,
        records: &BTreeMap<RefId, Record>,
        report: &mut Report,
    ) -> Result<(), Error> {
        let known = |id: Option<RefId>| id.is_some_and(|id| records.contains_key(&id));
        for table in [USAGE, SIZES, META, VARIANTS, INDEXED] {
            for (row, _) in self.db.prefix(table, b"")? {
                let first = row.split(|byte| *byte == 0).next().unwrap_or_default();
                if !known(id_of(first)) {
                    report.stray(table, &row);
                }
            }
        }
        for (row, _) in self.db.prefix(INDEX, b"")? {
            if !known(second_id(&row)) {
                report.stray(INDEX, &row);
            }
        }
        for (row, id) in self.db.prefix(CHAINS, b"")? {
            if !known(id_of(&id)) {
                report.stray(CHAINS, &row);
            }
        }
        let keys: HashSet<Key> = records.values().flat_map(Record::owned).collect();
        for (row, _) in self.db.prefix(CHECKSUMS, b"")? {
            let key = <[u8; 8]>::try_from(row.as_slice()).map(u64::from_be_bytes);
            let owned = key.is_ok_and(|key| keys.contains(&Key(key)));
            if !owned && !known(id_of(&row)) {
                report.stray(CHECKSUMS, &row);
            }
        }
        Ok(())
    }

    fn check_trees(
        &self,
        records: &BTreeMap<RefId, Record>,
        report: &mut Report,
    ) -> Result<(), Error> {
        let mut there: BTreeSet<Key> = self.snapshots.keys()?.into_iter().collect();
        report.trees = there.len();
        for (id, record) in records {
            for key in record.owned() {
                if !there.remove(&key) {
                    let by = id.clone();
                    report.problems.push(Problem::NoTree { by, key: key.0 });
                }
            }
        }
        for node in self.nodes.lock().all() {
            for key in node.record.read().owned() {
                there.remove(&key);
            }
        }
        let orphans = there.into_iter().map(|Key(key)| Problem::OrphanTree(key));
        report.problems.extend(orphans);
        Ok(())
    }

    fn count_blobs(
        &self,
        records: &BTreeMap<RefId, Record>,
        report: &mut Report,
    ) -> Result<(), Error> {
        let mut named = HashSet::new();
        for (id, record) in records {
            named.extend(self.blobs_of(id, record)?);
        }
        let blobs = self.content.list()?;
        report.blobs = blobs.len();
        report.loose = blobs
            .iter()
            .filter(|blob| !named.contains(&blob.digest))
            .count();
        Ok(())
    }

    fn is_right(&self, digest: &Digest) -> Result<bool, Error> {
        let fail = Error::io("read a blob");
        let read = || {
            let mut file = match std::fs::File::open(self.content.path(digest)) {
                // It was removed meanwhile.
                Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(true),
                opened => opened?,
            };
            let mut hash = Hasher::new();
            let mut buffer = vec![0; 256 << 10];
            loop {
                let count = file.read(&mut buffer)?;
                if count == 0 {
                    return Ok(hash.finish() == *digest);
                }
                hash.update(&buffer[..count]);
            }
        };
        read().map_err(fail)
    }
}

impl Report {
    fn stray(&mut self, table: Table, row: &[u8]) {
        let (table, key) = (table.name(), text(row));
        self.problems.push(Problem::StrayRow { table, key });
    }
}

fn id_of(row: &[u8]) -> Option<RefId> {
    RefId::parse(std::str::from_utf8(row).ok()?)
}

/// A key for people: texts with a slash between, or a number.
fn text(row: &[u8]) -> String {
    match <[u8; 8]>::try_from(row) {
        Ok(number) if row[0] == 0 => u64::from_be_bytes(number).to_string(),
        _ => String::from_utf8_lossy(row).replace('\0', "/"),
    }
}
