//! The series of `/metrics` whose labels come from packets, and what distinguishes them.

use std::sync::{Arc, Mutex};

use super::budget::{Budget, Numbers, OTHER};
use super::ends::{End, Identification};
use crate::bpf::App;
use crate::config::Buckets;
use crate::flow::{Direction, Outcome};
use crate::lock;

/// What distinguishes the series of bytes and packets: one direction of traffic between two ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SeriesKey {
    /// IP protocol number.
    pub(super) protocol: u8,
    /// The flow's direction.
    pub(super) direction: Direction,
    /// Sender.
    pub(super) source: End,
    /// Receiver.
    pub(super) destination: End,
    /// The application protocol, once it is known.
    pub(super) app: Option<App>,
}

/// What distinguishes the series of times, troubles and outcomes: who used whose service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PairKey {
    /// Client and server; `None`: all pairs that have no series of their own.
    pub(super) ends: Option<(End, End)>,
    pub(super) extra: ExtraLabels,
}

/// The labels that a metric has besides those of the pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum ExtraLabels {
    Nothing,
    Side(&'static str),
    App(Option<App>),
    Ended { protocol: u8, direction: Direction, outcome: Outcome },
}

/// Histograms by pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timed {
    Connect,
    Handshake,
    Rtt,
    Response,
}

/// Counters by pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counter {
    Retransmits,
    Resets,
    Ended,
}

/// Names of the metrics, in the order of [`Timed`] and [`Counter`].
pub(super) const TIMED: [&str; 4] =
    ["netmon_latency_seconds", "netmon_handshake_seconds", "netmon_rtt_seconds", "netmon_response_seconds"];
pub(super) const COUNTERS: [&str; 3] = ["netmon_retransmits_total", "netmon_resets_total", "netmon_flows_total"];
/// Metrics that have a series for each [`SeriesKey`].
const TRAFFIC: [&str; 2] = ["netmon_bytes_total", "netmon_packets_total"];

/// What a metric takes of the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinesUsed {
    /// The metric's name.
    pub(super) metric: &'static str,
    /// Lines in use.
    pub(super) lines: usize,
    /// Times something found no room.
    pub(super) refused: u64,
    /// Series that have expired.
    pub(super) expired: u64,
}

/// Which series there are, by their numbers.
#[derive(Clone, Debug, Default)]
pub struct Keys(Vec<Option<SeriesKey>>);

impl Keys {
    /// The key with this number.
    pub(super) fn get(&self, number: usize) -> Option<&SeriesKey> {
        self.0.get(number.checked_sub(1)?)?.as_ref()
    }
}

/// Which keys have series, within one budget for all.
#[derive(Debug)]
pub struct SeriesIndex {
    budget: Budget,
    buckets: Mutex<Arc<Buckets>>,
    identification: Mutex<Identification>,
    pub(super) traffic: Numbers<SeriesKey>,
    pub(super) timed: [Numbers<PairKey>; 4],
    pub(super) counters: [Numbers<PairKey>; 3],
}

impl SeriesIndex {
    /// Room for `limit` lines in all metrics together, those of histograms with `buckets` included.
    pub fn new(limit: usize, buckets: Buckets, identification: Identification) -> SeriesIndex {
        let lines = lines_of(&buckets);
        SeriesIndex {
            budget: Budget::new(limit),
            buckets: Mutex::new(Arc::new(buckets)),
            identification: Mutex::new(identification),
            traffic: Numbers::new(TRAFFIC.len()),
            timed: TIMED.map(|_| Numbers::new(lines)),
            counters: COUNTERS.map(|_| Numbers::new(1)),
        }
    }

    /// Bounds of the histograms that are made from now on.
    pub(super) fn buckets(&self) -> Arc<Buckets> {
        Arc::clone(&lock::ignoring_poison(&self.buckets))
    }

    /// From now on histograms have these buckets. If they need more of the budget, they get it even if it is used up.
    pub fn set_buckets(&self, buckets: Buckets) {
        for numbers in &self.timed {
            numbers.set_lines(lines_of(&buckets), &self.budget);
        }
        *lock::ignoring_poison(&self.buckets) = Arc::new(buckets);
    }

    /// How ends are identified.
    pub fn identification(&self) -> Identification {
        lock::ignoring_poison(&self.identification).clone()
    }

    pub(super) fn set_identification(&self, identification: Identification) {
        *lock::ignoring_poison(&self.identification) = identification;
    }

    /// Which series of traffic there are.
    pub fn keys(&self) -> Keys {
        Keys(self.traffic.keys())
    }

    /// The number of a direction of traffic; [`OTHER`] if there is no room for it.
    pub(super) fn number(&self, key: &SeriesKey) -> u32 {
        self.traffic.number(key, &self.budget)
    }

    /// The key to count a time under: its own, or that of all others.
    pub(super) fn time_key(&self, timed: Timed, key: PairKey) -> PairKey {
        admitted(&self.timed[timed as usize], key, &self.budget)
    }

    /// The key to count something under: its own, or that of all others.
    pub(super) fn count_key(&self, counter: Counter, key: PairKey) -> PairKey {
        admitted(&self.counters[counter as usize], key, &self.budget)
    }

    /// These have expired.
    pub(super) fn expire<'a, K: Clone + Eq + std::hash::Hash + 'a>(
        &self,
        numbers: &Numbers<K>,
        keys: impl IntoIterator<Item = &'a K>,
    ) {
        numbers.expire(keys, &self.budget);
    }

    /// Lines that all metrics together may have.
    pub fn limit(&self) -> usize {
        self.budget.limit()
    }

    /// What each metric takes of the budget.
    pub(super) fn lines_used(&self) -> Vec<LinesUsed> {
        let traffic = TRAFFIC.iter().map(|metric| {
            let traffic = &self.traffic;
            LinesUsed { metric, lines: traffic.len(), refused: traffic.refused(), expired: traffic.expired() }
        });
        let pairs = TIMED.iter().zip(&self.timed).chain(COUNTERS.iter().zip(&self.counters));
        let pairs = pairs.map(|(metric, numbers)| LinesUsed {
            metric,
            lines: numbers.lines(),
            refused: numbers.refused(),
            expired: numbers.expired(),
        });
        traffic.chain(pairs).collect()
    }
}

/// Besides its bounds, a histogram has a bucket for what is above them, a sum and a count.
fn lines_of(buckets: &Buckets) -> usize {
    buckets.bounds_ns().len() + 3
}

fn admitted(numbers: &Numbers<PairKey>, key: PairKey, budget: &Budget) -> PairKey {
    match numbers.number(&key, budget) {
        OTHER => PairKey { ends: None, ..key },
        _ => key,
    }
}
