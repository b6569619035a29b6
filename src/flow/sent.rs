//! The packets of one direction of a flow.

use std::cmp::Ordering;

use super::Identity;
use super::nat::is_error;
use super::outcome::{ICMP, ICMPV6, TCP};
use crate::bpf::{Hook, Record, Sequence};

/// One direction of a flow, as seen by its owner: the interface and hook that saw it first. The same packets seen
/// elsewhere are duplicates.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// Packets on the wire.
    pub packets: u64,
    /// Their bytes, from the link-layer header on.
    pub bytes: u64,
    /// Time of the last packet, in CLOCK_MONOTONIC nanoseconds.
    pub last_ns: u64,
    /// Interface index of the owner; 0 if nothing was seen yet.
    pub ifindex: u32,
    /// TCP, with [`KNOWS_END`]: the sequence number behind the highest one sent.
    end: u32,
    /// TCP, with [`KNOWS_ACK`]: the highest acknowledgement. ICMP: type and code of the latest packet.
    ack_or_icmp: u32,
    /// VLAN id at the owner; 0 if there is none.
    pub vlan: u16,
    /// The TCP flags of all packets, combined by OR.
    pub tcp_flags: u8,
    bits: u8,
}

/// The three bits that say how the owner sees the packets.
const VIEW: u8 = EGRESS | INNER | TRANSLATED;
const EGRESS: u8 = 1;
/// In a tunnel's packet.
const INNER: u8 = 2;
/// Under translated addresses.
const TRANSLATED: u8 = 4;
const SYN: u8 = 8;
const SYN_ACK: u8 = 16;
/// This end has acknowledged data since it last sent some.
const HEARD: u8 = 32;
const KNOWS_END: u8 = 64;
const KNOWS_ACK: u8 = 128;

/// A silence must be longer than a jiffy to be a pause: records have the time of their jiffy, which is 10 ms at
/// CONFIG_HZ=100.
pub(super) const PAUSE_NS: u64 = 10_000_000;

