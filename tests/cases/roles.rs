//! Which end is the client: evidence takes precedence over guesses.

use serde_json::{Value, json};

use super::flows;
use crate::needs_root;
use crate::replay::written::{CLIENT, Connection, MS, S, SERVER, Written};
use crate::support::packet::ACK;

const PSH: u8 = 8;

fn ends(flow: &Value) -> [(&str, u64); 2] {
    ["client", "server"].map(|end| {
        let port = flow[format!("{end}_port")].as_u64().unwrap_or_default();
        (flow[format!("{end}_ip")].as_str().unwrap(), port)
    })
}

/// Servers whose port is the higher one: mDNS to one host, Consul, WireGuard, StatsD, mosh.
#[test]
fn the_first_sender_is_the_client_whatever_the_ports() {
    needs_root!();
    let flows = flows("udp_roles.pcap");
    let servers: Vec<u64> = flows.iter().map(|flow| ends(flow)[1].1).collect();
    assert_eq!(servers, [5353, 8600, 51820, 8125, 60001]);
    for flow in &flows {
        let [client, server] = ends(flow);
        assert_eq!((client.0, server.0), ("192.0.2.10", "198.51.100.20"), "{flow}");
    }
}

#[test]
fn response_times_are_those_of_the_server() {
    needs_root!();
    let flows = flows("udp_roles_response.pcap");
    assert_eq!(flows.len(), 2);
    for flow in &flows {
        assert_eq!(ends(flow)[1].1, 8600);
        let response = &flow["response_us"];
        assert_eq!(response["count"], json!(5), "{flow}");
        assert!((response["mean"].as_f64().unwrap() - 4000.0).abs() < 1.0, "{flow}");
    }
}

/// A DNS query or answer: header, `a.`, type A, class IN; the answer has no record.
fn dns(answers: bool) -> Vec<u8> {
    let flags = if answers { [0x81, 0x83] } else { [1, 0] };
    [&[0, 7][..], &flags, &[0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 0, 0, 1, 0, 1]].concat()
}

fn datagram(ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
    let header = [ports[0], ports[1], 8 + payload.len() as u16, 0].map(u16::to_be_bytes).concat();
    [&header, payload].concat()
}

/// The capture begins with an answer: the message itself shows that.
#[test]
fn a_dns_answer_comes_from_the_server() {
    needs_root!();
    let mut capture = Written::default();
    capture.packet(0, SERVER, 17, &datagram([8600, 1026], &dns(true)));
    capture.packet(S, CLIENT, 17, &datagram([1026, 8600], &dns(false)));
    let flows = capture.replay();
    assert_eq!(flows.len(), 1);
    assert_eq!((ends(&flows[0])[1].1, flows[0]["app_protocol"].as_str()), (8600, Some("dns")));
}

/// SCTP: common header, then a chunk of this type and nothing in it.
fn chunk(ports: [u16; 2], kind: u8) -> Vec<u8> {
    [&ports.map(u16::to_be_bytes).concat()[..], &[0; 8], &[kind, 0, 0, 4]].concat()
}

/// NGAP has port 38412; the end that sends the INIT is the client, even if a packet of the other end is seen before it.
#[test]
fn the_sender_of_init_is_the_client() {
    needs_root!();
    const INIT: u8 = 1;
    const HEARTBEAT: u8 = 4;
    for first in [None, Some(HEARTBEAT)] {
        let mut capture = Written::default();
        if let Some(kind) = first {
            capture.packet(0, SERVER, 132, &chunk([38412, 33333], kind));
        }
        capture.packet(MS, CLIENT, 132, &chunk([33333, 38412], INIT));
        capture.packet(2 * MS, SERVER, 132, &chunk([38412, 33333], INIT + 1));
        let flows = capture.replay();
        assert_eq!(flows.len(), 1);
        assert_eq!(ends(&flows[0]).map(|end| end.1), [33333, 38412], "{first:?}");
    }
}

/// Multicast and broadcast addresses open nothing. A DHCP server's answer to everybody makes the server the client of
/// that flow.
#[test]
fn a_group_is_never_the_client() {
    needs_root!();
    for group in [[224, 0, 0, 251], [255, 255, 255, 255]] {
        let mut capture = Written::default();
        capture.packet(0, CLIENT, 17, &datagram([67, 68], b"offer"));
        let to_group = |packet: &[u8]| {
            let mut packet = packet.to_vec();
            packet[30..34].copy_from_slice(&group);
            packet
        };
        let flows = capture.each(to_group).replay();
        assert_eq!(ends(&flows[0])[0], ("10.0.0.1", 67), "{group:?}");
    }
}

/// A connection whose SYN was not seen: either end may speak first, but some ports are only those of clients.
#[test]
fn the_client_of_tcp_without_a_syn_has_a_clients_port() {
    needs_root!();
    for (ports, server_first, server) in
        [([50_000, 443], true, 443), ([20_000, 443], true, 443), ([2000, 5432], false, 5432)]
    {
        let mut capture = Written::default();
        let mut c = Connection::new(ports[0]);
        let order = if server_first { [SERVER, CLIENT] } else { [CLIENT, SERVER] };
        for (n, sender) in order.into_iter().enumerate() {
            capture.tcp(n as u64 * MS, sender, &mut c, ACK | PSH, 10);
        }
        let flows = capture.each(|packet| served_at(packet, ports[1])).replay();
        assert_eq!(ends(&flows[0])[1].1, server, "{ports:?}");
    }
}

/// The packet with this port in place of 80.
pub fn served_at(packet: &[u8], port: u16) -> Vec<u8> {
    let mut packet = packet.to_vec();
    for at in [34, 36] {
        if packet[at..at + 2] == [0, 80] {
            packet[at..at + 2].copy_from_slice(&port.to_be_bytes());
        }
    }
    packet
}
