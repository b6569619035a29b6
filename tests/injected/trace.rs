//! Packet traces: which packets are traced, how they are parsed, and their verdicts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use netmon::bpf::{Fate, Frame, Hook, Injector, PacketTest, ProgramOptions, Trace, TraceReader, TracedPacket};
use netmon::filter::{Filter, PacketFilter};
use netmon::line::Line;
use netmon::output::PacketLine;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::differential::mutate;
use super::oracle::Oracle;
use super::table::cases;
use super::{Expect, pin};
use crate::needs_root;
use crate::support::kernel::{Kernel, assert_conserved, difference, small, total};
use crate::support::packet::*;
use crate::support::seed;

/// Loaded programs, and tracing programs over the same maps.
struct Traced {
    kernel: Kernel,
    injector: Injector,
    trace: Arc<Trace>,
    reader: TraceReader,
}

impl Traced {
    fn load(options: &ProgramOptions) -> Traced {
        pin(0);
        let kernel = Kernel::load(options.clone()).unwrap();
        let (programs, trace) = kernel.bpf.loader().load_tracing(options, None).unwrap();
        let injector = Injector::new(programs.program(Hook::Ingress, true).unwrap());
        let reader = trace.reader().unwrap();
        trace.set_filter(&[]).unwrap();
        trace.allow(u64::MAX);
        Traced { kernel, injector, trace, reader }
    }

    fn filter(&self, tests: &[PacketTest]) {
        self.trace.set_filter(tests).unwrap();
    }

    fn inject(&mut self, packet: &[u8]) -> Option<TracedPacket> {
        let verdict = self.injector.inject(packet, Frame::default(), 1).unwrap();
        assert_eq!(verdict as i32, -1, "the programs let every packet pass");
        let mut packets = self.reader.read();
        assert!(packets.len() <= 1, "{packets:?}");
        packets.pop()
    }

    fn fate(&mut self, packet: &[u8]) -> Fate {
        self.inject(packet).unwrap().view.fate
    }
}

/// The line of a flow with only this packet, for filters over flows.
fn line(expect: &Expect) -> Line {
    let mut line = Line { interface: Some("lo".to_owned()), hook: Some("ingress"), ..Line::default() };
    let Expect::Flow(key, flags) = expect else { return line };
    line.protocol = netmon::flow::protocol_name(key.protocol).into_owned();
    line.client_ip = Some(key.source.ip(key.v6));
    line.server_ip = Some(key.destination.ip(key.v6));
    line.vlan = (key.vlan != 0).then_some(key.vlan);
    match key.protocol {
        TCP | UDP | SCTP => {
            line.client_port = Some(key.source.port);
            line.server_port = Some(key.destination.port);
        }
        ICMP | ICMPV6 => {
            line.icmp_type = Some(flags.icmp.0);
            line.icmp_code = Some(flags.icmp.1);
        }
        _ => {}
    }
    if key.protocol == TCP {
        let names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"].into_iter().enumerate();
        let set = names.filter(|(bit, _)| flags.tcp >> bit & 1 == 1).map(|(_, name)| name);
        line.client_tcp_flags = Some(set.collect::<Vec<_>>().join("|"));
    }
    line
}

/// Fields, signs and values that some packets have.
const TESTS: [(&[&str], &[&str], &[&str]); 7] = [
    (&["proto", "protocol"], &["=", "!=", "~", ">="], &["tcp", "udp", "icmp", "icmpv6", "sctp", "47", "255"]),
    (
        &["ip", "src_ip", "dst_ip"],
        &["=", "!="],
        &[
            "10.0.0.1",
            "10.0.0.2",
            "10.0.0.0/8",
            "10.0.0.0/30",
            "10.0.0.2/31",
            "0.0.0.0/0",
            "fd00::1",
            "fd00::2",
            "fd00::/16",
            "fd00::/127",
            "::/0",
            "fd00::/97",
        ],
    ),
    (
        &["port", "src_port", "dst_port"],
        &["=", "!=", "<", "<=", ">", ">=", "~"],
        &["80", "53", "40000", "3868", "0", "65535", "79.5", "-1", "70000", "8?"],
    ),
    (&["tcp_flags"], &["=", "!=", "~"], &["SYN", "SYN|ACK", "ACK", "*ACK*", "\"\"", "*"]),
    (&["icmp_type", "icmp_code"], &["=", "!=", "<", ">="], &["0", "3", "8", "128", "1"]),
    (&["vlan"], &["=", "!=", "<=", ">"], &["7", "5", "0", "4095", "100"]),
    (&["interface", "hook"], &["=", "!=", "~"], &["lo", "eth0", "ingress", "egress", "*", "l?"]),
];

