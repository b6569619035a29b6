//! Each detector at its threshold and just below it, on a simulated clock.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::super::contact::{Contact, Probe, Service, What};
use super::super::floods::Opened;
use super::super::kind::Kind;
use super::super::samples::{S, answered, contact, ip, refused, silent};
use super::*;
use crate::bpf::App;
use crate::config::{Security, Thresholds, Whom};
use crate::flow::Party;

/// A host with the address 10.0.0.200, where a pod at 10.0.0.201 has just gone.
struct Host;

impl Around for Host {
    fn is_own(&self, ip: IpAddr) -> bool {
        ip == self::ip(200)
    }

    fn node(&self) -> &str {
        "n1"
    }

    fn has_lost_its_pod(&self, ip: IpAddr, _: u64) -> bool {
        ip == self::ip(201)
    }
}

/// A judge and its clock.
struct Court {
    judge: Judge,
    now_ns: u64,
    found: Vec<Finding>,
}

impl Court {
    fn with(security: Security) -> Court {
        let judge = Judge::new(Arc::new(Security { enabled: true, ..security }), S);
        Court { judge, now_ns: S, found: Vec::new() }
    }

    fn new() -> Court {
        Court::with(Security::default())
    }

    fn hear(&mut self, contact: &Contact) {
        self.judge.contact(contact, &Host, &mut self.found);
    }

    /// Lets this many seconds pass.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now_ns += S;
            self.judge.turn(self.now_ns, &mut self.found);
        }
    }

    /// What was found since the last call.
    fn kinds(&mut self) -> Vec<Kind> {
        self.found.drain(..).map(|finding| finding.kind).collect()
    }
}

/// The last of so many contacts brings the event, and none before.
fn at_threshold(kind: Kind, count: u32, contact: impl Fn(u32) -> Contact) -> Finding {
    let mut court = Court::new();
    for number in 1..count {
        court.hear(&contact(number));
    }
    court.pass(200);
    // A scan of many hosts is a slow scan, too, until it has another name.
    assert!(!court.kinds().contains(&kind), "one below the threshold of {}", kind.name());
    let mut court = Court::new();
    for number in 1..=count {
        court.hear(&contact(number));
    }
    court.pass(70);
    assert_eq!(court.found.len(), 1, "{}: {:?}", kind.name(), court.found);
    let finding = court.found.remove(0);
    assert_eq!((finding.kind, finding.count, finding.threshold), (kind, count, count));
    court.pass(200);
    assert_eq!(court.kinds(), [], "once");
    finding
}

fn udp(contact: Contact) -> Contact {
    Contact { protocol: UDP, ..contact }
}

fn ping(target: u32) -> Contact {
    Contact { protocol: 1, ..silent(ip(9), ip(target), 0, S) }
}

/// A dialogue each 0.7 s.
fn dialogue(number: u32) -> Contact {
    let at_ns = S + u64::from(number) * 7 * S / 10;
    contact(ip(9), ip(1), 22, at_ns, What::Dialogue(Service::Ssh, 3000 + u64::from(number) % 7 * 50))
}

#[test]
fn each_detector_fires_at_its_threshold() {
    let at = |number: u32| S + u64::from(number) * S / 10;
    let scan = at_threshold(Kind::PortScan, 15, |port| refused(ip(9), ip(1), port as u16, at(port)));
    assert_eq!((scan.source, scan.target, scan.port, scan.evidence.len()), (Some(ip(9)), Some(ip(1)), None, 8));
    assert_eq!(scan.deed, "tried 15 ports of 10.0.0.1 that refused or did not answer, within 2s");
    let sweep = at_threshold(Kind::AddressScan, 25, |host| silent(ip(9), ip(host), 6379, at(host)));
    assert_eq!((sweep.target, sweep.port), (None, Some(6379)));
    let stealth = at_threshold(Kind::StealthScan, 5, |port| {
        contact(ip(9), ip(1), port as u16, at(port), What::Stealth(Probe::Xmas))
    });
    assert_eq!(stealth.evidence[0].outcome, "xmas");
    at_threshold(Kind::UdpScan, 20, |port| udp(refused(ip(9), ip(1), port as u16, at(port))));
    at_threshold(Kind::PingSweep, 25, ping);
    let brute = at_threshold(Kind::BruteForce, 30, dialogue);
    assert_eq!((brute.target, brute.port), (Some(ip(1)), Some(22)));
}

#[test]
fn a_slow_scan_shows_after_eight_hosts_in_hours() {
    let scan = |hosts: u32| {
        let mut court = Court::new();
        for host in 1..=hosts {
            // Another port each time, so that it is no scan of addresses.
            let contact = silent(ip(9), ip(host), 1000 + host as u16, court.now_ns);
            court.hear(&contact);
            court.pass(1800);
        }
        court.found
    };
    assert_eq!(scan(7).len(), 0);
    let found = scan(8);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].kind, found[0].count, found[0].threshold), (Kind::SlowScan, 8, 8));
    assert_eq!(found[0].deed, "tried 8 hosts for the first time, of which 8 refused or did not answer, within 3h 30m");
}

