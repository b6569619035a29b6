//! Detects copies of a packet in captures of all interfaces at once, Linux "cooked": a forwarded packet appears once
//! for each interface that it passes, and a packet of a loopback device as it leaves and as it comes back. Version 2
//! names the interface, so that the flow table can decide which interface saw the packet first; version 1 only says
//! whether it came or left.
//!
//! A copy is identical from the IP header on, except for what a router or a driver writes into it: the hop limit and
//! checksums. A packet that came and one that left are copies, as often as there are both. Among packets that all came,
//! as at a bridge and its port, or all left, version 1 leaves only the time to distinguish a copy from a
//! retransmission, which comes later, and over IPv4 with another identification (RFC 6864, 4.3).

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher};

use foldhash::HashMap;
use foldhash::fast::FixedState;

use super::capture::Packet;
use super::link::{Framed, Link};

/// Within this time, in nanoseconds, equal packets with an identification are the same packet, however long it waited
/// in a queue; later, identifications repeat.
const SAME_ID_NS: u64 = 100_000_000;
/// Without an identification, equal packets are the same only within this time, in nanoseconds: no sender repeats a
/// segment so soon.
const SAME_NS: u64 = 1_000_000;
/// Maximum time between a packet's arrival and departure, in nanoseconds.
const FORWARDED_NS: u64 = 1_000_000_000;
/// Maximum number of packets, and of pairs of addresses, that are remembered.
const MOST: usize = 1 << 16;

const ETHERNET: usize = 14;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The recent packets.
#[derive(Debug, Default)]
pub(super) struct Copies {
    seen: HashMap<u64, Seen>,
    /// Times and digests of the packets, in the order of time.
    order: VecDeque<(u64, u64)>,
    /// Whether the first packet from one address to another left.
    ways: HashMap<u64, bool>,
}

/// What was seen of one packet.
#[derive(Debug, Default)]
struct Seen {
    first_ns: u64,
    /// When it last came, and last left.
    last_ns: [Option<u64>; 2],
    /// How often it came and left, without copies in the same direction.
    times: [u32; 2],
}

/// A packet of a cooked capture, as a frame with an Ethernet header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cooked<'a> {
    pub(super) at_ns: u64,
    pub(super) outgoing: bool,
    pub(super) frame: &'a [u8],
    /// Its length on the wire.
    pub(super) wire_bytes: u32,
    /// Its interface; `None` if the capture does not say.
    pub(super) ifindex: Option<u32>,
}

impl Copies {
    /// Whether the packet left; `None` if it is a copy.
    pub(super) fn way_of(&mut self, packet: &Packet, link: Link, frame: &[u8], framed: &Framed) -> Option<bool> {
        let outgoing = framed.outgoing.unwrap_or(false);
        if !link.is_cooked() {
            return Some(outgoing);
        }
        let ifindex = (framed.ifindex != 0).then_some(framed.ifindex);
        self.way(&Cooked { at_ns: packet.at_ns, outgoing, frame, wire_bytes: packet.wire_bytes, ifindex })
    }

    /// `None` if it is a copy, else whether to treat it as one that left: all packets from one address to another at an
    /// interface must be seen by the same hook, or some would count as duplicates.
    pub(super) fn way(&mut self, packet: &Cooked<'_>) -> Option<bool> {
        let Some(digest) = digest(packet) else { return Some(packet.outgoing) };
        self.forget(packet.at_ns);
        let seen = self.seen.entry(digest.packet).or_insert_with(|| {
            self.order.push_back((packet.at_ns, digest.packet));
            Seen { first_ns: packet.at_ns, ..Seen::default() }
        });
        let way = usize::from(packet.outgoing);
        // Packets of several CPUs may be a little out of order.
        let within = |ns| seen.last_ns[way].is_some_and(|at| at.abs_diff(packet.at_ns) <= ns);
        if packet.ifindex.is_none() && within(if digest.has_id { SAME_ID_NS } else { SAME_NS }) {
            return None;
        }
        seen.last_ns[way] = Some(packet.at_ns);
        seen.times[way] += 1;
        if seen.times[way] <= seen.times[1 - way] {
            return None;
        }
        if self.ways.len() >= MOST {
            self.ways.clear();
        }
        Some(*self.ways.entry(digest.ends).or_insert(packet.outgoing))
    }

