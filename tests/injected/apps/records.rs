//! Verdicts as they reach user space: whole packets pass the programs, and the records have the protocol.

use std::collections::HashMap;

use netmon::bpf::{App, Frame, Hook, Injector, ProgramOptions};

use super::samples::{Sample, samples};
use super::{lookalikes, number, verdict};
use crate::needs_root;
use crate::support::detect::Verdict;
use crate::support::kernel::{Kernel, small};
use crate::support::packet::*;
use crate::support::vary::{Order, Vary};

/// Connections that differ only in the client's port.
struct Network {
    kernel: Kernel,
    injector: Injector,
    v6: bool,
    port: u16,
}

impl Network {
    fn new(v6: bool, options: ProgramOptions) -> Network {
        super::super::pin(0);
        let kernel = Kernel::load(options).unwrap();
        let injector = kernel.injector(Hook::Ingress, true);
        Network { kernel, injector, v6, port: 20000 }
    }

    /// Sends a packet of the current connection with `sample`'s server.
    fn send(&self, sample: &Sample, client: bool, flags: u8, seq: u32, payload: &[u8]) {
        let (protocol, mut segment) = if sample.udp { (UDP, udp(payload)) } else { (TCP, tcp(flags, &[], payload)) };
        let ports = if client { [self.port, sample.port] } else { [sample.port, self.port] };
        segment[..2].copy_from_slice(&ports[0].to_be_bytes());
        segment[2..4].copy_from_slice(&ports[1].to_be_bytes());
        if !sample.udp {
            segment[4..8].copy_from_slice(&seq.to_be_bytes());
        }
        let mut packet = if self.v6 {
            ethernet(&[], IPV6, &ipv6(protocol, &segment))
        } else {
            ethernet(&[], IPV4, &ipv4(protocol, &[], 7, 0, &segment))
        };
        if !client {
            let (at, length) = if self.v6 { (14 + 8, 16) } else { (14 + 12, 4) };
            packet[at..at + 2 * length].rotate_left(length);
        }
        self.injector.inject(&packet, Frame::default(), 1).unwrap();
    }

    /// Sends `pieces` from the sample's end on a new connection, whose start is seen if `whole`; returns the client's
    /// port.
    fn talk(&mut self, sample: &Sample, whole: bool, pieces: &[&[u8]]) -> u16 {
        self.port += 1;
        if whole && !sample.udp {
            self.send(sample, true, SYN, 1000, b"");
            self.send(sample, false, SYN | ACK, 1000, b"");
            self.send(sample, true, ACK, 1001, b"");
        }
        let mut seq = 1001;
        for piece in pieces {
            self.send(sample, sample.client, PSH | ACK, seq, piece);
            seq += piece.len() as u32;
        }
        self.port
    }

    /// The verdicts in the records, by the client's port.
    fn verdicts(&mut self) -> HashMap<u16, Verdict> {
        let mut verdicts = HashMap::new();
        for record in self.kernel.flush() {
            let Some(facts) = record.facts.as_ref() else { continue };
            let Some(app) = facts.app else { continue };
            let next = facts.app_next.map_or(0, |next| u32::from(number(next)) << 24);
            let client = [record.source.port, record.destination.port].into_iter().find(|p| (20001..30000).contains(p));
            let again = verdicts.insert(client.unwrap(), Verdict(verdict(app, facts.tls.into()).0 | next));
            assert_eq!(again, None, "reported once");
        }
        verdicts
    }
}

fn plain_samples() -> Vec<Sample> {
    samples().into_iter().filter(|s| s.before.is_none() && (!s.udp || s.client || s.app == App::Dns)).collect()
}

fn assert_recognised(name: &str, pieces: impl Fn(&[u8]) -> Vec<&[u8]>) {
    for v6 in [false, true] {
        let mut network = Network::new(v6, small());
        let all = plain_samples();
        let mut expected = HashMap::new();
        for sample in &all {
            let bytes = if sample.udp { vec![&sample.bytes[..]] } else { pieces(&sample.bytes) };
            expected.insert(network.talk(sample, true, &bytes), sample);
        }
        let verdicts = network.verdicts();
        for (port, sample) in expected {
            assert_eq!(verdicts.get(&port), Some(&sample.verdict()), "{name}, IPv6 {v6}: {}", sample.name);
        }
    }
}

