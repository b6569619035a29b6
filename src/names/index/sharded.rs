//! A hash map split into parts. A copy shares the parts that have not changed.

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// Number of parts. A change copies one part (200 of 50,000 entries) and the pointers of all parts.
const PARTS: usize = 256;

type Part<K, V> = Arc<HashTable<(K, V)>>;

/// A map that is cheap to copy; changing a copy does not affect the original. Values should be cheap to clone.
#[derive(Clone, Debug)]
pub(in crate::names) struct Sharded<K, V> {
    parts: Arc<[Part<K, V>]>,
    hasher: RandomState,
    len: usize,
}

impl<K, V> Default for Sharded<K, V> {
    fn default() -> Self {
        let empty = Arc::new(HashTable::new());
        Sharded { parts: vec![empty; PARTS].into(), hasher: RandomState::default(), len: 0 }
    }
}

/// Chooses the part from the middle bits, because the table within a part uses the lowest bits and the highest seven.
fn part(hash: u64) -> usize {
    (hash >> 40) as usize % PARTS
}

impl<K: Hash + Eq, V> Sharded<K, V> {
    pub(in crate::names) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let hash = self.hasher.hash_one(key);
        self.parts[part(hash)].find(hash, |(there, _)| there.borrow() == key).map(|(_, value)| value)
    }

    pub(in crate::names) fn len(&self) -> usize {
        self.len
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Sharded<K, V> {
    /// Replaces the value of `key` by what `change` returns for the existing one.
    pub(in crate::names) fn alter(&mut self, key: &K, change: impl FnOnce(Option<V>) -> Option<V>) {
        let hash = self.hasher.hash_one(key);
        let table = Arc::make_mut(&mut Arc::make_mut(&mut self.parts)[part(hash)]);
        let hasher = &self.hasher;
        match table.entry(hash, |(there, _)| there == key, |(there, _)| hasher.hash_one(there)) {
            Entry::Occupied(entry) => {
                let ((key, value), vacant) = entry.remove();
                match change(Some(value)) {
                    Some(value) => drop(vacant.insert((key, value))),
                    None => self.len -= 1,
                }
            }
            Entry::Vacant(entry) => {
                if let Some(value) = change(None) {
                    entry.insert((key.clone(), value));
                    self.len += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_stays_as_it_was() {
        let mut map = Sharded::<u32, u32>::default();
        for i in 0..5_000 {
            map.alter(&i, |old| {
                assert_eq!(old, None);
                Some(i)
            });
        }
        let before = map.clone();
        for i in 0..5_000 {
            map.alter(&i, |old| old.filter(|value| value % 2 == 0).map(|value| value + 1));
        }
        for i in 0..5_000 {
            assert_eq!(before.get(&i), Some(&i));
            assert_eq!(map.get(&i).copied(), (i % 2 == 0).then_some(i + 1));
        }
        assert_eq!((before.len(), map.len()), (5_000, 2_500));
        assert_eq!(map.get(&5_000), None);
    }

    #[test]
    fn a_change_copies_one_part() {
        let mut map = Sharded::<u32, u32>::default();
        for i in 0..5_000 {
            map.alter(&i, |_| Some(i));
        }
        let before = map.clone();
        map.alter(&7, |_| Some(8));
        let shared = before.parts.iter().zip(map.parts.iter()).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert_eq!(shared, PARTS - 1);
    }
}
