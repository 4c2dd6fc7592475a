//! After a start that may have lost rows: what is left must fit together.
//!
//! The database is whole and says what was true some time ago. Meanwhile trees may have been removed whose records are
//! back, and the trees of clients' directories may have changed since their checksums were noted.

use std::collections::{BTreeMap, BTreeSet};

use db::{Batch, Db};
use snapshot::Key;

use crate::record::{
    Body, CHECKSUMS, INDEXED, RECORDS, Record, SNAPSHOTS, erase_index, parse, read,
};
use crate::{Error, RecordType, RefId};

/// Erases records whose tree is not among `trees`, and what stands on them.
pub(crate) fn drop_records_without_trees(db: &Db, trees: &BTreeSet<Key>) -> Result<(), Error> {
    let mut missing = BTreeSet::new();
    for (row, _) in db.prefix(SNAPSHOTS, b"")? {
        let key = <[u8; 8]>::try_from(row.as_slice()).map(u64::from_be_bytes);
        if let Ok(key) = key
            && !trees.contains(&Key(key))
        {
            missing.insert(Key(key));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let mut records = BTreeMap::new();
    for (row, json) in db.prefix(RECORDS, b"")? {
        if let Some(id) = std::str::from_utf8(&row).ok().and_then(RefId::parse)
            && let Ok(record) = parse(&id, &json)
        {
            records.insert(id, record);
        }
    }
    let mut batch = Batch::new();
    for Key(key) in &missing {
        batch.remove(SNAPSHOTS, key.to_be_bytes());
    }
    let broken = broken(&records, &missing);
    for id in &broken {
        if let Some(record) = records.get(id) {
            record.erase(id, db, &mut batch)?;
        }
        tracing::warn!(record = %id, "record given up: its tree, or one below it, is gone");
    }
    Ok(db.commit(batch)?)
}

/// The records that own one of these trees, and all that need one of these records.
fn broken(records: &BTreeMap<RefId, Record>, missing: &BTreeSet<Key>) -> BTreeSet<RefId> {
    let mut needed_by: BTreeMap<&RefId, Vec<&RefId>> = BTreeMap::new();
    let mut left = Vec::new();
    for (id, record) in records {
        let other = match &record.body {
            Body::View { of, .. } => Some(of),
            Body::Mutable { view, .. } => view.as_ref(),
            _ => None,
        };
        for needed in record.parents.iter().chain(other) {
            needed_by.entry(needed).or_default().push(id);
            if !records.contains_key(needed) {
                left.push(id);
            }
        }
        if record.owned().any(|key| missing.contains(&key)) {
            left.push(id);
        }
    }
    let mut broken = BTreeSet::new();
    while let Some(id) = left.pop() {
        if broken.insert(id.clone()) {
            left.extend(needed_by.get(id).into_iter().flatten());
        }
    }
    broken
}

/// Forgets the checksums of trees that change in place.
pub(crate) fn forget_checksums(db: &Db) -> Result<(), Error> {
    let mut batch = Batch::new();
    for (id, record) in local_sources(db)? {
        batch.remove(CHECKSUMS, crate::checksum::row(&id, &record));
    }
    Ok(db.commit(batch)?)
}

/// Directories of clients that are kept for the next build.
pub(crate) fn local_sources(db: &Db) -> Result<Vec<(RefId, Record)>, Error> {
    let mut found = BTreeMap::new();
    for (row, _) in db.prefix(INDEXED, b"")? {
        let id = row.split(|byte| *byte == 0).next();
        let Some(id) = id.and_then(|id| RefId::parse(std::str::from_utf8(id).ok()?)) else {
            continue;
        };
        if let Some(record) = read(db, &id)?
            && record.is_mutable()
            && record.record_type == RecordType::SourceLocal
        {
            found.insert(id, record);
        }
    }
    Ok(found.into_iter().collect())
}

/// Erases such a directory, and the record that shows it.
pub(crate) fn erase_mutable(
    db: &Db,
    id: &RefId,
    record: &Record,
    batch: &mut Batch,
) -> Result<(), Error> {
    if let Body::Mutable {
        view: Some(view), ..
    } = &record.body
        && let Some(shown) = read(db, view)?
    {
        shown.erase(view, db, batch)?;
    }
    record.erase(id, db, batch)?;
    erase_index(id, db, batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(parents: &[&RefId], key: u64) -> Record {
        Record {
            parents: parents.iter().map(|&id| id.clone()).collect(),
            body: Body::Layer {
                snapshot: Some(key),
                unchanged: false,
                elsewhere: None,
                blob: None,
            },
            description: String::new(),
            record_type: RecordType::Regular,
            created: 0,
        }
    }

    #[test]
    fn a_record_without_its_tree_goes_with_all_that_stands_on_it() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let db = Db::open(dir.path(), "cache-v1", db::Options::default()).expect("opened");
        let [base, gone, above, beside] = [(); 4].map(|()| RefId::random());
        let mut batch = Batch::new();
        record(&[], 1).put(&base, &mut batch);
        record(&[&base], 2).put(&gone, &mut batch);
        record(&[&gone], 3).put(&above, &mut batch);
        record(&[&base], 4).put(&beside, &mut batch);
        db.commit(batch).expect("committed");
        let trees = [1, 3, 4].map(Key).into();
        drop_records_without_trees(&db, &trees).expect("repaired");
        let left = db.prefix(RECORDS, b"").expect("read");
        let mut left: Vec<_> = left
            .into_iter()
            .map(|(row, _)| String::from_utf8(row).expect("an id"))
            .collect();
        left.sort();
        let mut wanted = [base.as_str().to_owned(), beside.as_str().to_owned()];
        wanted.sort();
        assert_eq!(left, wanted);
        // The tree of what stood on it has no owner now, and is swept.
        let rows = db.prefix(SNAPSHOTS, b"").expect("read");
        assert_eq!(rows.len(), 2);
    }
}