#[test]
fn a_flood_names_its_victim() {
    let flood = |a_second: u32| {
        let mut court = Court::new();
        for second in 1..=5 {
            let some = vec![Attempt::of(&silent(ip(50_000), ip(1), 80, second * S), "half_open")];
            let opened = Opened {
                server: (ip(1), 80),
                second,
                opened: a_second,
                answered: a_second,
                completed: 0,
                some,
                party: None,
            };
            court.judge.opened(opened);
        }
        court.pass(20);
        court.found
    };
    assert_eq!(flood(499).len(), 0);
    let found = flood(500);
    assert_eq!(found.len(), 1);
    let found = &found[0];
    assert_eq!((found.kind, found.source, found.target, found.port), (Kind::SynFlood, None, Some(ip(1)), Some(80)));
    assert_eq!(found.deed, "gets 500 connections a second at port 80 that stay half open");
}

#[test]
fn thresholds_and_window_are_configuration() {
    let thresholds = Thresholds { port_scan: 3, ..Thresholds::default() };
    let security = Security { thresholds, window: Duration::from_secs(10), ..Security::default() };
    let mut court = Court::with(security);
    for (port, at) in [(1, 1), (2, 9), (3, 12), (4, 20)] {
        court.hear(&refused(ip(9), ip(1), port, at * S));
    }
    assert_eq!(court.kinds(), [], "never three within ten seconds");
    court.hear(&refused(ip(9), ip(1), 5, 21 * S));
    assert_eq!(court.kinds(), [Kind::PortScan]);
}

#[test]
fn what_is_not_wanted_is_not_looked_for() {
    let with = |port_scans, patterns| {
        let mut court = Court::with(Security { port_scans, patterns, ..Security::default() });
        (1..=15).for_each(|port| court.hear(&refused(ip(9), ip(1), port, S)));
        (1..=30).for_each(|number| court.hear(&dialogue(number)));
        court.kinds()
    };
    assert_eq!(with(true, true), [Kind::PortScan, Kind::BruteForce]);
    assert_eq!(with(true, false), [Kind::PortScan]);
    assert_eq!(with(false, true), [Kind::BruteForce]);
}

#[test]
fn who_is_ignored_does_nothing() {
    let named = |name: &str| {
        let party = Party { namespace: Some("shop".into()), workload: Some(name.into()), ..Party::default() };
        Some(Arc::new(party))
    };
    for (whom, quiet) in [
        ("10.0.0.9", true),
        ("10.0.0.1/32", true),
        ("shop/scanner", true),
        ("test/scanner", false),
        ("10.1.0.0/16", false),
    ] {
        let ignore = vec![Whom::parse(whom).unwrap()];
        let mut court = Court::with(Security { ignore, ..Security::default() });
        for port in 1..=15 {
            let parties = Some(Arc::new([named("scanner"), None]));
            court.hear(&Contact { parties, ..refused(ip(9), ip(1), port, S) });
        }
        assert_eq!(court.kinds().is_empty(), quiet, "{whom}");
    }
}

#[test]
fn ports_that_answer_are_no_scan() {
    let mut court = Court::new();
    (1..=100).for_each(|port| court.hear(&answered(ip(9), ip(1), port, S)));
    (201..=220).for_each(|port| court.hear(&refused(ip(9), ip(1), port, S)));
    assert_eq!(court.kinds(), [], "20 of 120 refuse");
    // What has answered anybody has failed.
    (1..=100).for_each(|port| court.hear(&refused(ip(8), ip(1), port, S)));
    assert_eq!(court.kinds(), []);
}

#[test]
fn the_innocent_do_not_count() {
    let party = |pod: Option<&str>, service: Option<&str>| {
        Some(Arc::new(Party {
            namespace: Some("shop".into()),
            pod: pod.map(Into::into),
            service: service.map(Into::into),
            ..Party::default()
        }))
    };
    let mut court = Court::new();
    for number in 1..=60u16 {
        let host = ip(u32::from(number));
        let pod =
            Contact { parties: Some(Arc::new([None, party(Some("web-1"), None)])), ..refused(ip(200), host, 80, S) };
        court.hear(&pod);
        let endpoint = Some(Arc::new([None, party(None, Some("db"))]));
        court.hear(&Contact { parties: endpoint, ..refused(ip(9), host, 5432, S) });
        court.hear(&refused(ip(9), ip(201), number, S));
        court.hear(&udp(refused(ip(9), ip(1), 33_433 + number, S)));
    }
    court.pass(300);
    assert_eq!(court.kinds(), [], "probes, endpoints of a service, a pod that is gone, traceroute");
    // The API server calls webhooks and kubelets.
    let api = Party { namespace: Some("default".into()), service: Some("kubernetes".into()), ..Party::default() };
    let parties = Some(Arc::new([None, Some(Arc::new(api))]));
    court.hear(&Contact { parties, behind: Some(ip(7)), ..answered(ip(9), ip(70), 443, S) });
    (1..=60).for_each(|host| court.hear(&refused(ip(7), ip(host), 9443, S)));
    court.pass(300);
    assert_eq!(court.kinds(), []);
    // The same from the host to others than its pods.
    (1..=60).for_each(|host| court.hear(&refused(ip(200), ip(host), 9443, S)));
    assert_eq!(court.kinds(), [Kind::AddressScan], "at once at twice the threshold");
}

