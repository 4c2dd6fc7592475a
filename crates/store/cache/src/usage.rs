//! What there is, how much room it takes, and removing it.

use std::collections::{HashMap, HashSet};
use std::ops::Bound;

use db::Batch;
use tasks::Cx;

use crate::record::{
    BLOBS, Body, CHILDREN, RECORDS, Record, SIZES, USAGE, Used, from_nanos, pair, parse,
};
use crate::{Cache, Error, Inner, RefId, Usage};

impl Cache {
    /// All records, sorted by id. Trees that were never measured are measured now.
    pub async fn list(&self, cx: &Cx) -> Result<Vec<Usage>, Error> {
        let (inner, cx) = (self.inner.clone(), cx.clone());
        tasks::blocking(move || inner.list(&cx)).await
    }

    /// Removes a record that nobody uses and nothing stands on; the tree goes in the background. Returns the bytes
    /// that were last measured for it.
    pub fn remove(&self, id: &RefId) -> Result<u64, Error> {
        self.inner.remove(id)
    }
}

impl Inner {
    fn list(&self, cx: &Cx) -> Result<Vec<Usage>, Error> {
        let mut records: HashMap<RefId, Record> = HashMap::new();
        for (row, json) in self.db.prefix(RECORDS, b"")? {
            if let Some(id) = std::str::from_utf8(&row).ok().and_then(RefId::parse) {
                let record = parse(&id, &json)?;
                records.insert(id, record);
            }
        }
        let mut held = HashSet::new();
        let nodes = self.nodes.lock().all();
        for node in nodes {
            held.insert(node.id.clone());
            records.insert(node.id.clone(), node.record.read().clone());
        }
        let mut all: Vec<_> = records.into_iter().collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        let mut counted = HashSet::new();
        let mut list = Vec::with_capacity(all.len());
        for (id, record) in all {
            cx.check()?;
            let used = self.db.value(USAGE, id.as_str().as_bytes())?;
            let used = used.as_deref().and_then(Used::parse);
            let mut size = self.tree_size(&id, &record, held.contains(&id))?;
            for digest in self.blobs_of(&id, &record)? {
                if counted.insert(digest.clone())
                    && let Ok(info) = self.content.info(&digest)
                {
                    size += info.size;
                }
            }
            list.push(Usage {
                in_use: held.contains(&id),
                mutable: record.is_mutable(),
                size,
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
        Ok(list)
    }

    /// Bytes of the tree of one record. Remembered for trees that do not change.
    fn tree_size(&self, id: &RefId, record: &Record, held: bool) -> Result<u64, Error> {
        let Some(key) = record.snapshot() else {
            return Ok(0);
        };
        let fixed = match record.body {
            Body::Layer { .. } | Body::Merge { .. } | Body::Diff { .. } => true,
            Body::Mutable { .. } => !held,
            // Its mutable is counted.
            Body::View { .. } => return Ok(0),
        };
        if fixed
            && let Some(raw) = self.db.value(SIZES, id.as_str().as_bytes())?
            && let Ok(raw) = raw.try_into()
        {
            return Ok(u64::from_le_bytes(raw));
        }
        let bytes = match snapshot::usage(&self.snapshots.directory(key)) {
            Ok(usage) => usage.bytes,
            // Removed while we looked.
            Err(err) if fault::Classify::class(&err) == fault::Class::NotFound => return Ok(0),
            Err(err) => return Err(err.into()),
        };
        if fixed {
            let mut batch = Batch::new();
            batch.put(SIZES, id.as_str(), bytes.to_le_bytes());
            self.db.commit(batch)?;
        }
        Ok(bytes)
    }

    fn remove(&self, id: &RefId) -> Result<u64, Error> {
        let mut nodes = self.nodes.lock();
        if nodes.find(id).is_some() {
            return Err(Error::InUse { id: id.clone() });
        }
        let Some(record) = crate::record::read(&self.db, id)? else {
            return Err(Error::NotFound { id: id.clone() });
        };
        let children = pair(id.as_str(), "");
        let end = [id.as_str().as_bytes(), &[1]].concat();
        let (from, to) = (
            Bound::Included(children.as_slice()),
            Bound::Excluded(end.as_slice()),
        );
        if !self.db.range(CHILDREN, from, to, 1)?.is_empty() {
            return Err(Error::InUse { id: id.clone() });
        }
        let size = self.db.value(SIZES, id.as_str().as_bytes())?;
        let mut freed = size
            .and_then(|raw| raw.try_into().ok())
            .map_or(0, u64::from_le_bytes);
        let blobs = self.blobs_of(id, &record)?;
        let mut batch = Batch::new();
        record.erase(id, &self.db, &mut batch)?;
        match &record.body {
            Body::Mutable {
                view: Some(view), ..
            } => {
                if let Some(shown) = crate::record::read(&self.db, view)? {
                    shown.erase(view, &self.db, &mut batch)?;
                }
            }
            Body::View { of, .. } => {
                if let Some(mut owner) = crate::record::read(&self.db, of)?
                    && let Body::Mutable { view, .. } = &mut owner.body
                {
                    *view = None;
                    owner.put(of, &mut batch);
                }
            }
            _ => {}
        }
        self.db.commit(batch)?;
        nodes.forget(id);
        for digest in blobs {
            if self
                .db
                .prefix(BLOBS, &pair(digest.as_str(), ""))?
                .is_empty()
            {
                let size = self.content.info(&digest).map_or(0, |info| info.size);
                if self.content.remove(&digest)? {
                    freed += size;
                }
            }
        }
        for key in record.owned() {
            self.reaper.remove(key);
        }
        Ok(freed)
    }
}
