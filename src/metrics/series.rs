//! The series of `/metrics` whose labels come from packets. They are numbered once and for all, within a budget; what
//! exceeds it is counted in one series more, so that totals stay exact.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use foldhash::HashMap;

use crate::flow::Direction;

/// What distinguishes the series of bytes and packets: one direction of traffic between two addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeriesKey {
    /// IP protocol number.
    pub protocol: u8,
    /// Of the flow.
    pub direction: Direction,
    /// Sender.
    pub source: IpAddr,
    /// Receiver.
    pub destination: IpAddr,
}

/// The number of the series for all that has none of its own.
pub const OTHER: u32 = 0;

/// Metrics that have a series for each key: bytes and packets.
pub const METRICS: usize = 2;

/// Numbers the series.
#[derive(Debug)]
pub struct SeriesIndex {
    numbered: RwLock<Numbered>,
    keys_limit: usize,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct Numbered {
    numbers: HashMap<SeriesKey, u32>,
    /// Number 1 is the first.
    keys: Vec<SeriesKey>,
}

impl SeriesIndex {
    /// Room for `limit` series in all metrics together.
    pub fn new(limit: usize) -> SeriesIndex {
        SeriesIndex { numbered: RwLock::default(), keys_limit: limit / METRICS, refused: AtomicU64::new(0) }
    }

    /// The number of a key; [`OTHER`] once the budget is used up.
    pub fn number(&self, key: SeriesKey) -> u32 {
        let numbered = self.numbered.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(&number) = numbered.numbers.get(&key) {
            return number;
        }
        let full = numbered.keys.len() >= self.keys_limit;
        drop(numbered);
        if !full {
            let mut numbered = self.numbered.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(&number) = numbered.numbers.get(&key) {
                return number;
            }
            if numbered.keys.len() < self.keys_limit {
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
    pub fn keys(&self) -> Vec<SeriesKey> {
        self.numbered.read().unwrap_or_else(PoisonError::into_inner).keys.clone()
    }

    /// The budget, in series of all metrics.
    pub fn limit(&self) -> usize {
        self.keys_limit * METRICS
    }

    /// How often a flow's direction found no series of its own.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(i: u32) -> SeriesKey {
        let source = IpAddr::from(i.to_be_bytes());
        SeriesKey { protocol: 6, direction: Direction::Egress, source, destination: source }
    }

    #[test]
    fn numbers_are_stable_and_bounded() {
        let index = SeriesIndex::new(20);
        let first: Vec<u32> = (0..10).map(|i| index.number(key(i))).collect();
        assert_eq!(first, (1..=10).collect::<Vec<u32>>());
        assert_eq!(index.number(key(10)), OTHER);
        assert_eq!(index.number(key(3)), 4, "known keys keep theirs");
        assert_eq!((index.refused(), index.keys().len()), (1, 10));
    }
}
