//! Foreign programs that decide about packets, before and after netmon: they behave the same with netmon, without it
//! and after it was killed; and packets that they hide from netmon are reported.

use std::net::UdpSocket;

use netmon::bpf::Mode;
use netmon::config::Config;

use super::agent::{Agent, watching};
use super::binary::Program;
use super::eventually;
use super::foreign::{ChainPlace, Deed, Foreign};
use super::metrics::Page;
use super::net::{End, connect, host, index, quiet_pair};
use super::traffic::flow_of;
use crate::support::kernel::attach_mode;
use crate::support::netns::Netns;
use crate::{needs_root, needs_tcx};

const PACKETS: u64 = 20;

/// Sends datagrams from `a`; returns how many the foreign program counted, and how many arrived in `b`.
fn send(a: &Netns, b: &Netns, foreign: &Foreign, deed: Deed) -> [u64; 2] {
    let [before, _] = foreign.seen();
    let server = b.run(|| UdpSocket::bind("10.9.0.2:7007").unwrap());
    server.set_nonblocking(true).unwrap();
    a.run(|| {
        let client = UdpSocket::bind("10.9.0.1:0").unwrap();
        (0..PACKETS).for_each(|_| assert_eq!(client.send_to(b"hello", "10.9.0.2:7007").unwrap(), 5));
    });
    let counted = eventually("the foreign program's count", || {
        let now = foreign.seen()[0] - before;
        (now >= PACKETS).then_some(now)
    });
    let mut arrived = 0;
    eventually("what arrives", || {
        while server.recv(&mut [0; 8]).is_ok() {
            arrived += 1;
        }
        (arrived >= if deed == Deed::Drop { 0 } else { PACKETS }).then_some(())
    });
    [counted, arrived]
}

fn hidden_by(deed: Deed, first: bool) -> bool {
    first && deed != Deed::Pass
}

fn behave_the_same(place: ChainPlace, clsact: bool, first: bool) {
    let (a, b) = quiet_pair();
    b.enter_for(|| {
        for deed in [Deed::Pass, Deed::End, Deed::Drop] {
            let what = format!("{deed:?} at {place:?}, netmon by clsact: {clsact}");
            let arrives = if deed == Deed::Drop { 0 } else { PACKETS };
            let foreign = Foreign::attach(&b, "vb", place, deed);
            assert_eq!(send(&a, &b, &foreign, deed), [PACKETS, arrives], "{what}: without netmon");
            foreign.detach();

            let agent = Agent::start(&b, Config { clsact, ..watching(&["vb"]) });
            let foreign = Foreign::attach(&b, "vb", place, deed);
            assert_eq!(send(&a, &b, &foreign, deed), [PACKETS, arrives], "{what}: with netmon");
            let expected = if hidden_by(deed, first) { 0 } else { PACKETS };
            let ifindex = index(&b, "vb");
            eventually(&format!("{what}: netmon's own count"), || {
                let seen = agent.handle.report().books.get(&ifindex).map_or(0, |books| books.ingress.packets);
                assert!(seen <= expected, "{what}: {seen} of {expected} seen");
                (seen == expected).then_some(())
            });
            let page = Page::get(&b, &agent, "/metrics");
            let coverage = page.sum("netmon_interface_coverage_ratio", &["interface=\"vb\"", "hook=\"ingress\""]);
            assert_eq!(coverage, if hidden_by(deed, first) { 0.0 } else { 1.0 }, "{what}: {}", page.body);
            agent.stop();
            assert_eq!(send(&a, &b, &foreign, deed), [PACKETS, arrives], "{what}: after netmon's stop");
            foreign.detach();

            let mut program = Program::start(&b, &["--interface", "vb"], clsact);
            program.wait_for("ready");
            let foreign = Foreign::attach(&b, "vb", place, deed);
            program.kill();
            assert_eq!(send(&a, &b, &foreign, deed), [PACKETS, arrives], "{what}: after kill -9");
            foreign.detach();
        }
    });
}

#[test]
fn of_tcx_before_netmon() {
    needs_tcx!();
    behave_the_same(ChainPlace::TcxFirst, false, true);
}

#[test]
fn of_tcx_after_netmon() {
    needs_tcx!();
    behave_the_same(ChainPlace::TcxLast, false, false);
}

#[test]
fn of_clsact_after_netmon_by_tcx() {
    needs_tcx!();
    behave_the_same(ChainPlace::Clsact(1), false, false);
}

#[test]
fn of_clsact_before_netmon() {
    needs_root!();
    behave_the_same(ChainPlace::Clsact(1), true, true);
}

#[test]
fn of_clsact_after_netmon() {
    needs_root!();
    behave_the_same(ChainPlace::Clsact(7), true, false);
}

#[test]
fn of_tcx_before_netmon_by_clsact() {
    needs_tcx!();
    behave_the_same(ChainPlace::TcxLast, true, true);
}

