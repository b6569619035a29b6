//! How long things took, and what went wrong, by who used whose service.

use std::sync::Arc;

use foldhash::HashMap;

use super::series::{More, PairKey, SeriesIndex, Timed, Trouble};
use crate::bpf::{Measure, Sample};
use crate::config::Buckets;
use crate::flow::Flow;

/// How often something took so long.
#[derive(Clone, Debug, Default)]
pub(super) struct Histogram {
    /// One a bucket; the last is above all bounds.
    counts: Box<[u64]>,
    /// Nanoseconds: five centuries of waiting fit.
    sum_ns: u64,
}

impl Histogram {
    fn new(buckets: &Buckets) -> Histogram {
        Histogram { counts: vec![0; buckets.bounds_ns().len() + 1].into(), sum_ns: 0 }
    }

    fn record(&mut self, buckets: &Buckets, ns: u64) {
        let bucket = buckets.bounds_ns().partition_point(|bound| *bound < ns);
        self.counts[bucket] += 1;
        self.sum_ns += ns;
    }

    fn add(&mut self, other: &Histogram) {
        if self.counts.is_empty() {
            self.counts = other.counts.clone();
        } else {
            self.counts.iter_mut().zip(&other.counts).for_each(|(sum, more)| *sum += more);
        }
        self.sum_ns += other.sum_ns;
    }

    /// How often at all.
    pub(super) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All times together.
    pub(super) fn sum_seconds(&self) -> f64 {
        self.sum_ns as f64 / 1e9
    }

    /// Each bound in nanoseconds, and how often it took no longer.
    pub(super) fn cumulative(&self, buckets: &Buckets) -> impl Iterator<Item = (u64, u64)> {
        let sums = self.counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        buckets.bounds_ns().iter().copied().zip(sums)
    }
}

/// Sums of one worker, or of all.
#[derive(Clone, Debug)]
pub(super) struct Pairs {
    pub(super) buckets: Arc<Buckets>,
    pub(super) timed: [HashMap<PairKey, Histogram>; 4],
    pub(super) troubles: [HashMap<PairKey, u64>; 2],
}

impl Pairs {
    /// Nothing yet.
    pub(super) fn new(buckets: Arc<Buckets>) -> Pairs {
        Pairs { buckets, timed: Default::default(), troubles: Default::default() }
    }

    /// Begins to count times anew, with other buckets.
    pub(super) fn set_buckets(&mut self, buckets: Arc<Buckets>) {
        self.buckets = buckets;
        self.timed = Default::default();
    }

    /// Counts what was measured of a flow.
    pub(super) fn measured(&mut self, index: &SeriesIndex, flow: &Flow, sample: Sample) {
        let (timed, more) = match sample.measure {
            Measure::Connect => (Timed::Connect, More::Nothing),
            Measure::HandshakeClient => (Timed::Handshake, More::Side("client")),
            Measure::HandshakeServer => (Timed::Handshake, More::Side("server")),
            Measure::Rtt | Measure::RttLone | Measure::Echo => (Timed::Rtt, More::Nothing),
            Measure::Response => (Timed::Response, More::App(flow.app)),
        };
        let histograms = &mut self.timed[timed as usize];
        let mut key = PairKey::of(flow, more);
        if !histograms.contains_key(&key) {
            key = index.timed(timed, key);
        }
        let buckets = &self.buckets;
        histograms.entry(key).or_insert_with(|| Histogram::new(buckets)).record(buckets, sample.ns);
    }

    /// Counts what went wrong.
    pub(super) fn trouble(&mut self, index: &SeriesIndex, flow: &Flow, trouble: Trouble, count: u64) {
        if count == 0 {
            return;
        }
        let counters = &mut self.troubles[trouble as usize];
        let mut key = PairKey::of(flow, More::Nothing);
        if !counters.contains_key(&key) {
            key = index.trouble(trouble, key);
        }
        *counters.entry(key).or_default() += count;
    }

    /// Adds another worker's sums.
    pub(super) fn add(&mut self, other: &Pairs) {
        // While they change, one worker has begun anew already.
        let alike = self.buckets == other.buckets;
        for (sums, more) in self.timed.iter_mut().zip(&other.timed).filter(|_| alike) {
            for (key, histogram) in more {
                sums.entry(*key).or_default().add(histogram);
            }
        }
        for (sums, more) in self.troubles.iter_mut().zip(&other.troubles) {
            for (key, count) in more {
                *sums.entry(*key).or_default() += count;
            }
        }
    }
}
