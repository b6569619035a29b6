//! When flows leave the table: silence, age, want of room.

use std::time::Duration;

use super::{EVICTION_LOOKS, LINGER_NS, Limits, SETTLE_NS, Table, seconds, spread};
use crate::flow::naming::HOLD_NS;
use crate::flow::outcome::{conclude, is_waiting, patience};
use crate::flow::past::Past;
use crate::flow::wheel::{Entry, Wheel};
use crate::flow::{CLOSING, Flow, Naming, Observer};

/// Names are asked for again within this time.
const NAMED_NS: u64 = 1_000_000_000;

impl Table {
    /// From now on these bounds hold; what exceeds them leaves at once.
    pub fn set_limits(&mut self, limits: Limits, now_ns: u64, observer: &mut impl Observer) {
        self.limits = limits;
        self.bound(limits.max_flows, observer);
        // Each may now be over sooner than it was put down for.
        self.wheel = Wheel::new(seconds(now_ns));
        for &(_, index) in &self.index {
            if let Some(flow) = self.flows.get(index) {
                let deadline = self.deadline(flow).max(now_ns);
                self.wheel.schedule(seconds(deadline) + 1, Entry { index, generation: flow.generation });
            }
        }
    }

    /// From now on so many flows at most; what exceeds it leaves at once.
    pub fn bound(&mut self, max_flows: usize, observer: &mut impl Observer) {
        self.limits.max_flows = max_flows;
        while self.len() > max_flows.max(1) && self.evict(observer) {}
    }

    /// The flow is so old that what comes belongs to a new one.
    pub(super) fn is_aged(&self, flow: &Flow, now_ns: u64) -> bool {
        let aged = |age: Duration| now_ns.saturating_sub(flow.first_ns) > age.as_nanos() as u64;
        flow.outcome.is_none() && !flow.has(CLOSING) && self.limits.max_age.is_some_and(aged)
    }

    /// Ends what was silent for too long.
    pub fn expire(&mut self, now_ns: u64, observer: &mut impl Observer) {
        self.grow_up(now_ns, observer);
        for entry in self.wheel.turn(seconds(now_ns)) {
            let Some(flow) = self.flows.get(entry.index).filter(|f| f.generation == entry.generation) else { continue };
            let deadline = self.deadline(flow);
            if deadline > now_ns {
                self.wheel.schedule(seconds(deadline) + 1, entry);
            } else if flow.outcome.is_some() {
                self.remove(entry.index, observer);
            } else {
                self.end(entry.index, observer);
                self.wheel.schedule(seconds(now_ns + LINGER_NS) + 1, entry);
            }
        }
    }

    /// Ends what is over at `now_ns`, if no record is on its way any more; what is left may go on.
    pub fn settle(&mut self, now_ns: u64, observer: &mut impl Observer) {
        let over = |&index: &u32| {
            self.flows.get(index).is_some_and(|flow| self.deadline(flow) <= now_ns.saturating_add(SETTLE_NS))
        };
        let over: Vec<u32> = self.index.iter().map(|&(_, i)| i).filter(over).collect();
        for index in over {
            self.end(index, observer);
        }
    }

    /// Ends all flows, as if all had fallen silent.
    pub fn end_all(&mut self, observer: &mut impl Observer) {
        let all: Vec<u32> = self.index.iter().map(|&(_, i)| i).collect();
        for index in all {
            self.end(index, observer);
        }
    }

    /// When the flow is over if nothing more comes.
    pub(super) fn deadline(&self, flow: &Flow) -> u64 {
        let nanoseconds = |duration: Duration| duration.as_nanos() as u64;
        let timeout = if flow.outcome.is_some() {
            let lingers = flow.last_ns().saturating_add(LINGER_NS);
            // Whoever waits for a name has it, or has waited long enough, before it goes.
            let named =
                if flow.naming == Naming::Awaited { flow.first_ns.saturating_add(HOLD_NS + NAMED_NS) } else { 0 };
            return lingers.max(named);
        } else if flow.has(CLOSING) {
            0
        } else if is_waiting(flow) {
            patience(flow, nanoseconds(self.limits.connect_timeout))
        } else {
            nanoseconds(self.limits.flow_timeout)
        };
        let over = flow.last_ns().saturating_add(timeout);
        let aged = self.limits.max_age.map_or(u64::MAX, |age| flow.first_ns.saturating_add(age.as_nanos() as u64));
        over.min(aged).saturating_add(SETTLE_NS)
    }

    /// Makes room: the flow that would be over first goes, so unanswered SYNs and idle flows before others. False if there
    /// is none.
    pub(super) fn evict(&mut self, observer: &mut impl Observer) -> bool {
        let mut looks = 0;
        while let Some((due, entry)) = self.wheel.pop() {
            let Some(flow) = self.flows.get(entry.index).filter(|f| f.generation == entry.generation) else { continue };
            let deadline = seconds(self.deadline(flow)) + 1;
            looks += 1;
            if deadline > due && looks <= EVICTION_LOOKS {
                self.wheel.schedule(deadline, entry); // it had packets since it was put there
                continue;
            }
            observer.evicted(flow);
            self.end(entry.index, observer);
            self.remove(entry.index, observer);
            return true;
        }
        false
    }

    /// The outcome, if it is not known yet. The flow stays for whoever wants to see it.
    pub(super) fn end(&mut self, index: u32, observer: &mut impl Observer) {
        if let Some(flow) = self.flows.get_mut(index)
            && flow.outcome.is_none()
        {
            let outcome = conclude(flow);
            flow.outcome = Some(outcome);
            observer.ended(flow, outcome);
        }
    }

    pub(super) fn remove(&mut self, index: u32, observer: &mut impl Observer) {
        let Some(flow) = self.flows.remove(index) else { return };
        if flow.naming == Naming::Awaited {
            observer.nameless(&flow);
        }
        observer.removed(&flow);
        let hash = self.hash(&flow.key);
        if let Some(past) = Past::of(&flow) {
            self.pasts.put(hash, past, flow.last_ns());
        }
        if let Ok(entry) = self.index.find_entry(spread(hash as u32), |&(_, i)| i == index) {
            entry.remove();
        }
        self.counts.entry((flow.key.protocol, flow.direction)).and_modify(|count| *count -= 1);
    }
}
