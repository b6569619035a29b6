//! Devices on top of others, and load balancing in the kernel, which Debian's kernels have as modules.

use std::net::{SocketAddr, TcpListener};

use netmon::agent::InterfaceStatus;
use netmon::config::Config;

use crate::live::agent::{Agent, watching};
use crate::live::nat::node::Node;
use crate::live::net::{End, connect, host};
use crate::live::traffic::{ETH, flow_of, plain_tcp, tally, transfer, transfer_to};
use crate::needs_root;
use crate::support::netns::Netns;

/// Name and status of each interface of the agent's host.
fn statuses(agent: &Agent) -> Vec<(String, &'static str)> {
    let status = |status: &InterfaceStatus| status.name();
    let all = agent.handle.interfaces().into_values().map(|interface| (interface.name, status(&interface.status)));
    let mut all: Vec<_> = all.filter(|(name, _)| name != "lo").collect();
    all.sort();
    all
}

/// Transfers data in both directions between the two; each connection is one flow whose frames have a header of this
/// many bytes.
fn assert_counted_once(a: &Netns, b: &Netns, server: &str, link_header: u64, agent: &Agent) {
    let server = server.parse().unwrap();
    let made = transfer(a, b, server, 3, 200_000);
    let flows = agent.settled();
    for connection in &made {
        let flow = flow_of(&flows, 6, connection.client, connection.server);
        assert_eq!(tally(flow.from_client()), connection.client_on_wire(link_header), "{flow:#?}");
        assert_eq!(tally(flow.from_server()), connection.server_on_wire(link_header), "{flow:#?}");
    }
    let ours =
        flows.iter().filter(|flow| made.iter().any(|c| flow.key().ends.iter().any(|e| e.port == c.server.port())));
    assert_eq!(ours.count(), made.len());
}

#[test]
#[ignore = "needs bonding and VLAN devices: for the virtual machines of scripts/test-kernels"]
fn a_vlan_on_a_bond_is_counted_once() {
    needs_root!();
    let (a, b) = (host("a"), host("b"));
    for link in ["p0", "p1"] {
        crate::support::sh(&format!("ip -n {} link add {link} type veth peer name {link} netns {}", a.name, b.name));
    }
    for (ns, host) in [(&a, 1), (&b, 2)] {
        plain_tcp(ns);
        // Some kernels create bond0 with the module.
        ns.sh(&format!(
            "ip link add bd type bond mode balance-rr miimon 100
             for p in p0 p1; do ip link set $p master bd; done
             ip link set bd up
             ip link add link bd name bd.7 type vlan id 7
             ip addr add 10.9.7.{host}/24 dev bd.7
             ip addr add fd97::{host}/64 dev bd.7 nodad
             ip link set bd.7 up"
        ));
    }
    let agent = Agent::start(&b, watching(&[]));
    let statuses = statuses(&agent);
    let of = |name: &str| statuses.iter().find(|(other, _)| other == name).map(|(_, status)| *status);
    assert_eq!(
        ["bd", "bd.7", "p0", "p1"].map(of),
        [Some("watched"), Some("repeats"), Some("repeats"), Some("repeats")]
    );
    for server in ["10.9.7.2", "fd97::2"] {
        assert_counted_once(&a, &b, server, ETH + 4, &agent);
    }
    assert!(agent.handle.flows().iter().any(|flow| flow.from_client().vlan == 7));
    let sum = agent.stop().0.conservation();
    assert!(sum.holds() && sum.duplicate.packets == 0, "{sum}");
}

