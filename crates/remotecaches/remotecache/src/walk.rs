//! All keys above those of a build's results, each once, in an order in which inputs come first.

use std::collections::HashMap;

use cachekeys::{Key, StoreId, Stores};
use oci::Digest;

use crate::collect::Root;

/// A key and where its inputs stand in the list.
pub(crate) struct Step {
    pub(crate) key: Key,
    /// For each input the ways it may be known: selector and place.
    pub(crate) inputs: Vec<Vec<(Option<Digest>, usize)>>,
}

/// The keys of some results.
pub(crate) struct Walk {
    pub(crate) steps: Vec<Step>,
    /// Which of them are the results' own.
    pub(crate) roots: Vec<usize>,
    /// All stores that know any of them.
    pub(crate) stores: Stores,
}

impl Walk {
    /// Follows the inputs of all roots. `None`: there are no roots.
    pub(crate) fn of(roots: &[Root]) -> Option<Self> {
        let mut stores = roots.first()?.stores.clone();
        for root in roots {
            for (id, store) in root.stores.iter() {
                if id != StoreId::MAIN && stores.by_id(id).is_none() {
                    stores.attach(id, store.clone());
                }
            }
        }
        let mut finder = Finder::default();
        let places = roots.iter().filter_map(|root| finder.follow(&root.key));
        let roots = places.collect();
        Some(Self {
            steps: finder.steps,
            roots,
            stores,
        })
    }
}

#[derive(Default)]
struct Finder {
    steps: Vec<Step>,
    /// By address; `None` while the inputs are being followed.
    places: HashMap<usize, Option<usize>>,
}

/// A way of an input: which, with what selector, to what.
type Way = (usize, Option<Digest>, Key);

fn ways(key: &Key) -> Vec<Way> {
    let inputs = key.inputs().iter().enumerate();
    let own = inputs.flat_map(|(input, ways)| ways.iter().map(move |way| (input, way.clone())));
    own.chain(key.secondary())
        .map(|(input, way)| (input, way.selector, way.key))
        .collect()
}

impl Finder {
    /// The place of `key`, after all above it have theirs.
    fn follow(&mut self, key: &Key) -> Option<usize> {
        // The keys hold each other, so no address is used twice while this runs.
        let mut stack: Vec<(Key, Vec<Way>, bool)> = vec![(key.clone(), ways(key), false)];
        while let Some((top, inputs, opened)) = stack.last_mut() {
            let address = top.address();
            if !*opened {
                *opened = true;
                if self.places.contains_key(&address) {
                    stack.pop();
                    continue;
                }
                self.places.insert(address, None);
                let known = |key: &Key| self.places.contains_key(&key.address());
                let new: Vec<_> = inputs
                    .iter()
                    .map(|(.., key)| key)
                    .filter(|key| !known(key))
                    .cloned()
                    .collect();
                stack.extend(new.into_iter().map(|key| {
                    let ways = ways(&key);
                    (key, ways, false)
                }));
                continue;
            }
            let Some((top, inputs, _)) = stack.pop() else {
                break;
            };
            self.place(top, inputs);
        }
        self.places.get(&key.address()).copied().flatten()
    }

    fn place(&mut self, key: Key, ways: Vec<Way>) {
        let mut inputs = vec![Vec::new(); key.inputs().len()];
        for (input, selector, way) in ways {
            // A way that leads back to where it came from has no place yet, and is left out.
            let place = self.places.get(&way.address()).copied().flatten();
            if let (Some(place), Some(ways)) = (place, inputs.get_mut(input)) {
                let entry = (selector, place);
                if !ways.contains(&entry) {
                    ways.push(entry);
                }
            }
        }
        self.places.insert(key.address(), Some(self.steps.len()));
        self.steps.push(Step { key, inputs });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cachekeys::{Alternative, Memory};

    use super::*;

    #[test]
    fn a_diamond_is_seen_once_and_inputs_come_first() {
        let way = |key: &Key| Alternative {
            key: key.clone(),
            selector: None,
        };
        let step = |name: &str, inputs: &[&Key]| {
            let inputs = inputs.iter().map(|key| vec![way(key)]).collect();
            Key::with_inputs(Digest::of(name), 0, inputs, None)
        };
        let base = Key::root(Digest::of("base"), 0);
        let (left, right) = (step("left", &[&base]), step("right", &[&base]));
        let top = step("top", &[&left, &right]);
        base.add_secondary(0, way(&top));
        let root = Root {
            key: top,
            stores: Stores::new(Arc::new(Memory::default())),
        };
        let walk = Walk::of(&[root]).expect("a walk");
        assert_eq!(walk.steps.len(), 4);
        for (place, step) in walk.steps.iter().enumerate() {
            let inputs = step.inputs.iter().flatten();
            assert!(inputs.into_iter().all(|(_, input)| *input < place));
        }
        assert_eq!(walk.roots, [3]);
    }

    #[test]
    fn a_hundred_thousand_keys_in_a_row_are_walked_without_recursion() {
        let mut key = Key::root(Digest::of("base"), 0);
        for _ in 0..100_000 {
            let way = Alternative {
                key,
                selector: None,
            };
            key = Key::with_inputs(Digest::of("step"), 0, vec![vec![way]], None);
        }
        let root = Root {
            key,
            stores: Stores::new(Arc::new(Memory::default())),
        };
        assert_eq!(Walk::of(&[root]).expect("a walk").steps.len(), 100_001);
    }
}