fn random_filter(rng: &mut SmallRng, depth: u32) -> String {
    if depth > 0 && rng.random_ratio(1, 2) {
        let [a, b] = [0, 1].map(|_| random_filter(rng, depth - 1));
        return match rng.random_range(0..4) {
            0 => format!("not ({a})"),
            1 | 2 => format!("({a}) and ({b})"),
            _ => format!("({a}) or {b}"),
        };
    }
    let (fields, signs, values) = TESTS.choose(rng).unwrap();
    let (mut sign, value) = (*signs.choose(rng).unwrap(), values.choose(rng).unwrap());
    // Texts that no packet has are refused, and only globs have stars.
    if value.contains(['*', '?']) {
        sign = "~";
    }
    let field = match *value {
        "lo" | "eth0" => "interface",
        "ingress" | "egress" => "hook",
        _ => fields.choose(rng).unwrap(),
    };
    format!("{field}{sign}{value}")
}

#[test]
fn filters_agree_with_those_of_flows() {
    needs_root!();
    let mut rng = SmallRng::seed_from_u64(seed());
    let mut traced = Traced::load(&small());
    let interfaces = BTreeMap::from([(1, "lo".to_owned()), (7, "eth0".to_owned())]);
    let (cases, mut oracle) = (cases(true), Oracle::default());
    let (mut passed, mut failed) = (0, 0);
    for _ in 0..2000 {
        let text = random_filter(&mut rng, 3);
        // Trying a glob on all ports takes a while.
        if text.contains("port~") && rng.random_ratio(29, 30) {
            continue;
        }
        let Ok(filter) = PacketFilter::parse(&text) else { panic!("{text}: {:?}", PacketFilter::parse(&text)) };
        let Ok(tests) = filter.compile(&interfaces) else { continue };
        traced.filter(&tests);
        let of_flows = Filter::parse(&text.replace("tcp_flags", "client_tcp_flags")).unwrap();
        for _ in 0..10 {
            let case = cases.choose(&mut rng).unwrap();
            let mut packet = case.bytes.clone();
            if rng.random_ratio(1, 8) {
                mutate(&mut rng, &mut packet, case.need);
            }
            if packet.len() < 14 + 40 {
                continue;
            }
            let (expect, inner) = oracle.views(&packet);
            let wanted = of_flows.matches(&line(&expect))
                || inner.as_ref().is_some_and(|(expect, _)| of_flows.matches(&line(expect)));
            let got = traced.inject(&packet);
            assert_eq!(got.is_some(), wanted, "{text}\n{}: {packet:02x?}\n{expect:?}\n{tests:#?}", case.name);
            *if wanted { &mut passed } else { &mut failed } += 1;
        }
        traced.kernel.discard();
    }
    assert!(passed > 2000 && failed > 2000, "{passed} passed, {failed} failed");
    let counts = traced.trace.counts();
    assert_eq!((counts.matched, counts.held_back, counts.lost), (passed, 0, 0));
}

#[test]
fn packets_are_traced_exactly_and_without_payload() {
    needs_root!();
    let mut traced = Traced::load(&small());
    let payload = [0xee; 900];
    for (name, packet, headers) in [
        ("udp", ethernet(&[], IPV4, &ipv4(UDP, &[], 1, 0, &udp_to(7, &payload))), 14 + 20 + 8),
        ("tcp", ethernet(&[(0x8100, 7)], IPV4, &ipv4(TCP, &[1; 8], 1, 0, &tcp(SYN, &[1; 12], &payload))), 18 + 28 + 32),
        ("v6", ethernet(&[], IPV6, &ipv6(ICMPV6, &icmp(128, 0, &payload))), 14 + 40 + 8),
        ("fragment", ethernet(&[], IPV4, &ipv4(UDP, &[], 1, 50, &payload)), 14 + 20),
        ("other", ethernet(&[], IPV4, &ipv4(99, &[], 1, 0, &payload)), 14 + 20),
        ("not IP", ethernet(&[], 0x88cc, &payload), 14),
        ("malformed", ethernet(&[], IPV4, &[&[0x41], &payload[..]].concat()), 14 + 20),
        (
            "tunnel",
            ethernet(
                &[],
                IPV4,
                &ipv4(UDP, &[], 1, 0, &vxlan(4789, &ethernet(&[], IPV4, &ipv4(UDP, &[], 1, 0, &udp(&payload))))),
            ),
            14 + 20 + 8 + 8 + 14 + 20 + 8,
        ),
    ] {
        let seen = traced.inject(&packet).unwrap_or_else(|| panic!("{name}: not traced"));
        assert_eq!(seen.header, packet[..headers], "{name}");
        assert_eq!((seen.length as usize, seen.ifindex, seen.hook), (packet.len(), 1, Hook::Ingress), "{name}");
        assert_eq!((seen.packets, seen.bytes), (1, packet.len() as u64), "{name}");
        let shown = PacketLine::new(&seen, "lo".to_owned(), 0);
        let json = serde_json::to_value(&shown).unwrap();
        assert_eq!(shown.header.len(), 2 * headers);
        match name {
            "udp" => {
                assert_eq!((json["src_ip"].as_str(), json["dst_port"].as_u64()), (Some("10.0.0.1"), Some(7)));
                assert!(json["tcp_flags"].is_null() && json["inner"].is_null() && json["fragment"].is_null());
            }
            "tcp" => assert_eq!((json["tcp_flags"].as_str(), json["vlan"].as_u64()), (Some("SYN"), Some(7))),
            "v6" => assert_eq!(
                (json["src_ip"].as_str(), json["icmp_type"].as_u64(), json["src_port"].as_u64()),
                (Some("fd00::1"), Some(128), None)
            ),
            "fragment" => {
                assert_eq!((json["fragment"].as_str(), json["protocol"].as_str()), (Some("later"), Some("udp")))
            }
            "not IP" | "malformed" => {
                assert!(json["src_ip"].is_null() && json["protocol"].is_null());
                assert_eq!(json["verdict"], if name == "not IP" { "not_ip" } else { "malformed" });
            }
            "tunnel" => {
                let inner = &json["inner"];
                assert_eq!((json["tunnel"].as_str(), inner["dst_port"].as_u64()), (Some("vxlan"), Some(53)));
                assert_eq!(inner["verdict"], "new");
            }
            _ => {}
        }
    }
    // User space sets the rate.
    traced.trace.allow(traced.trace.sent() + 2);
    let packet = ethernet(&[], IPV4, &ipv4(UDP, &[], 1, 0, &udp(b"again")));
    let seen = (0..5).filter_map(|_| traced.inject(&packet)).count();
    let counts = traced.trace.counts();
    assert_eq!((seen, counts.held_back, counts.lost), (2, 3, 0));
}

