//! Reading and writing with nobody writing in between.

use std::ops::Bound;

use super::Store;
use crate::memory::{Memory, prefix_end};
use crate::{Error, Pair, Table};

/// Reads and writes that nobody else's writes come between.
#[derive(Debug)]
pub struct Transaction<'a> {
    pub(super) store: &'a Store,
    pub(super) own: Memory,
}

impl Transaction<'_> {
    /// The value under `key`.
    pub fn value(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        match self.own.look(table.name(), key) {
            Some(found) => Ok(found.cloned()),
            None => self.store.value(table, key),
        }
    }

    /// Whether there is a value under `key`.
    pub fn contains(&self, table: Table, key: &[u8]) -> Result<bool, Error> {
        match self.own.look(table.name(), key) {
            Some(found) => Ok(found.is_some()),
            None => self.store.contains(table, key),
        }
    }

    /// All pairs whose key starts with `prefix`, in key order.
    pub fn prefix(&self, table: Table, prefix: &[u8]) -> Result<Vec<Pair>, Error> {
        let end = prefix_end(prefix);
        let to = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        self.range(table, Bound::Included(prefix), to, usize::MAX)
    }

    /// The first `limit` pairs between the bounds, in key order.
    pub fn range(
        &self,
        table: Table,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>, Error> {
        self.store
            .range(Some(&self.own), table.name(), from, to, limit)
    }

    /// Sets a value.
    pub fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.own.set(table.name(), key.into(), Some(value.into()));
    }

    /// Removes a key.
    pub fn remove(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.own.set(table.name(), key.into(), None);
    }
}
