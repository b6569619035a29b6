//! What the counters count: segments as on the wire, and each interface separately.

use std::collections::BTreeMap;
use std::process::Command;

use netmon::bpf::{Frame, Hook, ProgramOptions, Sweep, Tally, numbers, possible_cpus};

use super::pin;
use crate::support::kernel::{Kernel, assert_conserved, small, total};
use crate::support::netns::Netns;
use crate::support::packet::*;
use crate::support::{not_run, sh};
use crate::{function_name, needs_root};

#[test]
fn one_packet_is_one_record() {
    needs_root!();
    let mut kernel = Kernel::load(small()).unwrap();
    let packet = ethernet(&[], IPV4, &ipv4(TCP, &[], 7, 0, &tcp(SYN, &[], b"hello world")));
    let (records, books) = kernel.one(true, &packet, Frame::default());
    assert_eq!(records.len(), 1);
    let r = &records[0];
    assert_eq!((r.source.port, r.destination.port, r.protocol), (40000, 80, TCP));
    assert_eq!((r.packets, r.bytes, r.tcp_flags, r.syn, r.syn_ack), (1, packet.len() as u64, SYN, true, false));
    assert_eq!(r.source.ip(false).to_string(), "10.0.0.1");
    assert_eq!((r.ifindex, r.hook), (1, Hook::Ingress));
    assert_conserved(&books, total(&records));
}

/// User space sends records of translated connections to the worker that has the connection, so it must know which one
/// that is.
#[test]
fn user_space_knows_the_ring_of_a_flow() {
    needs_root!();
    let mut kernel = Kernel::load(ProgramOptions { rings: 3, ..small() }).unwrap();
    let spread = kernel.bpf.spread();
    let injector = kernel.injector(Hook::Ingress, true);
    for host in 0..100 {
        let (mut v4, mut v6) = (ipv4(TCP, &[], 7, 0, &tcp(ACK, &[], b"")), ipv6(UDP, &udp(b"hello")));
        (v4[15], v4[21]) = (host, host ^ 7);
        (v6[23], v6[41]) = (host, host ^ 7);
        for (ethertype, packet) in [(IPV4, v4), (IPV6, v6)] {
            injector.inject(&ethernet(&[], ethertype, &packet), Frame::default(), 1).unwrap();
        }
    }
    let mut found = [0; 3];
    while !kernel.sweeper().is_empty() {
        kernel.sweeper().sweep(Sweep::All).unwrap();
        for (ring, records) in kernel.drain_each().into_iter().enumerate() {
            for record in records {
                assert_eq!(spread.ring(&[record.source, record.destination], record.v6), ring, "{record:?}");
                assert_eq!(spread.ring(&[record.destination, record.source], record.v6), ring, "{record:?}");
                found[ring] += 1;
            }
        }
    }
    assert!(found.iter().sum::<u32>() == 200 && found.iter().all(|n| *n > 30), "{found:?}");
}

#[test]
fn the_hooks_have_separate_counters() {
    needs_root!();
    let mut kernel = Kernel::load(small()).unwrap();
    let packet = ethernet(&[], IPV4, &ipv4(UDP, &[], 7, 0, &udp(b"hello world")));
    kernel.injector(Hook::Ingress, true).inject(&packet, Frame::default(), 2).unwrap();
    kernel.injector(Hook::Egress, true).inject(&packet, Frame::default(), 3).unwrap();
    let mut records = kernel.flush();
    records.sort_by_key(|r| r.packets);
    let seen: Vec<_> = records.iter().map(|r| (r.hook, r.packets, r.bytes)).collect();
    let bytes = packet.len() as u64;
    assert_eq!(seen, [(Hook::Ingress, 2, 2 * bytes), (Hook::Egress, 3, 3 * bytes)]);
    let books = kernel.books();
    assert_eq!((books.ingress.packets, books.egress.packets), (2, 3));
    assert_conserved(&books, total(&records));
}

/// A GSO packet counts as the packets that it becomes, each with headers.
#[test]
fn segments_count_as_on_the_wire() {
    needs_root!();
    let mut kernel = Kernel::load(small()).unwrap();
    let data = [7; 2500];
    let tcp4 = ipv4(TCP, &[], 7, 0, &tcp(ACK, &[1; 12], &data));
    let tcp6 = ipv6(TCP, &tcp(ACK, &[1; 12], &data));
    let (hop, chained) = chain(&[(HOP_BY_HOP, 8)], TCP, &tcp(ACK, &[], &data));
    let tags = &[(0x88a8, 1), (0x8100, 2)];
    for (name, headers, packet) in [
        ("TCP over IPv4", 14 + 20 + 32, ethernet(&[], IPV4, &tcp4)),
        ("TCP over IPv6", 14 + 40 + 32, ethernet(&[], IPV6, &tcp6)),
        ("UDP over IPv4", 14 + 20 + 8, ethernet(&[], IPV4, &ipv4(UDP, &[], 7, 0, &udp(&data)))),
        ("UDP over IPv6", 14 + 40 + 8, ethernet(&[], IPV6, &ipv6(UDP, &udp(&data)))),
        ("QinQ", 14 + 8 + 20 + 32, ethernet(tags, IPV4, &tcp4)),
        ("IPv4 options", 14 + 28 + 8, ethernet(&[], IPV4, &ipv4(UDP, &[1; 8], 7, 0, &udp(&data)))),
        ("extension header", 14 + 48 + 20, ethernet(&[], IPV6, &ipv6(hop, &chained))),
    ] {
        assert_eq!(packet.len(), headers + data.len(), "{name}");
        // Stated number of segments, size of each, actual number. A guest's packet comes without the number.
        for (gso_segs, gso_size, segments) in [
            (0, 0, 1),
            (1, 2500, 1),
            (3, 1000, 3),
            (0, 1000, 3),
            (0, 2500, 1),
            (0, 2499, 2),
            (0, 1250, 2),
            (0, 1, 2500),
        ] {
            let frame = Frame { gso_segs, gso_size, ..Frame::default() };
            let (records, books) = kernel.one(true, &packet, frame);
            let bytes = (segments * headers + data.len()) as u64;
            let expected = Tally { packets: segments as u64, bytes };
            assert_eq!(total(&records), expected, "{name}, {gso_segs} of {gso_size}");
            assert_eq!(books.seen(), expected, "{name}, {gso_segs} of {gso_size}");
            assert_conserved(&books, total(&records));
        }
    }
}

