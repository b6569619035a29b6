//! What a worker adds up, so that a scrape costs by series and not by flows.

use std::ops::AddAssign;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};

use super::pairs::Pairs;
use super::series::{SeriesIndex, SeriesKey, Trouble};
use crate::bpf::{Record, Sample, Tally};
use crate::flow::{Direction, ErrorKind, Flow, Observer, Outcome};

/// Sums over everything one worker has seen. They only grow.
#[derive(Clone, Debug)]
pub struct Aggregates {
    index: Arc<SeriesIndex>,
    /// By number of series.
    pub(super) series: Vec<Tally>,
    pub(super) pairs: Pairs,
    /// Flows whose outcome is known.
    pub(super) ended: HashMap<(u8, Direction, Outcome), u64>,
    /// ICMP errors, one a flow and kind.
    pub(super) errors: HashMap<ErrorKind, u64>,
    /// ICMP errors that found no flow, for too many waited for theirs.
    pub(super) errors_lost: u64,
    /// By interface index; 0: interfaces that are gone.
    pub(super) interfaces: HashMap<u32, Accounted>,
    pub(super) evicted: u64,
    pub(super) records: u64,
    pub(super) undecodable: u64,
}

/// What became of the packets in records, for one interface.
#[derive(Clone, Copy, Debug, Default)]
pub struct Accounted {
    /// Belong to a flow.
    pub accounted: Tally,
    /// Belong to a flow whose packets another hook accounts.
    pub duplicate: Tally,
}

impl AddAssign for Accounted {
    fn add_assign(&mut self, other: Accounted) {
        self.accounted += other.accounted;
        self.duplicate += other.duplicate;
    }
}

impl Aggregates {
    /// Nothing seen yet.
    pub fn new(index: Arc<SeriesIndex>) -> Aggregates {
        Aggregates {
            pairs: Pairs::new(index.buckets()),
            index,
            series: Vec::new(),
            ended: HashMap::new(),
            errors: HashMap::new(),
            errors_lost: 0,
            interfaces: HashMap::new(),
            evicted: 0,
            records: 0,
            undecodable: 0,
        }
    }

    /// Begins to count times anew, with the buckets that the index has now.
    pub fn renew_buckets(&mut self) {
        self.pairs.set_buckets(self.index.buckets());
    }

    /// Flows that had to go for lack of room.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Records taken from the rings.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Flows whose outcome is known.
    pub fn ended(&self) -> impl Iterator<Item = (Outcome, u64)> {
        self.ended.iter().map(|(&(_, _, outcome), &count)| (outcome, count))
    }

    /// Counts records taken from the ring.
    pub fn count_records(&mut self, records: u64) {
        self.records += records;
    }

    /// Counts what was in the ring and no record.
    pub fn count_undecodable(&mut self, count: u64) {
        self.undecodable += count;
    }

    /// Adds another worker's sums.
    pub fn add(&mut self, other: &Aggregates) {
        if self.series.len() < other.series.len() {
            self.series.resize(other.series.len(), Tally::default());
        }
        for (sum, more) in self.series.iter_mut().zip(&other.series) {
            *sum += *more;
        }
        self.pairs.add(&other.pairs);
        for (&key, count) in &other.ended {
            *self.ended.entry(key).or_default() += count;
        }
        for (&kind, count) in &other.errors {
            *self.errors.entry(kind).or_default() += count;
        }
        self.errors_lost += other.errors_lost;
        for (&ifindex, more) in &other.interfaces {
            *self.interfaces.entry(ifindex).or_default() += *more;
        }
        self.evicted += other.evicted;
        self.records += other.records;
        self.undecodable += other.undecodable;
    }

    /// An interface is gone: what it had counts as interface 0 from now on.
    pub fn retire(&mut self, ifindex: u32) {
        if let Some(gone) = self.interfaces.remove(&ifindex) {
            *self.interfaces.entry(0).or_default() += gone;
        }
    }

    /// Flows whose outcome is known.
    pub fn ended_flows(&self) -> u64 {
        self.ended.values().sum()
    }

    /// By interface index.
    pub fn interfaces(&self) -> &HashMap<u32, Accounted> {
        &self.interfaces
    }
}

fn tally(record: &Record) -> Tally {
    Tally { packets: record.packets, bytes: record.bytes }
}

impl Observer for Aggregates {
    fn appeared(&mut self, flow: &Flow, sender: usize) -> u32 {
        let ends = &flow.key.ends;
        self.index.traffic(SeriesKey {
            protocol: flow.key.protocol,
            direction: flow.direction,
            source: ends[sender].ip(flow.key.v6),
            destination: ends[1 - sender].ip(flow.key.v6),
            app: flow.app,
        })
    }

    fn sent(&mut self, flow: &Flow, sender: usize, record: &Record) {
        let number = flow.tags[sender] as usize;
        if number >= self.series.len() {
            self.series.resize(number + 1, Tally::default());
        }
        self.series[number] += tally(record);
        self.interfaces.entry(record.ifindex).or_default().accounted += tally(record);
        if let Some(facts) = &record.facts {
            self.pairs.trouble(&self.index, flow, Trouble::Retransmit, facts.retransmits.into());
            self.pairs.trouble(&self.index, flow, Trouble::Reset, facts.resets.into());
        }
    }

    fn measured(&mut self, flow: &Flow, _sender: usize, sample: Sample) {
        self.pairs.measured(&self.index, flow, sample);
    }

    fn icmp_error(&mut self, _: &Flow, kind: ErrorKind) {
        *self.errors.entry(kind).or_default() += 1;
    }

    fn icmp_error_lost(&mut self) {
        self.errors_lost += 1;
    }

    fn duplicate(&mut self, record: &Record) {
        self.interfaces.entry(record.ifindex).or_default().duplicate += tally(record);
    }

    fn ended(&mut self, flow: &Flow, outcome: Outcome) {
        *self.ended.entry((flow.key.protocol, flow.direction, outcome)).or_default() += 1;
    }

    fn evicted(&mut self, _: &Flow) {
        self.evicted += 1;
    }
}