#[test]
fn a_health_check_comes_back() {
    for (interval, quiet) in [(1, true), (10, true), (60, true), (90, false)] {
        let mut court = Court::new();
        for _ in 0..4 {
            (1..=40).for_each(|host| {
                let contact = refused(ip(9), ip(host), 8080, court.now_ns);
                court.hear(&contact);
            });
            court.pass(interval);
        }
        court.pass(300);
        assert_eq!(court.kinds().is_empty(), quiet, "each {interval} s");
    }
}

#[test]
fn dialogues_that_differ_or_tick_are_no_attack() {
    let mut court = Court::new();
    for number in 1..100u32 {
        let bytes = 500 << (number % 4);
        court.hear(&contact(ip(9), ip(1), 22, u64::from(number) * S, What::Dialogue(Service::Ssh, bytes)));
        let at_ns = u64::from(number) * 2 * S;
        court.hear(&contact(ip(8), ip(1), 3306, at_ns, What::Dialogue(Service::Mysql, 500)));
        let node = contact(ip(200), ip(1), 22, u64::from(number * number) * S / 9, What::Dialogue(Service::Ssh, 500));
        court.hear(&node);
    }
    assert_eq!(court.kinds(), []);
}

#[test]
fn what_leaves_in_the_clear_is_told() {
    let outside: IpAddr = "203.0.114.7".parse().unwrap();
    let mut court = Court::new();
    court.hear(&contact(ip(9), outside, 80, S, What::Spoke(App::Http, None)));
    court.hear(&contact(ip(9), outside, 25, S, What::Spoke(App::Smtp, Some(App::Tls))));
    court.hear(&contact(outside, ip(9), 80, S, What::Spoke(App::Http, None)));
    court.hear(&contact(ip(9), ip(1), 80, S, What::Spoke(App::Http, None)));
    assert_eq!(court.found.len(), 1);
    assert_eq!(court.found[0].deed, "speaks http in the clear to 203.0.114.7 at port 80");
    court.hear(&contact(ip(9), ip(1), 443, S, What::Spoke(App::Ssh, None)));
    assert_eq!(court.found[1].deed, "speaks ssh at port 443 of 10.0.0.1, which is for https");
}

#[test]
fn a_new_edge_is_told_after_learning() {
    let workload = |name: &str| {
        let party = Party { namespace: Some("shop".into()), workload: Some(name.into()), ..Party::default() };
        Some(Arc::new(party))
    };
    let mut court = Court::with(Security { learning: Duration::from_secs(60), ..Security::default() });
    let between = |from, to, at_ns| Contact {
        parties: Some(Arc::new([workload(from), workload(to)])),
        ..answered(ip(9), ip(1), 5432, at_ns)
    };
    court.hear(&between("web", "db", S));
    court.pass(59);
    court.hear(&between("cart", "db", 60 * S));
    assert_eq!(court.kinds(), []);
    court.pass(1);
    court.hear(&between("web", "db", 61 * S));
    court.hear(&between("job", "db", 61 * S));
    assert_eq!(court.found.len(), 1);
    assert_eq!(court.found[0].deed, "talks to shop/db (10.0.0.1) at port 5432/tcp for the first time");
}

/// A million forged sources, one after the other, while a scanner is at work.
#[test]
fn a_flood_of_sources_hides_no_scan() {
    let mut court = Court::new();
    for source in 0..1_000_000u32 {
        court.hear(&refused(ip(1000 + source), ip(1), 80, S));
        if source % 100_000 == 0 {
            // Fourteen ports in all: the last one comes when the flood is over.
            let port = source / 100_000 + 1;
            court.hear(&refused(ip(9), ip(2), port as u16, S));
            court.hear(&refused(ip(9), ip(2), port as u16 + 100, S));
            court.pass(1);
        }
    }
    assert_eq!(court.kinds(), [Kind::PortScan], "at the fifteenth of twenty ports");
    let [(_, sources), ..] = court.judge.turned_away();
    assert_eq!(sources, 0, "those without evidence made way");
}

/// Many forged sources with some failures each, and then a scanner.
#[test]
fn a_crowd_hides_no_scan() {
    for ports in [3, 8, 14] {
        let mut court = Court::new();
        for source in 0..6000 {
            (0..ports).for_each(|port| court.hear(&refused(ip(1000 + source), ip(1), 100 + port, S)));
        }
        court.pass(6);
        (1..=15).for_each(|port| court.hear(&refused(ip(9), ip(2), port, 7 * S)));
        assert_eq!(court.kinds(), [Kind::PortScan], "{ports} ports each");
    }
}
