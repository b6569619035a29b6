//! Services and masquerade: what passes a node under several addresses is one flow.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use netmon::bpf::Endpoint;
use netmon::config::Config;
use netmon::flow::{Direction, Flow};

use super::agent::{Agent, watching};
use super::eventually;
use super::metrics::Page;
use super::net::{End, connect, host};
use super::traffic::{Connection, ETH, flow_of, plain_tcp, tally, transfer_to};
use crate::needs_root;
use crate::support::netns::Netns;
use crate::support::sh;

/// A node (10.8.0.1, fd08::1 on `up0`) that translates, a host `outside` (10.8.0.2, fd08::2) that knows no pod, and pods.
struct Node {
    node: Netns,
    outside: Netns,
    /// 10.5.0.10 and .11, fd05::10 and ::11, on the bridge `br0`.
    bridged: [Netns; 2],
    /// 10.6.0.10 and .11, fd06::10 and ::11, each by an interface of its own.
    routed: [Netns; 2],
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
    fn new() -> Node {
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
            // Hairpin mode, as container networks set it: a pod may be its own service's backend.
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

    /// Service N at 10.96.0.N and fd96::N, by its backend; what pods send out is masqueraded, and so is what comes back to the
    /// bridge that it came from.
    fn translate(&self, tool: Tool) {
        for (number, v4, v6) in BACKENDS {
            tool.service(&self.node, &format!("10.96.0.{number}"), v4, false);
            tool.service(&self.node, &format!("fd96::{number}"), v6, true);
        }
        tool.node_port(&self.node);
        tool.masquerade(&self.node);
    }
}

/// Services and who answers: a pod on its own interface, the host outside, a pod on the bridge.
const BACKENDS: [(u8, &str, &str); 3] =
    [(1, "10.6.0.11", "fd06::11"), (2, "10.8.0.2", "fd08::2"), (3, "10.5.0.10", "fd05::10")];

/// What translates.
#[derive(Clone, Copy, Debug)]
enum Tool {
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

    /// Port 30080 of the node is service 1, port 30081 the node's own 8081.
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

/// A connection through the node, and what it must come out as.
struct Case<'a> {
    name: &'a str,
    client: &'a Netns,
    server: &'a Netns,
    listens: SocketAddr,
    dials: SocketAddr,
    direction: Direction,
    /// The client is known to the server by this address.
    masqueraded: Option<IpAddr>,
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn cases(net: &Node) -> Vec<Case<'_>> {
    let Node { node, outside, bridged, routed } = net;
    let mut all = Vec::new();
    for v6 in [false, true] {
        let at = |v4: &str, six: &str, port: u16| {
            address(&if v6 { format!("[{six}]:{port}") } else { format!("{v4}:{port}") })
        };
        let ip = |v4: &str, six: &str| Some(at(v4, six, 0).ip());
        let service = |number: u8| at(&format!("10.96.0.{number}"), &format!("fd96::{number}"), 80);
        let backend = |number: usize| at(BACKENDS[number - 1].1, BACKENDS[number - 1].2, 8080);
        let (egress, ingress) = (Direction::Egress, Direction::Ingress);
        let (uplink, bridge) = (ip("10.8.0.1", "fd08::1"), ip("10.5.0.1", "fd05::1"));
        let plain = at("10.8.0.2", "fd08::2", 8082);
        let list = [
            ("pod to a local backend", &routed[0], &routed[1], backend(1), service(1), egress, None),
            ("bridged pod to a local backend", &bridged[0], &routed[1], backend(1), service(1), egress, None),
            ("pod to a remote backend", &routed[0], outside, backend(2), service(2), egress, uplink),
            ("bridged pod to a remote backend", &bridged[1], outside, backend(2), service(2), egress, uplink),
            ("hairpin", &bridged[1], &bridged[0], backend(3), service(3), egress, bridge),
            ("hairpin to itself", &bridged[0], &bridged[0], backend(3), service(3), egress, bridge),
            ("the node to a remote backend", node, outside, backend(2), service(2), egress, None),
            ("the node to a local backend", node, &routed[1], backend(1), service(1), ingress, None),
            (
                "from outside to a local backend",
                outside,
                &routed[1],
                backend(1),
                at("10.8.0.1", "fd08::1", 30080),
                ingress,
                None,
            ),
            (
                "from outside to the node itself",
                outside,
                node,
                at("10.8.0.1", "fd08::1", 8081),
                at("10.8.0.1", "fd08::1", 30081),
                ingress,
                None,
            ),
            ("masquerade alone", &routed[0], outside, plain, plain, egress, uplink),
        ];
        all.extend(list.map(|(name, client, server, listens, dials, direction, masqueraded)| Case {
            name,
            client,
            server,
            listens,
            dials,
            direction,
            masqueraded,
        }));
    }
    all
}

fn endpoint(socket: SocketAddr) -> Endpoint {
    let mut address = [0; 16];
    match socket.ip() {
        IpAddr::V4(ip) => address[..4].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => address = ip.octets(),
    }
    Endpoint { address, port: socket.port() }
}

impl Case<'_> {
    fn run(&self, bytes: usize) -> Connection {
        println!("{}: {}", self.name, self.dials);
        let listener = self.server.run(|| TcpListener::bind(self.listens).unwrap());
        transfer_to(self.client, listener, self.dials, 1, bytes)[0]
    }

