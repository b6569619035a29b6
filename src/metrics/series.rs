//! The series of `/metrics` whose labels come from packets, and what tells them from each other.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::budget::{Budget, Numbers};
use crate::bpf::App;
use crate::config::Buckets;
use crate::flow::{Direction, Flow};

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
    /// What the flow speaks, once that is known.
    pub app: Option<App>,
}

/// What distinguishes the series of times and troubles: who used whose service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PairKey {
    /// Client and server; `None`: all pairs that have no series of their own.
    pub(super) ends: Option<(IpAddr, IpAddr)>,
    pub(super) more: More,
}

/// The label that a metric has besides those of the pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum More {
    Nothing,
    Side(&'static str),
    App(Option<App>),
}

impl PairKey {
    pub(super) fn of(flow: &Flow, more: More) -> PairKey {
        let client = usize::from(flow.client & 1);
        let ip = |end: usize| flow.key.ends[end].ip(flow.key.v6);
        PairKey { ends: Some((ip(client), ip(1 - client))), more }
    }
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
pub(super) enum Trouble {
    Retransmit,
    Reset,
}

/// In the order of the enumerations.
pub(super) const TIMED: [&str; 4] =
    ["netmon_latency_seconds", "netmon_handshake_seconds", "netmon_rtt_seconds", "netmon_response_seconds"];
pub(super) const TROUBLES: [&str; 2] = ["netmon_retransmits_total", "netmon_resets_total"];
/// Metrics that have a series for each [`SeriesKey`].
const TRAFFIC: [&str; 2] = ["netmon_bytes_total", "netmon_packets_total"];

/// What a metric takes of the budget.
#[derive(Clone, Debug)]
pub struct MetricSpread {
    /// Its name.
    pub metric: &'static str,
    /// Lines in use.
    pub lines: usize,
    /// How often something found no room.
    pub refused: u64,
    /// Values that each label has, the one with most first.
    pub labels: Vec<(&'static str, usize)>,
}

/// Which keys have series, within one budget for all.
#[derive(Debug)]
pub struct SeriesIndex {
    budget: Budget,
    buckets: Mutex<Arc<Buckets>>,
    traffic: Numbers<SeriesKey>,
    timed: [Numbers<PairKey>; 4],
    troubles: [Numbers<PairKey>; 2],
}

impl SeriesIndex {
    /// Room for `limit` lines in all metrics together, those of histograms with `buckets` included.
    pub fn new(limit: usize, buckets: Buckets) -> SeriesIndex {
        let lines = lines_of(&buckets);
        SeriesIndex {
            budget: Budget::new(limit),
            buckets: Mutex::new(Arc::new(buckets)),
            traffic: Numbers::new(TRAFFIC.len()),
            timed: TIMED.map(|_| Numbers::new(lines)),
            troubles: TROUBLES.map(|_| Numbers::new(1)),
        }
    }

    /// Bounds of the histograms that are made from now on.
    pub(super) fn buckets(&self) -> Arc<Buckets> {
        Arc::clone(&self.buckets.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on histograms have these. What that takes more of the budget is taken, even if the budget is used up.
    pub fn set_buckets(&self, buckets: Buckets) {
        for numbers in &self.timed {
            numbers.set_lines(lines_of(&buckets), &self.budget);
        }
        *self.buckets.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(buckets);
    }

    /// The number of a direction of traffic; [`OTHER`](super::budget::OTHER) if there is no room for it.
    pub(super) fn traffic(&self, key: SeriesKey) -> u32 {
        self.traffic.number(key, &self.budget)
    }

    /// The directions of traffic in the order of their numbers, from 1 on.
    pub(super) fn traffic_keys(&self) -> Vec<SeriesKey> {
        self.traffic.keys()
    }

    /// The key to count a time under: its own, or that of all others.
    pub(super) fn timed(&self, timed: Timed, key: PairKey) -> PairKey {
        admitted(&self.timed[timed as usize], key, &self.budget)
    }

    /// Likewise for a trouble.
    pub(super) fn trouble(&self, trouble: Trouble, key: PairKey) -> PairKey {
        admitted(&self.troubles[trouble as usize], key, &self.budget)
    }

    /// Lines that all metrics together may have.
    pub fn limit(&self) -> usize {
        self.budget.limit()
    }

    /// By metric, what takes how much of the budget.
    pub fn spread(&self) -> Vec<MetricSpread> {
        let traffic = self.traffic.keys();
        let distinct = |values: Vec<String>| values.into_iter().collect::<HashSet<String>>().len();
        let of_traffic = vec![
            ("src_ip", distinct(traffic.iter().map(|key| key.source.to_string()).collect())),
            ("dst_ip", distinct(traffic.iter().map(|key| key.destination.to_string()).collect())),
            ("app_protocol", distinct(traffic.iter().map(|key| format!("{:?}", key.app)).collect())),
            ("protocol", distinct(traffic.iter().map(|key| key.protocol.to_string()).collect())),
        ];
        let of_pairs = |keys: Vec<PairKey>| {
            let end = |which: fn(&(IpAddr, IpAddr)) -> IpAddr| {
                distinct(keys.iter().filter_map(|key| key.ends.as_ref()).map(|ends| which(ends).to_string()).collect())
            };
            vec![("src_workload", end(|ends| ends.0)), ("dst_workload", end(|ends| ends.1))]
        };
        let labels = |metric: &str| {
            let timed = TIMED.iter().zip(&self.timed).chain(TROUBLES.iter().zip(&self.troubles));
            let of_metric = timed.into_iter().find(|(name, _)| **name == metric);
            let mut labels = of_metric.map_or_else(|| of_traffic.clone(), |(_, numbers)| of_pairs(numbers.keys()));
            labels.sort_by_key(|(_, values)| std::cmp::Reverse(*values));
            labels
        };
        let spread = |(metric, lines, refused)| MetricSpread { metric, lines, refused, labels: labels(metric) };
        self.usage().into_iter().map(spread).collect()
    }

    /// By metric: lines in use, and how often something found no room.
    pub(super) fn usage(&self) -> Vec<(&'static str, usize, u64)> {
        let pairs = TIMED.iter().zip(&self.timed).chain(TROUBLES.iter().zip(&self.troubles));
        TRAFFIC
            .iter()
            .map(|name| (*name, self.traffic.len(), self.traffic.refused()))
            .chain(pairs.map(|(name, numbers)| (*name, numbers.lines(), numbers.refused())))
            .collect()
    }
}

/// Besides its bounds, a histogram has a bucket for what is above, a sum and a count.
fn lines_of(buckets: &Buckets) -> usize {
    buckets.bounds_ns().len() + 3
}

fn admitted(numbers: &Numbers<PairKey>, key: PairKey, budget: &Budget) -> PairKey {
    match numbers.number(key, budget) {
        super::budget::OTHER => PairKey { ends: None, ..key },
        _ => key,
    }
}
