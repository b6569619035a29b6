//! Tunnels: pods of two nodes that communicate over VXLAN, and packets of other tunnels made by hand. Inside and
//! outside each count once, whatever is watched.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use netmon::bpf::{App, Tally};
use netmon::config::Config;
use netmon::flow::Flow;
use socket2::{Domain, Protocol, Socket, Type};

use super::agent::{Agent, Watch, watching};
use super::eventually;
use super::net::{Counters, End, connect, host, offloads_off, quiet_pair};
use super::traffic::{Connection, ETH, flow_of, ip_header, plain_tcp, tally, transfer, udp_to};
use crate::needs_root;
use crate::support::netns::Netns;
use crate::support::packet::*;

/// Length of the UDP and VXLAN headers, after the outer IP header.
const VXLAN: u64 = 8 + 8;

/// A pod on each of two nodes, whose bridges VXLAN connects: v-p-br0-vx-u and back.
struct Nodes {
    pods: [Netns; 2],
    nodes: [Netns; 2],
    outer_ip: u64,
}

impl Nodes {
    fn new(outer_v6: bool, offloads: bool) -> Nodes {
        let (pods, nodes) = (["a", "b"].map(host), ["na", "nb"].map(host));
        connect(8, &End { ns: &nodes[0], link: "u", host: 1 }, &End { ns: &nodes[1], link: "u", host: 2 });
        for (i, (pod, node)) in pods.iter().zip(&nodes).enumerate() {
            let (own, other) = (i as u8 + 1, 2 - i as u8);
            connect(9, &End { ns: pod, link: "v", host: own }, &End { ns: node, link: "p", host: own + 2 });
            let remote = if outer_v6 { format!("fd08::{other}") } else { format!("10.8.0.{other}") };
            let local = if outer_v6 { format!("fd08::{own}") } else { format!("10.8.0.{own}") };
            node.sh(&format!(
                "ip link add vx type vxlan id 77 dev u remote {remote} local {local} dstport 4789
                 ip link add br0 type bridge mcast_snooping 0
                 ip addr flush dev p
                 ip link set dev p master br0
                 ip link set dev vx master br0
                 ip link set dev vx up
                 ip link set dev br0 up"
            ));
            pod.sh(&format!(
                "ip link set dev v mtu 1400
                 ip neigh replace 10.9.0.{other} lladdr 02:00:00:00:09:0{other} dev v nud permanent
                 ip neigh replace fd09::{other} lladdr 02:00:00:00:09:0{other} dev v nud permanent"
            ));
            plain_tcp(pod);
            if !offloads {
                offloads_off(pod, "v");
                for link in ["p", "u", "vx"] {
                    offloads_off(node, link);
                }
            }
            eventually("the bridge forwards", || {
                node.sh("bridge -d link show").matches("state forwarding").count().eq(&2).then_some(())
            });
        }
        Nodes { pods, nodes, outer_ip: if outer_v6 { 40 } else { 20 } }
    }

    fn talk(&self) -> Vec<Connection> {
        let mut all = Vec::new();
        for server in ["10.9.0.2", "fd09::2"] {
            let server: IpAddr = server.parse().unwrap();
            all.extend(transfer(&self.pods[0], &self.pods[1], server, 1, 8_000_000));
            all.extend(transfer(&self.pods[0], &self.pods[1], server, 4, 500_000));
        }
        all
    }

    /// The packets on the wire: those inside with the headers around each.
    fn around(&self, inner: Tally) -> Tally {
        Tally { packets: inner.packets, bytes: inner.bytes + inner.packets * (ETH + self.outer_ip + VXLAN) }
    }
}

/// Asserts that each connection counts once, with what its sockets sent; returns the sum of both directions.
fn assert_as_sent(flows: &[Flow], connections: &[Connection]) -> Tally {
    let mut sum = Tally::default();
    for c in connections {
        let flow = flow_of(flows, 6, c.client, c.server);
        assert_eq!(tally(flow.from_client()), c.client_on_wire(ETH), "{c:?}");
        assert_eq!(tally(flow.from_server()), c.server_on_wire(ETH), "{c:?}");
        sum += tally(flow.from_client());
        sum += tally(flow.from_server());
    }
    sum
}

