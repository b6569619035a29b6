//! Many sources at once: memory stays what it is, and what was known before is not forgotten.

use super::{ATTACKER, Expected, Scene, VICTIM};
use crate::live::eventually;
use crate::live::metrics::{Page, get};
use crate::live::net::Counters;
use crate::needs_root;
use crate::support::repeat;

const MIB: u64 = 1 << 20;
/// Forged sources before memory is compared: by then the table of flows is full, and all buffers have been used.
const WARM: u64 = 200_000;

fn resident(scene: &Scene) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", scene.agent.program.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

fn metrics(scene: &Scene) -> Page {
    let log = &scene.agent.program.log;
    let address = log.iter().find_map(|line| line.split("metrics on http://").nth(1)).unwrap();
    get(&scene.router, address.trim_end_matches("/metrics").parse().unwrap(), "/metrics")
}

/// Each forged source fails at a port, and has so far done as much as the scanner in one of its first flows.
#[test]
fn a_million_sources_hide_no_scanner() {
    needs_root!();
    let scene = Scene::with("million", &["flow.max_flows=20000", "flow.connect_timeout=5s"]);
    let half = |ports: &str| {
        let mut tool = scene.attack("nmap", &format!("-n -Pn -sS -p {ports} {}", VICTIM.v4));
        assert!(tool.0.wait().unwrap().success());
    };
    half("1-10");
    let arrived = || Counters::read(&scene.router, "vb").rx.packets;
    let until = |many: u64| {
        let goal = arrived() + many;
        let _flood = scene.attack("hping3", &format!("-q -S --flood --rand-source -p ++1000 {}", VICTIM.v4));
        while arrived() < goal {
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    };
    until(WARM);
    let before = resident(&scene);
    until(repeat(300_000, 1_000_000));
    let after = resident(&scene);
    eprintln!("resident: {} MiB, then {} MiB", before / MIB, after / MIB);
    assert!(after < before + 8 * MIB, "from {before} to {after} bytes");
    half("11-15");
    // While the table is full, the two halves of a refusal may have been two flows.
    let events = scene.expect(&[Expected::of("port_scan", ATTACKER.v4, Some(VICTIM.v4), "")]);
    assert_eq!((&events[0]["count"], &events[0]["threshold"]), (&15.into(), &15.into()), "{events:#?}");
    assert_eq!(metrics(&scene).sum("netmon_security_events_total", &["kind=\"port_scan\"", "src=\"external\""]), 1.0);
}

/// Among many decoys each is a scanner as far as anybody can see, but nobody wants to hear of all of them.
#[test]
fn the_rest_is_counted() {
    needs_root!();
    let scene = Scene::new("rest");
    let decoys: Vec<String> = (1..=120).map(|number| format!("198.51.100.{number}")).collect();
    let _tool = scene.attack("nmap", &format!("-n -Pn -sS -p 1-20 -D {} {}", decoys.join(","), VICTIM.v4));
    let sum = |page: &Page, name: &str| page.sum(name, &["kind=\"port_scan\"", "src=\"external\""]);
    let page = eventually("as many events as there are, and the rest counted", || {
        let page = metrics(&scene);
        let all = ["netmon_security_events_total", "netmon_security_suppressed_total"].map(|name| sum(&page, name));
        (all.iter().sum::<f64>() >= 121.0).then_some(page)
    });
    let events = scene.events();
    assert_eq!(sum(&page, "netmon_security_events_total"), events.len() as f64, "{}", page.body);
    assert!((90..=121).contains(&events.len()), "{} events", events.len());
    assert!(events.iter().all(|event| event["kind"] == "port_scan" && event["target_ip"] == VICTIM.v4));
}
