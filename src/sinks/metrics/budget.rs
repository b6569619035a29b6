//! The series of all metrics whose labels come from packets share one budget. Once it is used up, new keys are counted in the series
//! `other` of their metric, so that totals stay exact.

use std::hash::Hash;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};

use foldhash::{HashMap, HashMapExt};

/// Lines of `/metrics` that may be used.
#[derive(Debug)]
pub(super) struct Budget {
    limit: usize,
    used: AtomicUsize,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Budget {
        Budget { limit, used: AtomicUsize::new(0) }
    }

    /// Takes `lines`, all or none.
    fn take(&self, lines: usize) -> bool {
        let more = |used: usize| used.checked_add(lines).filter(|sum| *sum <= self.limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn give_back(&self, lines: usize) {
        self.used.fetch_sub(lines, Ordering::Relaxed);
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }
}

/// The keys that have a series, numbered from 1 on.
#[derive(Debug)]
pub(super) struct Numbers<K> {
    lines: AtomicUsize,
    numbered: RwLock<Numbered<K>>,
    refused: AtomicU64,
    expired: AtomicU64,
}

#[derive(Debug)]
struct Numbered<K> {
    numbers: HashMap<K, u32>,
    /// In the order of their numbers. `None`: the number is free.
    keys: Vec<Option<K>>,
    free: Vec<u32>,
}

/// The number of the series for all keys that have none of their own.
pub(super) const OTHER: u32 = 0;

impl<K: Clone + Eq + Hash> Numbers<K> {
    /// No keys yet; each will take `lines` lines of the budget.
    pub(super) fn new(lines: usize) -> Numbers<K> {
        let numbered = RwLock::new(Numbered { numbers: HashMap::new(), keys: Vec::new(), free: Vec::new() });
        let [refused, expired] = [(); 2].map(|()| AtomicU64::new(0));
        Numbers { lines: AtomicUsize::new(lines), numbered, refused, expired }
    }

    /// From now on each key takes `lines` lines.
    pub(super) fn set_lines(&self, lines: usize, budget: &Budget) {
        let numbered = self.numbered.write().unwrap_or_else(PoisonError::into_inner);
        let before = self.lines.swap(lines, Ordering::Relaxed);
        let keys = numbered.numbers.len();
        if lines > before {
            budget.used.fetch_add((lines - before) * keys, Ordering::Relaxed);
        } else {
            budget.give_back((before - lines) * keys);
        }
    }

    /// The number of a key; [`OTHER`] if there is no room for it.
    pub(super) fn number(&self, key: &K, budget: &Budget) -> u32 {
        let numbered = self.numbered.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(&number) = numbered.numbers.get(key) {
            return number;
        }
        drop(numbered);
        // While the budget is used up, nobody has to wait for the write lock.
        let lines = self.lines.load(Ordering::Relaxed);
        if budget.used.load(Ordering::Relaxed) + lines <= budget.limit {
            let mut numbered = self.numbered.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(&number) = numbered.numbers.get(key) {
                return number;
            }
            let lines = self.lines.load(Ordering::Relaxed);
            if budget.take(lines) {
                return numbered.add(key.clone());
            }
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        OTHER
    }

    /// Removes these keys, which have expired.
    pub(super) fn expire<'a>(&self, keys: impl IntoIterator<Item = &'a K>, budget: &Budget)
    where
        K: 'a,
    {
        let mut numbered = self.numbered.write().unwrap_or_else(PoisonError::into_inner);
        let count = keys.into_iter().filter(|key| numbered.remove(key)).count();
        numbered.cut();
        budget.give_back(count * self.lines.load(Ordering::Relaxed));
        self.expired.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// The keys in the order of their numbers, from 1 on.
    pub(super) fn keys(&self) -> Vec<Option<K>> {
        self.numbered.read().unwrap_or_else(PoisonError::into_inner).keys.clone()
    }

    /// The highest number there is; [`OTHER`] if there is none.
    pub(super) fn last(&self) -> usize {
        self.numbered.read().unwrap_or_else(PoisonError::into_inner).keys.len()
    }

    /// Keys that have a number.
    pub(super) fn len(&self) -> usize {
        self.numbered.read().unwrap_or_else(PoisonError::into_inner).numbers.len()
    }

    /// Lines that the keys take.
    pub(super) fn lines(&self) -> usize {
        self.len() * self.lines.load(Ordering::Relaxed)
    }

    /// Times a key found no room.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Keys that have expired.
    pub(super) fn expired(&self) -> u64 {
        self.expired.load(Ordering::Relaxed)
    }
}

impl<K: Clone + Eq + Hash> Numbered<K> {
    fn add(&mut self, key: K) -> u32 {
        let number = match self.free.pop() {
            Some(number) => {
                self.keys[number as usize - 1] = Some(key.clone());
                number
            }
            None => {
                self.keys.push(Some(key.clone()));
                self.keys.len() as u32
            }
        };
        self.numbers.insert(key, number);
        number
    }

    /// Frees the memory of keys that have been removed.
    fn cut(&mut self) {
        let used = self.keys.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        self.keys.truncate(used);
        self.free.retain(|number| *number as usize <= used);
        self.keys.shrink_to(2 * used);
        self.free.shrink_to(2 * self.free.len());
        self.numbers.shrink_to(2 * self.numbers.len());
    }

    fn remove(&mut self, key: &K) -> bool {
        let Some(number) = self.numbers.remove(key) else { return false };
        self.keys[number as usize - 1] = None;
        self.free.push(number);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_stable_and_share_the_budget() {
        let budget = Budget::new(22);
        let (pairs, histograms) = (Numbers::<u32>::new(2), Numbers::<u32>::new(5));
        assert_eq!([7, 8, 7].map(|key| pairs.number(&key, &budget)), [1, 2, 1]);
        assert_eq!([7, 8, 9].map(|key| histograms.number(&key, &budget)), [1, 2, 3]);
        // Three lines are left: enough for one, not for the other.
        assert_eq!(histograms.number(&10, &budget), OTHER);
        assert_eq!((pairs.number(&9, &budget), pairs.number(&10, &budget)), (3, OTHER));
        assert_eq!((pairs.number(&8, &budget), histograms.number(&9, &budget)), (2, 3), "known keys keep theirs");
        assert_eq!((pairs.refused(), histograms.refused()), (1, 1));
        let all = [7, 8, 9].map(Some).to_vec();
        assert_eq!((pairs.keys(), histograms.keys()), (all.clone(), all));
    }

    #[test]
    fn what_leaves_makes_room() {
        let budget = Budget::new(6);
        let pairs = Numbers::<u32>::new(2);
        assert_eq!([1, 2, 3, 4].map(|key| pairs.number(&key, &budget)), [1, 2, 3, OTHER]);
        pairs.expire([&2, &7], &budget);
        assert_eq!((pairs.len(), pairs.lines(), pairs.expired()), (2, 4, 1));
        assert_eq!(pairs.keys(), [Some(1), None, Some(3)]);
        assert_eq!(
            [4, 5, 2].map(|key| pairs.number(&key, &budget)),
            [2, OTHER, OTHER],
            "the key takes the free number"
        );
        assert_eq!(pairs.number(&3, &budget), 3, "others keep theirs");
    }
}
