//! Interfaces that come, go and change while the agent runs.

use std::net::UdpSocket;

use netmon::agent::InterfaceStatus;
use netmon::bpf::InterfaceBooks;
use netmon::config::Config;

use super::agent::{Agent, watching};
use super::binary::{NETMON, Program};
use super::control::Operated;
use super::eventually;
use super::metrics::Page;
use super::net::{End, connect, host, index, quiet_pair};
use super::traffic::{ETH, flow_of, ip_header, plain_tcp, tally, transfer};
use crate::needs_root;
use crate::support::netns::Netns;

impl Agent {
    fn watches(&self, name: &str) -> bool {
        let watched = |status: &InterfaceStatus| matches!(status, InterfaceStatus::Watched(_));
        self.handle.interfaces().values().any(|interface| interface.name == name && watched(&interface.status))
    }

    pub fn await_watched(&self, name: &str) {
        eventually(&format!("{name} is watched"), || self.watches(name).then_some(()));
    }

    fn await_left(&self, name: &str) {
        eventually(&format!("{name} is left"), || (!self.watches(name)).then_some(()));
    }

    fn books(&self, ifindex: u32) -> InterfaceBooks {
        self.handle.report().books.get(&ifindex).copied().unwrap_or_default()
    }
}

/// Sends `count` datagrams from `a` to the address of the other end.
fn send(a: &Netns, count: usize) {
    a.run(|| {
        let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
        (0..count).for_each(|_| drop(socket.send_to(b"hello", "10.9.0.2:9")));
    });
}

#[test]
fn an_agent_waits_for_the_first_interface() {
    needs_root!();
    for clsact in [false, true] {
        let (a, b) = (host("a"), host("b"));
        let agent = Agent::start(&b, Config { clsact, ..watching(&["v*"]) });
        assert!(Page::get(&b, &agent, "/readyz").head.starts_with("HTTP/1.1 503 "), "nothing is watched");
        connect(9, &End { ns: &a, link: "va", host: 1 }, &End { ns: &b, link: "vb", host: 2 });
        agent.await_watched("vb");
        plain_tcp(&a);
        plain_tcp(&b);
        let connection = transfer(&a, &b, "10.9.0.2".parse().unwrap(), 1, 100_000)[0];
        let flows = agent.settled();
        let flow = flow_of(&flows, 6, connection.client, connection.server);
        assert_eq!(tally(flow.from_client()), connection.client_on_wire(ETH));
        assert_eq!(tally(flow.from_server()), connection.server_on_wire(ETH));
        assert!(Page::get(&b, &agent, "/readyz").head.starts_with("HTTP/1.1 200 "));
    }
}

#[test]
fn an_interface_that_vanishes_leaves_its_counts() {
    needs_root!();
    for clsact in [false, true] {
        let (a, b) = quiet_pair();
        let agent = Agent::start(&b, Config { clsact, ..watching(&["v*"]) });
        let ifindex = index(&b, "vb");
        send(&a, 100);
        eventually("all packets", || (agent.books(ifindex).ingress.packets >= 100).then_some(()));
        b.sh("ip link del vb");
        agent.await_left("vb");
        eventually("the books are given up", || (agent.books(ifindex) == InterfaceBooks::default()).then_some(()));
        let page = Page::get(&b, &agent, "/metrics");
        assert!(page.sum("netmon_packets_seen_total", &["interface=\"other\"", "hook=\"ingress\""]) >= 100.0);
        assert!(!page.body.contains("interface=\"vb\""), "{}", page.body);
        let (report, _) = agent.stop();
        assert!(report.conservation().holds(), "{}", report.conservation());
        assert!(report.conservation().seen.packets >= 100);
    }
}

#[test]
fn names_decide_even_if_they_change() {
    needs_root!();
    let (a, b) = quiet_pair();
    let agent = Agent::start(&b, watching(&["pod*"]));
    let ifindex = index(&b, "vb");
    let rename = |from: &str, to: &str| {
        b.sh(&format!("ip link set {from} down && ip link set {from} name {to} && ip link set {to} up"));
    };
    send(&a, 10);
    assert_eq!(agent.books(ifindex).seen().packets, 0, "not wanted by its first name");
    rename("vb", "pod1");
    agent.await_watched("pod1");
    eventually("packets under the new name", || {
        send(&a, 1);
        (agent.books(ifindex).ingress.packets > 0).then_some(())
    });
    rename("pod1", "pod2");
    agent.await_watched("pod2");
    assert!(Page::get(&b, &agent, "/metrics").sum("netmon_packets_seen_total", &["interface=\"pod2\""]) > 0.0);
    rename("pod2", "vb");
    agent.await_left("pod2");
    let before = agent.books(ifindex).seen();
    send(&a, 10);
    agent.settled();
    assert_eq!(agent.books(ifindex).seen(), before);
}