#[test]
fn verdicts_on_packets() {
    needs_root!();
    let options = ProgramOptions { cache_slots: 1, ring_records: 1, ..small() };
    let mut traced = Traced::load(&options);
    let before = traced.kernel.books();
    let packet = |n: u32| {
        let mut packet = ethernet(&[], IPV4, &ipv4(UDP, &[], 1, 0, &udp(b"hello")));
        stamp(&mut packet, 14, false, n);
        packet
    };
    assert_eq!(traced.fate(&packet(0)), Fate::New);
    assert_eq!(traced.fate(&packet(0)), Fate::Cached);
    assert_eq!(traced.fate(&ethernet(&[], 0x88cc, &[0; 60])), Fate::NotIp);
    assert_eq!(traced.fate(&ethernet(&[], IPV4, &[0x41; 60])), Fate::Malformed);
    // More flows than fit the cache and the ring.
    let mut fates = BTreeSet::new();
    let mut lost = 0;
    for n in 1..2000 {
        let fate = traced.fate(&packet(n));
        lost += u64::from(fate == Fate::Ousted || fate == Fate::Lost);
        fates.insert(fate.name());
    }
    assert_eq!(fates.into_iter().collect::<Vec<_>>(), ["displaced", "new", "ousted"]);
    // A small packet does not oust a larger entry.
    let mut records = traced.kernel.drain();
    let books = difference(traced.kernel.books(), before);
    assert_eq!(books.ring_full.packets, lost, "a packet was in each entry that was lost");
    let sampler = traced.kernel.bpf.sampler().unwrap();
    sampler.set(1e-9);
    assert_eq!(traced.fate(&packet(5000)), Fate::LeftOut);
    sampler.set(1.0);
    records.extend(traced.kernel.flush());
    assert_conserved(&difference(traced.kernel.books(), before), total(&records));
}

#[test]
fn one_ring_full_of_greater_entries_loses_the_packet() {
    needs_root!();
    let options = ProgramOptions { cache_slots: 1, ring_records: 1, ..small() };
    let mut traced = Traced::load(&options);
    let packet = |n: u32| {
        let mut packet = ethernet(&[], IPV4, &ipv4(UDP, &[], 1, 0, &udp(b"hello")));
        stamp(&mut packet, 14, false, n);
        packet
    };
    for n in 0..4000 {
        traced.injector.inject(&packet(n), Frame::default(), 2).unwrap();
        let _ = traced.reader.read();
    }
    let fates: BTreeSet<&str> = (10_000..10_050).map(|n| traced.fate(&packet(n)).name()).collect();
    assert!(fates.contains("lost"), "{fates:?}");
}

#[test]
fn addresses_are_in_order() {
    needs_root!();
    let mut traced = Traced::load(&small());
    let mut packet = ethernet(&[], IPV6, &ipv6(UDP, &udp(b"x")));
    let (from, to): (Ipv6Addr, Ipv6Addr) = ("2001:db8:1:2:3:4:5:6".parse().unwrap(), "fe80::9:8:7:6".parse().unwrap());
    packet[22..38].copy_from_slice(&from.octets());
    packet[38..54].copy_from_slice(&to.octets());
    assert_eq!(traced.inject(&packet).unwrap().view.ends, Some([from.into(), to.into()]));
    let mut packet = ethernet(&[], IPV4, &ipv4(UDP, &[], 1, 0, &udp(b"x")));
    let (from, to) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 254));
    packet[26..30].copy_from_slice(&from.octets());
    packet[30..34].copy_from_slice(&to.octets());
    assert_eq!(traced.inject(&packet).unwrap().view.ends, Some([from.into(), to.into()]));
}