/// The sum of a tunnel's flows.
fn outside(flows: &[Flow], app: App) -> Tally {
    let mut sum = Tally::default();
    for sent in flows.iter().filter(|flow| flow.app == Some(app)).flat_map(|flow| &flow.sent) {
        sum += tally(sent);
    }
    sum
}

/// A node that watches only its uplink knows the pods' connections from inside the tunnel.
#[test]
fn pods_are_seen_at_the_uplink() {
    needs_root!();
    for (outer_v6, offloads) in [(false, false), (true, false), (false, true), (true, true)] {
        let net = Nodes::new(outer_v6, offloads);
        let mut watch = Watch::start(&net.nodes[0], "u", watching(&["u"]));
        let connections = net.talk();
        let flows = watch.settled();
        let inner = assert_as_sent(&flows, &connections);
        assert_eq!(outside(&flows, App::Vxlan), net.around(inner));
        let watched = watch.stop();
        assert_eq!(watched.books.decapsulated, inner);
        if offloads {
            let wire = watched.counters.rx.packets + watched.counters.tx.packets;
            assert!(wire * 4 < inner.packets, "{wire} packets were meant to hold many segments each");
        } else {
            watched.assert_as_counted();
            let mut counted = watched.counters.rx;
            counted += watched.counters.tx;
            assert_eq!(outside(&flows, App::Vxlan), counted);
        }
    }
}

/// Pod link, bridge, VXLAN device and uplink see the same packets, the last one inside others.
#[test]
fn packets_at_pod_and_uplink_are_one_flow() {
    needs_root!();
    for offloads in [false, true] {
        let net = Nodes::new(false, offloads);
        let mut watch = Watch::start(&net.nodes[0], "u", watching(&["p", "br0", "vx", "u"]));
        let connections = net.talk();
        let flows = watch.settled();
        let inner = assert_as_sent(&flows, &connections);
        assert_eq!(outside(&flows, App::Vxlan), net.around(inner));
        let watched = watch.stop();
        let sum = watched.report.conservation();
        assert_eq!(sum.decapsulated, inner);
        assert!(sum.duplicate.packets >= 2 * inner.packets, "pod link, VXLAN device and uplink saw them: {sum}");
    }
}

/// Outer packets too large for the uplink travel in fragments; the packet inside counts once.
#[test]
fn tunnel_packets_may_be_fragmented() {
    needs_root!();
    const DATAGRAMS: u64 = 2000;
    let net = Nodes::new(false, false);
    for node in &net.nodes {
        node.sh("ip link set dev u mtu 1300");
    }
    // Without DF, because otherwise the tunnel requests smaller packets.
    net.pods[0].sh("echo 1 >/proc/sys/net/ipv4/ip_no_pmtu_disc");
    let mut watch = Watch::start(&net.nodes[0], "u", watching(&["u"]));
    let receiver = net.pods[1].run(|| UdpSocket::bind("10.9.0.2:5001").unwrap());
    let to = receiver.local_addr().unwrap();
    let sender = net.pods[0].run(|| udp_to(to));
    for _ in 0..DATAGRAMS {
        sender.send(&[7; 1350]).unwrap();
    }
    eventually("all fragments left", || (watch.counters().tx.packets == 2 * DATAGRAMS).then_some(()));
    let flows = watch.settled();
    let flow = flow_of(&flows, 17, sender.local_addr().unwrap(), to);
    let inner = Tally { packets: DATAGRAMS, bytes: DATAGRAMS * (ETH + 20 + 8 + 1350) };
    assert_eq!(tally(flow.from_client()), inner);
    let outer = outside(&flows, App::Vxlan);
    let watched = watch.stop();
    watched.assert_as_counted();
    assert_eq!(watched.books.decapsulated, inner);
    assert_eq!(outer, watched.counters.tx, "both fragments of each");
}

