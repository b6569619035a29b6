//! Rates of flows, from repeated readings of what they have sent. Pure.
//!
//! The kernel reports a busy flow about every two seconds, at any moment: what arrived between two readings may stand
//! for half the time between them, or for twice as much. A rate therefore relates to the time of the packets
//! themselves. Each CPU reports its own packets: packets that arrive without later ones belong to the time that was
//! already reported.

use std::hash::Hash;

use foldhash::{HashMap, HashMapExt};

use super::{Flow, Sent};

/// The maximum age of what is known about a flow: it is reported every two seconds, and a sweep brings the report.
const LATE_NS: u64 = 3_500_000_000;
/// Two readings closer than this count as one.
const APART_NS: u64 = 200_000_000;
/// Two readings farther apart are not compared.
const FORGET_NS: u64 = 30_000_000_000;
/// A rate over a shorter time is refined by the next report; one over a longer time makes room for the next.
const ENOUGH_NS: u64 = 1_500_000_000;
/// Packets that are later by less than this are another CPU's report about the same time.
const LATER_NS: u64 = 300_000_000;
/// The time that a first reading stands for, as there is none before it.
const FIRST_NS: u64 = 1_000_000_000;
/// Flows that are remembered at most, some 340 bytes each. Silent flows take at most half of the room.
const FLOWS: usize = 64 << 10;

/// The rate of a flow, both directions together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    /// Bytes on the wire per second.
    pub bytes_per_s: f64,
    /// Packets on the wire per second.
    pub packets_per_s: f64,
}

impl std::ops::AddAssign for Rate {
    fn add_assign(&mut self, other: Rate) {
        self.bytes_per_s += other.bytes_per_s;
        self.packets_per_s += other.packets_per_s;
    }
}

/// What an end of a flow has sent so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Packets on the wire.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Time of the last packet, in CLOCK_MONOTONIC nanoseconds.
    pub last_ns: u64,
}

/// One reading of what a flow has sent so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowTotals {
    /// Totals of each end: the kernel reports one end at a time.
    pub sent: [Totals; 2],
    /// Time of the first packet of either end, in CLOCK_MONOTONIC nanoseconds.
    pub first_ns: u64,
    /// True once its outcome is known.
    pub ended: bool,
}

