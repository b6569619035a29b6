//! The table of flows: merges records, expires what is silent, stays within its bound.

mod expiry;
mod whose;

use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use foldhash::{HashMap, HashMapExt};
use hashbrown::HashTable;

use self::whose::Whose;
use super::details::Details;
use super::network::Sight;
use super::outcome::{RST, Verdict, conclude, judge};
use super::quotes::{Quote, Quotes};
use super::reuse::begins_anew;
use super::roles::{self, Facing};
use super::slab::Slab;
use super::wheel::{Entry, Wheel};
use super::{
    CLIENT_IS_KNOWN, CLOSING, Direction, ErrorKind, Flow, FlowKey, Identity, Naming, Networks, Observer, Sent,
};
use crate::bpf::{App, Cause, Record};

/// Bounds of a table.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Flows it holds at most.
    pub max_flows: usize,
    /// A flow without packets for this long is over.
    pub flow_timeout: Duration,
    /// A SYN without an answer for this long has failed.
    pub connect_timeout: Duration,
    /// A flow older than this is closed, and what follows is a new one.
    pub max_age: Option<Duration>,
}

/// What was seen takes a sweep or two to arrive: a flow's end is judged that much later.
const SETTLE_NS: u64 = 3_000_000_000;
/// Closed flows stay this long, for packets that come late.
const LINGER_NS: u64 = 5_000_000_000;
/// An owner that is silent for this long, while another hook sees the flow, has lost it.
const OWNER_SILENT_NS: u64 = 10_000_000_000;

/// Flows looked at to find the one to evict: bounds the work for one record.
const EVICTION_LOOKS: usize = 64;

/// Flows in the table.
pub type Counts = HashMap<(u8, Direction), u64>;

/// A table of flows.
pub struct Table {
    limits: Limits,
    hasher: RandomState,
    /// Hash and index of each flow.
    index: HashTable<(u32, u32)>,
    pub(super) flows: Slab,
    /// Those with an end that may get a name.
    pub(super) unnamed: Vec<Entry>,
    wheel: Wheel,
    counts: Counts,
    quotes: Quotes,
    facing: Facing,
    networks: Arc<Networks>,
    generation: u32,
}

fn seconds(ns: u64) -> u64 {
    ns / 1_000_000_000
}

