//! A node that translates addresses with nftables or iptables, and the hosts around it.

use super::super::net::{End, connect, host};
use super::super::traffic::plain_tcp;
use crate::support::netns::Netns;
use crate::support::sh;

/// A node (10.8.0.1, fd08::1 on `up0`) that translates addresses, a host `outside` (10.8.0.2, fd08::2) without routes
/// to pods, and pods.
pub struct Node {
    pub node: Netns,
    pub outside: Netns,
    /// 10.5.0.10 and .11, fd05::10 and ::11, on the bridge `br0`.
    pub bridged: [Netns; 2],
    /// 10.6.0.10 and .11, fd06::10 and ::11, each on an interface of its own.
    pub routed: [Netns; 2],
}

fn pod(node: &Netns, link: &str) -> Netns {
    let pod = host(link);
    sh(&format!(
        "ip -n {0} link add {link} type veth peer name eth0 netns {1} && ip -n {0} link set {link} up",
        node.name, pod.name
    ));
    plain_tcp(&pod);
    pod
}

fn mac(ns: &Netns, link: &str) -> String {
    ns.sh(&format!("cat /sys/class/net/{link}/address")).trim().to_owned()
}

impl Node {
    pub fn new() -> Node {
        let (node, outside) = (host("node"), host("outside"));
        connect(8, &End { ns: &node, link: "up0", host: 1 }, &End { ns: &outside, link: "up0", host: 2 });
        plain_tcp(&node);
        plain_tcp(&outside);
        node.sh("ip link add br0 type bridge && ip link set br0 up
                 ip addr add 10.5.0.1/24 dev br0
                 ip addr add fd05::1/64 dev br0 nodad
                 ip route add default via 10.8.0.2
                 ip route add default via fd08::2
                 echo 1 >/proc/sys/net/ipv4/ip_forward
                 echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
                 for f in /proc/sys/net/ipv4/conf/*/send_redirects; do echo 0 >$f; done");
        let bridged = [0, 1].map(|i| {
            let pod = pod(&node, &format!("b{i}"));
            // Hairpin mode, as container networks use it: a pod may be a backend of its own service.
            node.sh(&format!("ip link set b{i} master br0 && ip link set b{i} type bridge_slave hairpin on"));
            pod.sh(&format!(
                "ip addr add 10.5.0.1{i}/24 dev eth0
                 ip addr add fd05::1{i}/64 dev eth0 nodad
                 ip link set eth0 up
                 ip route add default via 10.5.0.1
                 ip route add default via fd05::1"
            ));
            pod
        });
        let routed = [0, 1].map(|i| {
            let pod = pod(&node, &format!("r{i}"));
            let (inside, outside) = (mac(&pod, "eth0"), mac(&node, &format!("r{i}")));
            pod.sh(&format!(
                "ip addr add 10.6.0.1{i}/32 dev eth0
                 ip addr add fd06::1{i}/128 dev eth0 nodad
                 ip link set eth0 up
                 ip route add 169.254.1.1 dev eth0 && ip route add default via 169.254.1.1 dev eth0
                 ip route add fd06::ffff dev eth0 && ip route add default via fd06::ffff dev eth0
                 ip neigh add 169.254.1.1 lladdr {outside} dev eth0
                 ip neigh add fd06::ffff lladdr {outside} dev eth0"
            ));
            node.sh(&format!(
                "ip route add 10.6.0.1{i} dev r{i} && ip neigh add 10.6.0.1{i} lladdr {inside} dev r{i}
                 ip route add fd06::1{i} dev r{i} && ip neigh add fd06::1{i} lladdr {inside} dev r{i}"
            ));
            pod
        });
        Node { node, outside, bridged, routed }
    }

    /// Sets up service N at 10.96.0.N and fd96::N with its backend; packets that pods send out are masqueraded, and so
    /// are those that return to the bridge that they came from.
    pub fn translate(&self, tool: Tool) {
        for (number, v4, v6) in BACKENDS {
            tool.service(&self.node, &format!("10.96.0.{number}"), v4, false);
            tool.service(&self.node, &format!("fd96::{number}"), v6, true);
        }
        tool.node_port(&self.node);
        tool.masquerade(&self.node);
    }
}

/// The services and their backends: a pod on its own interface, the host outside, a pod on the bridge.
pub const BACKENDS: [(u8, &str, &str); 3] =
    [(1, "10.6.0.11", "fd06::11"), (2, "10.8.0.2", "fd08::2"), (3, "10.5.0.10", "fd05::10")];

/// The tool that sets up the translation.
#[derive(Clone, Copy, Debug)]
pub enum Tool {
    Nft,
    Iptables,
}

impl Tool {
    fn service(self, node: &Netns, address: &str, backend: &str, v6: bool) {
        match self {
            Tool::Nft => {
                let (family, to) =
                    if v6 { ("ip6", format!("[{backend}]:8080")) } else { ("ip", format!("{backend}:8080")) };
                for (chain, hook, priority) in [("pre", "prerouting", -100), ("out", "output", -100)] {
                    node.sh(&format!(
                        "nft add table {family} nat
                         nft \"add chain {family} nat {chain} {{ type nat hook {hook} priority {priority}; }}\"
                         nft \"add rule {family} nat {chain} {family} daddr {address} meta l4proto {{ tcp, udp }} th dport 80 dnat to {to}\""
                    ));
                }
            }
            Tool::Iptables => {
                let (program, to) = if v6 {
                    ("ip6tables", format!("[{backend}]:8080"))
                } else {
                    ("iptables", format!("{backend}:8080"))
                };
                for chain in ["PREROUTING", "OUTPUT"] {
                    for protocol in ["tcp", "udp"] {
                        node.sh(&format!(
                            "{program} -w -t nat -A {chain} -d {address} -p {protocol} --dport 80 -j DNAT --to-destination {to}"
                        ));
                    }
                }
            }
        }
    }

    /// Makes port 30080 of the node service 1, and port 30081 the node's own 8081.
    fn node_port(self, node: &Netns) {
        match self {
            Tool::Nft => node.sh("nft add rule ip nat pre iifname up0 tcp dport 30080 dnat to 10.6.0.11:8080
                 nft add rule ip6 nat pre iifname up0 tcp dport 30080 dnat to [fd06::11]:8080
                 nft add rule ip nat pre iifname up0 tcp dport 30081 redirect to :8081
                 nft add rule ip6 nat pre iifname up0 tcp dport 30081 redirect to :8081"),
            Tool::Iptables => node.sh(
                "iptables -w -t nat -A PREROUTING -i up0 -p tcp --dport 30080 -j DNAT --to-destination 10.6.0.11:8080
                 ip6tables -w -t nat -A PREROUTING -i up0 -p tcp --dport 30080 -j DNAT --to-destination [fd06::11]:8080
                 iptables -w -t nat -A PREROUTING -i up0 -p tcp --dport 30081 -j REDIRECT --to-ports 8081
                 ip6tables -w -t nat -A PREROUTING -i up0 -p tcp --dport 30081 -j REDIRECT --to-ports 8081",
            ),
        };
    }

    fn masquerade(self, node: &Netns) {
        for (family, program, pods) in
            [("ip", "iptables", ["10.5.0.0/24", "10.6.0.0/24"]), ("ip6", "ip6tables", ["fd05::/64", "fd06::/64"])]
        {
            let [bridged, routed] = pods;
            match self {
                Tool::Nft => node.sh(&format!(
                    "nft \"add chain {family} nat post {{ type nat hook postrouting priority 100; }}\"
                     nft add rule {family} nat post oifname up0 {family} saddr {bridged} masquerade
                     nft add rule {family} nat post oifname up0 {family} saddr {routed} masquerade
                     nft add rule {family} nat post oifname br0 {family} saddr {bridged} ct status dnat masquerade"
                )),
                Tool::Iptables => node.sh(&format!(
                    "{program} -w -t nat -A POSTROUTING -o up0 -s {bridged} -j MASQUERADE
                     {program} -w -t nat -A POSTROUTING -o up0 -s {routed} -j MASQUERADE
                     {program} -w -t nat -A POSTROUTING -o br0 -s {bridged} -m conntrack --ctstate DNAT -j MASQUERADE"
                )),
            };
        }
    }
}
