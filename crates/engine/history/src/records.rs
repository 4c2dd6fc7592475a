//! The rows: reading, changing, removing, and which blobs they need.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use db::{Batch, Table};
use oci::Digest;
use prost::Message as _;
use proto::control::{BuildHistoryEventType, BuildHistoryRecord, BuildResultInfo, Descriptor};

use crate::{Error, Inner, images};

/// Records by ref.
const RECORDS: Table = Table::new("history-records");

fn decode(name: &str, bytes: &[u8]) -> Result<BuildHistoryRecord, Error> {
    BuildHistoryRecord::decode(bytes).map_err(|source| Error::Damaged {
        name: name.to_owned(),
        source,
    })
}

impl Inner {
    pub(crate) fn record(&self, name: &str) -> Result<BuildHistoryRecord, Error> {
        let bytes = self.db.value(RECORDS, name.as_bytes())?;
        let missing = || Error::NotFound {
            name: name.to_owned(),
        };
        decode(name, &bytes.ok_or_else(missing)?)
    }

    /// All records that can be read, by ref.
    pub(crate) fn records(&self) -> Result<Vec<BuildHistoryRecord>, Error> {
        let rows = self.db.prefix(RECORDS, b"")?;
        let read = |(name, bytes): (Vec<u8>, Vec<u8>)| {
            let name = String::from_utf8_lossy(&name);
            decode(&name, &bytes)
                .map_err(|err| {
                    tracing::warn!(build = %name, error = %fault::chain(&err), "a build record is skipped");
                })
                .ok()
        };
        Ok(rows.into_iter().filter_map(read).collect())
    }

