//! Every combination of headers yields its flow; packets other than IP, or malformed ones, yield none.

use super::table::{LINKS, as_if_ethernet, cases};
use super::{Checker, Expect};
use crate::needs_root;
use crate::support::packet::*;

#[test]
fn every_combination_is_its_flow() {
    needs_root!();
    let mut checker = Checker::new(true);
    for (n, case) in cases(true).iter().enumerate() {
        let mut packet = case.bytes.clone();
        stamp(&mut packet, case.l3, case.key.v6, n as u32);
        let expect = case.expect(&packet);
        checker.inject(&case.name, &packet, expect);
    }
    checker.check();
    assert!(checker.checked > 4000, "{} packets", checker.checked);
}

#[test]
fn packets_may_start_with_the_ip_header() {
    needs_root!();
    let mut checker = Checker::new(false);
    for (n, case) in cases(false).iter().enumerate() {
        let mut packet = case.bytes.clone();
        stamp(&mut packet, case.l3, case.key.v6, n as u32);
        let expect = case.expect(&packet);
        checker.inject(&case.name, &packet, expect);
    }
    // skb->protocol decides, and the version must agree.
    let mut arp = ipv4(TCP, &[], 7, 0, &tcp(SYN, &[], b""));
    as_if_ethernet(&mut arp, 0x0806);
    checker.inject("ARP", &arp, Expect::NotIp);
    let mut other = ipv6(TCP, &tcp(SYN, &[], b""));
    as_if_ethernet(&mut other, IPV4);
    checker.inject("IPv6 said to be IPv4", &other, Expect::Malformed);
    checker.check();
    assert!(checker.checked > 600, "{} packets", checker.checked);
}

/// The IP header says where the packet ends: padding of an Ethernet frame is no header.
#[test]
fn padding_is_not_read() {
    needs_root!();
    let mut checker = Checker::new(true);
    let mut n = 0;
    for case in cases(true).iter().filter(|case| case.need > case.l4) {
        for cut in [case.l4, case.need - 1, case.need] {
            // The header is complete, but only its first bytes belong to the packet.
            let mut packet = case.bytes.clone();
            let (at, length) = if case.key.v6 { (4, cut - case.l3 - 40) } else { (2, cut - case.l3) };
            // A payload length of 0 would mean "jumbogram".
            if length == 0 {
                continue;
            }
            packet[case.l3 + at..][..2].copy_from_slice(&(length as u16).to_be_bytes());
            packet.extend([0x5a; 20]);
            stamp(&mut packet, case.l3, case.key.v6, n);
            n += 1;
            let whole = cut == case.need;
            checker.inject(&case.name, &packet, if whole { case.expect(&packet) } else { Expect::Malformed });
        }
    }
    checker.check();
    assert!(checker.checked > 8000, "{} packets", checker.checked);
}

#[test]
fn other_protocols_are_not_ip() {
    needs_root!();
    let mut checker = Checker::new(true);
    let inside = ipv4(TCP, &[], 7, 0, &tcp(SYN, &[], b"hello"));
    for (name, tags, ..) in LINKS {
        // ARP, MPLS and PPPoE without their contents, LLDP, an 802.3 length, MACsec, and 0.
        for ethertype in [0x0806, 0x8847, 0x8864, 0x88cc, 100, 0x88e5, 0] {
            checker.inject(name, &ethernet(tags, ethertype, &inside), Expect::NotIp);
        }
    }
    // A ninth tag is one too many.
    checker.inject("nine tags", &ethernet(&[(0x8100, 3); 9], IPV4, &inside), Expect::NotIp);
    checker.check();
}

#[test]
fn contradictions_are_malformed() {
    needs_root!();
    let mut checker = Checker::new(true);
    let v4 = |transport: u8, payload: &[u8]| ipv4(transport, &[], 7, 0, payload);
    let mut broken: Vec<(&str, u16, Vec<u8>)> = Vec::new();
    let mut spoil = |name, ethertype, mut packet: Vec<u8>, at: usize, byte: u8| {
        packet[at] = byte;
        broken.push((name, ethertype, packet));
    };
    let segment = tcp(SYN, &[], b"hello world");
    for version in (0..16).filter(|v| *v != 4) {
        spoil("version", IPV4, v4(TCP, &segment), 0, version << 4 | 5);
    }
    for version in (0..16).filter(|v| *v != 6) {
        spoil("version", IPV6, ipv6(TCP, &segment), 0, version << 4);
    }
    for ihl in 0..5 {
        spoil("header length below five", IPV4, v4(TCP, &segment), 0, 0x40 | ihl);
    }
    spoil("header longer than the packet", IPV4, v4(UDP, &udp(b"")), 0, 0x4f);
    for total in 1..20 {
        spoil("total length within the header", IPV4, v4(TCP, &segment), 3, total);
    }
    spoil("total length within the options", IPV4, ipv4(TCP, &[1; 8], 7, 0, &segment), 3, 27);
    for total in 20..40 {
        spoil("total length within the segment's header", IPV4, v4(TCP, &segment), 3, total);
    }
    for length in 1..20 {
        spoil("payload length within the segment's header", IPV6, ipv6(TCP, &segment), 5, length);
    }
    for length in 1..8 {
        spoil("payload length within the datagram's header", IPV6, ipv6(UDP, &udp(b"hello world")), 5, length);
    }
    for offset in (0..5).chain(8..16) {
        // In 31 bytes, eight words are one too many.
        spoil("data offset", IPV4, v4(TCP, &segment), 20 + 12, offset << 4);
        spoil("data offset", IPV6, ipv6(TCP, &segment), 40 + 12, offset << 4);
    }
    for (kind, length) in [(HOP_BY_HOP, 8), (ROUTING, 8), (DESTINATION, 8), (AH, 16)] {
        let (next, payload) = chain(&[(kind, length)], TCP, &segment);
        spoil("extension longer than the packet", IPV6, ipv6(next, &payload), 41, 255);
    }
    let (next, payload) = chain(&[(AH, 12)], TCP, &segment);
    spoil("AH longer than the packet", IPV4, v4(next, &payload), 21, 40);
    for (name, ethertype, packet) in &broken {
        for (_, tags, ..) in LINKS {
            checker.inject(name, &ethernet(tags, *ethertype, packet), Expect::Malformed);
        }
    }
    checker.check();
    assert!(checker.checked > 800, "{} packets", checker.checked);
}