/// True if sequence number `a` follows `b` (RFC 9293 3.4).
fn is_behind(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

fn view(identity: &Identity, record: &Record) -> u8 {
    let translated = identity.tracked.is_some_and(|tracked| tracked.translated);
    let bits = [(record.hook == Hook::Egress, EGRESS), (record.inner, INNER), (translated, TRANSLATED)];
    bits.into_iter().filter(|(is, _)| *is).fold(0, |view, (_, bit)| view | bit)
}

impl Sent {
    /// Hook of the owner.
    pub fn hook(&self) -> Hook {
        if self.has(EGRESS) { Hook::Egress } else { Hook::Ingress }
    }

    /// True if the owner sees the packets in a tunnel.
    pub fn inner(&self) -> bool {
        self.has(INNER)
    }

    /// True if a SYN without ACK was sent.
    pub fn syn(&self) -> bool {
        self.has(SYN)
    }

    /// True if a SYN with ACK was sent.
    pub fn syn_ack(&self) -> bool {
        self.has(SYN_ACK)
    }

    /// ICMP: type and code of the latest packet.
    pub fn icmp(&self) -> [u8; 2] {
        [(self.ack_or_icmp >> 8) as u8, self.ack_or_icmp as u8]
    }

    /// TCP: the sequence number behind the highest one sent.
    pub(super) fn end(&self) -> Option<u32> {
        self.has(KNOWS_END).then_some(self.end)
    }

    /// True if the record has newer data than what was sent so far.
    pub(super) fn goes_on_in(&self, record: &Record) -> bool {
        let more = |end| self.end().is_none_or(|known| is_behind(end, known));
        record.sequence.end.is_some_and(more)
    }

    /// Sets the end that is known from an earlier flow of the connection.
    pub(super) fn set_end(&mut self, end: Option<u32>) {
        self.set(KNOWS_END, end.is_some());
        self.end = end.unwrap_or_default();
    }

    /// True if the other end has left more than `spare` bytes unacknowledged; false if that is not known.
    pub(super) fn is_unacknowledged(&self, other: &Sent, spare: u32) -> bool {
        self.has(KNOWS_END) && other.has(KNOWS_ACK) && is_behind(self.end, other.ack_or_icmp.wrapping_add(spare))
    }

    /// True if this end has sent data and has acknowledged nothing since.
    pub(super) fn waits(&self) -> bool {
        self.has(KNOWS_END) && !self.has(HEARD)
    }

    fn has(&self, bit: u8) -> bool {
        self.bits & bit != 0
    }

    fn set(&mut self, bit: u8, so: bool) {
        self.bits = if so { self.bits | bit } else { self.bits & !bit };
    }

    /// True if the record comes from the owner's interface, hook and view.
    pub(super) fn is_owner(&self, identity: &Identity, record: &Record) -> bool {
        self.ifindex == record.ifindex && self.bits & VIEW == view(identity, record)
    }

    /// True if the record is an ICMP error at the place where it came in, and the owner saw it under translated
    /// addresses. Errors about many connections may belong to one flow where they come in, and to different flows where
    /// they are translated.
    pub(super) fn is_given_up_to(&self, identity: &Identity, record: &Record) -> bool {
        is_error(record) && self.has(TRANSLATED) && view(identity, record) & TRANSLATED == 0
    }

    pub(super) fn own(&mut self, identity: &Identity, record: &Record) {
        self.ifindex = record.ifindex;
        self.bits = self.bits & !VIEW | view(identity, record);
        self.vlan = record.vlan;
    }

    /// True if the record's SYN or SYN-ACK was sent before: its sequence numbers lie among those sent since. A record
    /// may hold more than its SYN, and so may what was sent before it.
    pub(super) fn has_sent(&self, record: &Record) -> bool {
        let (Some(known), Some(end)) = (self.end(), record.sequence.end) else { return false };
        let ahead = end.wrapping_sub(known) as i32;
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        (-bytes(self.bytes)..=bytes(record.bytes)).contains(&ahead.into())
    }

    /// The record as the program would have sent it if it had known that the segment was sent before. It could not
    /// know, because its cache had nothing left from before a pause. A record of more than one segment does not show
    /// which was the first, unless that is a SYN.
    pub(super) fn judged(&self, record: &Record) -> Option<Record> {
        if !record.sequence.unjudged {
            return None;
        }
        let (known, end) = (self.end()?, record.sequence.end?);
        // Records of several CPUs arrive in any order: data sent earlier, or within the same jiffy, prove nothing.
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

    /// Follows the sequence numbers. Each CPU has records of its own, which arrive in any order: the one with the
    /// latest data, and among those the one with the latest acknowledgement, says whether anything was heard after it.
    fn follow(&mut self, reported: &Sequence) {
        let (end, ack) = (self.end(), self.has(KNOWS_ACK).then_some(self.ack_or_icmp));
        let compare = |reported: Option<u32>, known: Option<u32>| match (reported, known) {
            (Some(reported), Some(known)) => (reported.wrapping_sub(known) as i32).cmp(&0),
            (reported, known) => reported.is_some().cmp(&known.is_some()),
        };
        let (by_end, by_ack) = (compare(reported.end, end), compare(reported.ack, ack));
        let heard = match (by_end, by_ack) {
            // A RST acknowledges what came last, and says nothing about what was sent: it may be reported before or
            // after that.
            (_, Ordering::Greater) if reported.end.is_none() => true,
            (Ordering::Greater, Ordering::Less) | (Ordering::Less, Ordering::Greater) => true,
            (Ordering::Greater, _) | (Ordering::Equal, Ordering::Greater) => reported.heard,
            (Ordering::Equal, Ordering::Equal) => reported.heard && self.has(HEARD),
            _ => self.has(HEARD),
        };
        self.set(HEARD, heard);
        if by_end == Ordering::Greater {
            self.set_end(reported.end);
        }
        if by_ack == Ordering::Greater {
            self.ack_or_icmp = reported.ack.unwrap_or_default();
            self.set(KNOWS_ACK, true);
        }
    }
}
