//! Things that are named by numbers which are never used twice.

/// A growing table with holes. A name is the place in the table and how often the place was used before.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    items: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            free: Vec::new(),
        }
    }
}

fn split(name: u64) -> (usize, u32) {
    ((name & u64::from(u32::MAX)) as usize, (name >> 32) as u32)
}

impl<T> Slab<T> {
    pub(crate) fn insert(&mut self, item: T) -> u64 {
        if let Some(at) = self.free.pop() {
            let place = &mut self.items[at as usize];
            place.1 = Some(item);
            return u64::from(at) | u64::from(place.0) << 32;
        }
        self.items.push((0, Some(item)));
        self.items.len() as u64 - 1
    }

    pub(crate) fn remove(&mut self, name: u64) -> Option<T> {
        let (at, age) = split(name);
        let place = self.items.get_mut(at).filter(|place| place.0 == age)?;
        let item = place.1.take()?;
        place.0 = place.0.wrapping_add(1);
        self.free.push(at as u32);
        Some(item)
    }

    pub(crate) fn get(&self, name: u64) -> Option<&T> {
        let (at, age) = split(name);
        self.items
            .get(at)
            .filter(|place| place.0 == age)?
            .1
            .as_ref()
    }

    pub(crate) fn get_mut(&mut self, name: u64) -> Option<&mut T> {
        let (at, age) = split(name);
        self.items
            .get_mut(at)
            .filter(|place| place.0 == age)?
            .1
            .as_mut()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.items.iter().filter_map(|(_, item)| item.as_ref())
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.items.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_name_does_not_name_what_came_later() {
        let mut slab = Slab::default();
        let old = slab.insert('a');
        assert_eq!(slab.remove(old), Some('a'));
        let new = slab.insert('b');
        assert_ne!(old, new);
        assert_eq!(
            (slab.get(old), slab.get(new), slab.len()),
            (None, Some(&'b'), 1)
        );
        assert_eq!(slab.remove(old), None);
    }
}
