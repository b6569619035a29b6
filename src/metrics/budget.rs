//! The series of all metrics whose labels come from packets share one budget. What finds it used up is counted in a series
//! `other` of its metric, so that totals stay exact.

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

    /// Takes `lines`, all or none; what is taken is never given back.
    fn take(&self, lines: usize) -> bool {
        let more = |used: usize| used.checked_add(lines).filter(|sum| *sum <= self.limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
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
}

#[derive(Debug)]
struct Numbered<K> {
    numbers: HashMap<K, u32>,
    keys: Vec<K>,
}

/// The number of the series for all that has none of its own.
pub(super) const OTHER: u32 = 0;

impl<K: Copy + Eq + Hash> Numbers<K> {
    /// For keys that take so many lines each.
    pub(super) fn new(lines: usize) -> Numbers<K> {
        let numbered = RwLock::new(Numbered { numbers: HashMap::new(), keys: Vec::new() });
        Numbers { lines: AtomicUsize::new(lines), numbered, refused: AtomicU64::new(0) }
    }

    /// From now on each key takes so many lines.
    pub(super) fn set_lines(&self, lines: usize, budget: &Budget) {
        let numbered = self.numbered.write().unwrap_or_else(PoisonError::into_inner);
        let before = self.lines.swap(lines, Ordering::Relaxed);
        let keys = numbered.keys.len();
        if lines > before {
            budget.used.fetch_add((lines - before) * keys, Ordering::Relaxed);
        } else {
            budget.used.fetch_sub((before - lines) * keys, Ordering::Relaxed);
        }
    }

    /// The number of a key; [`OTHER`] if there is no room for it.
    pub(super) fn number(&self, key: K, budget: &Budget) -> u32 {
        let numbered = self.numbered.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(&number) = numbered.numbers.get(&key) {
            return number;
        }
        drop(numbered);
        // Full for good: nobody is to wait for the writers' lock then.
        let lines = self.lines.load(Ordering::Relaxed);
        if budget.used.load(Ordering::Relaxed) + lines <= budget.limit {
            let mut numbered = self.numbered.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(&number) = numbered.numbers.get(&key) {
                return number;
            }
            let lines = self.lines.load(Ordering::Relaxed);
            if budget.take(lines) {
                numbered.keys.push(key);
                let number = numbered.keys.len() as u32;
                numbered.numbers.insert(key, number);
                return number;
            }
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        OTHER
    }

    /// The keys in the order of their numbers, from 1 on.
    pub(super) fn keys(&self) -> Vec<K> {
        self.numbered.read().unwrap_or_else(PoisonError::into_inner).keys.clone()
    }

    /// Keys that have a number.
    pub(super) fn len(&self) -> usize {
        self.numbered.read().unwrap_or_else(PoisonError::into_inner).keys.len()
    }

    /// Lines that these take.
    pub(super) fn lines(&self) -> usize {
        self.len() * self.lines.load(Ordering::Relaxed)
    }

    /// How often a key found no room.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_stable_and_share_the_budget() {
        let budget = Budget::new(22);
        let (pairs, histograms) = (Numbers::<u32>::new(2), Numbers::<u32>::new(5));
        assert_eq!([7, 8, 7].map(|key| pairs.number(key, &budget)), [1, 2, 1]);
        assert_eq!([7, 8, 9].map(|key| histograms.number(key, &budget)), [1, 2, 3]);
        // Three lines are left: enough for one, not for the other.
        assert_eq!(histograms.number(10, &budget), OTHER);
        assert_eq!((pairs.number(9, &budget), pairs.number(10, &budget)), (3, OTHER));
        assert_eq!((pairs.number(8, &budget), histograms.number(9, &budget)), (2, 3), "known keys keep theirs");
        assert_eq!((pairs.refused(), histograms.refused()), (1, 1));
        assert_eq!((pairs.keys(), histograms.keys()), (vec![7, 8, 9], vec![7, 8, 9]));
    }
}
