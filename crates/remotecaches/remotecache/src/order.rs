//! An order of items in which every link goes upwards, kept while links are added.
//!
//! A link from a lower rank to a higher one changes nothing. For one that goes down, the items above the target and
//! those below the source, as far as their ranks lie between the two, are looked at: if they meet, the link would close
//! a loop; else they exchange ranks so that the link goes up. (The method of Pearce and Kelly.)

use std::collections::HashSet;

use crate::graph::{Graph, ItemId};

impl Graph {
    /// Makes room for a link from `source` to `target`; `false` when it would close a loop.
    pub(crate) fn raise(&mut self, source: ItemId, target: ItemId) -> bool {
        let (low, high) = (self.rank(target), self.rank(source));
        if high < low {
            return true;
        }
        let Some(above) = self.above(target, high, Some(source)) else {
            return false;
        };
        let below = self.below(source, low);
        let by_rank = |mut items: Vec<ItemId>, graph: &Self| {
            items.sort_by_key(|id| graph.rank(*id));
            items
        };
        let (below, above) = (by_rank(below, self), by_rank(above, self));
        let moved: Vec<ItemId> = below.into_iter().chain(above).collect();
        let mut ranks: Vec<usize> = moved.iter().map(|id| self.rank(*id)).collect();
        ranks.sort_unstable();
        for (id, rank) in moved.into_iter().zip(ranks) {
            self.items[id.0].rank = rank;
        }
        true
    }

    /// Whether links lead from one item to another.
    pub(crate) fn reaches(&self, from: ItemId, to: ItemId) -> bool {
        let (low, high) = (self.rank(from), self.rank(to));
        low <= high && self.above(from, high, Some(to)).is_none()
    }

    fn rank(&self, id: ItemId) -> usize {
        self.items[id.0].rank
    }

    /// What links from `start` lead to, up to a rank; `None` when that is `forbidden`.
    fn above(&self, start: ItemId, high: usize, forbidden: Option<ItemId>) -> Option<Vec<ItemId>> {
        let mut seen = HashSet::from([start]);
        let mut found = vec![start];
        let mut at = 0;
        while let Some(id) = found.get(at).copied() {
            at += 1;
            if Some(id) == forbidden {
                return None;
            }
            for next in self.items[id.0].next.values().flatten() {
                if self.rank(*next) <= high && seen.insert(*next) {
                    found.push(*next);
                }
            }
        }
        Some(found)
    }

    /// What leads to `start`, down to a rank.
    fn below(&self, start: ItemId, low: usize) -> Vec<ItemId> {
        let mut seen = HashSet::from([start]);
        let mut found = vec![start];
        let mut at = 0;
        while let Some(id) = found.get(at).copied() {
            at += 1;
            for way in self.items[id.0].inputs.iter().flatten() {
                if self.rank(way.item) >= low && seen.insert(way.item) {
                    found.push(way.item);
                }
            }
        }
        found
    }
}
