//! Pods without a link on the host, watched in their own namespaces.

use std::sync::atomic::{AtomicU32, Ordering};

use netmon::bpf::{ChainPlace, remove_leftovers};
use netmon::config::{Config, Given, Key};

use super::agent::{Agent, watching};
use super::binary::{NETMON, Program};
use super::eventually;
use super::foreign::Foreign;
use super::hooks::ours;
use super::net::{End, connect, host, index};
use super::traffic::{ETH, flow_of, plain_tcp, tally, transfer};
use crate::needs_root;
use crate::support::netns::Netns;
use crate::support::sh;

/// Two pods on macvlan devices of a node's uplink. No other test uses their indexes, because each agent that looks into
/// all namespaces finds them.
fn pods(node: &Netns) -> [Netns; 2] {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let first = 10_000 + std::process::id() % 10_000 * 100 + NUMBER.fetch_add(2, Ordering::Relaxed);
    [1, 2].map(|i| {
        let pod = host(&format!("pod{i}"));
        node.sh(&format!(
            "ip link add link up0 name pod{i} index {} type macvlan mode bridge && ip link set pod{i} netns {}",
            first + i,
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
    // One pod goes, and its interface with it.
    let gone = format!("@{}", two.name);
    drop(two);
    eventually("the pod is released", || {
        let there = agent.handle.interfaces().values().any(|interface| interface.name.ends_with(&gone));
        (!there).then_some(())
    });
    let sum = agent.stop().0.conservation();
    assert!(sum.holds() && sum.duplicate.packets > 0, "{sum}");
}

/// Ids of netmon's filters at a pod's interface: agents of other tests may watch it by TCX.
fn filters(pod: &Netns, link: &str) -> Vec<u32> {
    let filters = ours(pod, link).into_iter().filter(|program| matches!(program.place, ChainPlace::Clsact(_)));
    filters.filter_map(|program| program.id).collect()
}

/// An agent that looks into all namespaces also finds the machine's own NIC: the qdisc that its filters need stays
/// there unless this test removes it.
struct Nics(Vec<String>);

fn with_clsact() -> Vec<String> {
    let shown = sh("tc qdisc show");
    let lines = shown.lines().filter(|line| line.starts_with("qdisc clsact"));
    lines.filter_map(|line| Some(line.split(" dev ").nth(1)?.split(' ').next()?.to_owned())).collect()
}

impl Drop for Nics {
    fn drop(&mut self) {
        for nic in with_clsact().iter().filter(|nic| !self.0.contains(nic)) {
            sh(&format!("tc qdisc del dev {nic} clsact"));
        }
    }
}

/// Filters in pods' namespaces are changed, restored and removed there, and nowhere else.
#[test]
fn filters_are_handled_in_their_namespaces() {
    needs_root!();
    let _nics = Nics(with_clsact());
    let (outside, node) = (host("outside"), host("node"));
    connect(8, &End { ns: &node, link: "up0", host: 1 }, &End { ns: &outside, link: "up0", host: 2 });
    let [one, two] = pods(&node);
    let pods = [(&one, "pod1"), (&two, "pod2")];
    let there = |what: &str| {
        eventually(what, || pods.iter().all(|(pod, link)| filters(pod, link).len() == 2).then_some(()));
        pods.map(|(pod, link)| filters(pod, link))
    };
    // A foreign filter on the host, with the same index and in netmon's place.
    node.sh(&format!("ip link add twin index {} type bridge", index(&one, "pod1")));
    let foreign = node.enter_for(|| Foreign::over_netmons(&node, "twin"));

    let agent = Agent::start(&node, Config { pod_namespaces: true, clsact: true, ..watching(&["none*"]) });
    let before = eventually("the pods are watched", || {
        let ids = pods.map(|(pod, link)| filters(pod, link));
        (ids[1].len() == 2).then_some(ids)
    });
    assert!(before[0].is_empty(), "packets are distinguished by index, and the host has that one");
    node.enter_for(|| foreign.detach());
    node.sh("ip link del twin");
    let before = there("both are watched once the index is free");
    node.sh(&format!("ip link add twin index {} type bridge", index(&one, "pod1")));
    let foreign = node.enter_for(|| Foreign::over_netmons(&node, "twin"));

    let key = Key::named("features.protocol_detection.enabled").unwrap();
    agent.handle.set(key, Some(Given::Text("false".to_owned()))).unwrap();
    let after = there("a reload reaches the pods");
    assert!(after.iter().flatten().all(|id| !before.iter().flatten().any(|old| old == id)), "{before:?} {after:?}");
    one.sh("tc filter del dev pod1 ingress pref 2");
    two.sh("tc qdisc del dev pod2 clsact");
    there("removed filters are restored");
    assert!(agent.stop().0.conservation().holds());
    assert!(pods.iter().all(|(pod, link)| filters(pod, link).is_empty()), "nothing stays in the pods");
    let twin = node.sh("tc filter show dev twin ingress");
    assert!(twin.contains("foreign_ingress"), "filters of others stay: {twin}");
    node.enter_for(|| foreign.detach());
    node.sh("ip link del twin");

    let arguments = ["--interface", "none*", "--set", "capture.pod_namespaces=true"];
    let program = Program::start(&node, &arguments, true);
    there("a program watches them");
    program.kill();
    there("the filters that a killed agent leaves");
    assert_eq!(outside.run(remove_leftovers).unwrap(), 0, "the filters of an agent in another namespace");
    there("they are still there");
    // There may be pods of other tests.
    let removed = node.run(remove_leftovers).unwrap();
    assert!(removed >= 4, "{removed}");
    assert!(pods.iter().all(|(pod, link)| filters(pod, link).is_empty()));
}

#[test]
fn without_the_option_they_are_not_examined() {
    needs_root!();
    let (outside, node) = (host("outside"), host("node"));
    connect(8, &End { ns: &node, link: "up0", host: 1 }, &End { ns: &outside, link: "up0", host: 2 });
    let [one, two] = pods(&node);
    let agent = Agent::start(&node, watching(&["none*"]));
    transfer(&one, &two, "10.8.0.12".parse().unwrap(), 1, 1000);
    assert!(!agent.settled().iter().any(|flow| flow.protocol == 6));
}

/// `ip netns` creates a plain file first, and leaves it when it is killed.
#[test]
fn a_name_without_a_namespace_is_left_alone() {
    needs_root!();
    let node = host("node");
    let script =
        "mount --make-rprivate / && mount -t tmpfs none /run/netns && : >/run/netns/plain && exec \"$0\" \"$@\"";
    let mut command = node.command("unshare");
    command.args(["--mount", "sh", "-ec", script, NETMON, "--metrics-addr", "127.0.0.1:0", "--interface", "none*"]);
    command.args(["--set", "capture.pod_namespaces=true"]);
    let mut program = Program::spawn(command);
    program.wait_for("ready");
    program.signal("HUP");
    program.wait_for("configuration read again");
    program.signal("TERM");
    let (status, _, log) = program.end();
    assert!(status.success(), "{log:#?}");
}