/// A foreign program that attached earlier would be first, but netmon attaches before it.
#[test]
fn netmon_takes_the_head_of_the_chain() {
    needs_tcx!();
    let (a, b) = quiet_pair();
    b.enter_for(|| {
        let foreign = Foreign::attach(&b, "vb", ChainPlace::TcxFirst, Deed::Drop);
        let agent = Agent::start(&b, watching(&["vb"]));
        assert_eq!(send(&a, &b, &foreign, Deed::Drop), [PACKETS, 0]);
        let ifindex = index(&b, "vb");
        eventually("all are seen", || (agent.handle.report().books[&ifindex].ingress.packets == PACKETS).then_some(()));
        let page = Page::get(&b, &agent, "/metrics");
        assert_eq!(page.sum("netmon_interface_programs_before", &["interface=\"vb\""]), 0.0);
    });
}

#[test]
fn programs_before_netmon_are_reported() {
    needs_root!();
    let (_a, b) = quiet_pair();
    b.enter_for(|| {
        for (clsact, place) in
            [(true, ChainPlace::Clsact(1)), (false, ChainPlace::TcxFirst), (true, ChainPlace::TcxLast)]
        {
            if attach_mode() == Mode::Clsact && place != ChainPlace::Clsact(1) {
                continue;
            }
            let mut program = Program::start(&b, &["--interface", "vb"], clsact);
            program.wait_for("ready");
            let _foreign = Foreign::attach(&b, "vb", place, Deed::Pass);
            let line = program.wait_for("before netmon sees them");
            let name = if place == ChainPlace::Clsact(1) { "bpf filter of priority 1" } else { "foreign_ingress" };
            assert!(line.contains("ingress of vb") && line.contains(name), "{line}");
            program.kill();
        }
    });
}

/// As Cilium does: packets to a pod go from the uplink straight into it, and packets from the pod straight to the
/// uplink.
#[test]
fn redirected_packets_are_seen_once() {
    needs_root!();
    let (outside, node, pod) = (host("outside"), host("node"), host("pod"));
    connect(8, &End { ns: &node, link: "up0", host: 1 }, &End { ns: &outside, link: "up0", host: 2 });
    connect(5, &End { ns: &node, link: "lxc1", host: 1 }, &End { ns: &pod, link: "eth0", host: 2 });
    // Redirected frames keep their hardware addresses, so both ends use each other's.
    let mac = |ns: &Netns, link: &str| ns.sh(&format!("cat /sys/class/net/{link}/address")).trim().to_owned();
    pod.sh(&format!(
        "ip route add default via 10.5.0.1 && ip neigh replace 10.5.0.1 lladdr {} dev eth0 nud permanent",
        mac(&outside, "up0")
    ));
    outside.sh("ip route add 10.5.0.0/24 via 10.8.0.1");
    node.enter_for(|| {
        for place in [ChainPlace::TcxLast, ChainPlace::Clsact(7)] {
            if attach_mode() == Mode::Clsact && place == ChainPlace::TcxLast {
                continue;
            }
            for watched in [&["lxc1"][..], &["up0", "lxc1"]] {
                let agent = Agent::start(&node, watching(watched));
                let to_pod = Deed::Redirect { to: index(&node, "lxc1"), peer: true };
                let to_uplink = Deed::Redirect { to: index(&node, "up0"), peer: false };
                let inward = Foreign::attach(&node, "up0", place, to_pod);
                let outward = Foreign::attach(&node, "lxc1", place, to_uplink);
                let server = outside.run(|| UdpSocket::bind("10.8.0.2:53").unwrap());
                let client = pod.run(|| UdpSocket::bind("10.5.0.2:0").unwrap());
                for socket in [&server, &client] {
                    socket.set_read_timeout(Some(super::PATIENCE)).unwrap();
                }
                for _ in 0..PACKETS {
                    client.send_to(b"ping", server.local_addr().unwrap()).unwrap();
                    let (_, from) = server.recv_from(&mut [0; 8]).unwrap();
                    server.send_to(b"pong", from).unwrap();
                    client.recv_from(&mut [0; 8]).unwrap();
                }
                assert_eq!([inward.seen()[0], outward.seen()[0]], [PACKETS; 2], "both redirect all");
                let flows = agent.settled();
                let flow = flow_of(&flows, 17, client.local_addr().unwrap(), server.local_addr().unwrap());
                // Packets that go straight into the pod pass only the uplink's hook, not that of the pod's link.
                let answers = if watched.contains(&"up0") { PACKETS } else { 0 };
                assert_eq!((flow.from_client().packets, flow.from_server().packets), (PACKETS, answers), "{watched:?}");
                assert!(agent.stop().0.conservation().holds());
                inward.detach();
                outward.detach();
            }
        }
    });
}