    fn check(&self, connection: &Connection, flows: &[Flow]) {
        let flow = flow_of(flows, 6, connection.client, self.dials);
        let name = self.name;
        assert_eq!(tally(flow.from_client()), connection.client_on_wire(ETH), "{name}: the client's side");
        assert_eq!(tally(flow.from_server()), connection.server_on_wire(ETH), "{name}: the server's side");
        assert_eq!(flow.direction, self.direction, "{name}");
        let nat = flow.nat().unwrap_or_else(|| panic!("{name}: not known to be translated: {flow:#?}"));
        assert_eq!(nat.server, (self.listens != self.dials).then_some(endpoint(self.listens)), "{name}: who answers");
        assert_eq!(
            nat.client.map(|client| client.ip(flow.key.v6)),
            self.masqueraded,
            "{name}: the client's other name"
        );
    }
}

fn joined(tool: Tool) {
    let net = Node::new();
    net.translate(tool);
    let agent = Agent::start(&net.node, watching(&[]));
    let cases = cases(&net);
    let made: Vec<_> = cases.iter().map(|case| (case, case.run(300_000))).collect();
    let flows = agent.settled();
    for (case, connection) in &made {
        case.check(connection, &flows);
    }
    let tcp = flows.iter().filter(|flow| flow.key.protocol == 6).count();
    assert_eq!(tcp, cases.len(), "each is one flow: {flows:#?}");
    let page = Page::get(&net.node, &agent, "/metrics");
    assert_eq!(page.sum("netmon_flows_total", &["protocol=\"tcp\"", "status=\"ok\""]), cases.len() as f64);
    assert_eq!(page.sum("netmon_flows_total", &["protocol=\"tcp\"", "status=\"failed\""]), 0.0);
    assert!(page.sum("netmon_nat_translations", &[]) >= cases.len() as f64);
    assert_eq!(
        page.sum("netmon_packets_total", &["10.8.0.1"]),
        page.sum("netmon_packets_total", &["10.8.0.1", "10.8.0.2"])
            + page.sum("netmon_packets_total", &["10.8.0.1", "10.96."]),
        "the node is no pod's name"
    );
    let sum = agent.stop().0.conservation();
    assert!(sum.holds() && sum.duplicate.packets > sum.accounted.packets / 2, "{sum}");
}

#[test]
fn a_connection_is_one_flow_through_nftables() {
    needs_root!();
    joined(Tool::Nft);
}

#[test]
fn a_connection_is_one_flow_through_iptables() {
    needs_root!();
    joined(Tool::Iptables);
}

/// A datagram there and an answer, a ping, and a service that nobody serves.
#[test]
fn other_protocols_and_failures() {
    needs_root!();
    let net = Node::new();
    net.translate(Tool::Nft);
    let agent = Agent::start(&net.node, watching(&[]));
    let Node { node, outside, routed: [pod, _], .. } = &net;
    let mut clients = Vec::new();
    for (service, backend, listens) in
        [("10.96.0.2:80", "10.8.0.2", "10.8.0.2:8080"), ("[fd96::2]:80", "fd08::2", "[fd08::2]:8080")]
    {
        let (service, listens) = (address(service), address(listens));
        let server = outside.run(|| UdpSocket::bind(listens).unwrap());
        let client =
            pod.run(|| UdpSocket::bind((if service.is_ipv6() { "fd06::10" } else { "10.6.0.10" }, 0)).unwrap());
        client.send_to(b"who is there", service).unwrap();
        let mut buffer = [0; 64];
        let (_, peer) = server.recv_from(&mut buffer).unwrap();
        assert_ne!(peer.ip(), client.local_addr().unwrap().ip(), "masqueraded");
        server.send_to(b"me", peer).unwrap();
        assert_eq!(client.recv_from(&mut buffer).unwrap().1, service);
        clients.push((client, service, listens));
        pod.sh(&format!("ping -c 3 -i 0.1 {backend} >/dev/null"));
        // Nobody listens there by TCP.
        pod.run(|| assert!(TcpStream::connect(service).is_err()));
    }
    let flows = agent.settled();
    for (client, service, listens) in &clients {
        let flow = flow_of(&flows, 17, client.local_addr().unwrap(), *service);
        assert_eq!((flow.from_client().packets, flow.from_server().packets), (1, 1));
        assert_eq!(flow.nat().unwrap().server, Some(endpoint(*listens)));
    }
    for (protocol, name) in [(1, "icmp"), (58, "icmpv6")] {
        let pings: Vec<_> = flows.iter().filter(|f| f.key.protocol == protocol && f.nat().is_some()).collect();
        assert_eq!(pings.len(), 1, "{name}: {pings:#?}");
        assert_eq!((pings[0].from_client().packets, pings[0].from_server().packets), (3, 3));
        assert_eq!(pings[0].direction, Direction::Egress);
    }
    eventually("each refusal once", || {
        let page = Page::get(node, &agent, "/metrics");
        let refused = page.sum("netmon_flows_total", &["protocol=\"tcp\"", "reason=\"refused\""]);
        assert!(refused <= 2.0, "{refused} refusals");
        (refused == 2.0).then_some(())
    });
    assert!(agent.stop().0.conservation().holds());
}

