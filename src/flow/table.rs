//! The table of flows: merges records, expires silent flows, stays within its bound.

mod expiry;
mod opening;
mod whose;
mod young;

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use foldhash::{HashMap, HashMapExt};

pub use self::whose::Prepared;
use self::whose::Whose;
use super::app;
use super::details::Details;
use super::events::Marked;
use super::index::Index;
use super::network::Sight;
use super::outcome::{RST, Verdict, judge};
use super::past::Pasts;
use super::quotes::{Quote, Quotes};
use super::reuse::starts_new_flow;
use super::roles::Facing;
use super::sent::PAUSE_NS;
use super::slab::Slab;
use super::wheel::Wheel;
use super::{CLOSING, Direction, ErrorKind, Flow, FlowEvent, FlowKey, Identity, NameState, Networks, Observer, Sink};
use crate::bpf::{Cause, Moment, Record};

/// Bounds of a table.
#[derive(Clone, Copy, Debug)]
pub struct TableLimits {
    /// Maximum number of flows.
    pub max_flows: usize,
    /// A flow without packets for this long is over.
    pub flow_timeout: Duration,
    /// A SYN without an answer for this long has failed.
    pub connect_timeout: Duration,
    /// A flow older than this is closed, and its next packet starts a new flow.
    pub max_age: Option<Duration>,
}

/// Records take up to two sweeps to arrive: the end of a flow is judged and reported that much later. In nanoseconds.
const SETTLE_NS: u64 = 3_000_000_000;
/// Closed flows stay this long for late packets, in nanoseconds.
const LINGER_NS: u64 = 5_000_000_000;
/// If an owner is silent for this long while another hook sees the flow, the other hook takes over. In nanoseconds.
const OWNER_SILENT_NS: u64 = 10_000_000_000;

/// Flows that are examined to find the one to evict: bounds the work for one record.
const EVICTION_LOOKS: usize = 64;

/// Number of flows by protocol and direction.
pub type Counts = HashMap<(u8, Direction), u64>;

/// A flow's index, and the generation that the flow there had.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// A table of flows, each with the mark `M` of the sinks that receive its events.
pub struct Table<M = ()> {
    limits: TableLimits,
    hasher: RandomState,
    index: Index,
    pub(super) flows: Slab<Marked<M>>,
    /// Flows with an end that may get a name.
    pub(super) unnamed: Vec<Entry>,
    /// New flows in the order in which they came, with the time until which they count as new.
    young: VecDeque<(u64, Entry)>,
    wheel: Wheel,
    counts: Counts,
    quotes: Quotes,
    pasts: Pasts,
    facing: Facing,
    networks: Arc<Networks>,
    generation: u32,
}

fn seconds(ns: u64) -> u64 {
    ns / 1_000_000_000
}

impl<M: Default> Table<M> {
    /// An empty table.
    pub fn new(limits: TableLimits, now_ns: u64) -> Table<M> {
        Table {
            limits,
            hasher: RandomState::default(),
            index: Index::default(),
            flows: Slab::default(),
            unnamed: Vec::new(),
            young: VecDeque::new(),
            wheel: Wheel::new(seconds(now_ns)),
            counts: Counts::new(),
            quotes: Quotes::default(),
            pasts: Pasts::new(limits.max_flows),
            facing: Facing::default(),
            networks: Arc::default(),
            generation: 0,
        }
    }

    /// Sets the interfaces that face workloads: packets there are seen from the workload's outside.
    pub fn face(&mut self, workloads: Facing) {
        self.facing = workloads;
    }

    /// Number of flows in the table.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// True if the table has no flows.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Number of silent open connections that had to be forgotten for others: their later packets are judged without
    /// their past.
    pub fn forgotten(&self) -> u64 {
        self.pasts.forgotten()
    }

    /// Number of ICMP errors about unknown flows that were lost because too many others waited for their flows.
    pub fn errors_lost(&self) -> u64 {
        self.quotes.lost()
    }

