//! Compares the programs with an independent parser on generated and mutated packets.

use std::time::Instant;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::oracle::Oracle;
use super::table::{Case, cases};
use super::{Checker, Expect};
use crate::needs_root;
use crate::support::packet::*;
use crate::support::{repeat, seed};

/// Bytes that have a meaning in some header.
const TELLING: [u8; 24] =
    [0, 1, 4, 5, 6, 8, 17, 20, 43, 44, 45, 47, 50, 51, 58, 59, 60, 0x45, 0x46, 0x4f, 0x60, 0x81, 132, 255];

pub fn mutate(rng: &mut SmallRng, packet: &mut Vec<u8>, headers: usize) {
    let at = rng.random_range(12..headers.min(packet.len()));
    match rng.random_range(0..9) {
        0 => packet[at] ^= 1 << rng.random_range(0..8),
        1 => packet[at] = rng.random(),
        2 | 3 => packet[at] = *TELLING.choose(rng).unwrap(),
        4 => packet.truncate(rng.random_range(14..packet.len())),
        5 => packet.extend(std::iter::repeat_n(0xa5, rng.random_range(1..60))),
        6 => drop(packet.remove(at)),
        7 => packet.insert(at, *TELLING.choose(rng).unwrap()),
        // Repeat some bytes, for example a tag or an extension header.
        _ => {
            let again = packet[at..(at + 8).min(packet.len())].to_vec();
            packet.splice(at..at, again);
        }
    }
}

fn generate(rng: &mut SmallRng, case: &Case) -> Vec<u8> {
    let mut packet = case.bytes.clone();
    if case.need > case.l4 {
        for byte in &mut packet[case.l4..case.l4 + 4] {
            // In half of the packets, leave the type and code of ICMP unchanged.
            if case.flags.icmp.0 == 0 || rng.random() {
                *byte = rng.random();
            }
        }
    }
    let mutations = *[0, 1, 1, 2, 3, 6].choose(rng).unwrap();
    for _ in 0..mutations {
        if packet.len() > 14 {
            mutate(rng, &mut packet, case.need);
        }
    }
    packet
}

/// The first fragment of a datagram and a later one, which sometimes belongs to another datagram.
fn fragments(rng: &mut SmallRng, n: u32) -> [Vec<u8>; 2] {
    let id: u16 = rng.random();
    let other = if rng.random_ratio(1, 16) { id ^ 1 << rng.random_range(0..16) } else { id };
    let (protocol, first) = match rng.random_range(0..5) {
        0 => (UDP, udp(&[n as u8; 24])),
        1 => (TCP, tcp(ACK, &[1; 4], &[n as u8; 8])),
        2 => (ICMP, icmp(*[0, 3, 8].choose(rng).unwrap(), 2, &[n as u8; 16])),
        3 => (ICMPV6, icmp(*[1, 128, 129].choose(rng).unwrap(), 0, &[n as u8; 16])),
        _ => (SCTP, sctp(&[n as u8; 20])),
    };
    let offset = first.len() as u16;
    let mut both = if rng.random() {
        let (next, first) = chain(&[(DESTINATION, 8), (AH, 24)][..rng.random_range(0..3)], protocol, &first);
        let hop = rng.random();
        [(id, 0, &first[..]), (other, offset, b"rest")].map(|(id, offset, payload)| {
            let part = [fragment(next, id.into(), offset, offset == 0), payload.to_vec()].concat();
            let (next, part) = if hop { chain(&[(HOP_BY_HOP, 8)], FRAGMENT, &part) } else { (FRAGMENT, part) };
            ethernet(&[], IPV6, &ipv6(next, &part))
        })
    } else {
        let options = vec![1; rng.random_range(0..=10) * 4];
        let more = if rng.random() { MORE_FRAGMENTS } else { 0 };
        let later = (offset / 8) | more;
        [
            ethernet(&[], IPV4, &ipv4(protocol, &options, id, MORE_FRAGMENTS, &first)),
            ethernet(&[], IPV4, &ipv4(protocol, &options, other, later, b"rest")),
        ]
    };
    for packet in &mut both {
        let v6 = packet[12] == 0x86;
        stamp(packet, 14, v6, n);
    }
    both
}

#[test]
fn the_programs_agree_with_an_independent_parser() {
    needs_root!();
    let packets: u32 = repeat(50_000, 250_000);
    let (mut rng, begun) = (SmallRng::seed_from_u64(seed()), Instant::now());
    let mut checker = Checker::new(true);
    let mut oracle = Oracle::default();
    let cases = cases(true);
    let mut check = |name: &str, packet: &[u8]| -> Expect {
        let (expect, inner) = oracle.views(packet);
        oracle.second_opinion(packet, &expect);
        checker.inject_with(name, packet, expect, inner);
        expect
    };
    for n in 0..packets {
        if n % 16 == 0 {
            let [first, later] = fragments(&mut rng, n);
            check("first fragment", &first);
            check("later fragment", &later);
            continue;
        }
        let case = cases.choose(&mut rng).unwrap();
        let mut packet = generate(&mut rng, case);
        stamp(&mut packet, case.l3, case.key.v6, n);
        if packet.len() < 15 {
            continue; // too short for the kernel
        }
        check(&case.name, &packet);
    }
    checker.check();
    eprintln!("{} packets in {:?}", checker.checked, begun.elapsed());
    for (class, count) in &oracle.classes {
        eprintln!("{count:>9} {class}");
    }
    assert!(checker.checked >= packets as usize / 5 * 4);
    // A generator that produces too few packets of a class tests nothing.
    for class in ["flow", "malformed", "not IP", "fragment, ports known", "extension header", "etherparse: agrees"] {
        assert!(oracle.classes.get(class).is_some_and(|n| *n > u64::from(packets) * 3 / 250), "{class}: too few");
    }
}
