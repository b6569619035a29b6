//! The end of a run: soon, and with every packet in the books.

use std::net::IpAddr;
use std::time::Duration;

use netmon::config::Config;

use super::agent::{Agent, Watch, watching};
use super::binary::Program;
use super::eventually;
use super::net::quiet_pair;
use super::traffic::Flood;
use crate::needs_root;

const V4: &str = "10.9.0.2";

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// While packets still come.
#[test]
fn under_load() {
    needs_root!();
    for clsact in [false, true] {
        let (a, b) = quiet_pair();
        let agent = Agent::start(&b, Config { clsact, ..watching(&["vb"]) });
        let floods = [V4, "fd09::2"].map(|to| Flood::start(&a, address(to)));
        eventually("many packets", || floods.iter().all(|f| f.sent() > 30_000).then_some(()));
        let (report, took) = agent.stop();
        let sum = report.conservation();
        assert!(took < Duration::from_secs(5), "{took:?}");
        assert!(sum.holds() && sum.seen.packets >= 60_000, "{sum}");
        let sent: u64 = floods.into_iter().map(Flood::stop).sum();
        assert!(sum.seen.packets < 2 * sent, "{sum}");
    }
}

/// The load ends, and the agent a moment later: caches and rings are full, and nothing of it is missing.
#[test]
fn with_everything_still_in_the_kernel() {
    needs_root!();
    for clsact in [false, true] {
        let (a, b) = quiet_pair();
        let watch = Watch::start(&b, "vb", Config { clsact, ..watching(&["vb"]) });
        let flood = Flood::start(&a, address(V4));
        eventually("many packets", || (flood.sent() > 60_000).then_some(()));
        flood.stop();
        let watched = watch.stop();
        assert_eq!(watched.books.ingress, watched.counters.rx);
        assert_eq!(watched.books.egress, watched.counters.tx);
        assert!(watched.books.ingress.packets >= 50_000);
    }
}

/// The program itself, by both signals.
#[test]
fn by_signal() {
    needs_root!();
    let (a, b) = quiet_pair();
    let flood = Flood::start(&a, address(V4));
    for (signal, clsact) in [("TERM", false), ("INT", false), ("TERM", true), ("INT", true)] {
        let mut program = Program::start(&b, &["--interface", "v*"], clsact);
        program.wait_for("ready");
        let mode = if clsact { "clsact" } else { "tcx" };
        assert!(program.log.iter().any(|l| l.contains("watching vb") && l.contains(mode)), "{:#?}", program.log);
        let sent = flood.sent();
        eventually("packets while it watches", || (flood.sent() > sent + 10_000).then_some(()));
        program.signal(signal);
        let (status, took, log) = program.end();
        assert_eq!(status.code(), Some(0), "SIG{signal}: {log:#?}");
        assert!(took < Duration::from_secs(5), "SIG{signal}: {took:?}");
        assert!(log.iter().any(|l| l.contains("(exact)")), "{log:#?}");
    }
    flood.stop();
}
