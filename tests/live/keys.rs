//! The effects of configuration keys that other tests do not cover.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use netmon::bpf::TimestampSource;
use netmon::config::{Config, Given, Key, Precision};

use super::agent::{Agent, watching};
use super::binary::Program;
use super::control::Operated;
use super::eventually;
use super::metrics::Page;
use super::net::quiet_pair;
use super::traffic::{listen, transfer, udp_to};
use crate::needs_root;
use crate::support::netns::Netns;

fn set(agent: &Agent, path: &str, value: &str) -> anyhow::Result<()> {
    agent.handle.set(Key::named(path).unwrap(), Some(Given::Text(value.to_owned())))
}

#[test]
fn sizes_are_as_configured() {
    needs_root!();
    let (_a, b) = quiet_pair();
    let arguments = [
        "performance.workers=3",
        "performance.buffer_size=5000",
        "resources.maps.event_buffer_size=6000",
        "resources.maps.flow_map_size=10000",
        "log.format=json",
        "node_name=here",
    ];
    let arguments: Vec<&str> =
        ["--interface", "vb"].into_iter().chain(arguments.into_iter().flat_map(|a| ["--set", a])).collect();
    let mut program = Program::start(&b, &arguments, false);
    let loaded = program.wait_for("loaded").to_owned();
    let cpus = netmon::bpf::possible_cpus().unwrap();
    let slots = 10_000 / cpus * 4 / 5;
    assert!(loaded.contains(&format!("3 workers, rings of 2000 records, caches of {slots} flows")), "{loaded}");
    let line: serde_json::Value = serde_json::from_str(&loaded).unwrap();
    assert_eq!((&line["level"], &line["thread"]), (&"info".into(), &"main".into()));
    assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
    program.wait_for("ready");
    let threads = std::fs::read_dir(format!("/proc/{}/task", program.pid())).unwrap();
    let names = threads.map(|t| std::fs::read_to_string(t.unwrap().path().join("comm")).unwrap());
    let workers: BTreeSet<String> = names.filter(|name| name.starts_with("nm-worker")).collect();
    assert_eq!(workers.len(), 3, "{workers:?}");
    program.signal("TERM");
    assert!(program.end().0.success());
}

#[test]
fn without_prometheus_nothing_listens() {
    needs_root!();
    let (_a, b) = quiet_pair();
    let agent = Agent::start(&b, Config { metrics_enabled: false, ..watching(&["vb"]) });
    assert_eq!(agent.handle.metrics_addr(), None);
    assert_eq!(b.sh("ss -Hltn").lines().count(), 0);
}

#[test]
fn old_flows_are_closed_while_they_continue() {
    needs_root!();
    let (a, b) = quiet_pair();
    let agent = Agent::start(&b, Config { max_age: Some(Duration::from_secs(2)), ..watching(&["vb"]) });
    let server = b.run(|| UdpSocket::bind("10.9.0.2:53").unwrap());
    let client = a.run(|| udp_to(server.local_addr().unwrap()));
    let mut sent = 0;
    eventually("three flows one after the other", || {
        sent += client.send(b"again").map_or(0, |_| 1);
        let page = Page::get(&b, &agent, "/metrics");
        (page.sum("netmon_flows_total", &["protocol=\"udp\"", "status=\"ok\""]) >= 3.0).then_some(())
    });
    let page = Page::settled(&b, &agent);
    assert_eq!(page.sum("netmon_packets_total", &["protocol=\"udp\""]), f64::from(sent), "in one of them each");
    assert_eq!(page.sum("netmon_flows_active", &["protocol=\"udp\""]) as u32, 1, "the latest");
}

