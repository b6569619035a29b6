//! One direction of a flow.

use std::cmp::Ordering;

use super::Identity;
use super::nat::is_error;
use super::outcome::{ICMP, ICMPV6, TCP};
use crate::bpf::{Hook, Record, Sequence};

/// One direction of a flow, as its owner saw it: the interface and hook that saw it first. What others see of the same
/// packets is duplicate.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// Packets on the wire.
    pub packets: u64,
    /// Their bytes from the link-layer header on.
    pub bytes: u64,
    /// Last packet, CLOCK_MONOTONIC nanoseconds.
    pub last_ns: u64,
    /// Interface index of the owner; 0: nothing seen yet.
    pub ifindex: u32,
    /// TCP, with [`KNOWS_END`]: behind the highest sequence number.
    end: u32,
    /// TCP, with [`KNOWS_ACK`]: the furthest acknowledgement. ICMP: type and code of the latest packet.
    ack_or_icmp: u32,
    /// VLAN id at the owner; 0: none.
    pub vlan: u16,
    /// OR of the TCP flags.
    pub tcp_flags: u8,
    bits: u8,
}

/// How the owner sees the packets: three bits.
const VIEW: u8 = EGRESS | INNER | TRANSLATED;
const EGRESS: u8 = 1;
/// In a tunnel's packet.
const INNER: u8 = 2;
/// Under translated addresses.
const TRANSLATED: u8 = 4;
const SYN: u8 = 8;
const SYN_ACK: u8 = 16;
/// It has acknowledged something since it sent its last data.
const HEARD: u8 = 32;
const KNOWS_END: u8 = 64;
const KNOWS_ACK: u8 = 128;

/// Shorter than any jiffy is long is no pause: records have the time of their jiffy, at CONFIG_HZ=100 10 ms.
const PAUSE_NS: u64 = 10_000_000;

