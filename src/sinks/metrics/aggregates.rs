//! The sums of a worker, so that the cost of a scrape depends on series and not on flows.

use std::ops::AddAssign;
use std::sync::Arc;

use super::ends::{End, Identification, Labeller, Role};
use super::held::{CountedAt, Held, Mark};
use super::pairs::Pairs;
use super::series::{Counter, SeriesIndex, SeriesKey};
use super::sums::{Line, Sums};
use crate::bpf::{App, Measure, Record, Sample, Tally};
use crate::flow::{Directory, Flow, FlowEvent, Sink};

/// What one worker adds up.
#[derive(Debug)]
pub struct Aggregates {
    index: Arc<SeriesIndex>,
    labeller: Labeller,
    held: Held,
    sums: Sums,
}

/// What became of the packets in the records of one interface.
#[derive(Clone, Copy, Debug, Default)]
pub struct Accounted {
    /// They belong to a flow.
    pub accounted: Tally,
    /// They belong to a flow whose packets another hook accounts.
    pub duplicate: Tally,
}

impl AddAssign for Accounted {
    fn add_assign(&mut self, other: Accounted) {
        self.accounted += other.accounted;
        self.duplicate += other.duplicate;
    }
}

fn tally(record: &Record) -> Tally {
    Tally { packets: record.packets, bytes: record.bytes }
}

impl Aggregates {
    /// Empty sums.
    pub fn new(index: Arc<SeriesIndex>) -> Aggregates {
        let (sums, labeller) = (Sums::new(index.buckets()), Labeller::new(index.identification()));
        Aggregates { index, labeller, held: Held::default(), sums }
    }

    /// The sums so far, without what waits until it is settled what it counts as.
    pub fn sums(&self) -> &Sums {
        &self.sums
    }

    /// Starts counting times from zero, with the buckets that the index has now.
    pub fn renew_buckets(&mut self) {
        self.sums.pairs.set_buckets(self.index.buckets());
    }

    /// Counts records taken from the ring.
    pub fn count_records(&mut self, records: u64) {
        self.sums.records += records;
    }

    /// Counts pieces in the ring that were no records.
    pub fn count_undecodable(&mut self, count: u64) {
        self.sums.undecodable += count;
    }

    /// An interface is gone: what it had counts as interface 0 from now on.
    pub fn retire(&mut self, ifindex: u32) {
        if let Some(gone) = self.sums.interfaces.remove(&ifindex) {
            *self.sums.interfaces.entry(0).or_default() += gone;
        }
    }

    /// From now on ends are identified in another way, and all series start again from zero. The flows have to be recounted then.
    pub fn renew_labels(workers: &mut [&mut Aggregates], identification: Identification) {
        let Some(index) = workers.first().map(|worker| Arc::clone(&worker.index)) else { return };
        Aggregates::expire(workers, u64::MAX, true);
        index.set_identification(identification.clone());
        for worker in workers {
            worker.labeller = Labeller::new(identification.clone());
        }
    }

    /// Drops the series in which no worker has counted a flow since `since_ns`. No worker may count meanwhile.
    pub fn expire_idle(workers: &mut [&mut Aggregates], since_ns: u64) {
        Aggregates::expire(workers, since_ns, false);
    }

    fn expire(workers: &mut [&mut Aggregates], since_ns: u64, in_use: bool) {
        let Some(index) = workers.first().map(|worker| Arc::clone(&worker.index)) else { return };
        let keys = index.traffic.keys();
        let idle = |(number, _): &(usize, &SeriesKey)| {
            let lines = || workers.iter().filter_map(|worker| worker.sums.series.get(*number));
            (in_use || lines().all(|line| line.flows == 0))
                && lines().map(|line| line.last_ns).max().unwrap_or(0) < since_ns
        };
        let numbered = keys.iter().enumerate().filter_map(|(i, key)| Some((i + 1, key.as_ref()?)));
        let (numbers, gone): (Vec<usize>, Vec<&SeriesKey>) = numbered.filter(idle).unzip();
        for worker in &mut *workers {
            for number in &numbers {
                if let Some(line) = worker.sums.series.get_mut(*number) {
                    worker.sums.expired += std::mem::take(line).tally;
                }
            }
        }
        index.expire(&index.traffic, gone);
        let left = index.traffic.last() + 1;
        for worker in &mut *workers {
            worker.sums.series.truncate(left);
            worker.sums.series.shrink_to(2 * left);
        }
        Pairs::expire(
            &mut workers.iter_mut().map(|worker| &mut worker.sums.pairs).collect::<Vec<_>>(),
            &index,
            since_ns,
        );
    }

    fn line(&mut self, number: u32) -> &mut Line {
        let number = number as usize;
        let series = &mut self.sums.series;
        if number >= series.len() {
            series.resize(number + 1, Line::default());
        }
        &mut series[number]
    }

    /// A direction of a flow is counted elsewhere from now on.
    fn leave(&mut self, place: CountedAt, flow: &Flow) {
        let CountedAt::Series(number) = place else { return };
        let line = self.line(number);
        line.flows = line.flows.saturating_sub(1);
        line.last_ns = line.last_ns.max(flow.last_ns());
    }

    /// The number of the series that traffic from the end `sender` is counted in.
    fn number(&mut self, flow: &Flow, sender: usize) -> u32 {
        let mut end = |role, end: usize| self.labeller.end(role, flow.ip(end), flow.party(end));
        let (source, destination) = (end(Role::Source, sender), end(Role::Destination, 1 - sender));
        let (protocol, direction, app) = (flow.protocol, flow.direction, flow.app);
        self.index.number(&SeriesKey { protocol, direction, source, destination, app })
    }