#[test]
fn an_interface_that_goes_down_and_up_stays_watched() {
    needs_root!();
    for clsact in [false, true] {
        let (a, b) = quiet_pair();
        let agent = Agent::start(&b, Config { clsact, ..watching(&["vb"]) });
        let ifindex = index(&b, "vb");
        b.sh("ip link set vb down && ip link set vb up");
        let before = agent.books(ifindex).ingress.packets;
        eventually("packets after that", || {
            send(&a, 1);
            (agent.books(ifindex).ingress.packets > before).then_some(())
        });
    }
}

/// An interface that moves to another namespace is no longer netmon's concern; a TCX link would move along.
#[test]
fn an_interface_that_moves_away_is_released() {
    needs_root!();
    for clsact in [false, true] {
        let (a, b) = quiet_pair();
        let pod = host("pod");
        let agent = Agent::start(&b, Config { clsact, ..watching(&["v*"]) });
        let ifindex = index(&b, "vb");
        b.sh(&format!("ip link set vb netns {}", pod.name));
        agent.await_left("vb");
        let before = agent.books(ifindex).seen();
        pod.sh("ip addr add 10.9.0.2/24 dev vb && ip link set vb up");
        eventually("packets arrive there", || {
            send(&a, 1);
            (pod.counter("vb", "rx_packets") > 10).then_some(())
        });
        assert_eq!(agent.books(ifindex).seen(), before, "and are seen no more");
        pod.sh(&format!("ip link set vb netns {} && true", b.name));
        agent.await_watched("vb");
        b.sh("ip addr replace 10.9.0.2/24 dev vb && ip link set vb up");
        let ifindex = index(&b, "vb");
        let before = agent.books(ifindex).ingress.packets;
        eventually("packets after its return", || {
            send(&a, 1);
            (agent.books(ifindex).ingress.packets > before).then_some(())
        });
        let (report, _) = agent.stop();
        assert!(report.conservation().holds(), "{}", report.conservation());
    }
}

/// Also on a bridge, about whose ports the kernel sends two messages.
#[test]
fn ports_that_leave_their_bridge_stay_watched() {
    needs_root!();
    let (a, b) = quiet_pair();
    let agent = Agent::start(&b, watching(&["*", "!lo"]));
    b.sh("ip link add br0 type bridge && ip link set br0 up && ip link set vb master br0");
    agent.await_watched("br0");
    b.sh("ip link set vb nomaster && ip link del br0");
    agent.await_left("br0");
    assert!(agent.watches("vb"));
    let ifindex = index(&b, "vb");
    let before = agent.books(ifindex).ingress.packets;
    send(&a, 10);
    eventually("packets", || (agent.books(ifindex).ingress.packets >= before + 10).then_some(()));
}

#[test]
fn a_plain_name_must_exist_and_a_pattern_may_wait() {
    needs_root!();
    let empty = host("empty");
    let mut program = Program::start(&empty, &["--interface", "veth*"], false);
    assert!(program.wait_for("no interface to watch").contains("veth*"));
    program.wait_for("ready");
    program.kill();
    let mut program = Program::start(&empty, &[], false);
    program.wait_for("no interface to watch");
}

/// Packets that several interfaces show are counted once.
#[test]
fn packets_count_once_however_many_interfaces_show_them() {
    needs_root!();
    let (outside, node, pod) = (host("outside"), host("node"), host("pod"));
    connect(8, &End { ns: &node, link: "up0", host: 1 }, &End { ns: &outside, link: "up0", host: 2 });
    connect(5, &End { ns: &node, link: "pod0", host: 1 }, &End { ns: &pod, link: "eth0", host: 2 });
    outside.sh("ip route add 10.5.0.0/24 via 10.8.0.1 && ip route add fd05::/64 via fd08::1");
    pod.sh("ip route add default via 10.5.0.1 && ip route add default via fd05::1");
    node.sh("echo 1 >/proc/sys/net/ipv4/ip_forward && echo 1 >/proc/sys/net/ipv6/conf/all/forwarding");
    [&outside, &node, &pod].into_iter().for_each(plain_tcp);
    let agent = Agent::start(&node, watching(&[]));
    for server in ["10.8.0.2", "fd08::2"] {
        let server = server.parse().unwrap();
        let connection = transfer(&pod, &outside, server, 1, 3_000_000)[0];
        let flows = agent.settled();
        let flow = flow_of(&flows, 6, connection.client, connection.server);
        assert_eq!(tally(flow.from_client()), connection.client_on_wire(ETH), "{}", ip_header(server));
        assert_eq!(tally(flow.from_server()), connection.server_on_wire(ETH));
    }
    let sum = agent.stop().0.conservation();
    assert!(sum.holds() && sum.duplicate.packets >= sum.accounted.packets / 2, "{sum}");
}