/// Packets pass the tunnel's device, and inside the tunnel's packets the uplink.
#[test]
#[ignore = "needs tunnel devices: for the virtual machines of scripts/test-kernels"]
fn packets_through_a_tunnels_device_count_once() {
    needs_root!();
    let kinds = [
        ("ipip", "type ipip local 10.8.0.{here} remote 10.8.0.{there}", "10.7.0", 0),
        ("gre", "type gre local 10.8.0.{here} remote 10.8.0.{there}", "10.7.0", 0),
        ("sit", "type sit local 10.8.0.{here} remote 10.8.0.{there}", "fd77", 0),
        ("geneve", "type geneve id 7 remote 10.8.0.{there}", "10.7.0", ETH),
    ];
    for (kind, how, net, link_header) in kinds {
        println!("{kind}");
        let (a, b) = (host("a"), host("b"));
        connect(8, &End { ns: &a, link: "up0", host: 1 }, &End { ns: &b, link: "up0", host: 2 });
        for (ns, here, there) in [(&a, 1, 2), (&b, 2, 1)] {
            plain_tcp(ns);
            let how = how.replace("{here}", &here.to_string()).replace("{there}", &there.to_string());
            let address = if net == "fd77" { format!("fd77::{here}/64") } else { format!("{net}.{here}/24") };
            let nodad = if net == "fd77" { "nodad" } else { "" };
            ns.sh(&format!("ip link add tun0 {how} && ip addr add {address} dev tun0 {nodad} && ip link set tun0 up"));
        }
        let agent = Agent::start(&b, watching(&[]));
        let server = if net == "fd77" { "fd77::2".to_owned() } else { format!("{net}.2") };
        assert_counted_once(&a, &b, &server, link_header, &agent);
        let flows = agent.handle.flows();
        let tunnel = flows.iter().find(|flow| flow.app.is_some_and(|app| app.name() == kind));
        assert!(tunnel.is_some_and(|flow| flow.from_client().packets > 0), "{flows:#?}");
        let sum = agent.stop().0.conservation();
        assert!(sum.holds() && sum.duplicate.packets > 0, "{sum}");
    }
}

#[test]
#[ignore = "needs ipvlan: for the virtual machines of scripts/test-kernels"]
fn pods_on_ipvlan_are_watched_in_their_namespaces() {
    needs_root!();
    let (node, outside) = (host("node"), host("outside"));
    connect(8, &End { ns: &node, link: "up0", host: 1 }, &End { ns: &outside, link: "up0", host: 2 });
    plain_tcp(&outside);
    let pods = [10, 11].map(|number| {
        let pod = host(&format!("p{number}"));
        plain_tcp(&pod);
        node.sh(&format!(
            "ip link add l{number} link up0 type ipvlan mode l2 && ip link set l{number} netns {}",
            pod.name
        ));
        pod.sh(&format!(
            "ip link set l{number} name eth0 && ip addr add 10.8.0.{number}/24 dev eth0 && ip link set eth0 up"
        ));
        pod
    });
    let agent = Agent::start(&node, Config { pod_namespaces: true, ..watching(&[]) });
    crate::live::eventually("both pods are watched", || {
        let watched = |(name, status): &(String, &str)| name.contains("eth0") && *status == "watched";
        (statuses(&agent).iter().filter(|of| watched(of)).count() == 2).then_some(())
    });
    // Packets between pods on one device do not pass the host.
    assert_counted_once(&pods[0], &pods[1], "10.8.0.11", ETH, &agent);
    assert_counted_once(&outside, &pods[1], "10.8.0.11", ETH, &agent);
    assert!(agent.stop().0.conservation().holds());
}

#[test]
#[ignore = "needs IPVS: for the virtual machines of scripts/test-kernels"]
fn a_connection_is_one_flow_through_ipvs() {
    needs_root!();
    let net = Node::new();
    // As kube-proxy sets it up: the service's address is the node's own, conntrack is kept up to date, and a rule that
    // masquerades marked packets makes the kernel track connections at all.
    net.node.sh("iptables -w -t nat -A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE
                 ip link add kube-ipvs0 type dummy && ip addr add 10.96.0.1/32 dev kube-ipvs0
                 ipvsadm -A -t 10.96.0.1:80 -s rr && ipvsadm -a -t 10.96.0.1:80 -r 10.6.0.11:8080 -m
                 echo 1 >/proc/sys/net/ipv4/vs/conntrack");
    let agent = Agent::start(&net.node, watching(&[]));
    let (service, backend): (SocketAddr, SocketAddr) =
        ("10.96.0.1:80".parse().unwrap(), "10.6.0.11:8080".parse().unwrap());
    let listener = net.routed[1].run(|| TcpListener::bind(backend).unwrap());
    let made = transfer_to(&net.routed[0], listener, service, 1, 200_000)[0];
    let flows = agent.settled();
    let flow = flow_of(&flows, 6, made.client, service);
    assert_eq!(tally(flow.from_client()), made.client_on_wire(ETH));
    assert_eq!(tally(flow.from_server()), made.server_on_wire(ETH));
    assert_eq!(flow.nat().unwrap().server.map(|server| server.port), Some(8080));
    assert_eq!(flows.iter().filter(|flow| flow.protocol == 6).count(), 1, "{flows:#?}");
    assert!(agent.stop().0.conservation().holds());
}