/// The table's own hash is 32 bits; hashbrown wants variety in the upper bits too.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Table {
    /// An empty table.
    pub fn new(limits: Limits, now_ns: u64) -> Table {
        Table {
            limits,
            hasher: RandomState::default(),
            index: HashTable::new(),
            flows: Slab::default(),
            unnamed: Vec::new(),
            wheel: Wheel::new(seconds(now_ns)),
            counts: Counts::new(),
            quotes: Quotes::default(),
            facing: Facing::default(),
            networks: Arc::default(),
            generation: 0,
        }
    }

    /// From now on, flows that are met at these interfaces are seen from a workload's outside.
    pub fn face(&mut self, workloads: Facing) {
        self.facing = workloads;
    }

    /// Flows in the table.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// No flows.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Flows by protocol and direction.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// All flows, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Flow> {
        self.flows.iter()
    }

    /// Flows from a place on, each with its own, which it keeps.
    pub fn places(&self, from: u32) -> impl Iterator<Item = (u32, &Flow)> {
        self.flows.places(from)
    }

    /// Flows of the `page`th part of the table; `None` behind its end. No part is large.
    pub fn page(&self, page: usize) -> Option<impl Iterator<Item = &Flow>> {
        self.flows.page(page)
    }

    /// Adds a record to its flow.
    pub fn merge(&mut self, record: &Record, observer: &mut impl Observer) {
        self.merge_as(&Identity::of(record), record, observer);
    }

    /// Adds a record to the flow that it belongs to.
    pub fn merge_as(&mut self, identity: &Identity, record: &Record, observer: &mut impl Observer) {
        let Whose { identity, network, hash, found } = self.whose(identity, record);
        let identity = &identity;
        let Identity { key, sender, tracked, .. } = *identity;
        if record.cause == Cause::Quoted {
            let quote = Quote { icmp_type: record.icmp_type, icmp_code: record.icmp_code, at_ns: record.last_ns };
            match found {
                Some(index) => self.quoted(index, quote, observer),
                None if self.quotes.put(key, quote) => {}
                None => observer.icmp_error_lost(),
            }
            return;
        }
        let index = match found {
            Some(i) if self.flows.get(i).is_some_and(|f| begins_anew(f, identity, record)) => {
                self.open_again(i, hash, identity, record, observer)
            }
            Some(i) if self.flows.get(i).is_some_and(|f| self.is_aged(f, record.last_ns)) => {
                self.open_again(i, hash, identity, record, observer)
            }
            Some(i) => i,
            None => self.open(hash, identity, record, None, observer),
        };
        self.correct_roles(index, identity, record, observer);
        let Some(flow) = self.flows.get_mut(index) else { return };
        if let Some(tracked) = tracked
            && tracked.nat.is_some()
            && flow.nat() != Some(tracked.nat)
        {
            flow.details.get_or_insert_default().nat = Some(Box::new(tracked.nat));
            if flow.parties.is_some() {
                flow.naming = Naming::Unasked;
            }
        }
        self.name(index, observer);
        let Some(flow) = self.flows.get_mut(index) else { return };
        let sent = &mut flow.sent[sender];
        let owner = sent.is_owner(identity, record);
        let first = sent.ifindex == 0;
        let sight = self.networks.sight(record);
        let silent = !owner && record.last_ns.saturating_sub(sent.last_ns) > OWNER_SILENT_NS;
        let takes_over = sight != Sight::Again && (first || silent);
        if takes_over || sent.is_given_up_to(identity, record) {
            sent.own(identity, record, network);
        }
        let app = record.facts.as_ref().and_then(|facts| facts.app).filter(|&app| {
            // One end may have told HTTP/2 before the other told what is in it.
            flow.app.is_none() || (flow.app, app) == (Some(App::Http2), App::Grpc)
        });
        flow.app = app.or(flow.app);
        if !owner && !takes_over && sight != Sight::First {
            // What it speaks is told once, by whichever hook had the payload first.
            if app.is_some() {
                retag(flow, observer);
            }
            observer.duplicate(record);
            return;
        }
        add(&mut flow.sent[sender], record);
        flow.first_ns = flow.first_ns.min(record.first_ns);
        // From now on it counts as what it speaks; what was counted before stays where it is.
        if app.is_some() {
            retag(flow, observer);
        } else if first {
            flow.tags[sender] = observer.appeared(flow, sender);
        }
        observer.sent(flow, sender, record);
        if first && flow.sent[1 - sender].ifindex == 0 {
            observer.started(flow);
        }
        note(flow, sender, record, observer);
        if let Some(quote) = self.quotes.take(&key, record.last_ns) {
            self.quoted(index, quote, observer);
        }
        self.judge(index, record.last_ns, observer);
    }

    /// An ICMP error is about this flow.
    fn quoted(&mut self, index: u32, quote: Quote, observer: &mut impl Observer) {
        let Some(flow) = self.flows.get_mut(index) else { return };
        let kind = ErrorKind::of(flow.key.v6, quote.icmp_type, quote.icmp_code);
        if flow.details.get_or_insert_default().quoted(kind, quote.icmp_type, quote.icmp_code, quote.at_ns) {
            observer.icmp_error(flow, kind);
        }
        self.judge(index, quote.at_ns, observer);
    }

    /// Is it over, and how? To be asked when something new is known.
    fn judge(&mut self, index: u32, now_ns: u64, observer: &mut impl Observer) {
        let Some(flow) = self.flows.get_mut(index).filter(|flow| flow.outcome.is_none()) else { return };
        let wait = match judge(flow) {
            // Who opened it is part of how it ended: while that is a guess, the record with the SYN may be on its way.
            Verdict::Certain(outcome) if flow.has(CLIENT_IS_KNOWN) => {
                flow.outcome = Some(outcome);
                observer.ended(flow, outcome);
                LINGER_NS
            }
            Verdict::Certain(_) | Verdict::Likely(_) if !flow.has(CLOSING) => {
                flow.mark(CLOSING, true);
                SETTLE_NS
            }
            Verdict::Certain(_) | Verdict::Likely(_) => return,
            Verdict::Open => {
                flow.mark(CLOSING, false); // an answer has overruled the error
                return;
            }
        };
        let entry = Entry { index, generation: flow.generation };
        self.wheel.schedule(seconds(now_ns + wait) + 1, entry);
    }

    /// Who opened it, and which way, as far as this record tells. What was counted under a wrong guess stays there.
    fn correct_roles(&mut self, index: u32, identity: &Identity, record: &Record, observer: &mut impl Observer) {
        let Some(flow) = self.flows.get_mut(index) else { return };
        let client = roles::corrected(flow, identity, record);
        let known = flow.has(CLIENT_IS_KNOWN) || roles::evidence(identity, record).is_some();
        flow.mark(CLIENT_IS_KNOWN, known);
        let sender = identity.sender;
        let direction = if let Some(client) = client {
            flow.client = client as u8;
            // Which of its ends is asked for as a server is another one now, where anybody knows names.
            if flow.parties.is_some() {
                flow.naming = Naming::Unasked;
            }
            roles::direction_of(&self.facing, client, sender, record)
        } else if roles::opened_by_workload(&self.facing, flow.client.into(), sender, record) {
            Direction::Egress
        } else {
            return;
        };
        if direction == flow.direction {
            return;
        }
        self.counts.entry((flow.key.protocol, flow.direction)).and_modify(|count| *count -= 1);
        *self.counts.entry((flow.key.protocol, direction)).or_default() += 1;
        flow.direction = direction;
        retag(flow, observer);
    }

    fn hash(&self, key: &FlowKey) -> u32 {
        self.hasher.hash_one(key) as u32
    }

    /// Another flow of the same ends. Who opened the last one opened this one too, unless it has a SYN of its own.
    fn open_again(
        &mut self,
        index: u32,
        hash: u32,
        identity: &Identity,
        record: &Record,
        observer: &mut impl Observer,
    ) -> u32 {
        self.end(index, observer);
        let goes_on = !record.syn && !record.syn_ack;
        let known = |flow: &&Flow| goes_on && flow.has(CLIENT_IS_KNOWN);
        let client = self.flows.get(index).filter(known).map(|flow| usize::from(flow.client));
        self.remove(index, observer);
        self.open(hash, identity, record, client, observer)
    }

    /// A new flow; `known` is who opened it, if that is known from before.
    fn open(
        &mut self,
        hash: u32,
        identity: &Identity,
        record: &Record,
        known: Option<usize>,
        observer: &mut impl Observer,
    ) -> u32 {
        while self.len() >= self.limits.max_flows.max(1) && self.evict(observer) {}
        let Identity { key, sender, .. } = *identity;
        let evidence = known.or_else(|| roles::evidence(identity, record));
        let client = evidence.unwrap_or_else(|| roles::guess(&key, sender));
        self.generation = self.generation.wrapping_add(1);
        let flow = Flow {
            key,
            sent: Default::default(),
            client: client as u8,
            direction: roles::direction_of(&self.facing, client, sender, record),
            outcome: None,
            app: None,
            details: None,
            marks: if evidence.is_some() { CLIENT_IS_KNOWN } else { 0 },
            first_ns: record.first_ns,
            parties: None,
            tags: [0; 2],
            naming: Naming::Unasked,
            generation: self.generation,
        };
        *self.counts.entry((key.protocol, flow.direction)).or_default() += 1;
        // It may prove to wait for an answer with the records that follow.
        let wait = self.limits.connect_timeout.min(self.limits.flow_timeout);
        let index = self.flows.insert(flow);
        self.index.insert_unique(spread(hash), (hash, index), |&(h, _)| spread(h));
        let at = seconds(record.last_ns.saturating_add(wait.as_nanos() as u64)) + 1;
        self.wheel.schedule(at, Entry { index, generation: self.generation });
        index
    }

    /// The outcome, if it is not known yet. The flow stays for whoever wants to see it.
    fn end(&mut self, index: u32, observer: &mut impl Observer) {
        if let Some(flow) = self.flows.get_mut(index)
            && flow.outcome.is_none()
        {
            let outcome = conclude(flow);
            flow.outcome = Some(outcome);
            observer.ended(flow, outcome);
        }
    }

    fn remove(&mut self, index: u32, observer: &mut impl Observer) {
        let Some(flow) = self.flows.remove(index) else { return };
        observer.removed(&flow);
        let hash = self.hash(&flow.key);
        if let Ok(entry) = self.index.find_entry(spread(hash), |&(_, i)| i == index) {
            entry.remove();
        }
        self.counts.entry((flow.key.protocol, flow.direction)).and_modify(|count| *count -= 1);
    }
}

