//! Tunnels: the packet inside belongs to a flow of its own, besides that of the tunnel, and only if there is a tunnel.

use netmon::bpf::{App, Cause, Endpoint, Frame, InterfaceBooks, Measure, Record, Tally};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::differential::mutate;
use super::oracle::Oracle;
use super::table::{Case, cases};
use super::{Checker, Expect, Flags, Key, pin};
use crate::needs_root;
use crate::support::kernel::{Kernel, assert_conserved, small, total};
use crate::support::packet::*;
use crate::support::{repeat, seed};

const ETH: usize = 14;

/// A tunnel, as carried by the outer IP packet.
struct Tunnel {
    name: &'static str,
    app: App,
    protocol: u8,
    /// Application protocol of the outer flow.
    ports: (u16, u16),
    /// True if it carries frames; else it carries packets of this family, or of either if `None`.
    frames: bool,
    family: Option<u16>,
    wrap: fn(u16, &[u8]) -> Vec<u8>,
}

const TUNNELS: [Tunnel; 10] = [
    udp_tunnel("VXLAN", App::Vxlan, 4789, true, |_, p| vxlan(4789, p)),
    udp_tunnel("VXLAN, old port", App::Vxlan, 8472, true, |_, p| vxlan(8472, p)),
    udp_tunnel("Geneve, frames", App::Geneve, 6081, true, |_, p| geneve(&[], BRIDGED, p)),
    udp_tunnel("Geneve, frames, options", App::Geneve, 6081, true, |_, p| geneve(&[0x45; 252], BRIDGED, p)),
    udp_tunnel("Geneve, packets", App::Geneve, 6081, false, |kind, p| geneve(&[0x60; 8], kind, p)),
    ip_tunnel("GRE, packets", App::Gre, GRE, false, None, |kind, p| gre(0, kind, p)),
    ip_tunnel("GRE, all fields", App::Gre, GRE, false, None, |kind, p| {
        gre(GRE_CHECKSUM | GRE_KEY | GRE_SEQUENCE, kind, p)
    }),
    ip_tunnel("GRE, frames", App::Gre, GRE, true, None, |_, p| gre(GRE_KEY, BRIDGED, p)),
    ip_tunnel("IPIP", App::Ipip, IPIP, false, Some(IPV4), |_, p| p.to_vec()),
    ip_tunnel("SIT", App::Sit, SIT, false, Some(IPV6), |_, p| p.to_vec()),
];

const fn udp_tunnel(name: &'static str, app: App, port: u16, frames: bool, wrap: fn(u16, &[u8]) -> Vec<u8>) -> Tunnel {
    Tunnel { name, app, protocol: UDP, ports: (40000, port), frames, family: None, wrap }
}

const fn ip_tunnel(
    name: &'static str,
    app: App,
    protocol: u8,
    frames: bool,
    family: Option<u16>,
    wrap: fn(u16, &[u8]) -> Vec<u8>,
) -> Tunnel {
    Tunnel { name, app, protocol, ports: (0, 0), frames, family, wrap }
}

impl Tunnel {
    fn takes(&self, v6: bool) -> bool {
        self.family.is_none_or(|family| (family == IPV6) == v6)
    }

    /// The packet on the wire with `inner`, from its Ethernet or IP header on; `v6` gives the family of the latter.
    fn packet(&self, outer_v6: bool, tags: &[(u16, u16)], v6: bool, inner: &[u8]) -> Vec<u8> {
        let payload = (self.wrap)(if v6 { IPV6 } else { IPV4 }, inner);
        if outer_v6 {
            ethernet(tags, IPV6, &ipv6(self.protocol, &payload))
        } else {
            ethernet(tags, IPV4, &ipv4(self.protocol, &[], 7, 0, &payload))
        }
    }

    fn outer(&self, packet: &[u8], l3: usize, v6: bool, vlan: u16) -> Expect {
        let end = |port| Endpoint { address: [0; 16], port };
        let (source, destination) = (end(self.ports.0), end(self.ports.1));
        let key = Key { v6, source, destination, protocol: self.protocol, vlan, inner_vlan: 0, inner: false };
        Expect::Flow(key.at(packet, l3), Flags::default())
    }

