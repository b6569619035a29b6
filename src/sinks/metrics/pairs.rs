//! How long things took, and what went wrong, by who used whose service.

use std::sync::Arc;

use foldhash::HashMap;

use super::budget::Numbers;
use super::ends::End;
use super::series::{Counter, ExtraLabels, PairKey, SeriesIndex, Timed};
use crate::bpf::{Measure, Sample};
use crate::config::Buckets;
use crate::flow::Flow;

/// Times by bucket.
#[derive(Clone, Debug, Default)]
pub(super) struct Histogram {
    /// One for each bucket; the last is above all bounds.
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

    /// Number of times.
    pub(super) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their sum.
    pub(super) fn sum_seconds(&self) -> f64 {
        self.sum_ns as f64 / 1e9
    }

    /// Each bound in nanoseconds, and how many times are not above it.
    pub(super) fn cumulative(&self, buckets: &Buckets) -> impl Iterator<Item = (u64, u64)> {
        let sums = self.counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        buckets.bounds_ns().iter().copied().zip(sums)
    }
}

/// What was counted of a pair.
#[derive(Clone, Debug, Default)]
pub(super) struct Counted<T> {
    pub(super) count: T,
    /// When it was counted last.
    last_ns: u64,
}

type ByPair<T> = HashMap<PairKey, Counted<T>>;

/// Sums of one worker, or of all.
#[derive(Clone, Debug)]
pub(super) struct Pairs {
    pub(super) buckets: Arc<Buckets>,
    pub(super) timed: [ByPair<Histogram>; 4],
    pub(super) counters: [ByPair<u64>; 3],
}

impl Pairs {
    /// Nothing yet.
    pub(super) fn new(buckets: Arc<Buckets>) -> Pairs {
        Pairs { buckets, timed: Default::default(), counters: Default::default() }
    }

    /// Starts counting times from zero, with other buckets.
    pub(super) fn set_buckets(&mut self, buckets: Arc<Buckets>) {
        self.buckets = buckets;
        self.timed = Default::default();
    }

    /// Counts what was measured of a flow between these ends.
    pub(super) fn measured(&mut self, index: &SeriesIndex, ends: (End, End), flow: &Flow, sample: Sample) {
        let (timed, extra) = match sample.measure {
            Measure::Connect => (Timed::Connect, ExtraLabels::Nothing),
            Measure::HandshakeClient => (Timed::Handshake, ExtraLabels::Side("client")),
            Measure::HandshakeServer => (Timed::Handshake, ExtraLabels::Side("server")),
            Measure::Rtt | Measure::RttLone | Measure::RttWaited | Measure::Echo => (Timed::Rtt, ExtraLabels::Nothing),
            Measure::Response => (Timed::Response, ExtraLabels::App(flow.app)),
        };
        let histograms = &mut self.timed[timed as usize];
        let buckets = &self.buckets;
        let record = |counted: &mut Counted<Histogram>| {
            counted.count.record(buckets, sample.ns);
            counted.last_ns = counted.last_ns.max(flow.last_ns());
        };
        let key = PairKey { ends: Some(ends), extra };
        if let Some(counted) = histograms.get_mut(&key) {
            return record(counted);
        }
        let empty = || Counted { count: Histogram::new(buckets), last_ns: 0 };
        record(histograms.entry(index.time_key(timed, key)).or_insert_with(empty));
    }

    /// Counts what went wrong between these ends, or how their flow ended.
    pub(super) fn count(&mut self, index: &SeriesIndex, ends: (End, End), flow: &Flow, counter: Counter, count: u64) {
        let extra = match (counter, flow.outcome) {
            (Counter::Ended, Some(outcome)) => {
                ExtraLabels::Ended { protocol: flow.protocol, direction: flow.direction, outcome }
            }
            _ => ExtraLabels::Nothing,
        };
        let counters = &mut self.counters[counter as usize];
        let add = |counted: &mut Counted<u64>| {
            counted.count += count;
            counted.last_ns = counted.last_ns.max(flow.last_ns());
        };
        let key = PairKey { ends: Some(ends), extra };
        match counters.get_mut(&key) {
            Some(counted) => add(counted),
            None => add(counters.entry(index.count_key(counter, key)).or_default()),
        }
    }

    /// Adds another worker's sums.
    pub(super) fn add(&mut self, other: &Pairs) {
        // While the buckets change, one worker may have the new ones already.
        let alike = self.buckets == other.buckets;
        for (sums, more) in self.timed.iter_mut().zip(&other.timed).filter(|_| alike) {
            for (key, counted) in more {
                sums.entry(key.clone()).or_default().count.add(&counted.count);
            }
        }
        for (sums, more) in self.counters.iter_mut().zip(&other.counters) {
            for (key, counted) in more {
                sums.entry(key.clone()).or_default().count += counted.count;
            }
        }
    }

    /// Drops what no worker has counted since `since_ns`.
    pub(super) fn expire(workers: &mut [&mut Pairs], index: &SeriesIndex, since_ns: u64) {
        for (i, numbers) in index.timed.iter().enumerate() {
            expire(
                &mut workers.iter_mut().map(|pairs| &mut pairs.timed[i]).collect::<Vec<_>>(),
                index,
                numbers,
                since_ns,
            );
        }
        for (i, numbers) in index.counters.iter().enumerate() {
            let mut of_workers: Vec<_> = workers.iter_mut().map(|pairs| &mut pairs.counters[i]).collect();
            expire(&mut of_workers, index, numbers, since_ns);
        }
    }
}

fn expire<T>(workers: &mut [&mut ByPair<T>], index: &SeriesIndex, numbers: &Numbers<PairKey>, since_ns: u64) {
    let mut last = HashMap::<PairKey, u64>::default();
    for (key, counted) in workers.iter().flat_map(|pairs| pairs.iter()).filter(|(key, _)| key.ends.is_some()) {
        let at = last.entry(key.clone()).or_default();
        *at = counted.last_ns.max(*at);
    }
    last.retain(|_, last_ns| *last_ns < since_ns);
    for pairs in workers {
        pairs.retain(|key, _| !last.contains_key(key));
        pairs.shrink_to(2 * pairs.len());
    }
    index.expire(numbers, last.keys());
}
