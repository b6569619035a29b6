//! Pods without a link on the host, watched where they are.

use netmon::config::Config;

use super::agent::{Agent, watching};
use super::eventually;
use super::net::{End, connect, host};
use super::traffic::{ETH, flow_of, plain_tcp, tally, transfer};
use crate::needs_root;
use crate::support::netns::Netns;

/// Two pods on macvlan devices of a node's uplink.
fn pods(node: &Netns) -> [Netns; 2] {
    [1, 2].map(|i| {
        let pod = host(&format!("pod{i}"));
        node.sh(&format!(
            "ip link add link up0 name pod{i} type macvlan mode bridge && ip link set pod{i} netns {}",
            pod.name
        ));
        pod.sh(&format!(
            "ip addr add 10.8.0.1{i}/24 dev pod{i} && ip addr add fd08::1{i}/64 dev pod{i} nodad && ip link set pod{i} up"
        ));
        plain_tcp(&pod);
        pod
    })
}

#[test]
fn on_macvlan_are_watched_in_their_namespaces() {
    needs_root!();
    let (outside, node) = (host("outside"), host("node"));
    connect(8, &End { ns: &node, link: "up0", host: 1 }, &End { ns: &outside, link: "up0", host: 2 });
    // Indexes as a host has them that made pods for a while.
    for i in 0..100 {
        node.sh(&format!("ip link add old{i} type bridge && ip link del old{i}"));
    }
    let [one, two] = pods(&node);
    plain_tcp(&outside);
    let agent = Agent::start(&node, Config { pod_namespaces: true, ..watching(&["none*"]) });
    for pod in [&one, &two] {
        eventually("the pod is watched", || {
            let is = |name: &str| name.ends_with(&format!("@{}", pod.name));
            agent.handle.interfaces().values().any(|interface| is(&interface.name)).then_some(())
        });
    }
    for (client, server, address) in
        [(&one, &two, "10.8.0.12"), (&one, &two, "fd08::12"), (&two, &outside, "10.8.0.2"), (&two, &outside, "fd08::2")]
    {
        let connection = transfer(client, server, address.parse().unwrap(), 1, 500_000)[0];
        let flows = agent.settled();
        let flow = flow_of(&flows, 6, connection.client, connection.server);
        assert_eq!(tally(flow.from_client()), connection.client_on_wire(ETH), "{address}");
        assert_eq!(tally(flow.from_server()), connection.server_on_wire(ETH), "{address}");
    }
    // One goes: its interface with it.
    let gone = format!("@{}", two.name);
    drop(two);
    eventually("the pod is let go", || {
        let there = agent.handle.interfaces().values().any(|interface| interface.name.ends_with(&gone));
        (!there).then_some(())
    });
    let sum = agent.stop().0.conservation();
    assert!(sum.holds() && sum.duplicate.packets > 0, "{sum}");
}

#[test]
fn without_the_option_nobody_looks_into_them() {
    needs_root!();
    let (outside, node) = (host("outside"), host("node"));
    connect(8, &End { ns: &node, link: "up0", host: 1 }, &End { ns: &outside, link: "up0", host: 2 });
    let [one, two] = pods(&node);
    let agent = Agent::start(&node, watching(&["none*"]));
    transfer(&one, &two, "10.8.0.12".parse().unwrap(), 1, 1000);
    assert!(!agent.settled().iter().any(|flow| flow.key.protocol == 6));
}
