//! Checksums of trees, kept with the record they belong to.
//!
//! What `contenthash` learned of a tree is kept in memory while the record is in use and in the database for later.
//! It goes with the snapshot: a view shares it with its mutable, and a step that changed nothing with its parent.

use std::sync::{Arc, Weak};

use contenthash::{Listed, Query, Records};
use db::Batch;
use fstree::copy::LinkedFiles;
use fstree::{Root, path};
use oci::Digest;
use progress::Progress;
use tasks::Cx;

use crate::node::Node;
use crate::record::{Body, CHECKSUMS, Record};
use crate::{Error, Inner, MutableRef, Ref, RefId};

impl Ref {
    /// The checksum that makes a step reading this cached. Layers that are missing are fetched.
    pub async fn checksum(&self, cx: &Cx, query: &Query) -> Result<Digest, Error> {
        cx.check()?;
        let node = changed_node(self.node());
        if let Some(mut records) = node.records.try_lock()
            && let Some(records) = records.as_mut()
            && let Some(known) = records.known(query)
        {
            return Ok(known?);
        }
        self.ensure(cx, &Progress::none()).await?;
        let tree = self.tree(cx).await?;
        let (inner, cx, query) = (self.cache().inner.clone(), cx.clone(), query.clone());
        tasks::blocking(move || {
            let mut records = node.records.lock();
            let records = match &mut *records {
                Some(records) => records,
                none => none.insert(match inner.kept_checksums(&node)? {
                    Some(kept) => kept,
                    None => linked_checksums(&node),
                }),
            };
            let root = Root::from_borrowed(tree.fd()).map_err(Error::io("open a tree"))?;
            let answer = records.query(&cx, &root, &query);
            // Also after an error: what was read is true.
            if records.take_changed() {
                inner.keep_checksums(&node, records)?;
            }
            Ok(answer?)
        })
        .await
    }
}

impl Ref {
    /// What the answers to these queries were made from; call [`Ref::checksum`] for each of them before. Blocks as long
    /// as somebody else computes checksums of the same tree.
    pub fn checksummed(&self, queries: &[Query]) -> Vec<Listed> {
        let node = changed_node(self.node());
        let mut records = node.records.lock();
        let Some(records) = records.as_mut() else {
            return Vec::new();
        };
        queries
            .iter()
            .flat_map(|query| records.list(query))
            .collect()
    }
}

/// Files of a tree that are further names of files of another.
#[derive(Debug)]
pub struct Linked {
    source: Weak<Node>,
    files: Vec<LinkedFiles>,
}

impl Ref {
    /// Says that these files of this tree have further names in another.
    pub fn linked(&self, files: Vec<LinkedFiles>) -> Linked {
        Linked {
            source: Arc::downgrade(&changed_node(self.node())),
            files,
        }
    }
}

/// What other trees know of the files of this one: whatever names it, a file has one checksum.
fn linked_checksums(node: &Node) -> Records {
    let mut records = Records::new();
    if let Some(Linked { source, files }) = node.linked.lock().take()
        && let Some(source) = source.upgrade()
        && let Some(known) = source.records.lock().as_ref()
    {
        for dir in &files {
            let (from, to) = (path::bytes(&dir.from), path::bytes(&dir.to));
            records.insert_linked(to, known, from, dir.names());
        }
    }
    records
}

impl MutableRef {
    /// Says that files of this tree are further names of files of another, or that it is not known of any. Holds for
    /// the tree as it is when it is committed.
    pub fn set_linked(&self, linked: Option<Linked>) {
        *self.node().linked.lock() = linked;
    }

    /// The checksums of the tree as it was when it was last frozen; empty when there are none. Whoever changes the tree
    /// changes them too and hands them back with [`MutableRef::set_checksums`].
    pub fn take_checksums(&self) -> Records {
        self.node().records.lock().take().unwrap_or_default()
    }

    /// The checksums of the tree as it is now, for the record it will become.
    pub fn set_checksums(&self, records: Records) {
        *self.node().records.lock() = Some(records);
    }
}

/// The record whose checksums are those of `node`: the nearest that changed something.
fn changed_node(node: &Arc<Node>) -> Arc<Node> {
    let mut at = node.clone();
    loop {
        let unchanged = matches!(
            at.record.read().body,
            Body::Layer {
                unchanged: true,
                ..
            }
        );
        let parent = at.parents.first().filter(|_| unchanged).cloned();
        match parent {
            Some(parent) => at = parent,
            None => return at,
        }
    }
}

/// Where the checksums of a record are kept.
pub(crate) fn row(id: &RefId, record: &Record) -> Vec<u8> {
    match record.snapshot() {
        Some(key) => key.0.to_be_bytes().to_vec(),
        None => id.as_str().as_bytes().to_vec(),
    }
}

impl Inner {
    fn kept_checksums(&self, node: &Node) -> Result<Option<Records>, Error> {
        let row = row(&node.id, &node.record.read());
        let bytes = self.db.value(CHECKSUMS, &row)?;
        Ok(bytes.and_then(|bytes| Records::from_bytes(&bytes)))
    }

    fn keep_checksums(&self, node: &Node, records: &Records) -> Result<(), Error> {
        let mut batch = Batch::new();
        batch.put(
            CHECKSUMS,
            row(&node.id, &node.record.read()),
            records.to_bytes(),
        );
        Ok(self.db.commit(batch)?)
    }

    /// Reads the checksums of a mutable that is about to change, and removes them from where a crash would leave them.
    pub(crate) fn withdraw_checksums(&self, node: &Node, batch: &mut Batch) -> Result<(), Error> {
        if let Some(kept) = self.kept_checksums(node)? {
            batch.remove(CHECKSUMS, row(&node.id, &node.record.read()));
            *node.records.lock() = Some(kept);
        }
        Ok(())
    }

    /// Adds what the writer of a tree knows of it to the batch that makes the tree immutable, and hands it over.
    pub(crate) fn hand_over_checksums(
        &self,
        writer: &Node,
        id: &RefId,
        record: &Record,
        batch: &mut Batch,
    ) -> Option<Records> {
        let mut records = writer.records.lock().take()?;
        if records.is_empty() {
            return None;
        }
        records.take_changed();
        batch.put(CHECKSUMS, row(id, record), records.to_bytes());
        Some(records)
    }
}
