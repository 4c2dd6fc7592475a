//! Changes in memory: for every key what it was set to, or that it was removed.

use std::collections::BTreeMap;
use std::ops::Bound;

/// Key to what became of it.
pub(crate) type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Changes to any number of tables.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    tables: BTreeMap<Box<str>, Changes>,
    /// Roughly what this occupies.
    bytes: usize,
}

impl Memory {
    pub(crate) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn set(&mut self, table: &str, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.bytes += key.len() + value.as_ref().map_or(0, Vec::len) + 64;
        match self.tables.get_mut(table) {
            Some(changes) => {
                changes.insert(key, value);
            }
            None => {
                self.tables
                    .insert(Box::from(table), Changes::from([(key, value)]));
            }
        }
    }

    /// What became of a key; `None` when nothing did.
    pub(crate) fn look(&self, table: &str, key: &[u8]) -> Option<Option<&Vec<u8>>> {
        self.tables.get(table)?.get(key).map(Option::as_ref)
    }

    /// Takes over what `newer` says.
    pub(crate) fn absorb(&mut self, newer: Self) {
        for (table, changes) in newer.tables {
            match self.tables.get_mut(&table) {
                Some(mine) => mine.extend(changes),
                None => {
                    self.tables.insert(table, changes);
                }
            }
        }
        self.bytes += newer.bytes;
    }

    pub(crate) fn tables(&self) -> impl Iterator<Item = (&str, &Changes)> {
        self.tables.iter().map(|(name, changes)| (&**name, changes))
    }

    /// Copies what lies between the bounds over `into`.
    pub(crate) fn collect(
        &self,
        table: &str,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        into: &mut Changes,
    ) {
        let Some(changes) = self.tables.get(table) else {
            return;
        };
        for (key, value) in changes.range::<[u8], _>((from, to)) {
            into.insert(key.clone(), value.clone());
        }
    }
}

/// The first key behind all that start with `prefix`; `None` when there is none.
pub(crate) fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let keep = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=keep].to_vec();
    end[keep] += 1;
    Some(end)
}

/// Whether no key can lie between the bounds. `BTreeMap::range` panics on some of those.
pub(crate) fn is_void(from: Bound<&[u8]>, to: Bound<&[u8]>) -> bool {
    match (from, to) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (
            Bound::Included(from) | Bound::Excluded(from),
            Bound::Included(to) | Bound::Excluded(to),
        ) => from >= to,
    }
}
