//! When flows leave the table: after a silence, by age, to make room.

use std::time::Duration;

use super::{EVICTION_LOOKS, LINGER_NS, SETTLE_NS, Table, TableLimits, seconds};
use crate::flow::events::Marked;
use crate::flow::naming::{HOLD_NS, give_up};
use crate::flow::outcome::{conclude, is_waiting, patience};
use crate::flow::past::Past;
use crate::flow::{CLOSING, Flow, FlowEvent, NameState, Observer};

/// Names are looked up again within this time, in nanoseconds.
const NAMED_NS: u64 = 1_000_000_000;
/// One in this many of the maximum number of flows is kept free, for flows that arrive while victims are searched for.
const SPARE: usize = 256;
/// Unused capacity, in entries, that is never released: growing and shrinking in turn costs more.
const ROOM: usize = 1024;

impl TableLimits {
    /// The time at which the flow is over if no more packets come, in CLOCK_MONOTONIC nanoseconds.
    fn deadline(&self, flow: &Flow) -> u64 {
        let nanoseconds = |duration: Duration| duration.as_nanos() as u64;
        let timeout = if flow.outcome.is_some() {
            let lingers = flow.last_ns().saturating_add(LINGER_NS);
            // A flow that waits for a name has it, or has waited long enough, before it goes.
            let named =
                if flow.naming == NameState::Awaited { flow.first_ns.saturating_add(HOLD_NS + NAMED_NS) } else { 0 };
            return lingers.max(named);
        } else if flow.has(CLOSING) {
            0
        } else if is_waiting(flow) {
            patience(flow, nanoseconds(self.connect_timeout))
        } else {
            nanoseconds(self.flow_timeout)
        };
        let over = flow.last_ns().saturating_add(timeout);
        let aged = self.max_age.map_or(u64::MAX, |age| flow.first_ns.saturating_add(age.as_nanos() as u64));
        over.min(aged).saturating_add(SETTLE_NS)
    }
}

impl<M: Default> Table<M> {
    /// Sets new bounds; flows that exceed them leave at once.
    pub fn set_limits(&mut self, limits: TableLimits, observer: &mut impl Observer<Mark = M>) {
        self.limits = limits;
        self.bound(limits.max_flows, observer);
        // Each flow may now be over sooner than it was scheduled.
        let Table { index, flows, wheel, .. } = self;
        for index in index.iter() {
            if let Some(at) = flows.get(index).map(|marked| seconds(limits.deadline(&marked.flow)) + 1) {
                wheel.schedule(flows, index, at);
            }
        }
    }

    /// Sets the maximum number of flows; those that exceed it leave at once.
    pub fn bound(&mut self, max_flows: usize, observer: &mut impl Observer<Mark = M>) {
        self.limits.max_flows = max_flows;
        let mut passes = self.len() / EVICTION_LOOKS;
        while self.len() > max_flows.max(1) {
            let sure = passes == 0;
            if !self.evict(sure, observer) {
                if sure {
                    break;
                }
                passes -= 1;
            }
        }
        self.give_back();
    }

    /// Makes room for one more flow.
    pub(super) fn make_room(&mut self, observer: &mut impl Observer<Mark = M>) {
        let most = self.limits.max_flows.max(1);
        // If many connections are busy, the victims are behind them on the wheel: the spare room lasts until they are
        // found.
        while self.len() >= most - most / SPARE && self.evict(self.len() >= most, observer) {}
    }

    /// True if the flow is so old that its next packet starts a new one.
    pub(super) fn is_aged(&self, flow: &Flow, now_ns: u64) -> bool {
        let aged = |age: Duration| now_ns.saturating_sub(flow.first_ns) > age.as_nanos() as u64;
        flow.outcome.is_none() && !flow.has(CLOSING) && self.limits.max_age.is_some_and(aged)
    }

    /// Ends flows that were silent for too long, and removes those that have lingered.
    pub fn expire(&mut self, now_ns: u64, observer: &mut impl Observer<Mark = M>) {
        self.grow_up(now_ns, observer);
        self.wheel.turn(&mut self.flows, seconds(now_ns));
        while let Some(index) = self.wheel.due(&mut self.flows) {
            let Some(flow) = self.flow(index) else { continue };
            let deadline = self.limits.deadline(flow);
            if deadline > now_ns {
                self.wheel.schedule(&mut self.flows, index, seconds(deadline) + 1);
            } else if flow.outcome.is_some() {
                self.remove(index, observer);
            } else {
                self.end(index, observer);
                self.wheel.schedule(&mut self.flows, index, seconds(now_ns + LINGER_NS) + 1);
            }
        }
        self.give_back();
    }