    /// Number of flows by protocol and direction.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// All flows, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &Flow> {
        self.flows.iter().map(|marked| &marked.flow)
    }

    /// Flows from index `from` on, each with its index, which it keeps.
    pub fn places(&self, from: u32) -> impl Iterator<Item = (u32, &Flow)> {
        self.flows.places(from).map(|(index, marked)| (index, &marked.flow))
    }

    /// Flows of the `page`th part of the table; `None` after the last part. No part is large.
    pub fn page(&self, page: usize) -> Option<impl Iterator<Item = &Flow>> {
        Some(self.flows.page(page)?.map(|marked| &marked.flow))
    }

    /// Calls `visit` for every flow with its mark, in no particular order.
    pub fn visit(&mut self, mut visit: impl FnMut(&Flow, &mut M)) {
        self.flows.iter_mut().for_each(|Marked { flow, mark }| visit(flow, mark));
    }

    /// The flow with this index.
    pub(super) fn flow(&self, index: u32) -> Option<&Flow> {
        self.flows.get(index).map(|marked| &marked.flow)
    }

    /// Adds a record to its flow.
    pub fn merge(&mut self, record: &Record, observer: &mut impl Observer<Mark = M>) {
        self.merge_as(&Identity::of(record), record, observer);
    }

    /// Adds a record to the flow of this identity.
    pub fn merge_as(&mut self, identity: &Identity, record: &Record, observer: &mut impl Observer<Mark = M>) {
        let hash = self.hash(&identity.key);
        self.merge_prepared(&Prepared { identity: *identity, hash, found: None }, record, observer);
    }

    /// Like [`Table::merge_as`], for a record that was prepared. Other records may have been merged since.
    pub fn merge_prepared(&mut self, prepared: &Prepared, record: &Record, observer: &mut impl Observer<Mark = M>) {
        let Whose { its_own, network, hash, found } = self.whose(prepared, record);
        let identity = its_own.as_ref().unwrap_or(&prepared.identity);
        let Identity { key, sender, tracked, .. } = *identity;
        if record.cause == Cause::Quoted {
            let quote = Quote { icmp_type: record.icmp_type, icmp_code: record.icmp_code, at_ns: record.last_ns };
            match found {
                Some(index) => self.quoted(index, quote, observer),
                None => self.quotes.put(key, quote),
            }
            return;
        }
        let is_past = |f: &Flow| self.is_aged(f, record.last_ns) || starts_new_flow(f, identity, record);
        let index = match found {
            Some(i) if self.flow(i).is_some_and(is_past) => {
                self.end(i, observer);
                self.remove(i, observer);
                self.open(hash, identity, record, observer)
            }
            Some(i) => i,
            None => self.open(hash, identity, record, observer),
        };
        self.correct_roles(index, identity, record, observer);
        let Some(Marked { flow, .. }) = self.flows.get_mut(index) else { return };
        if let Some(tracked) = tracked
            && tracked.nat.is_some()
            && flow.nat() != Some(tracked.nat)
        {
            flow.details.get_or_insert_default().nat = Some(Box::new(tracked.nat));
            if flow.parties.is_some() {
                flow.naming = NameState::Unasked;
            }
        }
        self.name(index, observer);
        let sight = self.networks.sight(record);
        let Some(marked) = self.flows.get_mut(index) else { return };
        let flow = &mut marked.flow;
        let owner = flow.sent[sender].is_owner(identity, record);
        let since_the_beginning = record.first_ns <= flow.first_ns.saturating_add(PAUSE_NS);
        let given = !owner && {
            let [sent, answers] = [&flow.sent[sender], &flow.sent[1 - sender]];
            self.networks.gives_way(sent, answers, record, since_the_beginning)
        };
        let sent = &mut flow.sent[sender];
        let known = (given && since_the_beginning).then_some((sent.packets, sent.bytes));
        let first = sent.ifindex == 0;
        let silent = !owner && record.last_ns.saturating_sub(sent.last_ns) > OWNER_SILENT_NS;
        let takes_over = given || sight != Sight::Again && (first || silent);
        if takes_over || sent.is_given_up_to(identity, record) {
            sent.own(identity, record);
            flow.is_in(network);
        }
        let named = app::learn(flow, record);
        if !owner && !takes_over && sight != Sight::First {
            // The protocol is reported once, by the hook that had the payload first.
            if named {
                marked.emit(FlowEvent::Reclassified, observer);
            }
            marked.emit(FlowEvent::Duplicate(record), observer);
            return;
        }
        let rest = known.map(|(packets, bytes)| record.split(packets, bytes));
        if let Some((again, _)) = &rest {
            marked.emit(FlowEvent::Duplicate(again), observer);
        }
        let record = rest.as_ref().map_or(record, |(_, rest)| rest);
        // This precedes the packets: they count under the new labels, while earlier counts stay where they are.
        if first {
            marked.emit(FlowEvent::Appeared { sender }, observer);
        }
        if named {
            marked.emit(FlowEvent::Reclassified, observer);
        }
        let flow = &mut marked.flow;
        let judged = flow.sent[sender].judged(record);
        let record = judged.as_ref().unwrap_or(record);
        flow.note_last_word(sender, record);
        flow.sent[sender].add(record);
        flow.first_ns = flow.first_ns.min(record.first_ns);
        marked.emit(FlowEvent::Sent { sender, record }, observer);
        if first && marked.flow.sent[1 - sender].ifindex == 0 {
            marked.emit(FlowEvent::Started, observer);
        }
        note(marked, sender, record, observer);
        if let Some(quote) = self.quotes.take(&key, record.last_ns) {
            self.quoted(index, quote, observer);
        }
        self.judge(index, record.last_ns);
    }

    /// Applies an ICMP error about this flow.
    fn quoted(&mut self, index: u32, quote: Quote, observer: &mut impl Observer<Mark = M>) {
        let Some(marked) = self.flows.get_mut(index) else { return };
        let kind = ErrorKind::of(marked.flow.v6(), quote.icmp_type, quote.icmp_code);
        let details = marked.flow.details.get_or_insert_default();
        if details.quoted(kind, quote.icmp_type, quote.icmp_code, quote.at_ns) {
            marked.emit(FlowEvent::IcmpError(kind), observer);
        }
        self.judge(index, quote.at_ns);
    }

    /// Decides whether the flow is over. Call it whenever something new is known.
    fn judge(&mut self, index: u32, now_ns: u64) {
        let Some(Marked { flow, .. }) = self.flows.get_mut(index).filter(|marked| marked.flow.outcome.is_none()) else {
            return;
        };
        match judge(flow) {
            // Records that change the verdict may be on their way: of the other direction, of other CPUs, with the SYN,
            // with the answer.
            Verdict::Over(_) if !flow.has(CLOSING) => {
                flow.mark(CLOSING, true);
                self.wheel.schedule(&mut self.flows, index, seconds(now_ns + SETTLE_NS) + 1);
            }
            Verdict::Over(_) => {}
            Verdict::Open => flow.mark(CLOSING, false), // an answer overrules the error
        }
    }

    fn hash(&self, key: &FlowKey) -> u64 {
        self.hasher.hash_one(key)
    }
}

/// Applies what the record reports besides packet counts.
fn note<M>(marked: &mut Marked<M>, sender: usize, record: &Record, sinks: &mut impl Sink<Mark = M>) {
    let flow = &mut marked.flow;
    if record.tcp_flags & RST != 0 {
        flow.details.get_or_insert_default().reset_by(sender, record.last_ns);
    }
    if record.sequence.closed.is_some() {
        let details = flow.details.get_or_insert_default();
        details.closed = Moment::later(details.closed, record.sequence.closed);
    }
    let Some(facts) = &record.facts else { return };
    flow.details.get_or_insert_default().add(sender, facts);
    for sample in facts.samples() {
        if Details::measure(&mut marked.flow, sender, sample, record.last_ns) {
            marked.emit(FlowEvent::Measured { sender, sample }, sinks);
        }
    }
}

#[cfg(test)]
mod tests;
