//! How fast flows are, from two looks at what they have sent. Pure.
//!
//! The kernel tells of a busy flow every other second or so, whenever that is: what came between two looks may be of half the
//! time between them, or of twice as much. A rate is therefore over the time of the packets themselves. Each CPU tells what it
//! has seen by itself: what comes without later packets belongs to the time that was told already.

use std::hash::Hash;

use foldhash::{HashMap, HashMapExt};

use super::{Flow, Sent};

/// What is told of a flow is at most so old: it reports every two seconds, which a sweep brings.
const LATE_NS: u64 = 3_500_000_000;
/// Two looks closer than this are one.
const APART_NS: u64 = 200_000_000;
/// Two looks farther apart have nothing to do with each other.
const FORGET_NS: u64 = 30_000_000_000;
/// A rate over less time is refined by what comes next; by more, it makes room for the next.
const ENOUGH_NS: u64 = 1_500_000_000;
/// Packets later by less than this are of another CPU's account of the same time.
const LATER_NS: u64 = 300_000_000;
/// The time of a first look, which has none before it.
const FIRST_NS: u64 = 1_000_000_000;
/// Flows that are remembered at most, some 340 bytes each. Silent ones take half of the room at most.
const FLOWS: usize = 64 << 10;

/// How fast a flow is, both directions together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    /// On the wire.
    pub bytes_per_s: f64,
    /// On the wire.
    pub packets_per_s: f64,
}

impl std::ops::AddAssign for Rate {
    fn add_assign(&mut self, other: Rate) {
        self.bytes_per_s += other.bytes_per_s;
        self.packets_per_s += other.packets_per_s;
    }
}

/// What an end of a flow has sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Packets on the wire.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Last packet.
    pub last_ns: u64,
}

/// What a flow has sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// By each end: the kernel tells of one end at a time.
    pub sent: [Told; 2],
    /// First packet of either.
    pub first_ns: u64,
    /// Its outcome is known.
    pub ended: bool,
}

impl From<&Flow> for Looked {
    fn from(flow: &Flow) -> Looked {
        let told = |end: usize| {
            let Sent { packets, bytes, last_ns, .. } = flow.sent[end];
            Told { packets, bytes, last_ns }
        };
        Looked { sent: [told(0), told(1)], first_ns: flow.first_ns, ended: flow.outcome.is_some() }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct End {
    /// Where the rate begins.
    base: Told,
    told: Told,
    rate: Rate,
    /// It holds until then, unless there is news.
    until_ns: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    ends: [End; 2],
    /// The look that saw it.
    look: u32,
}

impl Known {
    fn rate(&self) -> Rate {
        let mut rate = self.ends[0].rate;
        rate += self.ends[1].rate;
        rate
    }
}

/// Rates of flows, by what tells a flow from others.
#[derive(Debug)]
pub struct Rates<K> {
    known: HashMap<K, Known>,
    /// Flows that may be remembered.
    most: usize,
    look: u32,
    /// Time of this look, and of the one before; 0: there was none.
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
    /// What may be remembered within so many bytes, and what that takes.
    pub fn fit(&mut self, bytes: usize) -> usize {
        // Tables grow by doubling, and are never full.
        let each = 2 * size_of::<(K, Known)>();
        self.most = (bytes / each).min(FLOWS);
        self.most * each
    }

    /// Nobody has looked for a while.
    pub fn rests(&self) -> bool {
        self.at_ns == 0
    }

    /// Begins a look at all flows. One that comes at once after another sees the same.
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

    /// How fast the flow is.
    pub fn of(&mut self, key: K, flow: Looked) -> Rate {
        let known = self.known.get(&key).copied();
        match known {
            Some(known) if !self.fresh => known.rate(),
            None if !self.fresh => Rate::default(),
            known => {
                let end = |end: usize| self.see(known.as_ref().map(|known| &known.ends[end]), flow.sent[end], &flow);
                let seen = Known { ends: [end(0), end(1)], look: self.look };
                let active =
                    seen.rate() != Rate::default() || flow.sent.iter().any(|told| self.is_recent(told.last_ns));
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

    /// Ends the look: flows that are gone are forgotten. How many active ones found no room, so that their rates are not known.
    pub fn end(&mut self) -> u64 {
        if self.fresh {
            self.known.retain(|_, known| known.look == self.look);
        }
        self.unknown
    }

    /// Lets go of everything if nobody has looked for a while.
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

    fn see(&self, known: Option<&End>, told: Told, flow: &Looked) -> End {
        let last_ns = told.last_ns;
        let between = if self.before_ns == 0 { FIRST_NS } else { self.at_ns - self.before_ns };
        let earliest = self.before_ns.saturating_sub(LATE_NS);
        // From when on it is told of.
        let base = match known {
            Some(End { base, told: before, .. }) => {
                let over = before.last_ns < earliest;
                let span = before.last_ns.saturating_sub(base.last_ns);
                let later = before.last_ns + if span < 2 * ENOUGH_NS { LATER_NS } else { 0 };
                if over || span >= ENOUGH_NS && last_ns > later { *before } else { *base }
            }
            // All it ever sent: at a first look its mean is as good a guess as any.
            None if self.is_recent(last_ns) && (self.before_ns == 0 || flow.first_ns >= earliest) => {
                Told { last_ns: flow.first_ns, ..Told::default() }
            }
            // An old one that was silent, or found no room before: what of it is new shows at the next look.
            None => told,
        };
        let is_news = known.map_or(base, |known| known.told).packets < told.packets;
        let mut seen = End { base, told, ..End::default() };
        if is_news {
            // A few packets at once are no flood: they are of all the time that passed. One that goes on is told by its own time.
            let least = if known.is_some() && !flow.ended { between.min(FIRST_NS) } else { between };
            let took = last_ns.saturating_sub(base.last_ns.max(earliest)).max(least);
            let per_s = |now: u64, before: u64| now.saturating_sub(before) as f64 * 1e9 / took as f64;
            seen.rate =
                Rate { bytes_per_s: per_s(told.bytes, base.bytes), packets_per_s: per_s(told.packets, base.packets) };
            // It is told for as long as it took. A flow that goes on may tell of itself somewhat later than that.
            let late = if !flow.ended && took > between { LATE_NS / 2 } else { 0 };
            if self.before_ns == 0 {
                seen.base = told; // from here on it is no guess
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