#[test]
fn other_interfaces_while_running() {
    needs_root!();
    let (a, b) = quiet_pair();
    let agent = Agent::start(&b, watching(&["vb"]));
    let watched = |agent: &Agent| {
        let all = agent.handle.interfaces();
        all.values().filter(|i| i.status.name() == "watched").map(|i| i.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(watched(&agent), ["vb"]);
    set(&agent, "capture.interfaces", "!vb").unwrap();
    eventually("vb is let go", || watched(&agent).is_empty().then_some(()));
    set(&agent, "capture.interfaces", "v*").unwrap();
    eventually("vb is back", || (watched(&agent) == ["vb"]).then_some(()));
    transfer(&a, &b, "10.9.0.2".parse().unwrap(), 1, 1000);
    assert_eq!(agent.settled().iter().filter(|flow| flow.protocol == 6).count(), 1);
}

#[test]
fn features_while_running() {
    needs_root!();
    let (a, b) = quiet_pair();
    let agent = Agent::start(&b, watching(&["vb"]));
    let times = || Page::settled(&b, &agent).sum("netmon_latency_seconds_count", &[]);
    let ask = || {
        transfer(&a, &b, "10.9.0.2".parse().unwrap(), 1, 1000);
        agent.settled();
    };
    ask();
    assert_eq!(times(), 1.0);
    set(&agent, "features.latency_tracking.enabled", "false").unwrap();
    // The programs change a moment later; after that, no times are measured.
    eventually("a connection without times", || {
        let before = times();
        ask();
        (times() == before).then_some(())
    });
    set(&agent, "features.latency_tracking.enabled", "true").unwrap();
    eventually("a connection with times", || {
        let before = times();
        ask();
        (times() > before).then_some(())
    });
    set(&agent, "features.latency_tracking.histogram_buckets", "2, 20, 200").unwrap();
    assert_eq!(times(), 0.0, "started from zero");
    ask();
    let page = Page::settled(&b, &agent);
    assert_eq!(page.sum("netmon_latency_seconds_bucket", &["le=\"0.02\""]), 1.0);
    assert_eq!(page.sum("netmon_latency_seconds_bucket", &["le=\"0.005\""]), 0.0);
    page.assert_well_formed();
    assert!(agent.stop().0.conservation().holds());
}

#[test]
fn keys_that_need_a_restart_are_refused() {
    needs_root!();
    let (_a, b) = quiet_pair();
    let agent = Agent::start(&b, watching(&["vb"]));
    let error = set(&agent, "performance.workers", "3").unwrap_err().to_string();
    assert!(error.contains("takes a restart") && error.contains("NETMON_PERFORMANCE_WORKERS"), "{error}");
    let error = set(&agent, "flow.max_age", "soon").unwrap_err().to_string();
    assert!(error.contains("flow.max_age: \"soon\"") && error.contains("5m"), "{error}");
    assert_eq!(agent.handle.running().max_age, None);
}

/// Starts the program with these settings and waits for a line of its log.
fn started(ns: &Netns, settings: &[&str], line: &str) -> Program {
    let mut command = ns.command(super::binary::NETMON);
    command.args(["--interface", "vb", "--socket", "none"]).args(settings.iter().flat_map(|s| ["--set", s]));
    let mut program = Program::spawn(command);
    program.wait_for(line);
    program.wait_for("ready");
    program
}

#[test]
fn metrics_are_at_the_configured_address() {
    needs_root!();
    let (_a, b) = quiet_pair();
    let program = started(&b, &["export.prometheus.port=19099"], "metrics on http://");
    assert!(program.log.iter().any(|line| line.contains(":19099/metrics")), "{:#?}", program.log);
    assert_eq!(b.sh("ss -Hltn sport = :19099").lines().count(), 1);
    program.signal("TERM");
    assert!(program.end().0.success());
}

/// At the start and as long as the agent runs, including changes by a reload.
#[test]
fn settings_without_effect_are_reported() {
    needs_root!();
    let (_a, b) = quiet_pair();
    let file = std::env::temp_dir().join(format!("netmon-idle-{}.yaml", std::process::id()));
    std::fs::write(&file, "security: {ignore: [10.0.0.0/8]}\n").unwrap();
    let agent = Operated::start(&b, "idle", &["--config", file.to_str().unwrap()]);
    let idle_key = "without effect: security.ignore=[10.0.0.0/8]: features.security_monitoring.enabled is false";
    assert!(agent.says(&["status"]).contains(idle_key), "{}", agent.says(&["status"]));
    // The doctor may find other problems, too.
    let doctor = String::from_utf8(agent.cli(&["-o", "json", "doctor"]).stdout).unwrap();
    assert!(doctor.contains(idle_key), "{doctor}");
    std::fs::write(&file, "kubernetes: {enabled: off, scope: node}\n").unwrap();
    eventually("the other one is reported", || {
        let idle = agent.json(&["status"])["without_effect"].clone();
        (idle == serde_json::json!(["kubernetes.scope=node: kubernetes.enabled is off"])).then_some(())
    });
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn series_stay_within_their_limit() {
    needs_root!();
    let (a, b) = quiet_pair();
    b.sh("ip addr add 10.9.1.0/24 dev lo");
    a.sh("ip route add 10.9.1.0/24 via 10.9.0.2");
    let agent = Agent::start(&b, Config { series_limit: 100, ..watching(&["vb"]) });
    let client = a.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    for host in 1..=200 {
        let _ = client.send_to(b"hello", format!("10.9.1.{host}:9"));
    }
    let page = Page::settled(&b, &agent);
    assert_eq!(page.sum("netmon_series_limit", &[]), 100.0);
    assert!(page.sum("netmon_series", &[]) <= 100.0, "{}", page.sum("netmon_series", &[]));
    assert!(page.sum("netmon_series_overflow_total", &[]) > 0.0);
    let packets = page.sum("netmon_packets_total", &[]);
    assert!(packets >= 200.0, "what has no series of its own is counted: {packets}");
}

/// Opens a connection with this many requests and answers. Between them is time for a record, which has room for four
/// samples. A request has several segments, which are acknowledged at once; for a single segment, the ACK would wait
/// for the answer.
fn converse(a: &Netns, b: &Netns, requests: usize) {
    let listener = listen(b, "10.9.0.2:0".parse().unwrap());
    let to = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (mut stream, mut request) = (listener.accept().unwrap().0, [0; 5000]);
        while stream.read_exact(&mut request).is_ok() {
            stream.write_all(b"!").unwrap();
        }
    });
    let mut client = a.run(|| TcpStream::connect(to)).unwrap();
    for _ in 0..requests {
        client.write_all(&[b'?'; 5000]).unwrap();
        client.read_exact(&mut [0]).unwrap();
        thread::sleep(Duration::from_millis(20));
    }
    drop(client);
    server.join().unwrap();
}

#[test]
fn every_round_trip_is_measured_if_configured() {
    needs_root!();
    let (a, b) = quiet_pair();
    let measured = |precision| {
        let mut config = watching(&["vb"]);
        config.features.latency = Some(precision);
        let agent = Agent::start(&b, config);
        converse(&a, &b, 25);
        Page::settled(&b, &agent).sum("netmon_rtt_seconds_count", &[])
    };
    let (normal, high) = (measured(Precision::Normal), measured(Precision::High));
    assert!((1.0..10.0).contains(&normal) && high >= 25.0, "{normal} and {high} round trips");
}

#[test]
fn the_clock_is_reported() {
    needs_root!();
    let (a, b) = quiet_pair();
    let mut config = watching(&["vb"]);
    config.features.timestamps = TimestampSource::Hardware;
    let agent = Agent::start(&b, config);
    transfer(&a, &b, "10.9.0.2".parse().unwrap(), 1, 1000);
    agent.settled();
    let page = Page::get(&b, &agent, "/metrics");
    // A veth has no clock of its own.
    assert!(page.sum("netmon_timestamps_total", &["source=\"kernel\""]) > 0.0);
    assert_eq!(page.sum("netmon_timestamps_total", &["source=\"hardware\""]), 0.0);
}