/// `a` is behind `b`, as sequence numbers go (RFC 9293 3.4).
fn is_behind(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

fn view(identity: &Identity, record: &Record) -> u8 {
    let translated = identity.tracked.is_some_and(|tracked| tracked.translated);
    let bits = [(record.hook == Hook::Egress, EGRESS), (record.inner, INNER), (translated, TRANSLATED)];
    bits.into_iter().filter(|(is, _)| *is).fold(0, |view, (_, bit)| view | bit)
}

impl Sent {
    /// The owner's hook.
    pub fn hook(&self) -> Hook {
        if self.has(EGRESS) { Hook::Egress } else { Hook::Ingress }
    }

    /// The owner found it in a tunnel.
    pub fn inner(&self) -> bool {
        self.has(INNER)
    }

    /// A SYN without ACK was sent.
    pub fn syn(&self) -> bool {
        self.has(SYN)
    }

    /// A SYN with ACK was sent.
    pub fn syn_ack(&self) -> bool {
        self.has(SYN_ACK)
    }

    /// Type and code of the latest packet, of ICMP.
    pub fn icmp(&self) -> [u8; 2] {
        [(self.ack_or_icmp >> 8) as u8, self.ack_or_icmp as u8]
    }

    /// TCP: behind the highest sequence number that was sent.
    pub(super) fn end(&self) -> Option<u32> {
        self.has(KNOWS_END).then_some(self.end)
    }

    /// The record has more than what was sent so far.
    pub(super) fn goes_on_in(&self, record: &Record) -> bool {
        let more = |end| self.end().is_none_or(|known| is_behind(end, known));
        record.sequence.end.is_some_and(more)
    }

    /// As known from before this flow.
    pub(super) fn set_end(&mut self, end: Option<u32>) {
        self.set(KNOWS_END, end.is_some());
        self.end = end.unwrap_or_default();
    }

    /// The other end has not acknowledged all of it, but for `spare` bytes; false if that is not known.
    pub(super) fn is_unacknowledged(&self, other: &Sent, spare: u32) -> bool {
        self.has(KNOWS_END) && other.has(KNOWS_ACK) && is_behind(self.end, other.ack_or_icmp.wrapping_add(spare))
    }

    /// It has sent data, and heard nothing since.
    pub(super) fn waits(&self) -> bool {
        self.has(KNOWS_END) && !self.has(HEARD)
    }

    fn has(&self, bit: u8) -> bool {
        self.bits & bit != 0
    }

    fn set(&mut self, bit: u8, so: bool) {
        self.bits = if so { self.bits | bit } else { self.bits & !bit };
    }

    /// The record comes from where the owner is.
    pub(super) fn is_owner(&self, identity: &Identity, record: &Record) -> bool {
        self.ifindex == record.ifindex && self.bits & VIEW == view(identity, record)
    }

    /// The owner saw it under translated addresses, and this is where the error came in: errors about many connections may have
    /// one flow there, and each of them another where it was translated.
    pub(super) fn is_given_up_to(&self, identity: &Identity, record: &Record) -> bool {
        is_error(record) && self.has(TRANSLATED) && view(identity, record) & TRANSLATED == 0
    }

    pub(super) fn own(&mut self, identity: &Identity, record: &Record) {
        self.ifindex = record.ifindex;
        self.bits = self.bits & !VIEW | view(identity, record);
        self.vlan = record.vlan;
    }

    /// The record's SYN, or SYN-ACK, was sent before: its sequence numbers are those of what was sent since. A record may hold
    /// more than its SYN, and what was sent before it may too.
    pub(super) fn has_sent(&self, record: &Record) -> bool {
        let (Some(known), Some(end)) = (self.end(), record.sequence.end) else { return false };
        let ahead = end.wrapping_sub(known) as i32;
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        (-bytes(self.bytes)..=bytes(record.bytes)).contains(&ahead.into())
    }

    /// The record as it had been told if the program had known that its segment was sent before, which it could not: nothing was
    /// left there of what came before a pause. A record of more than one segment does not tell which was the first, unless that
    /// is a SYN.
    pub(super) fn judged(&self, record: &Record) -> Option<Record> {
        if !record.sequence.unjudged {
            return None;
        }
        let (known, end) = (self.end()?, record.sequence.end?);
        // Records of several CPUs come in any order: what was sent earlier, or within the same jiffy, proves nothing.
        let later = record.first_ns > self.last_ns.saturating_add(PAUSE_NS);
        let opens_again = (record.syn || record.syn_ack) && self.has_sent(record);
        let is_old = record.packets == 1 && !is_behind(end, known);
        if !later || !(opens_again || is_old) {
            return None;
        }
        let mut judged = record.clone();
        judged.facts.get_or_insert_default().retransmits += 1;
        Some(judged)
    }

    pub(super) fn add(&mut self, record: &Record) {
        self.last_ns = self.last_ns.max(record.last_ns);
        self.packets += record.packets;
        self.bytes += record.bytes;
        self.tcp_flags |= record.tcp_flags;
        match record.protocol {
            TCP => {
                self.set(SYN, self.has(SYN) | record.syn);
                self.set(SYN_ACK, self.has(SYN_ACK) | record.syn_ack);
                self.follow(&record.sequence);
            }
            ICMP | ICMPV6 => self.ack_or_icmp = u16::from_be_bytes([record.icmp_type, record.icmp_code]).into(),
            _ => {}
        }
    }

    /// How far it has come. Each CPU has records of its own, which come in any order: the one that knows the latest data, and of
    /// those the latest acknowledgement, says whether anything was heard after it.
    fn follow(&mut self, told: &Sequence) {
        let (end, ack) = (self.end(), self.has(KNOWS_ACK).then_some(self.ack_or_icmp));
        let compare = |told: Option<u32>, known: Option<u32>| match (told, known) {
            (Some(told), Some(known)) => (told.wrapping_sub(known) as i32).cmp(&0),
            (told, known) => told.is_some().cmp(&known.is_some()),
        };
        let (by_end, by_ack) = (compare(told.end, end), compare(told.ack, ack));
        let heard = match (by_end, by_ack) {
            // A RST acknowledges what came last, and says nothing of what was sent: it may be told before or after that.
            (_, Ordering::Greater) if told.end.is_none() => true,
            (Ordering::Greater, Ordering::Less) | (Ordering::Less, Ordering::Greater) => true,
            (Ordering::Greater, _) | (Ordering::Equal, Ordering::Greater) => told.heard,
            (Ordering::Equal, Ordering::Equal) => told.heard && self.has(HEARD),
            _ => self.has(HEARD),
        };
        self.set(HEARD, heard);
        if by_end == Ordering::Greater {
            self.set_end(told.end);
        }
        if by_ack == Ordering::Greater {
            self.ack_or_icmp = told.ack.unwrap_or_default();
            self.set(KNOWS_ACK, true);
        }
    }
}
