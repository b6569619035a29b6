//! What the table remembers of a connection after its flow has left.
//!
//! # What lives how long
//!
//! The BPF program's cache entries and pairs are only caches: any of them may be removed at any time, to make room or
//! after a silence. Only the precision of measurements may depend on them. A record says what its packets were (SYN,
//! sequence numbers), and what the program could not judge by itself.
//!
//! What is known of a connection (its client, its protocol, how far its sequence numbers have come, that its SYN was
//! sent before, how it ended) has one lifetime. It is in the flow as long as the flow is in the table, and moves here
//! when the flow leaves for any reason: silence, age, its end, lack of room. Later packets with the same endpoints are
//! judged by it, unless a SYN of their own shows that they belong to a new connection.
//!
//! - A connection that was open is remembered for a day: pools keep idle connections for hours.
//! - One that is over, or was never answered, is remembered for four minutes, twice the time that a segment may live
//!   (RFC 9293 3.4.1). Late segments, a RST from an end that has forgotten it, and a repeated SYN belong to that
//!   connection and do not count as another.
//!
//! The room is fixed. Connections that are over make way first; each open one that had to make way is counted
//! ([`Pasts::forgotten`]).

use super::details::Before;
use super::outcome::TCP;
use super::{Flow, Outcome, Reason};
use crate::bpf::{App, Record};

/// What is known of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Past {
    /// Index of the end that opened it, as far as that can be known.
    pub(super) client: u8,
    pub(super) app: Option<App>,
    /// The sequence number behind the last data of each end, in the order of the key.
    pub(super) ends: [Option<u32>; 2],
    /// The outcome that was counted.
    pub(super) outcome: Outcome,
    /// True if it was closed, reset, refused, or never answered.
    pub(super) over: bool,
}

/// A [`Past`] as it is stored.
#[derive(Clone, Copy, Debug)]
struct Kept {
    /// The part of the hash that does not select the set.
    tag: u32,
    /// When its flow left the table, in seconds of CLOCK_MONOTONIC.
    at: u32,
    ends: [u32; 2],
    app: Option<App>,
    outcome: Outcome,
    /// CLIENT, OVER, HAS_END.
    bits: u8,
}

const CLIENT: u8 = 1;
const OVER: u8 = 2;
/// One bit for each end: its sequence number is known.
const HAS_END: [u8; 2] = [4, 8];

/// Pasts of connections whose hashes select the same set. It is one cache line, because a set that is looked up is
/// seldom in a cache.
#[derive(Clone, Debug, Default)]
#[repr(align(64))]
struct Set([Option<Kept>; WAYS]);

const _: () = assert!(size_of::<Set>() == 64);

const WAYS: usize = 3;
/// Sets of each table at most: 1 MiB.
const SETS_MOST: usize = 1 << 14;
const SETS_LEAST: usize = 64;

/// How long an open connection is remembered, in seconds.
const OPEN_FOR: u32 = 24 * 3600;
/// How long a connection that is over is remembered, in seconds.
const OVER_FOR: u32 = 240;

/// True for a connection that was open, and is over. After a timeout, a refusal or an ICMP error, the next SYN may
/// still be answered.
fn is_final(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Ok | Outcome::Failed(Reason::ResetByClient | Reason::ResetByServer))
}

/// The pasts of a table.
#[derive(Debug)]
pub(super) struct Pasts {
    /// Empty until there is something to keep.
    sets: Vec<Set>,
    most: usize,
    forgotten: u64,
}

fn seconds(ns: u64) -> u32 {
    (ns / 1_000_000_000) as u32
}

impl Kept {
    fn new(tag: u32, at: u32, past: Past) -> Kept {
        let Past { client, app, ends, outcome, over } = past;
        let has = |is: bool, bit: u8| if is { bit } else { 0 };
        let known = has(ends[0].is_some(), HAS_END[0]) | has(ends[1].is_some(), HAS_END[1]);
        let bits = has(client != 0, CLIENT) | has(over, OVER) | known;
        Kept { tag, at, ends: ends.map(Option::unwrap_or_default), app, outcome, bits }
    }

    fn has(&self, bit: u8) -> bool {
        self.bits & bit != 0
    }

    fn past(&self) -> Past {
        let end = |end: usize| self.has(HAS_END[end]).then_some(self.ends[end]);
        Past {
            client: u8::from(self.has(CLIENT)),
            app: self.app,
            ends: [end(0), end(1)],
            outcome: self.outcome,
            over: self.has(OVER),
        }
    }

    fn is_stale(&self, now: u32) -> bool {
        now.saturating_sub(self.at) > if self.has(OVER) { OVER_FOR } else { OPEN_FOR }
    }
}

impl Pasts {
    /// Creates the room that goes with a table of `max_flows`.
    pub(super) fn new(max_flows: usize) -> Pasts {
        let most = (max_flows / WAYS).next_power_of_two().clamp(SETS_LEAST, SETS_MOST);
        Pasts { sets: Vec::new(), most, forgotten: 0 }
    }