    /// Releases memory that a burst has taken, if little of it is in use.
    fn give_back(&mut self) {
        let Table { index, young, unnamed, .. } = self;
        let too_much = |capacity: usize, used: usize| capacity > 4 * used + ROOM;
        if too_much(index.capacity(), index.len()) {
            index.shrink_to(2 * index.len());
        }
        if too_much(young.capacity(), young.len()) {
            young.shrink_to(2 * young.len());
        }
        if too_much(unnamed.capacity(), unnamed.len()) {
            unnamed.shrink_to(2 * unnamed.len());
        }
    }

    /// Ends flows that are over at `now_ns`, given that no record is on its way any more; the others may continue.
    pub fn settle(&mut self, now_ns: u64, observer: &mut impl Observer<Mark = M>) {
        let over = |&index: &u32| {
            self.flow(index).is_some_and(|flow| self.limits.deadline(flow) <= now_ns.saturating_add(SETTLE_NS))
        };
        let over: Vec<u32> = self.index.iter().filter(over).collect();
        for index in over {
            self.end(index, observer);
        }
    }

    /// Ends all flows as if they had fallen silent.
    pub fn end_all(&mut self, observer: &mut impl Observer<Mark = M>) {
        let all: Vec<u32> = self.index.iter().collect();
        for index in all {
            self.end(index, observer);
        }
    }

    /// Evicts the flow that would be over first, so unanswered SYNs and idle flows before others. False if none was
    /// evicted: either there is none, or many in turn had packets since they were put on the wheel and have been put
    /// back. With `sure`, one of these is evicted.
    fn evict(&mut self, sure: bool, observer: &mut impl Observer<Mark = M>) -> bool {
        let mut looks = 0;
        while let Some((due, index)) = self.wheel.pop(&mut self.flows) {
            let Some(flow) = self.flow(index) else { continue };
            let deadline = (seconds(self.limits.deadline(flow)) + 1).min(self.wheel.last());
            looks += 1;
            if deadline > due && (looks < EVICTION_LOOKS || !sure) {
                self.wheel.schedule(&mut self.flows, index, deadline);
                if looks == EVICTION_LOOKS {
                    return false;
                }
                continue;
            }
            if let Some(marked) = self.flows.get_mut(index) {
                marked.emit(FlowEvent::Evicted, observer);
            }
            self.end(index, observer);
            self.remove(index, observer);
            self.warm_next(due);
            return true;
        }
        false
    }

    /// In a full table each new flow costs another its place. What the next two of those will need from memory is on its
    /// way meanwhile.
    fn warm_next(&self, due: u64) {
        let Some(next) = self.wheel.first(due).and_then(|index| self.flow(index)) else { return };
        self.index.warm(self.hash(&next.key()) as u32);
        if let Some(second) = next.link.next().and_then(|index| self.flow(index)) {
            second.warm();
        }
    }

    /// Sets and reports the outcome, if it is not known yet. The flow stays in the table, where it can still be seen.
    pub(super) fn end(&mut self, index: u32, observer: &mut impl Observer<Mark = M>) {
        let Some(marked) = self.flows.get_mut(index) else { return };
        if marked.flow.outcome.is_none() {
            let outcome = conclude(&marked.flow);
            marked.flow.outcome = Some(outcome);
            marked.emit(FlowEvent::Ended(outcome), observer);
        }
    }

    pub(super) fn remove(&mut self, index: u32, observer: &mut impl Observer<Mark = M>) {
        self.wheel.remove(&mut self.flows, index);
        let Some(mut marked) = self.flows.remove(index) else { return };
        if marked.flow.naming == NameState::Awaited {
            give_up(&mut marked, observer);
        }
        marked.emit(FlowEvent::Removed, observer);
        let Marked { flow, .. } = marked;
        let hash = self.hash(&flow.key());
        if let Some(past) = Past::of(&flow) {
            self.pasts.put(hash, past, flow.last_ns());
        }
        self.index.remove(hash as u32, index);
        self.counts.entry((flow.protocol, flow.direction)).and_modify(|count| *count -= 1);
    }
}
