//! Removing records and blobs.

use std::ops::Bound;
use std::time::SystemTime;

use content::Info;
use db::Batch;
use parking_lot::MutexGuard;

use crate::record::{BLOBS, Body, CHILDREN, RECORDS, Record, SIZES, Size, USAGE, Used, pair};
use crate::{Cache, Error, Inner, RefId};

impl Cache {
    /// Removes a record that nobody uses and nothing stands on; the tree goes in the background. Returns the bytes
    /// that were last measured for it.
    pub fn remove(&self, id: &RefId) -> Result<u64, Error> {
        self.inner.remove(id)
    }

    /// Removes blobs that no record names and nobody asked for since then. Returns their bytes.
    /// Blocks.
    pub fn drop_loose(&self, since: SystemTime) -> Result<u64, Error> {
        let loose = self.inner.content.list()?;
        self.inner.drop_loose(&loose, since)
    }
}

impl Inner {
    pub(crate) fn remove(&self, id: &RefId) -> Result<u64, Error> {
        let mut nodes = self.nodes.lock();
        if nodes.find(id).is_some() {
            return Err(Error::InUse { id: id.clone() });
        }
        let Some(record) = crate::record::read(&self.db, id)? else {
            return Err(Error::NotFound { id: id.clone() });
        };
        if self.has_children(id)? {
            return Err(Error::InUse { id: id.clone() });
        }
        let size = self.db.value(SIZES, id.as_str().as_bytes())?;
        let mut freed = size
            .and_then(|raw| Size::parse(&raw))
            .map_or(0, |size| size.bytes);
        let blobs = self.blobs_of(id, &record)?;
        let mut batch = Batch::new();
        record.erase(id, &self.db, &mut batch)?;
        match &record.body {
            Body::Mutable {
                view: Some(view), ..
            } => {
                if nodes.find(view).is_some() {
                    return Err(Error::InUse { id: id.clone() });
                }
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
        self.hand_down_use(id, &record, &mut batch)?;
        self.db.commit(batch)?;
        nodes.forget(id);
        for key in record.owned() {
            self.reaper.remove(key);
        }
        // Giving back the room of a file may take a while, and comes when the last descriptor is closed.
        let mut closing = Vec::new();
        for digest in blobs {
            if !self.is_named(&digest)? {
                let size = self.content.info(&digest).map_or(0, |info| info.disk);
                closing.push(std::fs::File::open(self.content.path(&digest)));
                if self.content.remove(&digest)? {
                    freed += size;
                }
            }
        }
        // Whoever removes many at once does not keep others from building.
        MutexGuard::unlock_fair(nodes);
        drop(closing);
        Ok(freed)
    }

    /// What the record stands on was used with it. Otherwise it would seem older than it is from now on.
    fn hand_down_use(&self, id: &RefId, record: &Record, batch: &mut Batch) -> Result<(), Error> {
        let used = |id: &RefId| {
            let raw = self.db.value(USAGE, id.as_str().as_bytes())?;
            Ok::<_, Error>(raw.as_deref().and_then(Used::parse))
        };
        let Some(own) = used(id)? else {
            return Ok(());
        };
        for parent in &record.parents {
            let old = used(parent)?.unwrap_or_default();
            if old.last < own.last && self.db.contains(RECORDS, parent.as_str().as_bytes())? {
                let last = own.last;
                batch.put(USAGE, parent.as_str(), Used { last, ..old }.bytes());
            }
        }
        Ok(())
    }

    fn has_children(&self, id: &RefId) -> Result<bool, Error> {
        let first = pair(id.as_str(), "");
        let end = [id.as_str().as_bytes(), &[1]].concat();
        let (from, to) = (
            Bound::Included(first.as_slice()),
            Bound::Excluded(end.as_slice()),
        );
        Ok(!self.db.range(CHILDREN, from, to, 1)?.is_empty())
    }

    /// Whether a record names the blob.
    pub(crate) fn is_named(&self, digest: &oci::Digest) -> Result<bool, Error> {
        let row = pair(digest.as_str(), "");
        let end = [digest.as_str().as_bytes(), &[1]].concat();
        let (from, to) = (
            Bound::Included(row.as_slice()),
            Bound::Excluded(end.as_slice()),
        );
        Ok(!self.db.range(BLOBS, from, to, 1)?.is_empty())
    }

    /// Of these blobs removes those that no record names and nobody asked for since then. Returns their bytes.
    pub(crate) fn drop_loose(&self, blobs: &[Info], since: SystemTime) -> Result<u64, Error> {
        let mut freed = 0;
        for blob in blobs.iter().filter(|blob| blob.used < since) {
            if !self.is_named(&blob.digest)? && self.content.remove_unused(&blob.digest, since)? {
                freed += blob.disk;
            }
        }
        Ok(freed)
    }
}
