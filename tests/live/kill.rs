//! kill -9 at any moment, repeatedly and under load: the next start works, and nothing is left behind.

use std::net::IpAddr;

use netmon::bpf;

use super::binary::Program;
use super::eventually;
use super::net::quiet_pair;
use super::traffic::Flood;
use crate::support::netns::Netns;
use crate::support::repeat;
use crate::{needs_root, needs_tcx};

/// Log lines of a start, in their order, at which the agent is killed.
const MOMENTS: [&str; 5] = ["netmon", "loaded", "metrics on", "watching", "ready"];

fn filters(ns: &Netns) -> usize {
    let shown = ns.sh("tc filter show dev vb ingress; tc filter show dev vb egress");
    shown.matches("handle 0x6e6d").count()
}

/// TCX programs on the interface; netmon's links are only visible in the file descriptors of their owner.
fn processes(ns: &Netns) -> String {
    crate::support::sh(&format!("ip netns pids {}", ns.name))
}

fn killed_again_and_again(clsact: bool) {
    let (a, b) = quiet_pair();
    let to: IpAddr = "10.9.0.2".parse().unwrap();
    let flood = Flood::start(&a, to);
    let times = repeat(10, 50);
    let mut ready = 0;
    for i in 0..times {
        let before = filters(&b);
        let mut program = Program::start(&b, &["--interface", "vb"], clsact);
        let moment = MOMENTS[i % MOMENTS.len()];
        program.wait_for(moment);
        if moment == "ready" {
            ready += 1;
            let removed = program.log.iter().any(|l| l.contains(&format!("removed {before} filters")));
            assert_eq!(removed, before > 0, "{before} filters were there: {:#?}", program.log);
            if clsact {
                assert_eq!(filters(&b), 2, "its own, and no earlier ones");
            }
        }
        program.kill();
        if moment == "ready" {
            assert_eq!(filters(&b), if clsact { 2 } else { 0 });
        }
    }
    assert_eq!(ready, times / MOMENTS.len());
    assert!(flood.sent() > 0);

    // An agent that ends normally finds what the last one left, and removes everything.
    let mut program = Program::start(&b, &["--interface", "vb"], clsact);
    program.wait_for("ready");
    let sent = flood.sent();
    eventually("packets while it watches", || (flood.sent() > sent + 1000).then_some(()));
    program.signal("TERM");
    let (status, took, log) = program.end();
    assert_eq!(status.code(), Some(0), "{log:#?}");
    assert!(took.as_secs() < 5, "{took:?}");
    if clsact {
        assert!(log.iter().any(|l| l.contains("removed 2 filters")), "{log:#?}");
    }
    assert!(log.iter().any(|l| l.contains("(exact)")), "{log:#?}");
    flood.stop();
    assert_eq!(filters(&b), 0);
    assert_eq!(b.run(bpf::remove_leftovers).unwrap(), 0);
    assert_eq!(processes(&b), "");
}

#[test]
fn with_tcx() {
    needs_tcx!();
    killed_again_and_again(false);
}

#[test]
fn with_clsact() {
    needs_root!();
    killed_again_and_again(true);
}