/// Pods on the bridge `br0` of a node: their links are its only ports.
fn bridged_pods<const PODS: usize>(node: &Netns) -> [Netns; PODS] {
    node.sh("ip link add br0 type bridge && ip link set br0 up && ip addr add 10.5.0.1/24 dev br0 && ip addr add fd05::1/64 dev br0 nodad");
    plain_tcp(node);
    std::array::from_fn(|i| {
        let pod = host(&format!("pod{i}"));
        node.sh(&format!(
            "ip link add b{i} type veth peer name eth0 netns {} && ip link set b{i} master br0 && ip link set b{i} up",
            pod.name
        ));
        pod.sh(&format!(
            "ip addr add 10.5.0.1{i}/24 dev eth0 && ip addr add fd05::1{i}/64 dev eth0 nodad && ip link set eth0 up"
        ));
        plain_tcp(&pod);
        pod
    })
}

/// Each frame between pods passes both pods' links, and one from or to the node passes one of them. The bridge itself sees
/// nothing else: it has no programs of its own.
#[test]
fn packets_between_pods_on_a_bridge_count_once() {
    needs_root!();
    let node = host("node");
    let [one, two] = &bridged_pods(&node);
    let agent = Agent::start(&node, watching(&[]));
    for (client, server, address) in
        [(one, two, "10.5.0.11"), (two, one, "fd05::10"), (one, &node, "10.5.0.1"), (&node, two, "fd05::11")]
    {
        let connection = transfer(client, server, address.parse().unwrap(), 1, 1_000_000)[0];
        let flows = agent.settled();
        let flow = flow_of(&flows, 6, connection.client, connection.server);
        assert_eq!(tally(flow.from_client()), connection.client_on_wire(ETH), "{address}");
        assert_eq!(tally(flow.from_server()), connection.server_on_wire(ETH), "{address}");
    }
    assert!(!agent.watches("br0") && agent.watches("b0") && agent.watches("b1"));
    assert_eq!(agent.books(index(&node, "br0")), InterfaceBooks::default());
    let sum = agent.stop().0.conservation();
    // Half of the connections pass two links.
    assert!(sum.holds() && sum.duplicate.packets > sum.accounted.packets / 3, "{sum}");
}