    /// A packet with a small TCP segment inside, over IPv4 unless the tunnel does not support that.
    fn small(&self, payload: &[u8]) -> Vec<u8> {
        self.around(&tcp(SYN, &[], payload), TCP)
    }

    fn around(&self, transport: &[u8], protocol: u8) -> Vec<u8> {
        let v6 = self.family == Some(IPV6);
        let ip = if v6 { ipv6(protocol, transport) } else { ipv4(protocol, &[], 7, 0, transport) };
        let inner = if self.frames { ethernet(&[], if v6 { IPV6 } else { IPV4 }, &ip) } else { ip };
        self.packet(false, &[], v6, &inner)
    }
}

/// The end of a case's packet according to its IP header.
fn end_of(case: &Case, packet: &[u8]) -> u64 {
    let word = |at: usize| u64::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    case.l3 as u64 + if case.key.v6 { 40 + word(case.l3 + 4) } else { word(case.l3 + 2) }
}

fn inside(expect: Expect) -> Expect {
    match expect {
        Expect::Flow(key, flags) => Expect::Flow(Key { inner: true, ..key }, flags),
        other => other,
    }
}

/// Every packet that the programs know, in every tunnel: both flows have the correct bytes.
#[test]
fn every_packet_in_every_tunnel() {
    needs_root!();
    let mut checker = Checker::new(true);
    let (frames, packets) = (cases(true), cases(false));
    let mut n = 0;
    for tunnel in &TUNNELS {
        let all = if tunnel.frames { &frames } else { &packets };
        for case in all.iter().filter(|case| tunnel.takes(case.key.v6)) {
            n += 1;
            let (outer_v6, tags) = (n % 3 == 0, &[(0x8100, 9)][..n as usize % 2]);
            let mut inner = case.bytes.clone();
            stamp(&mut inner, case.l3, case.key.v6, n);
            // Ethernet padding does not belong to the packet, unless the packet has no length of its own.
            let end = end_of(case, &inner);
            if tunnel.frames && end == inner.len() as u64 && case.need > case.l4 {
                inner.extend([0xa5; 9]);
            }
            let l3 = ETH + 4 * tags.len();
            let mut packet = tunnel.packet(outer_v6, tags, case.key.v6, &inner);
            stamp(&mut packet, l3, outer_v6, n);
            let outer = tunnel.outer(&packet, l3, outer_v6, if tags.is_empty() { 0 } else { 9 });
            let name = format!("{}: {}", tunnel.name, case.name);
            checker.inject_with(&name, &packet, outer, Some((inside(case.expect(&inner)), end)));
        }
        if tunnel.frames {
            let arp = ethernet(&[(0x8100, 5)], 0x0806, &[0x45; 28]);
            let packet = tunnel.packet(false, &[], false, &arp);
            let outer = tunnel.outer(&packet, ETH, false, 0);
            checker.inject_with(tunnel.name, &packet, outer, Some((Expect::NotIp, arp.len() as u64)));
        }
    }
    checker.check();
    assert!(checker.checked > 20_000, "{} packets", checker.checked);
}