    /// Writes a record.
    pub(crate) fn write(&self, record: &BuildHistoryRecord) -> Result<(), Error> {
        let mut batch = Batch::new();
        batch.put(RECORDS, record.r#ref.as_str(), record.encode_to_vec());
        Ok(self.db.commit(batch)?)
    }

    /// Changes a record, and tells who listens.
    pub(crate) fn change(
        &self,
        name: &str,
        change: impl FnOnce(&mut BuildHistoryRecord),
    ) -> Result<(), Error> {
        // Changes must not overtake each other between reading and writing.
        let mut state = self.state.lock();
        let mut record = self.record(name)?;
        change(&mut record);
        record.generation += 1;
        self.write(&record)?;
        state.tell(BuildHistoryEventType::Complete, record);
        Ok(())
    }

    pub(crate) fn delete(&self, name: &str) -> Result<(), Error> {
        let _alone = self.sweeping.write();
        let gone = self.remove_row(name)?;
        self.remove_blobs_of(gone.as_slice())
    }

    /// The record that was removed, unless somebody holds it.
    fn remove_row(&self, name: &str) -> Result<Option<BuildHistoryRecord>, Error> {
        let mut state = self.state.lock();
        let record = match self.record(name) {
            Ok(record) => record,
            // What cannot be read can be removed.
            Err(Error::Damaged { .. }) => BuildHistoryRecord::default(),
            Err(Error::NotFound { name }) => return Err(Error::NothingToDelete { name }),
            Err(other) => return Err(other),
        };
        if state.is_held(name) {
            state.deleted.insert(name.to_owned());
            return Ok(None);
        }
        state.deleted.remove(name);
        let gone = BuildHistoryRecord {
            r#ref: name.to_owned(),
            ..BuildHistoryRecord::default()
        };
        state.tell(BuildHistoryEventType::Deleted, gone);
        let mut batch = Batch::new();
        batch.remove(RECORDS, name);
        self.db.commit(batch)?;
        Ok(Some(record))
    }

    /// Called with `sweeping` held for writing.
    fn remove_blobs_of(&self, gone: &[BuildHistoryRecord]) -> Result<(), Error> {
        if gone.is_empty() {
            return Ok(());
        }
        let mut doomed: BTreeSet<_> = gone.iter().flat_map(|it| self.needs(it)).collect();
        for other in self.records()? {
            for digest in self.needs(&other) {
                doomed.remove(&digest);
            }
        }
        doomed
            .iter()
            .try_for_each(|digest| self.blobs.remove(digest))
    }

    /// All blobs of a record that are here.
    fn needs(&self, record: &BuildHistoryRecord) -> BTreeSet<Digest> {
        let mut needs = BTreeSet::new();
        for descriptor in descriptors(record) {
            if let Ok(digest) = descriptor.digest.parse() {
                images::add_closure(&self.blobs, digest, &descriptor.media_type, &mut needs);
            }
        }
        needs
    }

    /// Drops records whose blobs are gone, and blobs without a record.
    pub(crate) fn drop_orphans(&self) -> Result<(), Error> {
        for record in self.records()? {
            let own = [&record.logs, &record.trace, &record.external_error];
            let missing = own
                .into_iter()
                .flatten()
                .find(|blob| !self.blobs.contains_text(&blob.digest));
            if let Some(missing) = missing {
                let (build, blob) = (&record.r#ref, &missing.digest);
                tracing::warn!(
                    build,
                    blob,
                    "a build record has lost its blobs and is removed"
                );
                self.delete(build)?;
            }
        }
        let _alone = self.sweeping.write();
        let records = self.records()?;
        let used: BTreeSet<_> = records.iter().flat_map(|it| self.needs(it)).collect();
        for digest in self.blobs.names()? {
            if !used.contains(&digest) {
                self.blobs.remove(&digest)?;
            }
        }
        Ok(())
    }

    /// Removes records over the limits.
    pub(crate) fn collect(&self, now: SystemTime) -> Result<(), Error> {
        self.blobs.written.store(0, Ordering::Relaxed);
        let mut records: Vec<_> = self.records()?;
        records.retain(|record| !record.pinned);
        records.sort_by_key(|record| std::cmp::Reverse(completed(record)));
        let mut bytes = 0;
        let is_over = |(newer, record): &(usize, &BuildHistoryRecord)| {
            let blobs = self.needs(record);
            bytes += blobs.iter().map(|it| self.blobs.disk(it)).sum::<u64>();
            let age = now.duration_since(completed(record)).unwrap_or_default();
            *newer >= self.limits.max_entries
                && (age > self.limits.max_age || bytes > self.limits.max_bytes)
        };
        let doomed: Vec<_> = records.iter().enumerate().filter(is_over).collect();
        let _alone = self.sweeping.write();
        let mut gone = Vec::new();
        for (_, record) in doomed {
            match self.remove_row(&record.r#ref) {
                Ok(removed) => gone.extend(removed),
                // Somebody else did.
                Err(Error::NothingToDelete { .. }) => {}
                Err(err) => return Err(err),
            }
        }
        self.remove_blobs_of(&gone)
    }

    /// The same when an eighth of what there is room for was written since it was last done.
    pub(crate) fn collect_if_much(&self) {
        if self.blobs.written.load(Ordering::Relaxed) <= self.limits.max_bytes / 8 {
            return;
        }
        if let Err(err) = self.collect(SystemTime::now()) {
            tracing::warn!(error = %fault::chain(&err), "build history cannot be cleaned");
        }
    }
}

fn completed(record: &BuildHistoryRecord) -> SystemTime {
    record
        .completed_at
        .and_then(|time| SystemTime::try_from(time).ok())
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Everything a record points to.
fn descriptors(record: &BuildHistoryRecord) -> Vec<&Descriptor> {
    let own = [&record.logs, &record.trace, &record.external_error];
    let results = record.result.iter().chain(record.results.values());
    fn of_result(result: &BuildResultInfo) -> Vec<&Descriptor> {
        let first = result.result_deprecated.iter();
        first
            .chain(&result.attestations)
            .chain(result.results.values())
            .collect()
    }
    own.into_iter()
        .flatten()
        .chain(results.flat_map(of_result))
        .collect()
}
