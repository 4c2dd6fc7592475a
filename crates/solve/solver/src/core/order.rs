//! Which vertices need which: an order in which nothing stands before what it needs, and everything behind its inputs.
//!
//! Graphs that are loaded have no loops, but absorbing could make one. So it is asked first, for each step of two long
//! graphs that are alike; with the order only what stands between the two is looked at, which is next to nothing.

use std::collections::{BTreeMap, HashSet};

use super::Core;
use super::event::VertexId;

impl Core {
    /// Notes that `user` needs `used`, which is one of its inputs or has absorbed it.
    pub(super) fn link(&mut self, user: VertexId, used: VertexId) {
        self.vertex_mut(used).users.insert(user);
        let mut left = BTreeMap::from([(self.place(user), self.place_behind(user, used))]);
        // By their old places, which is an order too: so each is moved once.
        while let Some(((before, id), order)) = left.pop_first() {
            if before >= order {
                continue;
            }
            self.count_look();
            self.vertex_mut(id).order = order;
            let vertex = self.vertex(id);
            for user in &vertex.users {
                let behind = left.entry(self.place(*user)).or_default();
                *behind = (*behind).max(self.place_behind(*user, id));
            }
        }
    }

    fn place(&self, vertex: VertexId) -> (usize, VertexId) {
        (self.vertex(vertex).order, vertex)
    }

    /// Where `user` must stand at least. Whoever was absorbed may stand beside: builds that are alike stay in step,
    /// whichever of them does the work.
    fn place_behind(&self, user: VertexId, used: VertexId) -> usize {
        let vertex = self.vertex(user);
        let mut inputs = vertex.inputs.iter();
        let beside =
            vertex.absorbed_by == Some(used) && inputs.all(|edge| self.edge(*edge).vertex != used);
        self.vertex(used).order + usize::from(!beside)
    }

    /// Whether `user` needs `used`, directly or through others. A vertex that absorbed what it is made from would keep
    /// itself alive for ever.
    pub(super) fn needs(&self, user: VertexId, used: VertexId) -> bool {
        let order = self.vertex(used).order;
        let mut seen = HashSet::new();
        let mut left = vec![user];
        while let Some(id) = left.pop() {
            if id == used {
                return true;
            }
            self.count_look();
            let vertex = self.vertex(id);
            if vertex.order < order || !seen.insert(id) {
                continue;
            }
            left.extend(vertex.absorbed_by);
            if vertex.order > order {
                left.extend(vertex.inputs.iter().map(|edge| self.edge(*edge).vertex));
            }
        }
        false
    }

    /// Tests count how many vertices are looked at.
    fn count_look(&self) {
        #[cfg(test)]
        self.looks.set(self.looks.get() + 1);
    }
}
