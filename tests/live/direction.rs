//! Interfaces that face a workload, set up as container networks do.

use netmon::bpf::list_links;
use netmon::flow::Direction;

use super::agent::{Agent, watching};
use super::metrics::Page;
use super::net::{End, connect, host};
use super::traffic::transfer;
use crate::needs_root;
use crate::support::netns::Netns;
use crate::support::sh;

/// A node with an uplink `uplink` (10.8.0.1) to `outside` (10.8.0.2), and pods of all kinds.
struct Node {
    node: Netns,
    outside: Netns,
    /// 10.5.0.10 and 10.5.0.11, through `b0` and `b1` on the bridge `br0` (10.5.0.1).
    bridged: [Netns; 2],
    /// 10.6.0.2 behind `cali0`, which has no address.
    routed: Netns,
}

/// A pod whose end of a veth pair is `eth0`, and the node's is `link`.
fn pod(node: &Netns, link: &str, address: &str) -> Netns {
    let pod = host(link);
    sh(&format!(
        "ip -n {} link add {link} type veth peer name eth0 netns {}
         ip -n {} link set {link} up",
        node.name, pod.name, node.name
    ));
    pod.sh(&format!("ip addr add {address} dev eth0 && ip link set eth0 up"));
    pod
}

impl Node {
    fn new() -> Node {
        let (node, outside) = (host("node"), host("outside"));
        connect(8, &End { ns: &node, link: "uplink", host: 1 }, &End { ns: &outside, link: "uplink", host: 2 });
        outside.sh("ip route add 10.5.0.0/24 via 10.8.0.1 && ip route add 10.6.0.2 via 10.8.0.1");
        node.sh("ip link add br0 type bridge && ip addr add 10.5.0.1/24 dev br0 && ip link set br0 up
                 ip route add default via 10.8.0.2
                 echo 1 >/proc/sys/net/ipv4/ip_forward");
        let bridged = [0, 1].map(|i| {
            let pod = pod(&node, &format!("b{i}"), &format!("10.5.0.{}/24", 10 + i));
            node.sh(&format!("ip link set b{i} master br0"));
            pod.sh("ip route add default via 10.5.0.1");
            pod
        });
        // As Calico does: the pod's gateway is an address that no host has, for which the node answers.
        let routed = pod(&node, "cali0", "10.6.0.2/32");
        routed.sh("ip route add 169.254.1.1 dev eth0 && ip route add default via 169.254.1.1 dev eth0");
        node.sh("echo 1 >/proc/sys/net/ipv4/conf/cali0/proxy_arp
                 echo 0 >/proc/sys/net/ipv4/neigh/cali0/proxy_delay
                 ip route add 10.6.0.2 dev cali0");
        Node { node, outside, bridged, routed }
    }
}

/// Names of the interfaces that face a workload.
fn workloads(ns: &Netns) -> Vec<String> {
    let links = ns.run(|| list_links().unwrap());
    let mut names: Vec<String> = links.into_iter().filter(|l| l.workload).map(|l| l.name).collect();
    names.sort();
    names
}

#[test]
fn interfaces_that_face_workloads_are_distinguished_from_uplinks() {
    needs_root!();
    let net = Node::new();
    assert_eq!(workloads(&net.node), ["b0", "b1", "br0", "cali0"]);
    for ns in [&net.outside, &net.bridged[0], &net.routed] {
        assert_eq!(workloads(ns), [""; 0], "its own end");
    }
    let node = &net.node;
    // As the ptp plug-in does: only the gateway's address, and the pod's route.
    let _ptp = pod(node, "ptp0", "10.4.0.2/24");
    node.sh("ip addr add 10.4.0.1/32 dev ptp0 && ip route add 10.4.0.2 dev ptp0");
    // Both ends are on the host: there is no workload behind it.
    node.sh("ip link add here0 type veth peer name here1 && ip link set here0 up && ip link set here1 up");
    // A VRF is not a bridge.
    let _vrf = pod(node, "vrfed", "10.3.0.2/24");
    node.sh("ip link add vrf9 type vrf table 9 && ip link set vrf9 up && ip link set vrfed master vrf9
             ip addr add 10.3.0.1/24 dev vrfed");
    assert_eq!(workloads(node), ["b0", "b1", "br0", "cali0", "ptp0"]);
    // It no longer leads to a pod, but is an uplink.
    node.sh("ip route add default dev ptp0 metric 9");
    assert_eq!(workloads(node), ["b0", "b1", "br0", "cali0"]);
}

#[test]
fn the_direction_is_that_of_the_workload() {
    needs_root!();
    let net = Node::new();
    let [bridged, other] = &net.bridged;
    for watched in [&["*"][..], &["b?", "cali0"], &["br0", "cali0"], &["uplink"]] {
        let agent = Agent::start(&net.node, watching(watched));
        let cases = [
            (bridged, &net.outside, "10.8.0.2", Direction::Egress, &["b?", "br0", "uplink"][..]),
            (&net.outside, bridged, "10.5.0.10", Direction::Ingress, &["b?", "br0", "uplink"]),
            (&net.routed, &net.outside, "10.8.0.2", Direction::Egress, &["cali0", "uplink"]),
            (&net.outside, &net.routed, "10.6.0.2", Direction::Ingress, &["cali0", "uplink"]),
            // Both ends are on this node: the client's view counts.
            (bridged, other, "10.5.0.11", Direction::Egress, &["b?"]),
            (bridged, &net.routed, "10.6.0.2", Direction::Egress, &["b?", "cali0", "br0"]),
            (&net.routed, bridged, "10.5.0.10", Direction::Egress, &["b?", "cali0", "br0"]),
        ];
        let seen = cases.iter().filter(|case| watched.iter().any(|link| *link == "*" || case.4.contains(link)));
        let connections: Vec<_> = seen
            .map(|(client, server, address, direction, _)| {
                let connection = transfer(client, server, address.parse().unwrap(), 1, 10_000)[0];
                (connection, direction)
            })
            .collect();
        let flows = agent.settled();
        for (connection, direction) in connections {
            let port = connection.client.port();
            let flow = flows.iter().find(|f| f.key().ends.iter().any(|e| e.port == port)).unwrap();
            let (client, server) = (connection.client, connection.server);
            assert_eq!(flow.direction, *direction, "{client} to {server}, watching {watched:?}");
        }
        if watched == ["uplink"] {
            let page = Page::get(&net.node, &agent, "/metrics");
            assert_eq!(page.sum("netmon_flows_active", &["protocol=\"tcp\"", "direction=\"egress\""]), 2.0);
        }
        agent.stop();
    }
}
