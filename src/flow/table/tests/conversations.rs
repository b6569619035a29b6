//! TCP connections from the first segment to the last, with records cut and mixed as several CPUs, sweeps and hooks may
//! cut and mix them: the outcome does not depend on that.

use super::*;
use crate::bpf::{Facts, Sequence};
use crate::flow::State;

/// Records have the time of a jiffy, here at 250 Hz.
const JIFFY: u64 = 4_000_000;

/// xorshift64, with the same numbers in every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n
    }

    fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            list.swap(i, self.below(i + 1));
        }
    }
}

/// A segment sent by the client (0) or the server (1).
#[derive(Clone, Copy, Debug)]
struct Segment {
    at_ns: u64,
    from: usize,
    flags: u8,
    /// It was sent before.
    again: bool,
    /// The sequence number behind it, and the one it acknowledges.
    end: u32,
    ack: Option<u32>,
}

impl Segment {
    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

const PSH: u8 = 8;
/// Bytes of a segment with data.
const DATA: u32 = 100;

/// Parses `C:S S:SA C:A`: the sender, and flags by their first letters; P means that it has data. A repeated SYN comes
/// a second later, everything else a millisecond. Each ACK covers all that the other end has sent so far, but for a
/// lower-case `a`, which covers nothing new.
fn conversation(text: &str) -> Vec<Segment> {
    let mut at_ns = 101 * SECOND;
    let mut segments: Vec<Segment> = Vec::new();
    // Wraps around.
    let mut sent = [u32::MAX - 150, 7];
    let mut acked = [None; 2];
    for word in text.split(' ') {
        let (from, letters) = word.split_once(':').unwrap();
        let from = usize::from(from == "S");
        let bit = |letter: char| 1 << "FSRPA".find(letter.to_ascii_uppercase()).unwrap();
        let flags = letters.chars().fold(0, |flags: u8, letter| flags | bit(letter));
        let again = flags & 2 != 0 && segments.iter().any(|s| s.from == from && s.flags == flags);
        at_ns += if again { SECOND } else { 1_000_000 };
        if !again {
            let length = u32::from(flags & 3 != 0) + if flags & PSH != 0 { DATA } else { 0 };
            sent[from] = sent[from].wrapping_add(length);
        }
        if letters.contains('A') {
            acked[from] = Some(sent[1 - from]);
        }
        let ack = acked[from].filter(|_| flags & ACK != 0);
        segments.push(Segment { at_ns, from, flags, again, end: sent[from], ack });
    }
    segments
}

/// What the BPF program knows about one direction from these segments alone, as in bpf/tcp.h.
fn sequence(segments: &[Segment]) -> Sequence {
    let mut known = Sequence::default();
    for segment in segments {
        let is_ahead = |ack: u32| known.ack.is_none_or(|known| (ack.wrapping_sub(known) as i32) > 0);
        if let Some(ack) = segment.ack.filter(|ack| is_ahead(*ack)) {
            (known.ack, known.heard) = (Some(ack), true);
        }
        if !segment.has(RST) {
            known.unjudged |= known.end.is_none() && segment.flags & (FIN | 2 | PSH) != 0;
            known.heard &= !segment.has(PSH);
            known.end = Some(segment.end);
        }
    }
    known
}

/// One record of the segments that one CPU saw in one direction.
fn record(segments: &[Segment]) -> Record {
    let first = segments[0];
    let any = |f: fn(&Segment) -> bool| segments.iter().any(f);
    let jiffy = |at_ns: u64| at_ns / JIFFY * JIFFY;
    let again = segments.iter().filter(|s| s.again).count() as u16;
    let mut facts = Facts::default();
    facts.retransmits = again;
    let sent = Record {
        packets: segments.len() as u64,
        first_ns: jiffy(first.at_ns),
        last_ns: jiffy(segments[segments.len() - 1].at_ns),
        tcp_flags: segments.iter().fold(0, |flags, s| flags | s.flags),
        syn: any(|s| s.flags & 18 == 2),
        syn_ack: any(|s| s.flags & 18 == 18),
        sequence: sequence(segments),
        facts: (again > 0).then_some(facts),
        ..packet(1, 0)
    };
    if first.from == 0 { sent } else { Record { first_ns: sent.first_ns, ..reply(sent) } }
}

/// The records of a conversation: each segment is seen by one of `cpus`, whose cache entry is reported now and then.
fn records(segments: &[Segment], cpus: usize, chance: &mut Chance) -> Vec<Record> {
    let mut entries = vec![[vec![], vec![]]; cpus];
    let mut records = Vec::new();
    for segment in segments {
        let entry: &mut Vec<Segment> = &mut entries[chance.below(cpus)][segment.from];
        entry.push(*segment);
        if segment.flags & RST != 0 || chance.below(3) == 0 {
            records.push(record(entry));
            entry.clear();
        }
    }
    records.extend(entries.iter().flatten().filter(|entry| !entry.is_empty()).map(|entry| record(entry)));
    records
}

/// The result of a connection: its outcome, its state, who reset it, what its two ends sent.
type Fate = (Vec<Outcome>, State, Option<u8>, [u64; 2]);

fn fate(records: &[Record]) -> Fate {
    let (mut table, mut log) = run(records);
    for second in 102..500 {
        if table.len() == 1 && table.iter().next().unwrap().outcome.is_some() {
            break;
        }
        table.expire(second * SECOND, &mut log);
    }
    assert_eq!(table.len(), 1, "one connection, which is still in the table");
    let flow = table.iter().next().unwrap();
    (log.ended, flow.state(), flow.reset_by(), [flow.from_client().packets, flow.from_server().packets])
}

/// One of many ways to cut and mix the records of a conversation. A record may be late by less than the time until a
/// flow is judged.
fn mixed(segments: &[Segment], chance: &mut Chance) -> Vec<Record> {
    let cpus = 1 + chance.below(3);
    let mut all = records(segments, cpus, chance);
    if chance.below(2) == 0 {
        // Another hook sees all of it.
        all.extend(records(segments, cpus, chance).into_iter().map(|r| Record { ifindex: 8, ..r }));
    }
    chance.shuffle(&mut all);
    all
}

fn assert_fate(text: &str, outcome: Outcome, state: State, reset_by: Option<u8>) {
    let segments = conversation(text);
    let sent = [0, 1].map(|end| segments.iter().filter(|s| s.from == end).count() as u64);
    let expected = (vec![outcome], state, reset_by, sent);
    for seed in 1..=1000 {
        let records = mixed(&segments, &mut Chance(seed * 0x9e37_79b9));
        assert_eq!(fate(&records), expected, "{text}, as {records:#?}");
    }
}

const OK: Outcome = Outcome::Ok;

fn failed(reason: Reason) -> Outcome {
    Outcome::Failed(reason)
}

#[test]
fn closed() {
    for text in [
        "C:S S:SA C:A C:PA S:A S:PA C:A C:FA S:FA C:A",
        "C:S S:SA C:A C:PA S:PA S:FA C:A C:FA S:A",
        // Both close at once, RFC 9293 3.6.
        "C:S S:SA C:A C:FA S:FA C:A S:A",
        // Repeated SYNs of either side.
        "C:S C:S C:S S:SA C:A C:FA S:FA C:A",
        "C:S S:SA S:SA C:A C:FA S:FA C:A",
        // Data on the SYN, RFC 7413.
        "C:SP S:SA C:A S:PA C:FA S:FA C:A",
        // A RST after the close, one after the other end's FIN, and one after its own.
        "C:S S:SA C:A C:FA S:FA C:A S:R",
        "C:S S:SA C:A C:PA S:FPA C:A C:FA C:R",
    ] {
        assert_fate(text, OK, State::Closed, text.contains(":R").then_some(u8::from(text.ends_with("S:R"))));
    }
    assert_fate("C:S S:SA C:A C:FA S:A S:RA", OK, State::Closed, Some(1));
    assert_fate("C:S S:SA C:A C:PA S:A C:FA C:R", OK, State::Closed, Some(0));
}

#[test]
fn opened_by_both() {
    // RFC 9293 3.5. Which end is called the client is a matter of chance, the outcome is not.
    let segments = conversation("C:S S:S C:SA S:SA C:PA S:PA C:FA S:FA C:A");
    for seed in 1..=1000 {
        let fate = fate(&mixed(&segments, &mut Chance(seed)));
        assert_eq!((fate.0, fate.1, fate.3.iter().sum()), (vec![OK], State::Closed, 9));
    }
}

#[test]
fn refused() {
    for text in ["C:S S:RA", "C:S C:S S:RA", "C:SP S:RA"] {
        assert_fate(text, failed(Reason::Refused), State::Reset, Some(1));
    }
}

#[test]
fn timed_out() {
    for text in ["C:S", "C:S C:S C:S"] {
        assert_fate(text, failed(Reason::Timeout), State::SynSent, None);
    }
    // The client never answered: a flood of SYNs, or a filter on the way back.
    assert_fate("C:S S:SA S:SA S:SA", failed(Reason::Timeout), State::SynReceived, None);
    // The client gave up.
    assert_fate("C:S C:S C:R", failed(Reason::Timeout), State::Reset, Some(0));
}

#[test]
fn reset() {
    for (text, by) in [
        // A request without its answer.
        ("C:S S:SA C:A C:PA S:A C:RA", 0),
        ("C:S S:SA C:A C:PA S:A S:R", 1),
        ("C:S S:SA C:A C:PA S:RA", 1),
        ("C:S S:SA C:A C:PA S:PA C:A C:PA S:A S:RA", 1),
        // An answer that did not arrive completely, as far as the packets show.
        ("C:S S:SA C:A C:PA S:PA S:PA C:R", 0),
        ("C:S S:SA C:A C:PA S:PA C:A S:PA S:RA", 1),
        // A scan that looks no further than the SYN-ACK.
        ("C:S S:SA C:R", 0),
        // First seen after its start.
        ("C:PA S:A S:RA", 1),
        ("C:PA S:A C:RA", 0),
        // Only the client's side is seen.
        ("C:S C:A C:PA C:RA", 0),
    ] {
        let reason = if by == 0 { Reason::ResetByClient } else { Reason::ResetByServer };
        assert_fate(text, failed(reason), State::Reset, Some(by));
    }
}

/// Some programs close with a RST, which cuts nothing off.
#[test]
fn closed_by_rst() {
    for (text, by) in [
        ("C:S S:SA C:A S:RA", 1),
        ("C:S S:SA C:RA", 0), // a health check that needs no more
        ("C:S S:SA C:A C:PA S:PA C:A S:RA", 1),
        ("C:S S:SA C:A C:PA S:PA C:A C:R", 0),
        // The RST acknowledges data that the client does not read.
        ("C:S S:SA C:A C:PA S:PA C:RA", 0),
        // A last message that waits for nothing.
        ("C:S S:SA C:A C:PA S:PA C:PA C:Ra", 0),
        // A RST of a connection that is not known.
        ("C:R", 0),
        ("S:RA", 1),
        ("S:SA C:R", 0),
    ] {
        assert_fate(text, OK, State::Reset, Some(by));
    }
}

#[test]
fn still_open_when_it_fell_silent() {
    for (text, state) in [
        ("C:S S:SA C:A C:PA S:PA", State::Established),
        ("C:PA S:A S:PA C:A", State::Established),
        ("C:S S:SA C:A C:FA S:A S:PA C:A", State::HalfClosed),
        ("C:S S:SA C:A S:FA C:A C:PA", State::HalfClosed),
        // One direction takes another path. The client continues, so it was answered.
        ("C:S C:A C:PA", State::Established),
        ("C:S C:A C:PA C:FA C:A", State::HalfClosed),
        ("S:SA S:PA S:A S:FA", State::HalfClosed),
    ] {
        assert_fate(text, OK, state, None);
    }
}

/// Random conversations, sensible or not.
#[test]
fn the_order_of_records_changes_nothing() {
    let mut chance = Chance(0x1234_5678);
    let mut fates = std::collections::BTreeMap::new();
    for _ in 0..3000 {
        let mut words = vec!["C:S"];
        for _ in 0..chance.below(8) {
            let word = ["S:SA", "C:A", "C:PA", "C:FA", "C:R", "S:A", "S:PA", "S:FA", "S:RA"][chance.below(9)];
            // A SYN-ACK after the end would belong to another connection.
            let over = words.iter().any(|word| word.contains(['F', 'R']));
            words.push(if over && word == "S:SA" { "S:A" } else { word });
        }
        let mut segments = conversation(&words.join(" "));
        let mut pause = 0;
        for segment in &mut segments {
            pause += chance.below(3) as u64 * JIFFY;
            segment.at_ns += pause;
        }
        let each: Vec<Record> = segments.iter().map(|s| record(&[*s])).collect();
        let expected = fate(&each);
        *fates.entry(format!("{:?}", expected.0)).or_insert(0) += 1;
        for _ in 0..20 {
            let records = mixed(&segments, &mut chance);
            let fate = fate(&records);
            assert_eq!((&fate.0, fate.1, fate.3), (&expected.0, expected.1, expected.3), "{words:?} as {records:#?}");
        }
    }
    assert!(fates.len() == 5 && fates.values().all(|count| *count > 50), "each outcome occurred: {fates:?}");
}