/// Tunnels that are cut anywhere, or have any byte changed: the result is that of another parser.
#[test]
fn cut_and_corrupt_tunnels() {
    needs_root!();
    let mut checker = Checker::new(true);
    let mut oracle = Oracle::default();
    let mut n = 0;
    let mut check = |name: &str, packet: &mut [u8], v6: bool| {
        n += 1;
        stamp(packet, ETH, v6, n);
        let (outer, inner) = oracle.views(packet);
        checker.inject_with(name, packet, outer, inner);
    };
    let inner = |v6: bool| {
        if v6 { ipv6(TCP, &tcp(SYN, &[], b"hello")) } else { ipv4(UDP, &[1; 4], 7, 0, &udp(b"hello")) }
    };
    for tunnel in &TUNNELS {
        for (outer_v6, v6) in [(false, false), (false, true), (true, false), (true, true)] {
            if !tunnel.takes(v6) {
                continue;
            }
            let ip = inner(v6);
            let content = if tunnel.frames { ethernet(&[], if v6 { IPV6 } else { IPV4 }, &ip) } else { ip };
            let whole = tunnel.packet(outer_v6, &[], v6, &content);
            for length in ETH + 1..whole.len() {
                check(tunnel.name, &mut whole[..length].to_vec(), outer_v6);
            }
            let headers = ETH + if outer_v6 { 40 } else { 20 } + if tunnel.protocol == UDP { 8 } else { 0 };
            for at in headers..(headers + 24).min(whole.len()) {
                for bit in 0..8 {
                    let mut packet = whole.clone();
                    packet[at] ^= 1 << bit;
                    check(tunnel.name, &mut packet, outer_v6);
                }
            }
        }
    }
    checker.check();
    for class in ["tunnel", "no tunnel", "inner flow", "inner malformed", "inner not IP"] {
        assert!(oracle.classes.get(class).is_some_and(|n| *n > 10), "{class}: too few of {:?}", oracle.classes);
    }
}

#[test]
fn random_tunnels_as_an_independent_parser_reads_them() {
    needs_root!();
    let packets_in_all: u32 = repeat(20_000, 60_000);
    let mut rng = SmallRng::seed_from_u64(seed());
    let mut checker = Checker::new(true);
    let mut oracle = Oracle::default();
    let (frames, packets) = (cases(true), cases(false));
    for n in 0..packets_in_all {
        let tunnel = TUNNELS.choose(&mut rng).unwrap();
        let case = if tunnel.frames { &frames } else { &packets }.choose(&mut rng).unwrap();
        let mut inner = case.bytes.clone();
        stamp(&mut inner, case.l3, case.key.v6, n);
        let v6: bool = rng.random();
        let mut packet = tunnel.packet(v6, &[], case.key.v6, &inner);
        for _ in 0..*[0, 1, 1, 2, 3].choose(&mut rng).unwrap() {
            if packet.len() > 15 {
                let headers = (packet.len() + case.need).saturating_sub(inner.len()).max(15);
                mutate(&mut rng, &mut packet, headers);
            }
        }
        stamp(&mut packet, ETH, v6, n);
        if packet.len() > ETH {
            let (outer, inner) = oracle.views(&packet);
            checker.inject_with(tunnel.name, &packet, outer, inner);
        }
    }
    checker.check();
    eprintln!("{:?}", oracle.classes);
    for class in ["tunnel", "no tunnel", "inner flow", "inner malformed"] {
        assert!(
            oracle.classes.get(class).is_some_and(|n| *n > u64::from(packets_in_all) / 30),
            "{class}: too few of {:?}",
            oracle.classes
        );
    }
}

/// The records of the outer packet and of the inner one.
fn views(kernel: &mut Kernel, packet: &[u8], frame: Frame) -> (Vec<Record>, Vec<Record>, InterfaceBooks) {
    let (records, books) = kernel.one(true, packet, frame);
    assert_conserved(&books, total(&records));
    let (inner, outer) = records.into_iter().partition(|r| r.inner);
    (outer, inner, books)
}

fn apps(records: &[Record]) -> Vec<App> {
    records.iter().filter_map(|r| r.facts.as_ref()?.app).collect()
}