/// What the node sends to an address that the bridge has not learned leaves by all ports.
#[test]
fn packets_that_a_bridge_floods_count_once() {
    needs_root!();
    let node = host("node");
    let pods: [Netns; 3] = bridged_pods(&node);
    let agent = Agent::start(&node, watching(&[]));
    for (i, pod) in pods.iter().enumerate() {
        let address = pod.sh(r#"ip -br link show eth0 | awk "{print \$3}""#);
        node.sh(&format!("ip neigh replace 10.5.0.1{i} lladdr {} dev br0 nud permanent", address.trim()));
        for _ in 0..3 {
            node.sh("ip link set br0 type bridge fdb_flush");
            let address = format!("10.5.0.1{i}").parse().unwrap();
            let connection = transfer(&node, pod, address, 1, 100_000)[0];
            let flows = agent.settled();
            let flow = flow_of(&flows, 6, connection.client, connection.server);
            assert_eq!(tally(flow.from_client()), connection.client_on_wire(ETH), "pod {i}");
            assert_eq!(tally(flow.from_server()), connection.server_on_wire(ETH), "pod {i}");
        }
    }
    let sum = agent.stop().0.conservation();
    assert!(sum.holds() && sum.duplicate.packets >= 18, "a SYN passes two further ports: {sum}");
}

/// A bridge is watched while its ports do not show all that passes it.
#[test]
fn a_bridge_is_left_to_its_ports_and_taken_back() {
    needs_root!();
    let node = host("node");
    let [pod] = &bridged_pods(&node);
    let agent = Agent::start(&node, watching(&[]));
    let passes = || {
        let connection = transfer(&node, pod, "10.5.0.10".parse().unwrap(), 1, 100_000)[0];
        let flows = agent.settled();
        let flow = flow_of(&flows, 6, connection.client, connection.server);
        assert_eq!(tally(flow.from_client()), connection.client_on_wire(ETH));
        assert_eq!(tally(flow.from_server()), connection.server_on_wire(ETH));
    };
    agent.await_left("br0");
    passes();
    node.sh("ip link add link br0 name mv0 type macvlan mode bridge");
    agent.await_watched("br0");
    passes();
    node.sh("ip link del mv0");
    agent.await_left("br0");
    passes();
    node.sh("ip link set br0 type bridge stp_state 1");
    agent.await_watched("br0");
    assert!(agent.stop().0.conservation().holds());
}

/// A pod on a macvlan device has no link on the host: its packets pass the device below.
#[test]
fn pods_on_macvlan_are_seen_below() {
    needs_root!();
    let (outside, node, pod) = (host("outside"), host("node"), host("pod"));
    connect(8, &End { ns: &node, link: "up0", host: 1 }, &End { ns: &outside, link: "up0", host: 2 });
    node.sh(&format!("ip link add link up0 name mv0 type macvlan mode bridge && ip link set mv0 netns {}", pod.name));
    pod.sh("ip addr add 10.8.0.9/24 dev mv0 && ip addr add fd08::9/64 dev mv0 nodad && ip link set mv0 up");
    // Another device on the node itself: both devices show its packets.
    node.sh("ip link add link up0 name mv1 type macvlan mode bridge
             ip addr add 10.8.1.9/24 dev mv1 && ip link set mv1 up");
    outside.sh("ip addr add 10.8.1.2/24 dev up0");
    [&outside, &node, &pod].into_iter().for_each(plain_tcp);
    let agent = Agent::start(&node, watching(&[]));
    agent.await_watched("mv1");
    for (client, server) in [(&pod, "10.8.0.2"), (&pod, "fd08::2"), (&node, "10.8.1.2")] {
        let connection = transfer(client, &outside, server.parse().unwrap(), 1, 500_000)[0];
        let flows = agent.settled();
        let flow = flow_of(&flows, 6, connection.client, connection.server);
        assert_eq!(tally(flow.from_client()), connection.client_on_wire(ETH), "{server}");
        assert_eq!(tally(flow.from_server()), connection.server_on_wire(ETH), "{server}");
    }
    let sum = agent.stop().0.conservation();
    assert!(sum.holds() && sum.duplicate.packets > 0, "{sum}");
}

/// A name may have nearly any bytes: whatever they are, the interface is watched, reported and released, and they do
/// not control a terminal.
#[test]
fn names_of_any_bytes() {
    needs_root!();
    let (a, b) = quiet_pair();
    let rename = |from: &str, to: &str| {
        b.sh(&format!("ip link set \"$(printf \"{from}\")\" down; ip link set \"$(printf \"{from}\")\" name \"$(printf \"{to}\")\""));
        b.sh(&format!("ip link set \"$(printf \"{to}\")\" up alias \"$(printf \"\\377\\376\")\""));
    };
    rename("vb", "v\\377b");
    let agent = Agent::start(&b, watching(&["v*"]));
    agent.await_watched(r"v\xffb");
    send(&a, 100);
    eventually("its packets are seen", || {
        let page = Page::get(&b, &agent, "/metrics");
        page.assert_well_formed();
        (page.sum("netmon_packets_seen_total", &[r#"interface="v\\xffb""#, "ingress"]) >= 100.0).then_some(())
    });
    rename("v\\377b", "vb");
    agent.await_watched("vb");
    rename("vb", "v\\033[31mb");
    agent.await_watched(r"v\x1b[31mb");
    b.sh("ip link del \"$(printf \"v\\033[31mb\")\"");
    eventually("no ghost stays", || {
        let interfaces = agent.handle.interfaces();
        interfaces.values().all(|interface| interface.name == "lo").then_some(())
    });
    assert!(agent.stop().0.conservation().holds());
}

/// The same on a terminal.
#[test]
fn names_do_not_control_a_terminal() {
    needs_root!();
    let (_a, b) = quiet_pair();
    let name = "\"$(printf \"v\\033[2J\\007\")\"";
    b.sh(&format!("ip link add {name} type bridge && ip link set {name} up"));
    let operated = Operated::start(&b, "escapes", &["--interface", "v*"]);
    let status = operated.says(&["status"]);
    let found = b.run(|| std::process::Command::new(NETMON).arg("check-system").output().unwrap());
    let found = String::from_utf8(found.stdout).unwrap();
    for text in [&status, &found, &operated.program.log.join("\n")] {
        assert!(text.contains(r"v\x1b[2J\x07"), "{text}");
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    }
}