impl From<&Flow> for FlowTotals {
    fn from(flow: &Flow) -> FlowTotals {
        let sent = |end: usize| {
            let Sent { packets, bytes, last_ns, .. } = flow.sent[end];
            Totals { packets, bytes, last_ns }
        };
        FlowTotals { sent: [sent(0), sent(1)], first_ns: flow.first_ns, ended: flow.outcome.is_some() }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct End {
    /// The totals from which the rate is calculated.
    base: Totals,
    sent: Totals,
    rate: Rate,
    /// The rate is valid until this time, unless more is reported.
    until_ns: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    ends: [End; 2],
    /// Number of the reading that last saw it.
    look: u32,
}

impl Known {
    fn rate(&self) -> Rate {
        let mut rate = self.ends[0].rate;
        rate += self.ends[1].rate;
        rate
    }
}

/// Rates of flows, by a key that identifies a flow.
#[derive(Debug)]
pub struct Rates<K> {
    known: HashMap<K, Known>,
    /// Maximum number of flows that are remembered.
    most: usize,
    look: u32,
    /// Time of this reading, and of the one before; 0 if there was none.
    at_ns: u64,
    before_ns: u64,
    fresh: bool,
    unknown: u64,
}

impl<K> Default for Rates<K> {
    fn default() -> Rates<K> {
        let known = HashMap::new();
        Rates { known, most: FLOWS, look: 0, at_ns: 0, before_ns: 0, fresh: false, unknown: 0 }
    }
}

impl<K: Copy + Eq + Hash> Rates<K> {
    /// TableLimits what is remembered to `bytes`; returns the bytes that this may take.
    pub fn fit(&mut self, bytes: usize) -> usize {
        // Tables grow by doubling, and are never full.
        let each = 2 * size_of::<(K, Known)>();
        self.most = (bytes / each).min(FLOWS);
        self.most * each
    }

    /// True if there was no reading for a while.
    pub fn rests(&self) -> bool {
        self.at_ns == 0
    }

    /// Begins a reading of all flows. One that follows another at once yields the same rates.
    pub fn begin(&mut self, now_ns: u64) {
        self.unknown = 0;
        self.fresh = self.at_ns == 0 || now_ns.saturating_sub(self.at_ns) >= APART_NS;
        if !self.fresh {
            return;
        }
        if now_ns.saturating_sub(self.at_ns) > FORGET_NS {
            self.forget();
        }
        self.before_ns = std::mem::replace(&mut self.at_ns, now_ns);
        self.look = self.look.wrapping_add(1);
    }

    /// The rate of the flow.
    pub fn of(&mut self, key: K, flow: FlowTotals) -> Rate {
        let known = self.known.get(&key).copied();
        match known {
            Some(known) if !self.fresh => known.rate(),
            None if !self.fresh => Rate::default(),
            known => {
                let end = |end: usize| self.see(known.as_ref().map(|known| &known.ends[end]), flow.sent[end], &flow);
                let seen = Known { ends: [end(0), end(1)], look: self.look };
                let active =
                    seen.rate() != Rate::default() || flow.sent.iter().any(|sent| self.is_recent(sent.last_ns));
                let room = if active { self.most } else { self.most / 2 };
                if known.is_some() || self.known.len() < room {
                    self.known.insert(key, seen);
                } else {
                    self.unknown += u64::from(active);
                }
                seen.rate()
            }
        }
    }

    /// Ends the reading: flows that are gone are forgotten. Returns how many active flows found no room, so that their
    /// rates are not known.
    pub fn end(&mut self) -> u64 {
        if self.fresh {
            self.known.retain(|_, known| known.look == self.look);
        }
        self.unknown
    }

    /// Releases everything if there was no reading for a while.
    pub fn rest(&mut self, now_ns: u64) {
        if self.at_ns != 0 && now_ns.saturating_sub(self.at_ns) > FORGET_NS {
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.known = HashMap::new();
        (self.at_ns, self.before_ns) = (0, 0);
    }

    fn is_recent(&self, last_ns: u64) -> bool {
        self.at_ns.saturating_sub(last_ns) <= LATE_NS
    }

    fn see(&self, known: Option<&End>, sent: Totals, flow: &FlowTotals) -> End {
        let last_ns = sent.last_ns;
        let between = if self.before_ns == 0 { FIRST_NS } else { self.at_ns - self.before_ns };
        let earliest = self.before_ns.saturating_sub(LATE_NS);
        // The totals from which this rate is calculated.
        let base = match known {
            Some(End { base, sent: before, .. }) => {
                let over = before.last_ns < earliest;
                let span = before.last_ns.saturating_sub(base.last_ns);
                let later = before.last_ns + if span < 2 * ENOUGH_NS { LATER_NS } else { 0 };
                if over || span >= ENOUGH_NS && last_ns > later { *before } else { *base }
            }
            // Everything it ever sent: at a first reading, its mean is as good a guess as any.
            None if self.is_recent(last_ns) && (self.before_ns == 0 || flow.first_ns >= earliest) => {
                Totals { last_ns: flow.first_ns, ..Totals::default() }
            }
            // An old flow that was silent, or found no room before: the next reading shows what is new.
            None => sent,
        };
        let is_news = known.map_or(base, |known| known.sent).packets < sent.packets;
        let mut seen = End { base, sent, ..End::default() };
        if is_news {
            // A few packets at once are no flood: they stand for all the time that passed. A flow that goes on has a
            // time of its own.
            let least = if known.is_some() && !flow.ended { between.min(FIRST_NS) } else { between };
            let took = last_ns.saturating_sub(base.last_ns.max(earliest)).max(least);
            let per_s = |now: u64, before: u64| now.saturating_sub(before) as f64 * 1e9 / took as f64;
            seen.rate =
                Rate { bytes_per_s: per_s(sent.bytes, base.bytes), packets_per_s: per_s(sent.packets, base.packets) };
            // A rate is valid for as long as its packets took. The next report of a flow that goes on may come somewhat
            // later.
            let late = if !flow.ended && took > between { LATE_NS / 2 } else { 0 };
            if self.before_ns == 0 {
                seen.base = sent; // from here on the rate is no guess
            }
            seen.until_ns = (self.at_ns + took.min(between + LATE_NS) + late).saturating_sub(between / 2);
        } else if let Some(known) = known.filter(|known| self.at_ns < known.until_ns) {
            (seen.rate, seen.until_ns) = (known.rate, known.until_ns);
        }
        seen
    }
}

#[cfg(test)]
mod tests;
