//! Outcomes depend on the kind of the packet.

use serde_json::Value;

use super::flows;
use crate::needs_root;
use crate::replay::{Scratch, replay};
use crate::support::packet::{ICMP, IPV4, IPV6, UDP, chain, ethernet, extension, fragment, icmp, ipv4, ipv6, udp_to};

fn fates(flows: &[Value]) -> Vec<(&str, &str)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    flows
        .iter()
        .map(|flow| {
            (flow["server_ip"].as_str().unwrap(), if text(&flow["status"]) == "failed" { "failed" } else { "" })
        })
        .collect()
}

/// mDNS and LLMNR to their groups, pings to a broadcast address and to a group: members answer under their own
/// addresses.
#[test]
fn a_question_to_a_group_does_not_time_out() {
    needs_root!();
    let flows = flows("multicast_queries.pcap");
    assert_eq!(flows.len(), 9);
    assert!(fates(&flows).iter().all(|fate| fate.1.is_empty()), "{:?}", fates(&flows));
}

/// RFC 1812 5.2.7.2: a datagram that causes a redirect was forwarded.
#[test]
fn a_redirect_is_no_failure() {
    needs_root!();
    let flows = flows("icmp_redirect.pcap");
    let syslog = flows.iter().find(|flow| flow["server_port"] == 514).unwrap();
    assert_eq!((syslog["status"].as_str(), syslog["client_packets"].as_u64()), (Some("ok"), Some(3)));
}

/// The client's ACK never came, so the server's socket never left SYN-RECEIVED.
#[test]
fn half_open_is_not_open() {
    needs_root!();
    let flows = flows("half_open.pcap");
    let half = flows.iter().find(|flow| flow["client_port"] == 42_000).unwrap();
    let fate = ["state", "status", "reason"].map(|field| half[field].as_str().unwrap());
    assert_eq!(fate, ["syn_received", "failed", "timeout"]);
}

/// Routers quote the packet that they could not deliver, with all its headers.
#[test]
fn errors_quote_packets_with_extension_headers() {
    needs_root!();
    let flows = flows("icmp6_ext_quote.pcap");
    let mut udp: Vec<_> = flows.iter().filter(|flow| flow["protocol"] == "udp").collect();
    udp.retain(|flow| flow["client_port"] != 50001);
    assert_eq!(udp.len(), 4, "{flows:#?}");
    for flow in udp {
        assert_eq!([&flow["status"], &flow["reason"]], ["failed", "unreachable"], "{flow}");
    }
}

/// Datagrams from port 40000, each with the error about it.
#[derive(Default)]
struct Quoted(Vec<(String, Vec<u8>, Vec<u8>, bool)>);

impl Quoted {
    /// A datagram to a port that no other datagram has.
    fn next(&self) -> Vec<u8> {
        udp_to(9000 + self.0.len() as u16, &[7; 64])
    }

    /// Adds the packet of that datagram, the part that the router quotes, and whether netmon should recognise it.
    fn add(&mut self, name: impl ToString, packet: &[u8], quote: &[u8], recognised: bool) {
        let v6 = packet[0] >> 4 == 6;
        let (kind, error) =
            if v6 { (IPV6, ipv6(58, &icmp(1, 4, quote))) } else { (IPV4, ipv4(ICMP, &[], 0, 0, &icmp(3, 3, quote))) };
        let mut error = ethernet(&[], kind, &error);
        let (at, length) = if v6 { (22, 16) } else { (26, 4) };
        let (from, to) = error.split_at_mut(at + length);
        from[at..].swap_with_slice(&mut to[..length]);
        self.0.push((name.to_string(), ethernet(&[], kind, packet), error, recognised));
    }

    fn check(&self) {
        let mut file = [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65535, 1].map(u32::to_le_bytes).concat();
        let packets = self.0.iter().flat_map(|(_, packet, error, _)| [packet, error]);
        for (number, packet) in (0u32..).zip(packets) {
            let length = packet.len() as u32;
            file.extend([1_700_000_000, number, length, length].map(u32::to_le_bytes).concat());
            file.extend(packet);
        }
        let flows = replay(&Scratch::holding("quoted.pcap", &file).0);
        for (number, (name, _, _, recognised)) in self.0.iter().enumerate() {
            let flow = flows.iter().find(|flow| flow["server_port"] == 9000 + number);
            let flow = flow.unwrap_or_else(|| panic!("{name}: {flows:#?}"));
            assert_eq!(flow["status"] == "failed", *recognised, "{name}: {flow}");
        }
    }
}

#[test]
fn quotes_are_parsed_like_packets() {
    needs_root!();
    const HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AH: u8 = 51;
    const OPTIONS: u8 = 60;
    let mut quoted = Quoted::default();
    for kinds in [
        &[(HOP, 8)][..],
        &[(ROUTING, 24)],
        &[(OPTIONS, 16)],
        &[(AH, 24)],
        &[(HOP, 8), (OPTIONS, 8), (ROUTING, 8), (AH, 24), (OPTIONS, 8)],
    ] {
        let packet = |datagram: &[u8]| {
            let (next, payload) = chain(kinds, UDP, datagram);
            ipv6(next, &payload)
        };
        let whole = packet(&quoted.next());
        quoted.add(format!("{kinds:?}"), &whole, &whole, true);
        let whole = packet(&quoted.next());
        quoted.add(format!("{kinds:?} and 8 bytes"), &whole, &whole[..whole.len() - 64], true);
        let whole = packet(&quoted.next());
        quoted.add(format!("{kinds:?}, cut"), &whole, &whole[..whole.len() - 74], false);
    }
    for (name, offset, more, recognised) in
        [("the first fragment", 0, true, true), ("an atomic one", 0, false, true), ("a later one", 8, true, false)]
    {
        let datagram = quoted.next();
        let part = ipv6(FRAGMENT, &[fragment(UDP, 5, offset, more), datagram.clone()].concat());
        quoted.add(name, &ipv6(UDP, &datagram), &part, recognised);
    }
    let plain = ipv4(UDP, &[], 0, 0, &quoted.next());
    quoted.add("IPv4", &plain, &plain[..28], true);
    let optioned = ipv4(UDP, &[1; 8], 0, 0, &quoted.next());
    quoted.add("options", &optioned, &optioned[..36], true);
    let authenticated = ipv4(AH, &[], 0, 0, &[extension(AH, 24, UDP), quoted.next()].concat());
    quoted.add("AH", &authenticated, &authenticated, true);
    let datagram = quoted.next();
    quoted.add("a later fragment", &ipv4(UDP, &[], 0, 0, &datagram), &ipv4(UDP, &[], 9, 8, &datagram), false);
    let packet = ipv4(UDP, &[], 0, 0, &quoted.next());
    let mut short = packet.clone();
    short[0] = 0x44;
    quoted.add("an impossible header", &packet, &short, false);
    quoted.check();
}
