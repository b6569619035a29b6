//! Every combination of headers, each with the expected result.

use netmon::bpf::Endpoint;

use super::{Expect, Flags, Key};
use crate::support::packet::*;

/// A packet and its correct interpretation.
pub struct Case {
    pub name: String,
    pub bytes: Vec<u8>,
    /// Offsets of the IP header and of the transport header.
    pub l3: usize,
    pub l4: usize,
    /// Bytes that the programs need to identify the flow: up to the end of the last header that they read.
    pub need: usize,
    pub key: Key,
    pub flags: Flags,
}

impl Case {
    /// The expected result for `packet`, which is this one with another receiver, perhaps cut off.
    pub fn expect(&self, packet: &[u8]) -> Expect {
        if packet.len() < self.need {
            Expect::Malformed
        } else {
            Expect::Flow(self.key.at(packet, self.l3), self.flags)
        }
    }
}

/// The tags, as TPID and TCI, and the expected ids.
type Link = (&'static str, &'static [(u16, u16)], u16, u16);

pub const LINKS: [Link; 7] = [
    ("untagged", &[], 0, 0),
    ("802.1Q", &[(0x8100, 0x6064)], 100, 0),
    ("priority tag", &[(0x8100, 0xe000)], 0, 0),
    ("802.1ad", &[(0x88a8, 0x0fff)], 4095, 0),
    ("QinQ", &[(0x88a8, 0x20c8), (0x8100, 0x312c)], 200, 300),
    ("QinQ of 0x9100", &[(0x9100, 400), (0x8100, 500)], 400, 500),
    ("two of 802.1Q", &[(0x8100, 1), (0x8100, 2)], 1, 2),
];