    fn forget(&mut self, now_ns: u64) {
        while let Some(&(at, packet)) = self.order.front() {
            if at.saturating_add(FORWARDED_NS) > now_ns && self.order.len() < MOST {
                return;
            }
            self.order.pop_front();
            if self.seen.get(&packet).is_some_and(|seen| seen.first_ns == at) {
                self.seen.remove(&packet);
            }
        }
    }
}

struct Digest {
    /// Hash of everything that all its copies have in common.
    packet: u64,
    /// True if it has an IPv4 identification.
    has_id: bool,
    /// Hash of its addresses.
    ends: u64,
}

/// `None` if it is not an IP packet.
fn digest(cooked: &Cooked<'_>) -> Option<Digest> {
    let packet = cooked.frame.get(ETHERNET..)?;
    let (changing, protocol, transport, addresses, has_id) = match packet.first()? >> 4 {
        4 if packet.len() >= 20 => {
            let has_id = packet[4] != 0 || packet[5] != 0;
            ([8, 10, 11], packet[9], usize::from(packet[0] & 15) * 4, 12..20, has_id)
        }
        6 if packet.len() >= 40 => ([7, 7, 7], packet[6], 40, 8..40, false),
        _ => return None,
    };
    let checksum = match protocol {
        TCP => transport + 16,
        UDP => transport + 6,
        _ => packet.len(),
    };
    let hasher = || {
        let mut hasher = FixedState::default().build_hasher();
        hasher.write_u32(cooked.ifindex.unwrap_or(0));
        hasher
    };
    let mut head = [0; 128];
    let (start, rest) = packet.split_at(packet.len().min(head.len()));
    let head = &mut head[..start.len()];
    head.copy_from_slice(start);
    for at in changing.into_iter().chain([checksum, checksum + 1]) {
        if let Some(byte) = head.get_mut(at) {
            *byte = 0;
        }
    }
    let [mut whole, mut ends] = [hasher(), hasher()];
    whole.write_u32(cooked.wire_bytes);
    whole.write(head);
    whole.write(rest);
    ends.write(&packet[addresses]);
    Some(Digest { packet: whole.finish(), has_id, ends: ends.finish() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const CAME: bool = false;
    const LEFT: bool = true;

    fn v4(id: u8, ttl: u8, sequence: u8) -> Vec<u8> {
        let ip = [0x45, 0, 0, 44, 0, id, 0x40, 0, ttl, TCP, ttl, 1, 10, 0, 0, 1, 10, 0, 0, 2];
        let tcp = [0, 80, 0, 81, 0, 0, 0, sequence, 0, 0, 0, 0, 0x50, 0x10, 1, 1, ttl, ttl, 0, 0];
        [&[0; 12][..], &[8, 0], &ip, &tcp, b"data"].concat()
    }

    fn v6(hops: u8, sequence: u8) -> Vec<u8> {
        let start = [0x60, 0, 0, 0, 0, 24, TCP, hops];
        let tcp = [0, 80, 0, 81, 0, 0, 0, sequence, 0, 0, 0, 0, 0x50, 0x10, 1, 1, hops, hops, 0, 0];
        [&[0; 12][..], &[0x86, 0xdd], &start, &[1; 32], &tcp, b"data"].concat()
    }

    fn cooked(at_ns: u64, outgoing: bool, frame: &[u8], ifindex: Option<u32>) -> Cooked<'_> {
        Cooked { at_ns, outgoing, frame, wire_bytes: frame.len() as u32, ifindex }
    }

    /// The result for each packet; all have the interface `ifindex`.
    fn left(ifindex: Option<u32>, packets: &[(u64, bool, Vec<u8>)]) -> Vec<Option<bool>> {
        let mut copies = Copies::default();
        packets.iter().map(|(at, out, frame)| copies.way(&cooked(*at, *out, frame, ifindex))).collect()
    }

    #[test]
    fn the_same_packet_at_other_interfaces_is_a_copy() {
        let packets = [
            (0, CAME, v4(7, 64, 1)),
            (1000, CAME, v4(7, 64, 1)),
            (2000, LEFT, v4(7, 63, 1)),
            (900 * MS, LEFT, v4(7, 63, 1)),
        ];
        assert_eq!(left(None, &packets[..3]), [Some(CAME), None, None]);
        assert_eq!(left(None, &[packets[0].clone(), packets[3].clone()]), [Some(CAME), None], "out of a long queue");
        assert_eq!(left(None, &[(0, CAME, v6(64, 1)), (0, CAME, v6(63, 1))]), [Some(CAME), None], "forwarded");
    }

    #[test]
    fn a_retransmission_is_no_copy() {
        let two = |at, a: Vec<u8>, b: Vec<u8>| left(None, &[(0, LEFT, a), (at, LEFT, b)]);
        let both = [Some(LEFT); 2];
        assert_eq!(two(1000, v4(7, 64, 1), v4(8, 64, 1)), both, "another id");
        assert_eq!(two(1000, v4(7, 64, 1), v4(7, 64, 2)), both, "other bytes");
        assert_eq!(two(2 * MS, v4(0, 64, 1), v4(0, 64, 1)), both, "no id, later");
        assert_eq!(two(2 * MS, v6(64, 1), v6(64, 1)), both, "IPv6, later");
        assert_eq!(two(101 * MS, v4(7, 64, 1), v4(7, 64, 1)), both, "the id repeats");
        let again = [(0, CAME, v6(64, 1)), (5, LEFT, v6(63, 1)), (9 * MS, CAME, v6(64, 1)), (9 * MS, LEFT, v6(63, 1))];
        assert_eq!(left(None, &again), [Some(CAME), None, Some(CAME), None], "with copies of its own");
    }

    #[test]
    fn one_interface_has_a_packet_twice_only_if_it_came_and_left() {
        let twice = [(0, LEFT, v4(0, 64, 1)), (1, CAME, v4(0, 64, 1))];
        assert_eq!(left(Some(1), &twice), [Some(LEFT), None], "loopback");
        assert_eq!(
            left(Some(1), &[twice[0].clone(), twice[0].clone()]),
            [Some(LEFT); 2],
            "datagrams of the same bytes"
        );
        let mut copies = Copies::default();
        let [first, second] = [2, 3].map(|ifindex| copies.way(&cooked(0, CAME, &twice[0].2, Some(ifindex))));
        assert_eq!([first, second], [Some(CAME); 2], "the flow table decides");
    }

    #[test]
    fn one_hook_sees_all_packets_between_two_addresses() {
        let packets = [(0, CAME, v4(1, 64, 1)), (1, LEFT, v4(2, 64, 2)), (2, CAME, v4(2, 64, 2))];
        assert_eq!(left(None, &packets), [Some(CAME), Some(CAME), None], "a little out of order");
    }

    #[test]
    fn packets_other_than_ip_are_never_copies() {
        let arp = [&[0; 12][..], &[8, 6], &[0, 1, 8, 0, 6, 4, 0, 1]].concat();
        assert_eq!(left(None, &[(0, LEFT, arp.clone()), (0, LEFT, arp)]), [Some(LEFT); 2]);
    }

    #[test]
    fn memory_is_bounded() {
        let mut copies = Copies::default();
        for n in 0..3 * MOST {
            let mut frame = v6(64, 0);
            frame[22..26].copy_from_slice(&(n as u32).to_be_bytes());
            assert_eq!(copies.way(&cooked(5, LEFT, &frame, None)), Some(LEFT));
        }
        assert!(copies.order.len() <= MOST && copies.seen.len() <= MOST && copies.ways.len() <= MOST);
    }
}
