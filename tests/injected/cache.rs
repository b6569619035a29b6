//! The flow cache: what is displaced, what is reported at once, and what the sweep writes.

use std::time::{Duration, Instant};

use netmon::bpf::{Cause, Frame, Hook, Injector, ProgramOptions, Record, Sweep};

use super::pin;
use crate::needs_root;
use crate::support::kernel::{Kernel, assert_conserved, small, total};
use crate::support::packet::*;
use crate::support::vary::{Order, Vary};

/// Longer than a sweep takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Options under which entries never become due or idle, and a thousand of them fit without displacing each other.
fn patient() -> ProgramOptions {
    ProgramOptions { idle: HOUR, report: HOUR, cache_slots: 1 << 18, ..small() }
}

fn segment(flags: u8) -> Vec<u8> {
    ethernet(&[], IPV4, &ipv4(TCP, &[], 7, 0, &tcp(flags, &[], b"hello world")))
}

/// Packets that are only ACKs: data that does not advance would be a retransmission, which is recorded.
fn families() -> [Vec<u8>; 2] {
    let tcp = tcp(ACK, &[], &[]);
    [ethernet(&[], IPV4, &ipv4(TCP, &[], 7, 0, &tcp)), ethernet(&[], IPV6, &ipv6(TCP, &tcp))]
}

fn load(options: ProgramOptions) -> (Kernel, Injector) {
    pin(0);
    let kernel = Kernel::load(options).unwrap();
    let injector = kernel.injector(Hook::Ingress, true);
    (kernel, injector)
}

fn send(injector: &Injector, packets: &[Vec<u8>]) {
    for packet in packets {
        injector.inject(packet, Frame::default(), 1).unwrap();
    }
}

/// Cause, packets and flags of each record.
fn summaries(records: &[Record]) -> Vec<(Cause, u64, u8)> {
    records.iter().map(|r| (r.cause, r.packets, r.tcp_flags)).collect()
}

/// A million flows through a cache and a ring that are much too small: all losses are counted.
#[test]
fn a_million_flows_are_conserved() {
    needs_root!();
    for (cache_slots, ring_records) in [(256, 64), (1 << 14, 1 << 16), (256, 1 << 16), (1 << 14, 64)] {
        for packet in families() {
            let mut kernel = Kernel::load(ProgramOptions { cache_slots, ring_records, ..small() }).unwrap();
            let vary = Vary::load(&kernel.bpf.program(Hook::Ingress, true).unwrap());
            vary.aim(0, Order::InTurn, 1_000_000);
            let injector = vary.injector();
            let mut records = Vec::new();
            for i in 0..20 {
                injector.inject(&packet, Frame::default(), 50_000).unwrap();
                if i % 3 == 0 {
                    kernel.sweeper().sweep(Sweep::Due).unwrap();
                }
                records.append(&mut kernel.drain());
            }
            records.append(&mut kernel.flush());
            let books = kernel.books();
            assert_eq!(books.seen().packets, 1_000_000);
            assert_conserved(&books, total(&records));
            let lost = books.ring_full.packets;
            assert_eq!(lost > 0, ring_records == 64, "a ring of {ring_records} records lost {lost} packets");
        }
    }
}

/// A cache that is too small on purpose costs records, not packets: every packet of each flow is recorded.
#[test]
fn a_small_cache_loses_nothing() {
    needs_root!();
    pin(0);
    for order in [Order::Random, Order::Skewed] {
        for packet in families() {
            let mut kernel =
                Kernel::load(ProgramOptions { cache_slots: 256, ring_records: 1 << 20, ..small() }).unwrap();
            let vary = Vary::load(&kernel.bpf.program(Hook::Ingress, true).unwrap());
            vary.aim(1, order, 10_000);
            vary.injector().inject(&packet, Frame::default(), 200_000).unwrap();
            let records = kernel.flush();
            assert_eq!(kernel.books().ring_full.packets, 0);
            assert_eq!(total(&records).packets, 200_000);
            assert_conserved(&kernel.books(), total(&records));
        }
    }
}

#[test]
fn a_flood_of_small_flows_leaves_a_large_one_in_place() {
    needs_root!();
    for long in families() {
        let (mut kernel, injector) = load(ProgramOptions { cache_slots: 256, ring_records: 1 << 20, ..patient() });
        let vary = Vary::load(&kernel.bpf.program(Hook::Ingress, true).unwrap());
        let mut flood = long.clone();
        stamp(&mut flood, 14, long[12] == 0x86, 99);
        vary.aim(0, Order::InTurn, 1_000_000);
        let flood_source = vary.injector();
        for _ in 0..100 {
            injector.inject(&long, Frame::default(), 10).unwrap();
            flood_source.inject(&flood, Frame::default(), 1000).unwrap();
        }
        let records = kernel.flush();
        let (of_long, of_flood): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|r| r.destination.address[15] == 2 || r.destination.address[3] == 2);
        assert_eq!((total(&of_long).packets, total(&of_flood).packets), (1000, 100_000));
        assert_eq!(of_flood.len(), 100_000);
        // One record, when the cache is emptied.
        assert_eq!(summaries(&of_long), [(Cause::Swept, 1000, ACK)]);
    }
}

