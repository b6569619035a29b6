//! Fragments: all fragments of a datagram have the ports of the first.

use netmon::bpf::{Frame, Hook, Record};

use libbpf_rs::{MapCore, MapFlags};

use super::pin;
use crate::needs_root;
use crate::support::kernel::{Kernel, assert_conserved, small, total};
use crate::support::packet::*;
use crate::support::probe::map_of;

/// The one record of a packet.
fn record(kernel: &mut Kernel, packet: &[u8]) -> Record {
    let (mut records, books) = kernel.one(true, packet, Frame::default());
    assert_conserved(&books, total(&records));
    assert_eq!((records.len(), books.seen().packets), (1, 1));
    let r = records.remove(0);
    assert_eq!((r.packets, r.bytes), (1, packet.len() as u64));
    r
}

/// Protocol and ports of a packet.
fn ports(kernel: &mut Kernel, packet: &[u8]) -> (u8, u16, u16) {
    let r = record(kernel, packet);
    (r.protocol, r.source.port, r.destination.port)
}

fn v4(protocol: u8, id: u16, field: u16, payload: &[u8]) -> Vec<u8> {
    ethernet(&[], IPV4, &ipv4(protocol, &[], id, field, payload))
}

fn v6(next: u8, id: u32, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    ethernet(&[], IPV6, &ipv6(FRAGMENT, &[fragment(next, id, offset, more), payload.to_vec()].concat()))
}

const REST: &[u8] = b"payload that could be a header of some other flow, were it one";
const NONE: (u16, u16) = (0, 0);

#[test]
fn ipv4_fragments_have_the_ports_of_the_first() {
    needs_root!();
    let mut kernel = Kernel::load(small()).unwrap();
    let kernel = &mut kernel;
    for (protocol, first, to) in
        [(UDP, udp(&[0; 24]), 53), (TCP, tcp(ACK, &[1; 12], b""), 80), (SCTP, sctp(&[0; 20]), 3868)]
    {
        let none = (protocol, NONE.0, NONE.1);
        // A later fragment that comes too early.
        assert_eq!(ports(kernel, &v4(protocol, 9, 4, REST)), none);
        assert_eq!(ports(kernel, &v4(protocol, 9, MORE_FRAGMENTS, &first)), (protocol, 40000, to));
        assert_eq!(ports(kernel, &v4(protocol, 9, 8 | MORE_FRAGMENTS, REST)), (protocol, 40000, to));
        assert_eq!(ports(kernel, &v4(protocol, 9, 4, REST)), (protocol, 40000, to));
        // Even if it is cut off, no header is missing.
        assert_eq!(ports(kernel, &v4(protocol, 9, 16, b"")), (protocol, 40000, to));
        let tagged = ethernet(&[(0x8100, 5)], IPV4, &ipv4(protocol, &[1; 8], 9, 16, REST));
        assert_eq!(ports(kernel, &tagged), (protocol, 40000, to));
        // Fragments of other datagrams: with another identification, protocol, receiver, sender.
        assert_eq!(ports(kernel, &v4(protocol, 10, 4, REST)), none);
        assert_eq!(ports(kernel, &v4(47, 9, 4, REST)), (47, 0, 0));
        for at in [14 + 19, 14 + 15] {
            let mut other = v4(protocol, 9, 4, REST);
            other[at] ^= 4;
            assert_eq!(ports(kernel, &other), none);
        }
    }
}

#[test]
fn ipv6_fragments_have_the_ports_of_the_first() {
    needs_root!();
    let mut kernel = Kernel::load(small()).unwrap();
    let kernel = &mut kernel;
    // With destination options behind the fragment header, all fragments say "destination options" (RFC 8200, 4.5).
    for (id, extensions) in
        [(1 << 20, &[][..]), (2 << 20, &[(DESTINATION, 16)]), (3 << 20, &[(AH, 24), (DESTINATION, 8)])]
    {
        let (next, first) = chain(extensions, UDP, &udp(&[0; 24]));
        let none = (next, NONE.0, NONE.1);
        assert_eq!(ports(kernel, &v6(next, id, 64, true, REST)), none);
        assert_eq!(ports(kernel, &v6(next, id, 0, true, &first)), (UDP, 40000, 53));
        assert_eq!(ports(kernel, &v6(next, id, 64, true, REST)), (UDP, 40000, 53));
        assert_eq!(ports(kernel, &v6(next, id, 128, false, REST)), (UDP, 40000, 53));
        // Hop-by-hop options come before the fragment header, in each fragment.
        let (hop, part) = chain(&[(HOP_BY_HOP, 8)], FRAGMENT, &[fragment(next, id, 64, true), REST.to_vec()].concat());
        assert_eq!(ports(kernel, &ethernet(&[], IPV6, &ipv6(hop, &part))), (UDP, 40000, 53));
        assert_eq!(ports(kernel, &v6(next, id + 1, 64, true, REST)), none);
        for at in [14 + 39, 14 + 8, 14 + 23, 14 + 24] {
            let mut other = v6(next, id, 64, true, REST);
            other[at] ^= 4;
            assert_eq!(ports(kernel, &other), none, "with byte {at} changed");
        }
    }
}

/// A fragmented ping keeps its identifier and type.
#[test]
fn icmp_fragments_have_the_type_of_the_first() {
    needs_root!();
    let mut kernel = Kernel::load(small()).unwrap();
    let (first4, first6) = (icmp(8, 0, &[0; 16]), icmp(128, 0, &[0; 16]));
    for (protocol, kind, packets) in [
        (ICMP, 8, [v4(ICMP, 7, MORE_FRAGMENTS, &first4), v4(ICMP, 7, 3, REST)]),
        (ICMPV6, 128, [v6(ICMPV6, 7, 0, true, &first6), v6(ICMPV6, 7, 24, false, REST)]),
    ] {
        for packet in packets {
            let r = record(&mut kernel, &packet);
            assert_eq!((r.protocol, r.source.port, r.destination.port), (protocol, 0x1234, 0x1234));
            assert_eq!((r.icmp_type, r.icmp_code), (kind, 0));
        }
    }
}

#[test]
fn ports_are_forgotten_after_a_while() {
    needs_root!();
    pin(0);
    let mut kernel = Kernel::load(small()).unwrap();
    let slots = map_of(&kernel.bpf.program(Hook::Ingress, true).unwrap(), "nm_fragments");
    let first = v4(UDP, 9, MORE_FRAGMENTS, &udp(&[0; 24]));
    let later = v4(UDP, 9, 4, REST);
    ports(&mut kernel, &first);
    // Instead of waiting, set the slot's time, in jiffies, back.
    let mut age = |jiffies: u64| {
        for i in 0..slots.max_entries() {
            let mut slot = slots.lookup(&i.to_ne_bytes(), MapFlags::ANY).unwrap().unwrap();
            let seen = u64::from_ne_bytes(slot[8..16].try_into().unwrap());
            if seen != 0 {
                slot[8..16].copy_from_slice(&(seen - jiffies).to_ne_bytes());
                slots.update(&i.to_ne_bytes(), &slot, MapFlags::ANY).unwrap();
            }
        }
        ports(&mut kernel, &later)
    };
    // At most a second, at 100 Hz; then more than 30 seconds, at 1000 Hz.
    assert_eq!(age(100), (UDP, 40000, 53));
    assert_eq!(age(31_000), (UDP, 0, 0));
    // After another first fragment, the ports are known again.
    ports(&mut kernel, &first);
    assert_eq!(ports(&mut kernel, &later), (UDP, 40000, 53));
}
