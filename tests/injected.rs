//! The programs on injected packets.

use netmon::bpf::{Frame, Hook, Sweep};

use crate::needs_root;
use crate::support::kernel::{Kernel, assert_conserved, small, total};
use crate::support::packet::*;
use crate::support::vary::{Order, Vary};

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
    assert_conserved(&books, total(&records));
}

/// A million flows through a cache and a ring that are much too small: what is lost is counted.
#[test]
fn a_million_flows_are_conserved() {
    needs_root!();
    for (cache_slots, ring_records) in [(256, 64), (1 << 14, 1 << 16), (256, 1 << 16), (1 << 14, 64)] {
        let mut kernel = Kernel::load(netmon::bpf::Options { cache_slots, ring_records, ..small() }).unwrap();
        let vary = Vary::load(&kernel.bpf.program(Hook::Ingress, true).unwrap());
        vary.aim(0, Order::InTurn, 1_000_000);
        let packet = ethernet(&[], IPV4, &ipv4(TCP, &[], 7, 0, &tcp(ACK, &[], b"hello world")));
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
        if ring_records == 64 {
            assert!(books.ring_full.packets > 0, "the ring was meant to be too small");
        }
    }
}