/// Slots for counters on a CPU, and how many of them an interface tries.
const SLOTS: u32 = numbers::BOOKED_INTERFACES as u32;
const PROBES: u32 = numbers::BOOK_PROBES as u32;

#[test]
fn each_interface_has_counters_and_those_without_a_slot_share() {
    needs_root!();
    if Command::new("ip").arg("-V").output().is_err() {
        return not_run(function_name!(), "iproute2 is not installed");
    }
    // All but two hash to the same slot.
    let mut indexes: Vec<u32> = (0..40).map(|k| 7 + SLOTS * k).collect();
    indexes.insert(3, 8);
    indexes.insert(20, SLOTS - 1);
    let host = Netns::new("books");
    let links: String = indexes.iter().map(|i| format!("link add name d{i} index {i} type bridge\n")).collect();
    sh(&format!("printf '{links}' | ip -n {} -batch -", host.name));
    host.run(|| {
        pin(0);
        let mut kernel = Kernel::load(small()).unwrap();
        let injector = kernel.injector(Hook::Ingress, true);
        let packet = ethernet(&[], IPV4, &ipv4(UDP, &[], 7, 0, &udp(b"hello world")));
        let arp = ethernet(&[], 0x0806, &[0; 40]);
        let mut taken = BTreeMap::<u32, u32>::new();
        let mut expected = BTreeMap::<u32, (u64, u64)>::new();
        for round in 0..2 {
            for (i, &ifindex) in indexes.iter().enumerate() {
                let frame = Frame { ifindex, ..Frame::default() };
                let count = i as u32 + 1 + round;
                injector.inject(&packet, frame, count).unwrap();
                injector.inject(&arp, frame, 1).unwrap();
                let mut slots = (0..PROBES).map(|p| (ifindex + p) % SLOTS);
                let found = slots.find(|slot| *taken.entry(*slot).or_insert(ifindex) == ifindex);
                // Interfaces without a slot share the counters of 0.
                let books = expected.entry(found.map_or(0, |_| ifindex)).or_default();
                *books = (books.0 + u64::from(count), books.1 + 1);
            }
        }
        // Interface 8 has one of the eight slots that the forty try.
        assert_eq!(expected.len(), 1 + PROBES as usize + 1);
        let records = kernel.flush();
        let seen = kernel.interfaces();
        let counts = seen.iter().map(|(i, b)| (*i, (b.ingress.packets - b.not_ip.packets, b.not_ip.packets)));
        assert_eq!(counts.collect::<BTreeMap<_, _>>(), expected);
        // Records have their interface, whichever slot counts it.
        for (i, &ifindex) in indexes.iter().enumerate() {
            let packets: u64 = records.iter().filter(|r| r.ifindex == ifindex).map(|r| r.packets).sum();
            assert_eq!(packets, 2 * i as u64 + 3, "interface {ifindex}");
        }
        assert_conserved(&kernel.books(), total(&records));
    });
}

#[test]
fn only_counters_in_use_are_read() {
    needs_root!();
    pin(0);
    let kernel = Kernel::load(small()).unwrap();
    let (books, cpus) = (kernel.bpf.books().unwrap(), possible_cpus().unwrap());
    let packet = ethernet(&[], IPV4, &ipv4(UDP, &[], 7, 0, &udp(b"hello world")));
    let seen = |ifindex: u32| books.interfaces().get(&ifindex).map(|books| books.ingress.packets);
    let inject = || kernel.injector(Hook::Ingress, true).inject(&packet, Frame::default(), 1).unwrap();
    assert_eq!(books.in_use(), cpus, "those that interfaces share");
    inject();
    assert_eq!((books.in_use(), seen(1), seen(0)), (cpus + 1, Some(1), None));
    books.retire(1);
    assert_eq!((books.in_use(), seen(1), seen(0)), (cpus, None, Some(1)));
    inject();
    inject();
    assert_eq!((books.in_use(), seen(1), seen(0)), (cpus + 1, Some(2), Some(1)));
}
