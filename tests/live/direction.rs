//! Interfaces that face a workload, wired as container networks wire them.

use netmon::bpf::list_links;

use super::net::{End, connect, host};
use crate::needs_root;
use crate::support::netns::Netns;
use crate::support::sh;

/// A node with an uplink `uplink` (10.8.0.1) to `outside` (10.8.0.2), and pods of all kinds.
struct Node {
    node: Netns,
    outside: Netns,
    /// 10.5.0.10 and 10.5.0.11, by `b0` and `b1` on the bridge `br0` (10.5.0.1).
    bridged: [Netns; 2],
    /// 10.6.0.2 behind `cali0`, which has no address.
    routed: Netns,
}

/// A pod whose end of a pair is `eth0`, the node's is `link`.
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
        // As Calico: the pod's way out is an address that nobody has, for which the node answers.
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
fn what_faces_a_workload_is_told_from_uplinks() {
    needs_root!();
    let net = Node::new();
    assert_eq!(workloads(&net.node), ["b0", "b1", "cali0"]);
    for ns in [&net.outside, &net.bridged[0], &net.routed] {
        assert_eq!(workloads(ns), [""; 0], "its own end");
    }
    let node = &net.node;
    // The ptp plug-in: the gateway's address alone, and the pod's route.
    let _ptp = pod(node, "ptp0", "10.4.0.2/24");
    node.sh("ip addr add 10.4.0.1/32 dev ptp0 && ip route add 10.4.0.2 dev ptp0");
    // Both ends here: no workload behind it.
    node.sh("ip link add here0 type veth peer name here1 && ip link set here0 up && ip link set here1 up");
    // A VRF is no bridge.
    let _vrf = pod(node, "vrfed", "10.3.0.2/24");
    node.sh("ip link add vrf9 type vrf table 9 && ip link set vrf9 up && ip link set vrfed master vrf9
             ip addr add 10.3.0.1/24 dev vrfed");
    assert_eq!(workloads(node), ["b0", "b1", "cali0", "ptp0"]);
    // No longer the way to a pod, but the way out.
    node.sh("ip route add default dev ptp0 metric 9");
    assert_eq!(workloads(node), ["b0", "b1", "cali0"]);
}
