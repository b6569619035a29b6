//! The whole chain, as in a cluster of two nodes: pods that really talk and really fail, an agent on each node, a
//! Prometheus with the rules and queries of deploy/. `make test-e2e` runs it and prints what it has checked.

mod alerts;
mod background;
mod board;
mod cluster;
mod failures;
mod truth;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::live::apps::Servers;
use crate::live::binary::Program;
use crate::live::prometheus::Prometheus;
use crate::needs_root;
use cluster::{Cluster, WEB};
use truth::Truth;

/// `flow.connect_timeout` of the agents: the time after which a connection without an answer has failed. It is more
/// than the second after which a lost SYN is sent again.
const CONNECT: Duration = Duration::from_secs(2);
/// Time between two scrapes: an agent serves the same page for a second.
const SCRAPE: Duration = Duration::from_secs(1);

/// Says what has been checked, as it happens, and how the test ended.
struct Report {
    name: &'static str,
    start: Instant,
    checks: usize,
}

impl Report {
    fn new(name: &'static str) -> Report {
        println!("e2e: {name}");
        Report { name, start: Instant::now(), checks: 0 }
    }

    /// Notes that `what` holds.
    fn ok(&mut self, what: impl AsRef<str>) {
        self.checks += 1;
        println!("e2e: {:5.1} s  ok  {}", self.start.elapsed().as_secs_f32(), what.as_ref());
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let Report { name, checks, .. } = self;
        match std::thread::panicking() {
            true => println!("e2e: FAILED after {checks} checks: {name}: the message above is the reason"),
            false => println!("e2e: {checks} checks passed: {name}"),
        }
    }
}

/// Starts the agents of both nodes, and a Prometheus that scrapes them and evaluates these rules.
fn start<'a>(cluster: &'a Cluster, rules: &str) -> ([Program; 2], Prometheus<'a>) {
    std::thread::scope(|scope| {
        let agents = [&cluster.a, &cluster.b].map(|node| scope.spawn(move || cluster.agent(node)));
        let targets = [cluster.a.metrics(), cluster.b.metrics()];
        let prometheus = Prometheus::scraping(&cluster.prometheus, &targets, "scheme: http", SCRAPE, rules);
        (agents.map(|starting| starting.join().unwrap()), prometheus)
    })
}

/// The rules as they are in deploy/.
fn rules() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus/netmon.rules.yaml")).unwrap()
}

#[test]
fn two_nodes_count_each_flow_once_and_the_dashboard_shows_it() {
    needs_root!();
    let mut report = Report::new("two nodes count each flow once, and the dashboard shows it");
    let cluster = Cluster::new();
    let _servers = Servers::start(&cluster.web, WEB, &["http", "dns", "redis"]);
    let (agents, prometheus) = start(&cluster, &rules());
    report.ok(
        "two agents are ready, have read the names of the cluster, and are scraped by Prometheus, which is in a pod",
    );
    let mut truth = Truth::default();
    // A rate covers only what comes after a first sample.
    truth.traffic(&cluster);
    truth.begun(&prometheus);
    report.ok("the first traffic is counted; the second is the same again");
    truth.traffic(&cluster);
    for found in truth.compare(&prometheus) {
        report.ok(found);
    }
    failures::scan(&cluster);
    let scan = "{kind=\"port_scan\",src=\"shop/cache\"}";
    prometheus.reaches(&format!("sum(netmon_security_events_total{scan})"), 2);
    prometheus.reaches(&format!("sum(netmon_security_suppressed_total{scan})"), 2);
    report.ok("both agents tell of a scan of 30 ports, once");
    board::answers(&mut report, &prometheus);
    board::zones(&mut report, &prometheus);
    board::graph(&mut report, &prometheus);
    truth.compare(&prometheus);
    report.ok("none of the traffic has been counted again meanwhile");
    for agent in agents {
        agent.signal("TERM");
        let (status, _, log) = agent.end();
        assert!(status.success(), "{log:#?}");
    }
    report.ok("both agents end as they should");
}

#[test]
#[ignore = "takes minutes; make test-e2e runs it"]
fn alerts_fire_on_real_failures() {
    needs_root!();
    let mut report = Report::new("alerts fire on real failures");
    let cluster = Cluster::new();
    alerts::fire(&mut report, &cluster);
}
