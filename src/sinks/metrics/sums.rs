//! The sums of one worker, or of all of them together.

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};

use super::aggregates::Accounted;
use super::pairs::Pairs;
use super::series::Counter;
use crate::bpf::Tally;
use crate::config::Buckets;
use crate::flow::{ErrorKind, Outcome};

/// Sums of a series of traffic.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Line {
    pub(super) tally: Tally,
    /// Directions of flows that are counted in it now.
    pub(super) flows: u32,
    /// Time of the last packet of directions that no longer are.
    pub(super) last_ns: u64,
}

/// Sums over everything that was seen. They only grow, except that series expire.
#[derive(Clone, Debug)]
pub struct Sums {
    /// By number of series.
    pub(super) series: Vec<Line>,
    /// Sums of the series that have expired.
    pub(super) expired: Tally,
    pub(super) pairs: Pairs,
    /// Flows whose outcome is known.
    ended: HashMap<Outcome, u64>,
    /// ICMP errors, one for each flow and kind.
    pub(super) errors: HashMap<ErrorKind, u64>,
    /// By interface index; 0 stands for interfaces that are gone.
    pub(super) interfaces: HashMap<u32, Accounted>,
    pub(super) evicted: u64,
    /// Flows counted before it was settled what they are.
    pub(super) hurried: u64,
    pub(super) records: u64,
    pub(super) undecodable: u64,
    /// Flows with an end that got no name in time.
    pub(super) nameless: u64,
}

impl Sums {
    /// Nothing yet.
    pub fn new(buckets: Arc<Buckets>) -> Sums {
        Sums {
            series: Vec::new(),
            expired: Tally::default(),
            pairs: Pairs::new(buckets),
            ended: HashMap::new(),
            errors: HashMap::new(),
            interfaces: HashMap::new(),
            evicted: 0,
            hurried: 0,
            records: 0,
            undecodable: 0,
            nameless: 0,
        }
    }

    /// Flows that were evicted for lack of room.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Records taken from the rings.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Pieces in the rings that were no records.
    pub fn undecodable(&self) -> u64 {
        self.undecodable
    }

    /// Flows whose outcome is known, by outcome.
    pub fn ended(&self) -> impl Iterator<Item = (Outcome, u64)> {
        self.ended.iter().map(|(&outcome, &count)| (outcome, count))
    }

    pub(super) fn count_ended(&mut self, outcome: Outcome) {
        *self.ended.entry(outcome).or_default() += 1;
    }

    /// Flows whose outcome is known and whose series has expired.
    pub(super) fn expired_flows(&self) -> u64 {
        let there: u64 = self.pairs.counters[Counter::Ended as usize].values().map(|counted| counted.count).sum();
        self.ended_flows().saturating_sub(there)
    }

    /// Flows whose outcome is known.
    pub fn ended_flows(&self) -> u64 {
        self.ended.values().sum()
    }

    /// By interface index.
    pub fn interfaces(&self) -> &HashMap<u32, Accounted> {
        &self.interfaces
    }

    /// Adds another worker's sums.
    pub fn add(&mut self, other: &Sums) {
        if self.series.len() < other.series.len() {
            self.series.resize(other.series.len(), Line::default());
        }
        for (sum, more) in self.series.iter_mut().zip(&other.series) {
            sum.tally += more.tally;
        }
        self.expired += other.expired;
        self.pairs.add(&other.pairs);
        for (&key, count) in &other.ended {
            *self.ended.entry(key).or_default() += count;
        }
        for (&kind, count) in &other.errors {
            *self.errors.entry(kind).or_default() += count;
        }
        for (&ifindex, more) in &other.interfaces {
            *self.interfaces.entry(ifindex).or_default() += *more;
        }
        self.evicted += other.evicted;
        self.hurried += other.hurried;
        self.records += other.records;
        self.undecodable += other.undecodable;
        self.nameless += other.nameless;
    }
}
