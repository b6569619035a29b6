//! Sampling: complete connections, in the configured share, and packets that are left out are counted.

use std::collections::HashMap;

use netmon::bpf::{Frame, Hook, ProgramOptions};

use super::pin;
use crate::needs_root;
use crate::support::kernel::{Kernel, assert_conserved, difference, small, total};
use crate::support::packet::{IPV4, ethernet, ipv4, udp_to};

const FLOWS: u32 = 100_000;

/// The datagram and the answer of connection `n`.
fn conversation(n: u32) -> [Vec<u8>; 2] {
    let mut there = ethernet(&[], IPV4, &ipv4(17, &[], 7, 0, &udp_to(53, b"what")));
    // Each has other addresses and ports, in no particular order.
    let mixed = n.wrapping_mul(0x9e37_79b9);
    there[27..30].copy_from_slice(&mixed.to_be_bytes()[..3]);
    there[34..36].copy_from_slice(&(1024 + (mixed & 0x3fff) as u16).to_be_bytes());
    let mut back = there.clone();
    back[26..34].rotate_left(4);
    back[34..38].rotate_left(2);
    [there, back]
}

/// The tracked connections, by the client's address and port, and the packets of each.
fn tracked(kernel: &mut Kernel) -> HashMap<([u8; 16], u16), u64> {
    let injector = kernel.injector(Hook::Ingress, true);
    let (mut records, before) = (Vec::new(), kernel.books());
    for n in 0..FLOWS {
        for packet in conversation(n) {
            injector.inject(&packet, Frame::default(), 1).unwrap();
        }
        if n % 5000 == 0 {
            records.extend(kernel.drain());
        }
    }
    records.extend(kernel.flush());
    assert_conserved(&difference(kernel.books(), before), total(&records));
    let mut flows = HashMap::new();
    for record in records {
        let client = if record.destination.port == 53 { record.source } else { record.destination };
        *flows.entry((client.address, client.port)).or_default() += record.packets;
    }
    flows
}

#[test]
fn the_share_is_as_configured_for_both_directions() {
    needs_root!();
    pin(0);
    let mut kernel = Kernel::load(ProgramOptions { ring_records: 1 << 20, ..small() }).unwrap();
    let sampler = kernel.bpf.sampler().unwrap();
    let whole: std::collections::HashSet<_> = {
        let flows = tracked(&mut kernel);
        assert_eq!((flows.len(), kernel.books().left_out.packets), (FLOWS as usize, 0));
        flows.into_keys().collect()
    };
    let mut larger = whole;
    for (rate, off) in [(0.5, 0.02), (0.1, 0.05)] {
        let before = kernel.books();
        sampler.set(rate);
        let flows = tracked(&mut kernel);
        let wanted = f64::from(FLOWS) * rate;
        let share = flows.len() as f64 / wanted;
        assert!((1.0 - off..1.0 + off).contains(&share), "{} of {wanted} connections", flows.len());
        assert!(flows.values().all(|packets| *packets == 2), "of each both directions");
        let left_out = kernel.books().left_out.packets - before.left_out.packets;
        assert_eq!(left_out, 2 * (u64::from(FLOWS) - flows.len() as u64));
        assert!(flows.keys().all(|key| larger.contains(key)), "a smaller share is a part of a larger one");
        larger = flows.into_keys().collect();
    }
    sampler.set(1.0);
    assert_eq!(tracked(&mut kernel).len(), FLOWS as usize);
}
