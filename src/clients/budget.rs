//! The memory that all clients hold together: answers that they have yet to read, and what is needed to make answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes they may hold if nothing bounds the agent's memory, and at most.
const MOST: usize = 64 << 20;
/// If the agent's memory is bounded, clients may hold this fraction (one in so many) of it: less than flows leave free.
const PART: u64 = 8;

/// How many bytes may be held, and how many are.
#[derive(Debug)]
pub struct Budget {
    most: AtomicUsize,
    held: AtomicUsize,
    peak: AtomicUsize,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget::new(MOST)
    }
}

impl Budget {
    /// A budget of `most` bytes.
    pub fn new(most: usize) -> Budget {
        Budget { most: AtomicUsize::new(most), held: AtomicUsize::new(0), peak: AtomicUsize::new(0) }
    }

    /// Adapts the bound to the agent's own memory limit, in bytes, if it has one.
    pub fn fit(&self, memory_limit: Option<u64>) {
        let most = memory_limit.map_or(MOST, |limit| MOST.min((limit / PART) as usize));
        self.most.store(most, Relaxed);
    }

    /// Bytes that may be held.
    pub fn most(&self) -> usize {
        self.most.load(Relaxed)
    }

    /// The most bytes that were held at a time, at most the bound: memory that is given back may stay with the process.
    pub fn peak(&self) -> usize {
        self.peak.load(Relaxed).min(self.most())
    }

    /// Takes `bytes`, if there is room for them.
    pub fn take(self: &Arc<Self>, bytes: usize) -> Option<Share> {
        let mut share = Share { budget: Arc::clone(self), bytes: 0 };
        share.grow(bytes).then_some(share)
    }

    /// Takes `bytes`, whether there is room or not: for what every client takes, whose number is bounded.
    pub fn hold(self: &Arc<Self>, bytes: usize) -> Share {
        self.add(bytes);
        Share { budget: Arc::clone(self), bytes }
    }

    fn add(&self, bytes: usize) -> usize {
        let held = self.held.fetch_add(bytes, Relaxed) + bytes;
        self.peak.fetch_max(held, Relaxed);
        held
    }
}

/// What one client holds; given back with the value.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Share {
    /// Its size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes `bytes` more. False: there is no room.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let fits = |held: usize| held.checked_add(bytes).filter(|held| *held <= self.budget.most());
        let grown = self.budget.held.fetch_update(Relaxed, Relaxed, fits).map(|held| held + bytes);
        if let Ok(held) = grown {
            self.budget.peak.fetch_max(held, Relaxed);
            self.bytes += bytes;
        }
        grown.is_ok()
    }

    /// Gives back what exceeds `to` bytes.
    pub fn shrink(&mut self, to: usize) {
        let less = self.bytes.saturating_sub(to);
        self.budget.held.fetch_sub(less, Relaxed);
        self.bytes -= less;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_given_back_and_none_exceeds_the_bound() {
        let budget = Arc::new(Budget::new(100));
        let mut one = budget.take(60).unwrap();
        assert!(budget.take(41).is_none());
        assert!(!one.grow(41) && one.grow(40));
        assert!(budget.take(1).is_none());
        one.shrink(10);
        let other = budget.take(90).unwrap();
        drop(one);
        assert!(budget.take(11).is_none() && budget.take(10).is_some());
        drop(other);
        assert_eq!(budget.held.load(Relaxed), 0);
        let held = budget.hold(1000);
        assert!(budget.take(1).is_none());
        drop(held);
        assert!(budget.take(100).is_some());
        assert_eq!(budget.peak(), 100, "if the bound was exceeded, the peak is the bound");
    }

    #[test]
    fn it_is_a_part_of_the_agent_s_memory() {
        let budget = Budget::default();
        for (limit, most) in [(None, MOST), (Some(96 << 20), 12 << 20), (Some(1 << 40), MOST)] {
            budget.fit(limit);
            assert_eq!(budget.most(), most);
        }
    }
}
