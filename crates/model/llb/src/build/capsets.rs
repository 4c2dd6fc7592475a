//! Capabilities that ops need.

use proto::pb;

/// Sets of capabilities, each made once: few differ.
#[derive(Default)]
pub(super) struct CapSets(Vec<(Box<[&'static str]>, pb::SmallMap<bool>)>);

impl CapSets {
    pub(super) fn get(&mut self, caps: &[&'static str]) -> pb::SmallMap<bool> {
        if let Some((_, set)) = self.0.iter().find(|(known, _)| **known == *caps) {
            return set.clone();
        }
        let set: pb::SmallMap<bool> = caps.iter().map(|cap| (*cap, true)).collect();
        self.0.push((caps.into(), set.clone()));
        set
    }
}