/// Attempts to connect are what is lost if the rings are full, even if the connections beside them send little or are idle.
#[test]
fn a_flood_with_full_rings_loses_nothing_of_connections() {
    needs_root!();
    for idle in [HOUR, Duration::ZERO] {
        for (packet, syn) in families().into_iter().zip(opening()) {
            flood_beside_connections(idle, &packet, syn);
        }
    }
}

fn opening() -> [Vec<u8>; 2] {
    let tcp = tcp(SYN, &[], &[]);
    [ethernet(&[], IPV4, &ipv4(TCP, &[], 7, 0, &tcp)), ethernet(&[], IPV6, &ipv6(TCP, &tcp))]
}

fn flood_beside_connections(idle: Duration, packet: &[u8], mut syn: Vec<u8>) {
    let (mut kernel, injector) = load(ProgramOptions { cache_slots: 256, ring_records: 1, idle, ..patient() });
    let v6 = packet[12] == 0x86;
    let mut packets = vec![packet.to_vec(); 20];
    for (number, packet) in (1 << 24..).zip(&mut packets) {
        stamp(packet, 14, v6, number);
    }
    stamp(&mut syn, 14, v6, 99);
    let vary = Vary::load(&kernel.bpf.program(Hook::Ingress, true).unwrap());
    vary.aim(0, Order::InTurn, 1_000_000);
    let flood = vary.injector();
    let mut records = Vec::new();
    for round in 0..100 {
        flood.inject(&syn, Frame::default(), 1000).unwrap();
        send(&injector, &packets);
        if round % 5 == 0 {
            records.append(&mut kernel.drain());
            // The ring is full again afterwards; what was reported has nothing new.
            kernel.sweeper().sweep(Sweep::Due).unwrap();
        }
    }
    records.append(&mut kernel.flush());
    assert!(kernel.books().ring_full.packets > 50_000, "the rings were meant to be full");
    assert_conserved(&kernel.books(), total(&records));
    records.retain(|record| record.tcp_flags & ACK != 0);
    assert_eq!(total(&records).packets, 100 * packets.len() as u64);
}

#[test]
fn a_reset_is_reported_at_once_and_only_once() {
    needs_root!();
    let (mut kernel, injector) = load(patient());
    send(&injector, &[segment(SYN), segment(ACK)]);
    assert!(kernel.drain().is_empty(), "nothing is urgent");
    send(&injector, &[segment(RST)]);
    assert_eq!(summaries(&kernel.drain()), [(Cause::Urgent, 3, SYN | ACK | RST)]);
    send(&injector, &[segment(RST), segment(RST | ACK), segment(RST)]);
    assert!(kernel.drain().is_empty(), "a connection is reset once");
    // The next attempt; the rest of the last one comes first.
    send(&injector, &[segment(SYN), segment(RST), segment(RST)]);
    assert_eq!(summaries(&kernel.drain()), [(Cause::Displaced, 3, RST | ACK), (Cause::Urgent, 2, SYN | RST)]);
    // Refused again and again: one record for each attempt, and one for the packets that the other side still sent
    // after it.
    for _ in 0..50 {
        send(&injector, &[segment(SYN), segment(RST | ACK)]);
    }
    let records = kernel.drain();
    let urgent = records.iter().filter(|r| r.cause == Cause::Urgent).count();
    assert_eq!((urgent, records.len()), (50, 51));
    // A RST as the first packet of a flow.
    let mut other = segment(RST);
    stamp(&mut other, 14, false, 5);
    send(&injector, &[other]);
    assert_eq!(summaries(&kernel.drain()), [(Cause::Urgent, 1, RST)]);
}

#[test]
fn an_icmp_error_is_reported_at_once() {
    needs_root!();
    let (mut kernel, injector) = load(patient());
    let error4 = ethernet(&[], IPV4, &ipv4(ICMP, &[], 7, 0, &icmp(3, 1, &[0; 28])));
    let error6 = ethernet(&[], IPV6, &ipv6(ICMPV6, &icmp(1, 4, &[0; 48])));
    let ping = ethernet(&[], IPV4, &ipv4(ICMP, &[], 7, 0, &icmp(8, 0, &[0; 28])));
    send(&injector, &[ping]);
    assert!(kernel.drain().is_empty());
    send(&injector, &[error4.clone(), error4, error6]);
    let records = kernel.drain();
    let seen: Vec<_> = records.iter().map(|r| (r.v6, r.cause, r.icmp_type, r.icmp_code, r.packets)).collect();
    assert_eq!(seen, [(false, Cause::Urgent, 3, 1, 1), (true, Cause::Urgent, 1, 4, 1)]);
}

