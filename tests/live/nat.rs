//! Services and masquerade: a connection that passes a node under several addresses is one flow.

pub mod node;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use netmon::bpf::Endpoint;
use netmon::config::Config;
use netmon::flow::{Direction, Flow};

use node::{BACKENDS, Node, Tool};

use super::agent::{Agent, watching};
use super::eventually;
use super::metrics::Page;
use super::net::index;
use super::traffic::{Connection, ETH, flow_of, listen, tally, transfer_to};
use crate::needs_root;
use crate::support::netns::Netns;

/// A connection through the node, and the expected flow.
struct Case<'a> {
    name: &'a str,
    client: &'a Netns,
    server: &'a Netns,
    listens: SocketAddr,
    dials: SocketAddr,
    direction: Direction,
    /// The client's address as the server sees it.
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
        let listener = listen(self.server, self.listens);
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
        assert_eq!(nat.client.map(|client| client.ip(flow.v6())), self.masqueraded, "{name}: the client's other name");
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
    let tcp = flows.iter().filter(|flow| flow.protocol == 6).count();
    assert_eq!(tcp, cases.len(), "each is one flow: {flows:#?}");
    eventually("the outcomes", || {
        let page = Page::get(&net.node, &agent, "/metrics");
        (page.sum("netmon_flows_total", &["protocol=\"tcp\"", "status=\"ok\""]) == cases.len() as f64).then_some(())
    });
    let page = Page::settled(&net.node, &agent);
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

/// A datagram and its answer, a ping, and a service without a backend.
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
        // Nothing listens on TCP there.
        pod.run(|| assert!(TcpStream::connect(service).is_err()));
    }
    let flows = agent.settled();
    for (client, service, listens) in &clients {
        let flow = flow_of(&flows, 17, client.local_addr().unwrap(), *service);
        assert_eq!((flow.from_client().packets, flow.from_server().packets), (1, 1));
        assert_eq!(flow.nat().unwrap().server, Some(endpoint(*listens)));
    }
    for (protocol, name) in [(1, "icmp"), (58, "icmpv6")] {
        let pings: Vec<_> = flows.iter().filter(|f| f.protocol == protocol && f.nat().is_some()).collect();
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

/// Connections that began before the agent, and continue.
#[test]
fn connections_that_exist_already() {
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
    assert_eq!(flows.iter().filter(|flow| flow.protocol == 6).count(), 1);
    assert!(agent.stop().0.conservation().holds());
}

/// The same port of a client, again and again: each time the node translates it to others.
#[test]
fn ports_used_again_are_connections_of_their_own() {
    needs_root!();
    let net = Node::new();
    net.translate(Tool::Nft);
    let Node { node, outside, routed: [pod, _], .. } = &net;
    let agent = Agent::start(node, watching(&[]));
    let listener = outside.run(|| TcpListener::bind("10.8.0.2:8080").unwrap());
    const TIMES: usize = 4;
    let ifindex = index(node, "r0");
    for turn in 1..=TIMES {
        pod.run(|| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_reuse_address(true).unwrap();
            socket.set_linger(Some(std::time::Duration::ZERO)).unwrap();
            socket.bind(&address("10.6.0.10:33000").into()).unwrap();
            socket.connect(&address("10.96.0.2:80").into()).unwrap();
            let (mut served, _) = listener.accept().unwrap();
            socket.send(b"?").unwrap();
            served.read_exact(&mut [0]).unwrap();
            drop(socket);
            assert!(served.read(&mut [0]).is_err(), "reset");
        });
        // A busy processor may still have the last ACK.
        eventually("SYN-ACK and ACK have passed", || {
            let passed = agent.handle.report().books.get(&ifindex).map_or(0, |books| books.egress.packets);
            (passed == 2 * turn as u64).then_some(())
        });
        // Within a jiffy, records of one hook cannot be distinguished from those of the next connection at another.
        agent.settled();
    }
    eventually("as many resets as connections", || {
        let page = Page::get(node, &agent, "/metrics");
        let sum = |what: &str| page.sum("netmon_flows_total", &["protocol=\"tcp\"", what]);
        assert!(sum("status=\"ok\"") == 0.0 && sum("reason=\"reset_client\"") <= TIMES as f64, "{}", page.body);
        (sum("reason=\"reset_client\"") == TIMES as f64).then_some(())
    });
    assert!(agent.stop().0.conservation().holds());
}

#[test]
fn without_it_both_sides_are_flows() {
    needs_root!();
    let net = Node::new();
    net.translate(Tool::Nft);
    let agent = Agent::start(&net.node, Config { nat: false, ..watching(&[]) });
    let cases = cases(&net);
    let connection = cases.iter().find(|case| case.name == "pod to a remote backend").unwrap().run(1000);
    let flows = agent.settled();
    assert_eq!(flows.iter().filter(|flow| flow.protocol == 6).count(), 2);
    assert!(flow_of(&flows, 6, connection.client, connection.server).nat().is_none());
}

/// More events at once than the kernel queues for netmon: the missed ones are read from a list.
#[test]
fn missed_events_are_read_from_a_list() {
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
