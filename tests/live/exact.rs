//! Without offloads, a packet is a frame: interface, socket and agent must agree to the byte.

use std::net::{IpAddr, UdpSocket};

use netmon::bpf::Tally;
use netmon::config::Config;
use netmon::flow::Flow;

use super::agent::{Watch, watching};
use super::eventually;
use super::net::{Counters, End, connect, host, offloads_off, quiet_pair};
use super::traffic::{Connection, ETH, flow_of, ip_header, plain_tcp, tally, transfer, udp_to};
use crate::support::netns::Netns;
use crate::{needs_root, needs_tcx};

const V4: &str = "10.9.0.2";
const V6: &str = "fd09::2";

fn both_without_offloads() -> (Netns, Netns) {
    let (a, b) = quiet_pair();
    for (ns, link) in [(&a, "va"), (&b, "vb")] {
        offloads_off(ns, link);
        plain_tcp(ns);
    }
    (a, b)
}

fn single_and_parallel(a: &Netns, b: &Netns) -> Vec<Connection> {
    let mut connections = Vec::new();
    for server in [V4, V6] {
        let server: IpAddr = server.parse().unwrap();
        connections.extend(transfer(a, b, server, 1, 10_000_000));
        connections.extend(transfer(a, b, server, 8, 2_000_000));
        // Connections with only a handshake and a segment.
        connections.extend(transfer(a, b, server, 1, 2));
    }
    connections
}

/// The connection's flow, which must have what the sockets report as sent.
fn assert_as_sent<'f>(flows: &'f [Flow], c: &Connection) -> &'f Flow {
    let flow = flow_of(flows, 6, c.client, c.server);
    assert_eq!(tally(flow.from_client()), c.client_on_wire(ETH), "{c:?}");
    assert_eq!(tally(flow.from_server()), c.server_on_wire(ETH), "{c:?}");
    flow
}

/// Runs the agent on `vb` of `b` while connections are made.
fn tcp(config: Config) {
    let (a, b) = both_without_offloads();
    let mut watch = Watch::start(&b, "vb", config);
    let connections = single_and_parallel(&a, &b);
    let flows = watch.settled();
    for c in &connections {
        assert_as_sent(&flows, c);
    }
    let mut all = Tally::default();
    for sent in flows.iter().flat_map(|flow| &flow.sent) {
        all += tally(sent);
    }
    let watched = watch.stop();
    watched.assert_as_counted();
    let mut counted = watched.counters.rx;
    counted += watched.counters.tx;
    assert_eq!(all, counted, "the flows, multicast reports among them, are all that was on the wire");
}

#[test]
fn tcp_by_tcx() {
    needs_tcx!();
    tcp(watching(&["vb"]));
}

#[test]
fn tcp_by_clsact() {
    needs_root!();
    tcp(Config { clsact: true, ..watching(&["vb"]) });
}

/// As a node sees its pods: two veth pairs in a bridge, with the agent on the bridge's side of one of them, where the
/// node's egress is the pod's ingress.
#[test]
fn tcp_through_a_bridge() {
    needs_root!();
    let (a, b, node) = (host("a"), host("b"), host("node"));
    connect(9, &End { ns: &a, link: "va", host: 1 }, &End { ns: &node, link: "pa", host: 3 });
    connect(9, &End { ns: &b, link: "vb", host: 2 }, &End { ns: &node, link: "pb", host: 4 });
    node.sh("ip link add br0 type bridge mcast_snooping 0
             ip link set dev pa master br0
             ip link set dev pb master br0
             ip addr flush dev pa
             ip addr flush dev pb
             ip link set dev br0 up");
    a.sh("ip neigh replace 10.9.0.2 lladdr 02:00:00:00:09:02 dev va nud permanent
          ip neigh replace fd09::2 lladdr 02:00:00:00:09:02 dev va nud permanent");
    b.sh("ip neigh replace 10.9.0.1 lladdr 02:00:00:00:09:01 dev vb nud permanent
          ip neigh replace fd09::1 lladdr 02:00:00:00:09:01 dev vb nud permanent");
    for (ns, link) in [(&a, "va"), (&b, "vb"), (&node, "pa"), (&node, "pb")] {
        offloads_off(ns, link);
    }
    plain_tcp(&a);
    plain_tcp(&b);
    // The bridge forwards once its ports are in the forwarding state and addresses have been learnt.
    eventually("the bridge forwards", || {
        node.sh("bridge -d link show").matches("state forwarding").count().eq(&2).then_some(())
    });

    let mut watch = Watch::start(&node, "pb", watching(&["pb"]));
    let connections = single_and_parallel(&a, &b);
    let flows = watch.settled();
    for c in &connections {
        let flow = assert_as_sent(&flows, c);
        assert_eq!(flow.direction.name(), "ingress", "the server's link, the client is behind the other");
    }
    watch.stop().assert_as_counted();
}

/// As fast as the sender can.
#[test]
fn udp_at_full_speed() {
    needs_root!();
    const DATAGRAMS: u64 = 200_000;
    const SIZE: usize = 1000;
    for server in [V4, V6] {
        let (a, b) = both_without_offloads();
        let server: IpAddr = server.parse().unwrap();
        let mut watch = Watch::start(&b, "vb", watching(&["vb"]));
        let before = Counters::read(&a, "va");
        let receiver = b.run(|| UdpSocket::bind((server, 5001)).unwrap());
        let to = receiver.local_addr().unwrap();
        let sender = a.run(|| udp_to(to));
        for _ in 0..DATAGRAMS {
            assert_eq!(sender.send(&[7; SIZE]).unwrap(), SIZE);
        }
        // A veth counts packets for which the receiving queue had no room as dropped by the sender.
        let arrived = eventually("every datagram arrived or was dropped", || {
            let sent = Counters::read(&a, "va").since(before);
            (sent.tx.packets + sent.dropped == DATAGRAMS).then_some(sent.tx.packets)
        });
        let flows = watch.settled();
        let flow = flow_of(&flows, 17, sender.local_addr().unwrap(), to);
        let bytes = ETH + ip_header(server) + 8 + SIZE as u64;
        assert_eq!(tally(flow.from_client()), Tally { packets: arrived, bytes: arrived * bytes });
        assert_eq!(flow.from_server().packets, 0);
        let watched = watch.stop();
        assert_eq!(watched.books.ingress, watched.counters.rx);
        assert_eq!(watched.books.ingress.packets, arrived);
        assert_eq!(watched.books.egress, watched.counters.tx);
    }
}