/// The ports of a connection that is over are used again.
#[test]
fn a_new_connection_does_not_blend_into_the_last() {
    needs_root!();
    let (mut kernel, injector) = load(patient());
    send(&injector, &[segment(SYN), segment(ACK), segment(FIN | ACK)]);
    assert!(kernel.drain().is_empty());
    // A repeated SYN is the same attempt.
    send(&injector, &[segment(SYN), segment(SYN), segment(ACK)]);
    let records = kernel.flush();
    assert_eq!(summaries(&records), [(Cause::Displaced, 3, SYN | ACK | FIN), (Cause::Swept, 3, SYN | ACK)]);
    assert!(records[1].syn && !records[1].syn_ack);
}

/// Sweeps until records come: a jiffy must pass, whose length is not known.
fn sweep_until_records(kernel: &mut Kernel) -> Vec<Record> {
    let begun = Instant::now();
    loop {
        kernel.sweeper().sweep(Sweep::Due).unwrap();
        let records = kernel.drain();
        if !records.is_empty() {
            return records;
        }
        assert!(begun.elapsed() < PATIENCE, "the sweep never wrote a record");
    }
}

#[test]
fn the_sweep_writes_what_is_new_once() {
    needs_root!();
    for packet in families() {
        let (mut kernel, injector) = load(patient());
        let vary = Vary::load(&kernel.bpf.program(Hook::Ingress, true).unwrap());
        vary.aim(0, Order::InTurn, 500);
        vary.injector().inject(&packet, Frame::default(), 1000).unwrap();
        kernel.sweeper().sweep(Sweep::Due).unwrap();
        let records = kernel.drain();
        assert_eq!(summaries(&records), vec![(Cause::Swept, 2, ACK); 500]);
        // There is nothing new: no record is repeated, and a known flow has none before it is due.
        injector.inject(&packet, Frame::default(), 3).unwrap(); // the second of the five hundred
        vary.injector().inject(&packet, Frame::default(), 500).unwrap();
        kernel.sweeper().sweep(Sweep::Due).unwrap();
        assert!(kernel.drain().is_empty());
        let rest = kernel.flush();
        assert_eq!((total(&rest).packets, rest.len()), (503, 500));
        assert!(kernel.sweeper().is_empty());
    }
}

#[test]
fn the_sweep_writes_busy_flows_when_they_are_due() {
    needs_root!();
    for packet in families() {
        let (mut kernel, injector) = load(ProgramOptions { report: Duration::ZERO, ..patient() });
        for n in 1..4 {
            injector.inject(&packet, Frame::default(), n).unwrap();
            assert_eq!(summaries(&sweep_until_records(&mut kernel)), [(Cause::Swept, n.into(), ACK)]);
        }
        assert!(!kernel.sweeper().is_empty(), "it stays in the cache");
        kernel.sweeper().sweep(Sweep::Due).unwrap();
        assert!(kernel.drain().is_empty());
    }
}

#[test]
fn idle_flows_leave_the_cache() {
    needs_root!();
    for packet in families() {
        let (mut kernel, injector) = load(ProgramOptions { idle: Duration::ZERO, ..patient() });
        injector.inject(&packet, Frame::default(), 7).unwrap();
        let (begun, mut records) = (Instant::now(), Vec::new());
        while !kernel.sweeper().is_empty() {
            assert!(begun.elapsed() < PATIENCE, "the cache is never empty");
            kernel.sweeper().sweep(Sweep::Due).unwrap();
            records.append(&mut kernel.drain());
        }
        assert_eq!(summaries(&records), [(Cause::Swept, 7, ACK)]);
    }
}

/// If the ring is full, the sweep leaves entries in the cache.
#[test]
fn a_full_ring_makes_the_sweep_wait() {
    needs_root!();
    for packet in families() {
        let (mut kernel, _) = load(ProgramOptions { ring_records: 1, ..patient() });
        let vary = Vary::load(&kernel.bpf.program(Hook::Ingress, true).unwrap());
        vary.aim(0, Order::InTurn, 1000);
        vary.injector().inject(&packet, Frame::default(), 3000).unwrap();
        let mut records = Vec::new();
        let mut rounds = 0;
        loop {
            // Two sweeps: the second finds the ring full.
            kernel.sweeper().sweep(Sweep::Due).unwrap();
            kernel.sweeper().sweep(Sweep::Due).unwrap();
            let some = kernel.drain();
            if some.is_empty() {
                break;
            }
            rounds += 1;
            records.extend(some);
        }
        assert!(rounds > 10, "the ring was meant to be too small");
        assert_eq!(summaries(&records), vec![(Cause::Swept, 3, ACK); 1000]);
        assert_eq!(kernel.books().ring_full.packets, 0);
        assert_conserved(&kernel.books(), total(&records));
    }
}