#[test]
fn without_decapsulation_there_is_only_the_tunnel() {
    needs_root!();
    let net = Nodes::new(false, false);
    let mut config = watching(&["u"]);
    config.features.decapsulation = false;
    let mut watch = Watch::start(&net.nodes[0], "u", Config { ..config });
    let server: IpAddr = "10.9.0.2".parse().unwrap();
    transfer(&net.pods[0], &net.pods[1], server, 1, 100_000);
    let flows = watch.settled();
    let ports = |flow: &Flow| flow.key().ends.iter().any(|end| end.port == 4789);
    assert!(flows.iter().all(|flow| flow.protocol == 17 && ports(flow) && flow.app.is_none()), "{flows:?}");
    let watched = watch.stop();
    watched.assert_as_counted();
    assert_eq!(watched.books.decapsulated, Tally::default());
}

/// Tunnels that the kernel need not support, because a socket sends their packets.
#[test]
fn other_tunnels_over_a_live_link() {
    needs_root!();
    const PACKETS: u64 = 500;
    let (a, b) = quiet_pair();
    for (ns, link) in [(&a, "va"), (&b, "vb")] {
        offloads_off(ns, link);
    }
    // No errors about protocols that the host does not support.
    b.sh("nft \"add table inet t; add chain inet t i { type filter hook input priority 0 ; policy drop ; }\"");
    let agent = Agent::start(&b, watching(&["vb"]));
    let before = Counters::read(&b, "vb");
    let (v4, v6) = (ipv4(UDP, &[], 7, 0, &udp(&[7; 100])), ipv6(UDP, &udp(&[7; 100])));
    let inside =
        |v6: bool| if v6 { SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, 1], 40000)) } else { at([10, 0, 0, 1], 40000) };
    let frame = ethernet(&[], IPV6, &v6);
    let send = |protocol: u8, payload: &[u8]| {
        a.run(|| {
            let socket = if protocol == UDP {
                Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap()
            } else {
                Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(i32::from(protocol)))).unwrap()
            };
            for _ in 0..PACKETS {
                let sent = socket.send_to(payload, &at([10, 9, 0, 2], 6081).into()).unwrap();
                assert_eq!(sent, payload.len());
            }
        });
    };
    let mut sums = (0, 0);
    for (app, protocol, payload, inner_v6, inner) in [
        (App::Geneve, UDP, geneve(&[1; 8], BRIDGED, &frame)[8..].to_vec(), true, frame.len()),
        (App::Gre, GRE, gre(GRE_KEY, IPV4, &v4), false, v4.len()),
        (App::Ipip, IPIP, v4.clone(), false, v4.len()),
        (App::Sit, SIT, v6.clone(), true, v6.len()),
    ] {
        let known = |flows: &[Flow]| {
            let ports = flows.iter().filter(|f| f.protocol == UDP && f.v6() == inner_v6);
            ports.filter(|f| f.from_client().inner()).map(|f| tally(f.from_client())).fold(
                Tally::default(),
                |mut a, b| {
                    a += b;
                    a
                },
            )
        };
        let had = known(&agent.settled());
        send(protocol, &payload);
        let outer_bytes =
            ETH + ip_header(Ipv4Addr::LOCALHOST.into()) + payload.len() as u64 + if protocol == UDP { 8 } else { 0 };
        sums = (sums.0 + PACKETS, sums.1 + PACKETS * outer_bytes);
        eventually("all packets arrived", || {
            (Counters::read(&b, "vb").since(before).rx == Tally { packets: sums.0, bytes: sums.1 }).then_some(())
        });
        let flows = agent.settled();
        let outer = Tally { packets: PACKETS, bytes: PACKETS * outer_bytes };
        assert_eq!(outside(&flows, app), outer, "{app:?}");
        let now = known(&flows);
        let more = Tally { packets: now.packets - had.packets, bytes: now.bytes - had.bytes };
        assert_eq!(more, Tally { packets: PACKETS, bytes: PACKETS * inner as u64 }, "{app:?}");
        flow_of(
            &flows,
            UDP,
            inside(inner_v6),
            SocketAddr::new(if inner_v6 { "fd00::2".parse().unwrap() } else { "10.0.0.2".parse().unwrap() }, 53),
        );
    }
    let (report, _) = agent.stop();
    assert!(report.conservation().holds(), "{}", report.conservation());
}

fn at(address: [u8; 4], port: u16) -> SocketAddr {
    (Ipv4Addr::from(address), port).into()
}