    fn pair(&mut self, flow: &Flow) -> (End, End) {
        let client = usize::from(flow.client & 1);
        let mut end = |role, end: usize| self.labeller.end(role, flow.ip(end), flow.party(end));
        (end(Role::Client, client), end(Role::Server, 1 - client))
    }

    fn count(&mut self, flow: &Flow, counter: Counter, count: u64) {
        if count > 0 {
            let ends = self.pair(flow);
            self.sums.pairs.count(&self.index, ends, flow, counter, count);
        }
    }

    fn count_outcome(&mut self, flow: &Flow) {
        let Some(outcome) = flow.outcome.filter(|_| !flow.was_counted()) else { return };
        self.sums.count_ended(outcome);
        self.count(flow, Counter::Ended, 1);
    }

    fn count_sample(&mut self, flow: &Flow, sender: usize, sample: Sample) {
        // The time until a client goes on is no response time, and QUIC packets answer each other at any time. Neither may have been
        // known when the sample was measured.
        let no_response = sender == usize::from(flow.client & 1) || flow.app == Some(App::Quic);
        if sample.measure == Measure::Response && no_response {
            return;
        }
        let ends = self.pair(flow);
        self.sums.pairs.measured(&self.index, ends, flow, sample);
    }

    /// Counts in series `number` what waited of the end `sender`.
    fn release(&mut self, flow: &Flow, sender: usize, mark: &Mark, number: u32) {
        let waiting = self.held.take(mark.of(sender));
        let line = self.line(number);
        line.tally += waiting.tally(flow, sender);
        line.last_ns = line.last_ns.max(flow.last_ns());
        for &sample in &waiting.samples {
            self.count_sample(flow, sender, sample);
        }
        self.count(flow, Counter::Retransmits, waiting.retransmits);
        self.count(flow, Counter::Resets, waiting.resets);
        if mark.holds_outcome(sender) {
            self.count_outcome(flow);
        }
    }

    /// The end `sender` sends for the first time, or what it sends counts as something else than before.
    fn classify(&mut self, flow: &Flow, sender: usize, mark: &mut Mark) {
        let before = mark.of(sender);
        if flow.is_held() {
            match before {
                CountedAt::Nowhere => mark.set(sender, CountedAt::Waiting),
                CountedAt::Series(_) => {
                    self.leave(before, flow);
                    mark.set(sender, self.held.again());
                }
                CountedAt::Waiting | CountedAt::Held(_) => {}
            }
            return;
        }
        let number = self.number(flow, sender);
        self.line(number).flows += 1;
        if mark.is_held(sender) {
            self.release(flow, sender, mark, number);
        } else {
            self.leave(before, flow);
        }
        mark.set(sender, CountedAt::Series(number));
    }

    fn reclassify(&mut self, flow: &Flow, mark: &mut Mark) {
        for sender in 0..2 {
            if mark.of(sender) != CountedAt::Nowhere {
                self.classify(flow, sender, mark);
            }
        }
    }

    /// All series have started again: the flow is counted in the new ones.
    pub fn recount(&mut self, flow: &Flow, mark: &mut Mark) {
        for sender in 0..2 {
            if let CountedAt::Series(_) = mark.of(sender) {
                let number = self.number(flow, sender);
                self.line(number).flows += 1;
                mark.set(sender, CountedAt::Series(number));
            }
        }
    }

    fn sent(&mut self, flow: &Flow, sender: usize, record: &Record, mark: &mut Mark) {
        self.sums.interfaces.entry(record.ifindex).or_default().accounted += tally(record);
        let CountedAt::Series(number) = mark.of(sender) else { return self.held.add(mark, sender, record) };
        self.line(number).tally += tally(record);
        if let Some(facts) = &record.facts {
            self.count(flow, Counter::Retransmits, facts.retransmits.into());
            self.count(flow, Counter::Resets, facts.resets.into());
        }
    }

    fn removed(&mut self, flow: &Flow, mark: &Mark) {
        for sender in 0..2 {
            if mark.is_held(sender) {
                let number = self.number(flow, sender);
                self.release(flow, sender, mark, number);
            } else {
                self.leave(mark.of(sender), flow);
            }
        }
    }
}

/// Nobody has a name, as in tests and measurements.
impl Directory for Aggregates {}

impl Sink for Aggregates {
    type Mark = Mark;

    #[inline]
    fn handle(&mut self, event: FlowEvent<'_>, flow: &Flow, mark: &mut Mark) {
        match event {
            FlowEvent::Appeared { sender } => self.classify(flow, sender, mark),
            FlowEvent::Reclassified => self.reclassify(flow, mark),
            FlowEvent::Sent { sender, record } => self.sent(flow, sender, record, mark),
            FlowEvent::Duplicate(record) => {
                self.sums.interfaces.entry(record.ifindex).or_default().duplicate += tally(record);
            }
            FlowEvent::Measured { sender, sample } => {
                if !self.held.measured(mark, sender, sample) {
                    self.count_sample(flow, sender, sample);
                }
            }
            FlowEvent::IcmpError(kind) => *self.sums.errors.entry(kind).or_default() += 1,
            FlowEvent::Hurried => self.sums.hurried += 1,
            FlowEvent::Unnamed => self.sums.nameless += 1,
            FlowEvent::Ended(_) => {
                if !mark.hold_outcome() {
                    self.count_outcome(flow);
                }
            }
            FlowEvent::Evicted => self.sums.evicted += 1,
            FlowEvent::Removed => self.removed(flow, mark),
            FlowEvent::Started => {}
        }
    }
}