#[test]
fn records_report_the_protocol_once() {
    needs_root!();
    assert_recognised("whole", |bytes| vec![bytes]);
    assert_recognised("in two", |bytes| vec![&bytes[..bytes.len() / 2], &bytes[bytes.len() / 2..]]);
    assert_recognised("in five", |bytes| bytes.chunks(bytes.len().div_ceil(5)).collect());
}

#[test]
fn lookalikes_are_in_no_record() {
    needs_root!();
    let mut network = Network::new(false, small());
    // For datagrams, it is not visible which end opened.
    for sample in lookalikes().into_iter().filter(|s| !s.udp || s.client) {
        network.talk(&sample, true, &[&sample.bytes]);
    }
    assert_eq!(network.verdicts(), HashMap::new());
}

/// A connection that is first seen after its start: self-contained messages are recognised, greetings could belong to
/// anything.
#[test]
fn the_middle_of_a_connection_is_recognised_by_whole_messages() {
    needs_root!();
    let mut network = Network::new(false, small());
    let named = |name: &str| samples().into_iter().find(|s| s.name == name && !s.udp).unwrap();
    let [http, redis, ssh] = ["200", "Redis SET", "SSH server"].map(named);
    let ports = [&http, &redis, &ssh].map(|s| network.talk(s, false, &[&s.bytes]));
    let verdicts = network.verdicts();
    assert_eq!(verdicts.get(&ports[0]), Some(&http.verdict()));
    assert_eq!(verdicts.get(&ports[1]), Some(&redis.verdict()));
    assert_eq!(verdicts.get(&ports[2]), None);
}

/// Where more connections speak than the pairing table has places, only the first bytes of most payloads are looked at: nothing that can
/// be recognised is overlooked.
#[test]
fn the_middle_of_a_connection_is_recognised_without_a_pair() {
    needs_root!();
    // With a pair, frames alone make a connection HTTP/2.
    let frames = |sample: &Sample| matches!(sample.app, App::Http2 | App::Grpc);
    let all: Vec<Sample> = plain_samples().into_iter().filter(|sample| !sample.udp && !frames(sample)).collect();
    let [with, without] = [false, true].map(|crowded| {
        let mut network = Network::new(false, small());
        let others = crowded.then(|| Vary::load(&network.kernel.bpf.program(Hook::Ingress, true).unwrap()));
        let other = ethernet(&[], IPV4, &ipv4(TCP, &[], 7, 0, &tcp(ACK, &[], b"other")));
        let mut verdicts = HashMap::new();
        for sample in &all {
            if let Some(others) = &others {
                others.aim(1, Order::InTurn, 10_000);
                others.injector().inject(&other, Frame::default(), 10_000).unwrap();
                network.kernel.discard();
            }
            network.talk(sample, false, &[&sample.bytes]);
            verdicts.extend(network.verdicts());
        }
        assert!(!crowded || network.kernel.misses().unpaired >= all.len() as u64);
        verdicts
    });
    assert!(with.len() > 20, "{with:?}");
    assert_eq!(with, without);
}

/// Payload is examined only for a while.
#[test]
fn connections_are_not_examined_for_ever() {
    needs_root!();
    let mut network = Network::new(false, small());
    let http = samples().into_iter().find(|s| s.app == App::Http && s.client).unwrap();
    let drop_by_drop: Vec<&[u8]> = http.bytes.chunks(1).collect();
    network.talk(&http, true, &drop_by_drop);
    assert_eq!(network.verdicts(), HashMap::new());
}

#[test]
fn only_the_protocols_asked_for_assert_recognised() {
    needs_root!();
    let mut network = Network::new(false, ProgramOptions { apps: vec![App::Redis], ..small() });
    let mut redis = Vec::new();
    for sample in plain_samples() {
        let port = network.talk(&sample, true, &[&sample.bytes]);
        if sample.app == App::Redis {
            redis.push(port);
        }
    }
    let mut verdicts: Vec<u16> = network.verdicts().into_keys().collect();
    verdicts.sort_unstable();
    assert_eq!(verdicts, redis);
}
