//! The order of vertices, by which it is found out which need which.

use oci::Digest;

use super::world::{Dice, Disk, Graph, Step, World};
use crate::core::Core;

/// Steps on top of each other, under names of their own.
fn chain(name: &str, length: usize) -> Graph {
    let step = |at: usize| Step {
        digest: Digest::of(format!("{name} {at}")),
        op: format!("op {at}"),
        value: 1,
        inputs: at
            .checked_sub(1)
            .map(|below| (below, 0))
            .into_iter()
            .collect(),
        content: vec![false; at.min(1)],
        prepare: vec![false; at.min(1)],
        ignore_cache: false,
        two_answers: false,
        random: false,
        fails: false,
    };
    (0..length).map(step).collect()
}

impl Core {
    /// Everything stands behind its inputs, and not before who absorbed it.
    pub(super) fn assert_ordered(&self) {
        for vertex in self.vertices.iter() {
            let order = |used| self.vertex(used).order;
            let mut inputs = vertex.inputs.iter().map(|edge| self.edge(*edge).vertex);
            assert!(inputs.all(|used| order(used) < vertex.order), "{vertex:?}");
            let by = vertex.absorbed_by.map_or(0, order);
            assert!(by <= vertex.order, "{vertex:?}");
        }
    }
}

#[test]
fn builds_of_one_long_chain_at_once_look_at_each_step_a_few_times() {
    const LENGTH: usize = 150;
    for seed in 0..4 {
        let dice = &mut Dice::new(seed);
        let mut world = World::new(Disk::default());
        world.check_once = true;
        for name in ["a", "b", "c"] {
            let job = world.add_job();
            world.want(job, &chain(name, LENGTH), LENGTH - 1, 0);
        }
        world.settle(dice);
        assert_eq!(world.runs, LENGTH);
        let absorbed = world.log.iter().filter(|line| line.contains("Absorb"));
        assert!(absorbed.count() > LENGTH);
        let looks = world.core.looks.get();
        assert!(looks < 12 * LENGTH, "{looks}");
    }
}