    /// Number of open connections that had to make way for others.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    fn place(&self, hash: u64) -> (usize, u32) {
        (hash as usize & (self.most - 1), (hash >> 32) as u32)
    }

    /// Brings the set of the connection with this hash into a cache.
    pub(super) fn warm(&self, hash: u64) {
        if let Some(set) = self.sets.get(self.place(hash).0) {
            std::hint::black_box(set.0[0].is_some());
        }
    }

    /// Stores what is known of the connection with this hash.
    pub(super) fn put(&mut self, hash: u64, past: Past, now_ns: u64) {
        if self.sets.is_empty() {
            self.sets = vec![Set::default(); self.most];
        }
        let (set, tag) = self.place(hash);
        let now = seconds(now_ns);
        // Replace an earlier past of the same connection, else the least valuable entry: a free or stale one, one that
        // is over, the oldest.
        let worth = |kept: &Option<Kept>| match kept {
            None => (0, 0),
            Some(kept) if kept.tag == tag || kept.is_stale(now) => (0, 1),
            Some(kept) => (if kept.has(OVER) { 1 } else { 2 }, kept.at),
        };
        let Set(set) = &mut self.sets[set];
        let place = set.iter_mut().min_by_key(|kept| (!kept.is_some_and(|kept| kept.tag == tag), worth(kept)));
        let Some(place) = place else { return };
        if worth(place).0 == 2 {
            if past.over {
                return;
            }
            self.forgotten += 1;
        }
        *place = Some(Kept::new(tag, now, past));
    }

    /// Removes and returns what is known of the connection with this hash, which continues.
    pub(super) fn take(&mut self, hash: u64, now_ns: u64) -> Option<Past> {
        if self.sets.is_empty() {
            return None;
        }
        let (set, tag) = self.place(hash);
        let place = self.sets[set].0.iter_mut().find(|kept| kept.is_some_and(|kept| kept.tag == tag))?;
        let kept = place.take()?;
        (!kept.is_stale(seconds(now_ns))).then(|| kept.past())
    }
}

impl Past {
    /// True if the record's SYN or SYN-ACK was sent before.
    pub(super) fn has_sent(&self, sender: usize, record: &Record) -> bool {
        let ahead = self.ends[sender].zip(record.sequence.end).map(|(known, end)| end.wrapping_sub(known));
        ahead.is_some_and(|ahead| u64::from(ahead) <= record.bytes)
    }

    /// Continues the connection in `flow`.
    pub(super) fn go_on(&self, flow: &mut Flow) {
        flow.app = self.app;
        for (sent, end) in flow.sent.iter_mut().zip(self.ends) {
            sent.set_end(end);
        }
        if flow.protocol == TCP {
            let before = Before { outcome: self.outcome, over: self.over && is_final(self.outcome) };
            flow.details.get_or_insert_default().before = Some(before);
        }
    }

    /// What is known of the flow's connection; `None` if nothing is worth keeping.
    pub(super) fn of(flow: &Flow) -> Option<Past> {
        let outcome = flow.outcome?;
        let answered = flow.sent.iter().all(|sent| sent.packets > 0);
        let opened = flow.from_client().syn();
        if !answered && !opened && flow.app.is_none() {
            return None;
        }
        let over = flow.is_over_for_good();
        Some(Past {
            client: flow.client,
            app: flow.app,
            ends: [flow.sent[0].end(), flow.sent[1].end()],
            outcome: flow.before().filter(|before| before.over).map_or(outcome, |before| before.outcome),
            over,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn past(over: bool) -> Past {
        Past { client: 1, app: None, ends: [Some(1), None], outcome: Outcome::Ok, over }
    }

    #[test]
    fn the_open_are_remembered_for_a_day_and_the_closed_for_minutes() {
        let mut pasts = Pasts::new(1000);
        for (over, seconds) in [(true, 240), (false, 24 * 3600)] {
            pasts.put(7, past(over), 100 * SECOND);
            assert_eq!(pasts.take(7, (100 + seconds) * SECOND), Some(past(over)));
            assert_eq!(pasts.take(7, (100 + seconds) * SECOND), None, "it was taken");
            pasts.put(7, past(over), 100 * SECOND);
            assert_eq!(pasts.take(7, (101 + seconds) * SECOND), None);
        }
    }

    #[test]
    fn the_closed_make_way_for_the_open() {
        let mut pasts = Pasts::new(1000);
        let same_set = |n: u64| n << 32 | 5;
        for n in 0..WAYS as u64 {
            pasts.put(same_set(n), past(n == 1), (100 + n) * SECOND);
        }
        pasts.put(same_set(10), past(true), 110 * SECOND);
        pasts.put(same_set(11), past(false), 111 * SECOND);
        assert_eq!(pasts.forgotten(), 0);
        assert!([0, 2, 11].iter().all(|n| pasts.take(same_set(*n), 112 * SECOND).is_some()));
        for n in 0..=WAYS as u64 {
            pasts.put(same_set(n), past(false), (120 + n) * SECOND);
        }
        pasts.put(same_set(20), past(true), 130 * SECOND);
        assert_eq!((pasts.forgotten(), pasts.take(same_set(0), 131 * SECOND)), (1, None), "the oldest of all");
        assert_eq!(pasts.take(same_set(20), 131 * SECOND), None, "a closed connection does not displace an open one");
    }

    #[test]
    fn room_is_bounded() {
        let mut pasts = Pasts::new(1_000_000);
        for n in 0..1_000_000u64 {
            pasts.put(n.wrapping_mul(0x9e37_79b9_7f4a_7c15), past(false), 100 * SECOND);
        }
        assert!(size_of::<Set>() * pasts.sets.len() <= 1 << 20);
        assert_eq!(pasts.forgotten(), 1_000_000 - (SETS_MOST * WAYS) as u64);
    }
}