#[test]
fn the_outer_flow_has_the_tunnel_as_its_protocol() {
    needs_root!();
    pin(0);
    let mut kernel = Kernel::load(small()).unwrap();
    for tunnel in &TUNNELS {
        // Only the payload inside shows that it is HTTP.
        let (outer, inner, _) = views(&mut kernel, &tunnel.small(b""), Frame::default());
        assert_eq!((apps(&outer), apps(&inner)), (vec![tunnel.app], vec![]), "{}", tunnel.name);
        let mut request = tcp(ACK | PSH, &[], b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        request[7] = 1; // after the SYN
        let (_, inner, _) = views(&mut kernel, &tunnel.around(&request, TCP), Frame::default());
        assert_eq!(apps(&inner), [App::Http], "{}", tunnel.name);
    }
}

#[test]
fn a_port_makes_no_tunnel() {
    needs_root!();
    let mut kernel = Kernel::load(small()).unwrap();
    let query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01";
    for port in [4789, 8472, 6081] {
        let packet = ethernet(&[], IPV4, &ipv4(UDP, &[], 7, 0, &udp_to(port, query)));
        let (outer, inner, books) = views(&mut kernel, &packet, Frame::default());
        assert_eq!((apps(&outer), inner.len()), (vec![App::Dns], 0), "{port}");
        assert_eq!(books.decapsulated, Tally::default());
    }
    // A tunnel on another port cannot be recognised.
    let frame = ethernet(&[], IPV4, &ipv4(TCP, &[], 7, 0, &tcp(SYN, &[], b"")));
    let packet = ethernet(&[], IPV4, &ipv4(UDP, &[], 7, 0, &vxlan(4790, &frame)));
    assert!(views(&mut kernel, &packet, Frame::default()).1.is_empty());
}

#[test]
fn a_tunnel_in_a_tunnel_is_a_flow() {
    needs_root!();
    let mut kernel = Kernel::load(small()).unwrap();
    for second in &TUNNELS {
        let frame = second.small(b"");
        let packet = ethernet(&[], IPV4, &ipv4(UDP, &[], 7, 0, &vxlan(4789, &frame)));
        let (_, inner, books) = views(&mut kernel, &packet, Frame::default());
        assert_eq!(inner.len(), 1, "{}", second.name);
        assert_eq!((inner[0].protocol, inner[0].bytes), (second.protocol, frame.len() as u64));
        assert_eq!(books.decapsulated.packets, 1);
    }
}

#[test]
fn without_the_option_a_tunnel_is_one_flow() {
    needs_root!();
    let mut kernel = Kernel::load(netmon::bpf::ProgramOptions { decapsulation: false, ..small() }).unwrap();
    for tunnel in &TUNNELS {
        let packet = tunnel.small(b"");
        let (outer, inner, books) = views(&mut kernel, &packet, Frame::default());
        assert_eq!((outer.len(), apps(&outer), inner.len()), (1, vec![], 0), "{}", tunnel.name);
        assert_eq!(total(&outer), Tally { packets: 1, bytes: packet.len() as u64 });
        assert_eq!(books.decapsulated, Tally::default());
    }
}

/// Each segment of a GSO packet has all headers, including those of the tunnel and of the packet inside.
#[test]
fn segments_repeat_the_headers_of_both() {
    needs_root!();
    let mut kernel = Kernel::load(small()).unwrap();
    const DATA: usize = 2500;
    for tunnel in &TUNNELS {
        for (transport, protocol, header) in [(tcp(ACK, &[1; 12], &[7; DATA]), TCP, 32), (udp(&[7; DATA]), UDP, 8)] {
            let packet = tunnel.around(&transport, protocol);
            let headers = packet.len() - DATA;
            let ip = if tunnel.family == Some(IPV6) { 40 } else { 20 };
            let inside = header + ip + if tunnel.frames { ETH } else { 0 };
            for (gso_segs, gso_size, segments) in [(3, 1000, 3), (0, 1000, 3), (0, 2500, 1), (2, 1250, 2)] {
                let frame = Frame { gso_segs, gso_size, ..Frame::default() };
                let (outer, inner, books) = views(&mut kernel, &packet, frame);
                let tally =
                    |headers: usize| Tally { packets: segments, bytes: segments * headers as u64 + DATA as u64 };
                assert_eq!(total(&outer), tally(headers), "{} {gso_segs} of {gso_size}", tunnel.name);
                assert_eq!(total(&inner), tally(inside), "{} {gso_segs} of {gso_size}", tunnel.name);
                assert_eq!(books.decapsulated, tally(inside));
            }
        }
    }
}

/// UDP GRO joins whole datagrams: each has the tunnel's header, and the outer headers are what was removed.
#[test]
fn joined_datagrams_count_as_a_packet_each() {
    needs_root!();
    let mut kernel = Kernel::load(small()).unwrap();
    let frame = ethernet(&[], IPV4, &ipv4(UDP, &[], 7, 0, &udp(&[7; 458])));
    let last = ethernet(&[], IPV4, &ipv4(UDP, &[], 7, 0, &udp(&[7; 58])));
    assert_eq!((frame.len(), last.len()), (500, 100));
    let datagrams = [vxlan(4789, &frame), vxlan(4789, &frame)[8..].to_vec(), vxlan(4789, &last)[8..].to_vec()].concat();
    let packet = ethernet(&[], IPV4, &ipv4(UDP, &[], 7, 0, &datagrams));
    for gso_segs in [3, 0] {
        let (outer, inner, _) = views(&mut kernel, &packet, Frame { gso_segs, gso_size: 508, ..Frame::default() });
        assert_eq!(total(&inner), Tally { packets: 3, bytes: 1100 });
        assert_eq!(total(&outer), Tally { packets: 3, bytes: 1100 + 3 * (14 + 20 + 8 + 8) });
    }
}

/// The packet inside counts once and with its full length, with the first fragment.
#[test]
fn a_fragmented_tunnel_packet_holds_one_packet() {
    needs_root!();
    let mut kernel = Kernel::load(small()).unwrap();
    for tunnel in &TUNNELS {
        let whole = tunnel.small(&[7; 1000]);
        let payload = &whole[ETH + 20..];
        let v4 = |field, part: &[u8]| ethernet(&[], IPV4, &ipv4(tunnel.protocol, &[], 99, field, part));
        let (outer, inner, _) = views(&mut kernel, &v4(MORE_FRAGMENTS, &payload[..512]), Frame::default());
        let start = payload.len() - 1000 - if tunnel.frames { ETH } else { 0 } - 20;
        let start = start - if tunnel.family == Some(IPV6) { 40 } else { 20 };
        let bytes = (payload.len() - start) as u64;
        assert_eq!((outer.len(), total(&inner)), (1, Tally { packets: 1, bytes }), "{}", tunnel.name);
        let (later, inner, books) = views(&mut kernel, &v4(512 / 8, &payload[512..]), Frame::default());
        assert_eq!((later.len(), inner.len(), books.decapsulated.packets), (1, 0, 0), "{}", tunnel.name);
        assert_eq!(later[0].destination, outer[0].destination);
    }
}

/// A handshake and an error in a tunnel yield the same as outside.
#[test]
fn inner_flows_have_times_and_errors() {
    needs_root!();
    pin(0);
    let mut kernel = Kernel::load(small()).unwrap();
    let mut answer = tcp(SYN | ACK, &[], b"");
    answer[..4].rotate_left(2);
    answer[8..12].copy_from_slice(&1u32.to_be_bytes());
    let mut answer = ipv4(TCP, &[], 7, 0, &answer);
    answer[12..20].rotate_left(4);
    let syn = ipv4(TCP, &[], 7, 0, &tcp(SYN, &[], b""));
    let error = ipv4(ICMP, &[], 7, 0, &icmp(3, 1, &syn));
    let injector = kernel.injector(netmon::bpf::Hook::Ingress, true);
    for ip in [&syn, &answer, &error] {
        let packet = ethernet(&[], IPV4, &ipv4(UDP, &[], 7, 0, &vxlan(4789, &ethernet(&[], IPV4, ip))));
        injector.inject(&packet, Frame::default(), 1).unwrap();
    }
    let records = kernel.flush();
    let measured = records.iter().filter(|r| r.inner).filter_map(|r| r.facts.as_ref());
    let measures: Vec<Measure> = measured.flat_map(|f| f.samples().map(|s| s.measure).collect::<Vec<_>>()).collect();
    assert_eq!(measures, [Measure::HandshakeServer]);
    let quoted: Vec<_> = records.iter().filter(|r| r.cause == Cause::Quoted).collect();
    assert_eq!(quoted.len(), 1);
    assert!(quoted[0].inner && quoted[0].destination.port == 80);
}
