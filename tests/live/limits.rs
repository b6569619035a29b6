//! The agent stays within its limits.

use std::time::Duration;

use super::binary::Program;
use super::eventually;
use super::metrics::get;
use super::net::quiet_pair;
use super::traffic::Flood;
use crate::needs_root;
use crate::support::netns::Netns;

fn start(ns: &Netns, limit: &str) -> (Program, std::net::SocketAddr) {
    let mut program = Program::start(ns, &["--interface", "vb", "--set", limit], false);
    program.wait_for("ready");
    let address = program.log.iter().find_map(|line| line.split("metrics on http://").nth(1)).unwrap();
    let address = address.trim_end_matches("/metrics").parse().unwrap();
    (program, address)
}

fn resident_kib(program: &Program) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn flows_make_room_before_memory_runs_out() {
    needs_root!();
    const LIMIT_MIB: u64 = 48;
    let (a, b) = quiet_pair();
    let (mut program, address) = start(&b, &format!("resources.memory_limit={LIMIT_MIB}Mi"));
    let start = resident_kib(&program);
    // Each sender has flows of its own.
    let floods: Vec<Flood> = (0..3).map(|_| Flood::start(&a, "10.9.0.2".parse().unwrap())).collect();
    let mut most = 0;
    eventually("more flows than there is room for", || {
        most = most.max(resident_kib(&program));
        (get(&b, address, "/metrics").sum("netmon_flows_evicted_total", &[]) > 50_000.0).then_some(())
    });
    assert!(most < LIMIT_MIB * 1024, "{most} kB were resident, {start} kB at the start");
    program.wait_for("embryonic and idle flows make room");
    drop(floods);
    let active = get(&b, address, "/metrics").sum("netmon_flows_active", &[]);
    assert!(active > 20_000.0, "what fits stays: {active} flows");
    program.signal("TERM");
    let (status, _, log) = program.end();
    assert!(status.success() && log.last().unwrap().contains("(exact)"), "{log:#?}");
}

#[test]
fn the_agent_does_less_above_the_cpu_limit() {
    needs_root!();
    let (a, b) = quiet_pair();
    let (mut program, address) = start(&b, "resources.cpu_limit=5m");
    let flood = Flood::start(&a, "10.9.0.2".parse().unwrap());
    program.wait_for("sweeps and scrapes slow down");
    // Two scrapes at once come from one collection.
    let scrape = || get(&b, address, "/metrics").body;
    let (one, other) = (scrape(), scrape());
    assert_eq!(one, other);
    program.wait_for("0.5 of the flows are tracked");
    let sampled = eventually("a page that says so", || {
        let page = get(&b, address, "/metrics");
        let left_out = page.sum("netmon_packets_ignored_total", &["reason=\"sampling\""]);
        (page.sum("netmon_sampling_rate", &[]) <= 0.5 && left_out > 0.0).then_some(page)
    });
    assert!(sampled.sum("netmon_limit_actions_total", &["resource=\"cpu\""]) >= 3.0);
    assert!(sampled.sum("netmon_cpu_limit_level", &[]) >= 3.0);
    flood.stop();
    let calm = std::time::Instant::now();
    program.wait_for("one step back");
    assert!(calm.elapsed() > Duration::from_secs(5), "not at the first quiet second");
    program.signal("TERM");
    let (status, _, log) = program.end();
    assert!(status.success() && log.last().unwrap().contains("(exact)"), "{log:#?}");
}