/// What began before the agent, and goes on.
#[test]
fn connections_that_are_there_already() {
    needs_root!();
    let net = Node::new();
    net.translate(Tool::Nft);
    let Node { node, outside, routed: [pod, _], .. } = &net;
    let listener = outside.run(|| TcpListener::bind("10.8.0.2:8080").unwrap());
    let mut client = pod.run(|| TcpStream::connect("10.96.0.2:80").unwrap());
    let (mut server, _) = listener.accept().unwrap();
    let agent = Agent::start(node, watching(&[]));
    for _ in 0..10 {
        client.write_all(b"more").unwrap();
        server.read_exact(&mut [0; 4]).unwrap();
    }
    let flows = agent.settled();
    let flow = flow_of(&flows, 6, client.local_addr().unwrap(), address("10.96.0.2:80"));
    assert_eq!(flow.nat().unwrap().server, Some(endpoint(address("10.8.0.2:8080"))));
    assert!(flow.from_client().packets >= 10 && flow.from_client().packets < 20, "{flow:#?}");
    assert_eq!(flows.iter().filter(|flow| flow.key.protocol == 6).count(), 1);
    assert!(agent.stop().0.conservation().holds());
}

/// The same port of a client, over and over: each time the node gives it other names.
#[test]
fn ports_used_again_are_connections_of_their_own() {
    needs_root!();
    let net = Node::new();
    net.translate(Tool::Nft);
    let Node { node, outside, routed: [pod, _], .. } = &net;
    let agent = Agent::start(node, watching(&[]));
    let listener = outside.run(|| TcpListener::bind("10.8.0.2:8080").unwrap());
    const TIMES: usize = 4;
    for _ in 0..TIMES {
        pod.run(|| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_reuse_address(true).unwrap();
            socket.set_linger(Some(std::time::Duration::ZERO)).unwrap();
            socket.bind(&address("10.6.0.10:33000").into()).unwrap();
            socket.connect(&address("10.96.0.2:80").into()).unwrap();
            let (mut served, _) = listener.accept().unwrap();
            drop(socket);
            assert!(served.read(&mut [0]).is_err(), "reset");
        });
        // Within one jiffy nothing tells the records of one hook from those of the next connection at another.
        agent.settled();
    }
    eventually("as many resets as connections", || {
        let page = Page::get(node, &agent, "/metrics");
        let sum = |what: &str| page.sum("netmon_flows_total", &["protocol=\"tcp\"", what]);
        assert!(sum("status=\"ok\"") == 0.0 && sum("reason=\"reset\"") <= TIMES as f64, "{}", page.body);
        (sum("reason=\"reset\"") == TIMES as f64).then_some(())
    });
    assert!(agent.stop().0.conservation().holds());
}

#[test]
fn without_it_both_names_are_flows() {
    needs_root!();
    let net = Node::new();
    net.translate(Tool::Nft);
    let agent = Agent::start(&net.node, Config { nat: false, ..watching(&[]) });
    let cases = cases(&net);
    let connection = cases.iter().find(|case| case.name == "pod to a remote backend").unwrap().run(1000);
    let flows = agent.settled();
    assert_eq!(flows.iter().filter(|flow| flow.key.protocol == 6).count(), 2);
    assert!(flow_of(&flows, 6, connection.client, connection.server).nat().is_none());
}

/// More at once than the kernel keeps for netmon: what was missed is read anew.
#[test]
fn what_was_not_told_is_looked_up() {
    needs_root!();
    let net = Node::new();
    net.translate(Tool::Nft);
    let Node { node, outside, routed: [pod, _], .. } = &net;
    let agent = Agent::start(node, Config { nat_queue_bytes: 1, ..watching(&[]) });
    let server = outside.run(|| UdpSocket::bind("10.8.0.2:8080").unwrap());
    const MANY: usize = 500;
    let clients: Vec<UdpSocket> = pod.run(|| (0..MANY).map(|_| UdpSocket::bind("10.6.0.10:0").unwrap()).collect());
    for client in &clients {
        client.send_to(b"hello", "10.96.0.2:80").unwrap();
    }
    let metric = |name| Page::get(node, &agent, "/metrics").sum(name, &[]);
    eventually("all are known in the end", || (metric("netmon_nat_translations") >= MANY as f64).then_some(()));
    assert!(metric("netmon_nat_resyncs_total") > 0.0, "the queue is too small for all of them");
    drop(server);
    assert!(agent.stop().0.conservation().holds());
}