/// Length of IPv4 options, or `None` for IPv6; extension headers; the protocol if there are more headers than the
/// programs walk.
type Network = (&'static str, Option<usize>, Vec<(u8, usize)>, Option<u8>);

fn networks() -> Vec<Network> {
    let mut all: Vec<Network> = (0..=40).step_by(4).map(|n| ("IPv4 with options", Some(n), vec![], None)).collect();
    all.extend([
        ("IPv4, AH", Some(0), vec![(AH, 24)], None),
        ("IPv4, short AH", Some(0), vec![(AH, 12)], None),
        ("IPv4 with options, AH", Some(8), vec![(AH, 28)], None),
        ("IPv6", None, vec![], None),
        ("IPv6, hop-by-hop", None, vec![(HOP_BY_HOP, 8)], None),
        ("IPv6, routing", None, vec![(ROUTING, 40)], None),
        ("IPv6, atomic fragment", None, vec![(FRAGMENT, 8)], None),
        ("IPv6, destination", None, vec![(DESTINATION, 16)], None),
        ("IPv6, AH", None, vec![(AH, 24)], None),
        (
            "IPv6, one of each",
            None,
            vec![(HOP_BY_HOP, 16), (DESTINATION, 8), (ROUTING, 24), (FRAGMENT, 8), (AH, 24), (DESTINATION, 24)],
            None,
        ),
        ("IPv6, eight extensions", None, vec![(DESTINATION, 8); 8], None),
        ("IPv6, nine extensions", None, vec![(DESTINATION, 8); 9], Some(DESTINATION)),
        ("IPv6, twelve extensions", None, [vec![(HOP_BY_HOP, 8); 8], vec![(ROUTING, 8); 4]].concat(), Some(ROUTING)),
    ]);
    all
}

struct Transport {
    name: &'static str,
    /// Only over IPv6, only over IPv4, or over both.
    v6: Option<bool>,
    protocol: u8,
    bytes: Vec<u8>,
    /// Number of its bytes that the programs read.
    header: usize,
    ports: (u16, u16),
    flags: Flags,
}

fn transports() -> Vec<Transport> {
    const DATA: &[u8] = b"hello world";
    let mut all = Vec::new();
    for (name, flags, options) in [
        ("SYN", SYN, 20),
        ("SYN ACK", SYN | ACK, 40),
        ("ACK", ACK, 0),
        ("PSH ACK", PSH | ACK, 12),
        ("FIN ACK", FIN | ACK, 12),
        ("RST", RST, 0),
        ("all flags", 0xff, 4),
    ] {
        // Options that would yield other flags if they were taken for the header.
        let bytes = tcp(flags, &vec![0x5a; options], DATA);
        let flags = Flags::tcp(flags);
        all.push(Transport { name, v6: None, protocol: TCP, bytes, header: 20 + options, ports: (40000, 80), flags });
    }
    let none = Flags::default();
    let mut other = |name, protocol, bytes, header, ports| {
        all.push(Transport { name, v6: None, protocol, bytes, header, ports, flags: none });
    };
    other("UDP", UDP, udp(DATA), 8, (40000, 53));
    other("SCTP", SCTP, sctp(DATA), 12, (40000, 3868));
    for (name, protocol) in [("IP in IP", 4), ("IPv6 in IP", 41), ("GRE", 47), ("ESP", 50), ("OSPF", 89), ("255", 255)]
    {
        other(name, protocol, tcp(SYN, &[], DATA), 0, (0, 0));
    }
    other("no next header", NO_NEXT, vec![], 0, (0, 0));
    let queries4: &[u8] = &[0, 8, 13, 14];
    let queries6: &[u8] = &[128, 129];
    for (v6, protocol, queries, types) in [
        (false, ICMP, queries4, &[0, 3, 4, 5, 8, 9, 11, 12, 13, 14, 17][..]),
        (true, ICMPV6, queries6, &[1, 2, 3, 4, 127, 128, 129, 130, 134, 135, 136][..]),
    ] {
        for &kind in types {
            // The identifier of a query takes the place of both ports.
            let id = if queries.contains(&kind) { 0x1234 } else { 0 };
            all.push(Transport {
                name: "ICMP",
                v6: Some(v6),
                protocol,
                bytes: icmp(kind, 1, DATA),
                header: 8,
                ports: (id, id),
                flags: Flags { icmp: (kind, 1), ..none },
            });
        }
    }
    all
}

/// All combinations, behind Ethernet, or without it if `ethernet` is false.
pub fn cases(ethernet: bool) -> Vec<Case> {
    let transports = transports();
    let mut all = Vec::new();
    for link in if ethernet { &LINKS[..] } else { &LINKS[..1] } {
        for network in networks() {
            let v6 = network.1.is_none();
            all.extend(
                transports
                    .iter()
                    .filter(|t| t.v6.is_none_or(|only| only == v6))
                    .map(|t| case(link, &network, t, ethernet)),
            );
        }
    }
    all
}

fn case(link: &Link, network: &Network, transport: &Transport, ethernet_header: bool) -> Case {
    let (link_name, tags, vlan, inner_vlan) = *link;
    let (network_name, options, extensions, too_long) = network;
    let v6 = options.is_none();
    let (next, payload) = chain(extensions, transport.protocol, &transport.bytes);
    let (ethertype, mut ip) = match options {
        // Options that would yield other ports if they were taken for the transport header.
        Some(n) => (IPV4, ipv4(next, &vec![0xa5; *n], 7, 0x4000, &payload)),
        None => (IPV6, ipv6(next, &payload)),
    };
    let header = options.map_or(40, |n| 20 + n);
    let walked: usize = extensions.iter().take(8).map(|(_, length)| length).sum();
    let l3 = if ethernet_header { 14 + 4 * tags.len() } else { 0 };
    let l4 = l3 + header + walked;
    if !ethernet_header {
        as_if_ethernet(&mut ip, ethertype);
    }
    let bytes = if ethernet_header { ethernet(tags, ethertype, &ip) } else { ip };
    let (need, ports, flags) = match too_long {
        Some(_) => (l4, (0, 0), Flags::default()),
        None => (l4 + transport.header, transport.ports, transport.flags),
    };
    let nowhere = |port| Endpoint { address: [0; 16], port };
    let key = Key {
        v6,
        source: nowhere(ports.0),
        destination: nowhere(ports.1),
        protocol: too_long.unwrap_or(transport.protocol),
        vlan,
        inner: false,
        inner_vlan,
    };
    let name = format!("{link_name}, {network_name} {}, {} {}", header, transport.name, bytes.len());
    Case { name, bytes, l3, l4, need, key, flags }
}

/// BPF_PROG_TEST_RUN reads the EtherType from bytes 12 and 13 for every program: here, the sender's address is in that
/// place.
pub fn as_if_ethernet(ip: &mut [u8], ethertype: u16) {
    ip[12..14].copy_from_slice(&ethertype.to_be_bytes());
}