/// It is to be counted as something else than before.
pub(super) fn retag(flow: &mut Flow, observer: &mut impl Observer) {
    for end in 0..2 {
        if flow.sent[end].ifindex != 0 {
            flow.tags[end] = observer.appeared(flow, end);
        }
    }
}

/// What the record tells besides packets.
fn note(flow: &mut Flow, sender: usize, record: &Record, observer: &mut impl Observer) {
    if record.tcp_flags & RST != 0 {
        flow.details.get_or_insert_default().reset_by(sender, record.last_ns);
    }
    let Some(facts) = &record.facts else { return };
    flow.details.get_or_insert_default().add(sender, facts);
    for sample in facts.samples() {
        if Details::measure(flow, sender, sample, record.last_ns) {
            observer.measured(flow, sender, sample);
        }
    }
}

fn add(sent: &mut Sent, record: &Record) {
    sent.last_ns = sent.last_ns.max(record.last_ns);
    sent.packets += record.packets;
    sent.bytes += record.bytes;
    sent.tcp_flags |= record.tcp_flags;
    sent.syn |= record.syn;
    sent.syn_ack |= record.syn_ack;
    sent.icmp_type = record.icmp_type;
    sent.icmp_code = record.icmp_code;
}

#[cfg(test)]
mod tests;
