//! /metrics of a real agent, over HTTP.

use std::collections::{BTreeMap, HashSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::time::Instant;

use netmon::bpf::TimestampSource;
use netmon::config::{Buckets, Config, Features, Precision};

use super::agent::{Agent, watching};
use super::eventually;
use super::net::quiet_pair;
use super::traffic::transfer;
use crate::needs_root;
use crate::support::netns::Netns;
use crate::support::scrape::{self, PAGE_AGE};

/// A scrape.
pub struct Page {
    pub head: String,
    pub body: String,
}

/// When a page was last fetched from each address.
static FETCHED: Mutex<BTreeMap<(String, SocketAddr), Instant>> = Mutex::new(BTreeMap::new());

/// Fetches a page from `address`; metrics are up to date.
pub fn get(ns: &Netns, address: SocketAddr, path: &str) -> Page {
    let place = (ns.name.clone(), address);
    let fetched = FETCHED.lock().unwrap().get(&place).copied();
    if let Some(fetched) = fetched.filter(|_| path == "/metrics") {
        std::thread::sleep(PAGE_AGE.saturating_sub(fetched.elapsed()));
    }
    let (head, body) = ns.run(|| {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(super::PATIENCE)).unwrap();
        scrape::get(stream, path).unwrap()
    });
    if path == "/metrics" {
        FETCHED.lock().unwrap().insert(place, Instant::now());
    }
    Page { head, body }
}

impl Page {
    pub fn get(ns: &Netns, agent: &Agent, path: &str) -> Page {
        get(ns, agent.handle.metrics_addr().unwrap(), path)
    }

    /// The metrics once the labels of all accounted packets are final: counts of new flows wait for that.
    pub fn settled(ns: &Netns, agent: &Agent) -> Page {
        agent.settled();
        eventually("series add up to what is accounted", || {
            let page = Page::get(ns, agent, "/metrics");
            let [counted, expired, accounted] =
                ["", "_expired", "_accounted"].map(|part| page.sum(&format!("netmon_packets{part}_total"), &[]));
            (counted + expired == accounted).then_some(page)
        })
    }

    /// The sum of all samples of a metric whose labels contain each of `labels`.
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        scrape::sum(&self.body, name, labels)
    }

    /// Asserts the rules of the text format: one HELP and one TYPE for each metric, before its samples, which are
    /// together and all different; histograms whose buckets only grow, up to the count.
    pub fn assert_well_formed(&self) {
        let (mut family, mut kind, mut seen) = ("", "", HashSet::new());
        let mut below: Option<(&str, f64)> = None;
        for line in self.body.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                family = rest.split(' ').next().unwrap();
                assert!(seen.insert(family), "{family} comes twice");
                continue;
            }
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, rest) = rest.split_once(' ').unwrap();
                assert_eq!(name, family);
                kind = rest;
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap();
            let value: f64 = value.parse().unwrap();
            assert!(series == family || seen.insert(series), "{series} comes twice");
            let suffix = series.split('{').next().unwrap().strip_prefix(family).expect(line);
            match (kind, suffix) {
                ("histogram", "_bucket") => {
                    let (pair, le) = series.rsplit_once("le=").unwrap();
                    assert!(below.is_none_or(|(before, count)| before != pair || count <= value), "{line}");
                    assert!(le.starts_with('"') && le.ends_with("\"}"), "{line}");
                    below = Some((pair, value));
                }
                ("histogram", "_count") => assert_eq!(below.unwrap().1, value, "{line}"),
                ("histogram" | "summary", "_sum") | ("summary", "_count") | (_, "") => {}
                _ => panic!("{line}: no sample of a {kind}"),
            }
        }
    }

    fn has(&self, name: &str) -> bool {
        self.body.lines().any(|l| l.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
    }
}

/// The part of SURFACE that belongs to the foundation.
const NAMES: [&str; 28] = [
    "netmon_flows_active",
    "netmon_flows_total",
    "netmon_bytes_total",
    "netmon_packets_total",
    "netmon_ebpf_events_processed_total",
    "netmon_ebpf_events_dropped_total",
    "netmon_packets_seen_total",
    "netmon_packets_accounted_total",
    "netmon_packets_decapsulated_total",
    "netmon_bytes_decapsulated_total",
    "netmon_packets_duplicate_total",
    "netmon_packets_ignored_total",
    "netmon_packets_lost_total",
    "netmon_processing_duration_seconds",
    "netmon_processing_duration_seconds_count",
    "netmon_memory_usage_bytes",
    "netmon_cpu_usage_percentage",
    "netmon_threads_count",
    "netmon_series",
    "netmon_series_limit",
    "netmon_series_overflow_total",
    "netmon_build_info",
    "netmon_latency_samples_missed_total",
    "netmon_icmp_quotes_missed_total",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_open_fds",
    "process_start_time_seconds",
];

#[test]
fn a_scrape_shows_what_happened() {
    needs_root!();
    let (a, b) = quiet_pair();
    let agent = Agent::start(&b, watching(&["vb"]));
    let connections = transfer(&a, &b, "10.9.0.2".parse().unwrap(), 2, 1_000_000);
    transfer(&a, &b, "fd09::2".parse().unwrap(), 2, 1_000_000);
    // Not IP: a request for an unknown neighbour.
    a.sh("ip neigh del 10.9.0.2 dev va");
    transfer(&a, &b, "10.9.0.2".parse().unwrap(), 1, 1000);

    let sums = |page: &Page, unit: &str| {
        ["seen", "decapsulated", "accounted", "duplicate", "ignored", "lost"]
            .map(|s| page.sum(&format!("netmon_{unit}_{s}_total"), &[]))
    };
    let page = eventually("seen + decapsulated = accounted + duplicate + ignored + lost on the page", || {
        let page = Page::get(&b, &agent, "/metrics");
        let exact = ["packets", "bytes"].iter().all(|unit| {
            let [seen, decapsulated, rest @ ..] = sums(&page, unit);
            seen > 0.0 && seen + decapsulated == rest.iter().sum::<f64>()
        });
        let counted = page.sum("netmon_packets_total", &[]) == sums(&page, "packets")[2];
        (exact && counted && page.sum("netmon_flows_total", &[]) >= 5.0).then_some(page)
    });
    assert!(page.head.starts_with("HTTP/1.1 200 "), "{}", page.head);
    let head = page.head.to_lowercase();
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    page.assert_well_formed();
    for name in NAMES {
        assert!(page.has(name), "{name} is missing");
    }
    assert!(page.sum("netmon_packets_ignored_total", &["interface=\"vb\"", "reason=\"not_ip\""]) >= 1.0);
    assert_eq!(page.sum("netmon_packets_total", &[]), sums(&page, "packets")[2], "series add up to what is accounted");
    assert_eq!(page.sum("netmon_bytes_total", &[]), sums(&page, "bytes")[2]);
    let sent: u64 = connections.iter().map(|c| c.from_client.segments).sum();
    let at = ["protocol=\"tcp\"", "src_ip=\"10.9.0.1\"", "dst_ip=\"10.9.0.2\""];
    assert!(page.sum("netmon_packets_total", &at) >= sent as f64, "{sent} sent by {connections:?}: {}", page.body);
    assert_eq!(page.sum("netmon_flows_total", &["protocol=\"tcp\"", "direction=\"ingress\"", "status=\"ok\""]), 5.0);
    assert_eq!(page.sum("netmon_flows_total", &["status=\"failed\""]), 0.0);
    assert!(page.body.contains("netmon_interface_info{interface=\"vb\""));
    // The threads of the test process count as well, because the agent is no process of its own here.
    assert!(page.sum("netmon_threads_count", &[]) >= 5.0);

    for path in ["/healthz", "/readyz"] {
        let page = Page::get(&b, &agent, path);
        assert!(page.head.starts_with("HTTP/1.1 200 ") && page.body == "ok\n", "{path}: {} {}", page.head, page.body);
    }
    assert!(Page::get(&b, &agent, "/nothing").head.starts_with("HTTP/1.1 404 "));
    agent.stop();
}

#[test]
fn connections_are_timed() {
    needs_root!();
    const CONNECTIONS: f64 = 20.0;
    let (a, b) = quiet_pair();
    let agent = Agent::start(&b, watching(&["vb"]));
    for _ in 0..10 {
        transfer(&a, &b, "10.9.0.2".parse().unwrap(), 2, 20_000);
    }
    let pair = ["src_workload=\"10.9.0.1\"", "dst_workload=\"10.9.0.2\"", "dst_service=\"\"", "dst_namespace=\"\""];
    let page = eventually("every connection's end", || {
        let page = Page::get(&b, &agent, "/metrics");
        (page.sum("netmon_flows_total", &["protocol=\"tcp\""]) == CONNECTIONS).then_some(page)
    });
    assert_eq!(page.sum("netmon_flows_total", &["status=\"ok\""]), CONNECTIONS);
    assert_eq!(page.sum("netmon_latency_seconds_count", &pair), CONNECTIONS);
    for side in ["side=\"client\"", "side=\"server\""] {
        assert_eq!(page.sum("netmon_handshake_seconds_count", &[&pair[..], &[side]].concat()), CONNECTIONS, "{side}");
    }
    page.assert_well_formed();
    agent.stop();
}

/// One connection with requests and answers in quick succession.
fn talk(a: &Netns, b: &Netns, turns: u32) {
    let listener = b.run(|| TcpListener::bind("10.9.0.2:80").unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, mut request) = (listener.accept().unwrap().0, [0; 18]);
        while stream.read_exact(&mut request).is_ok() {
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        }
    });
    let (mut stream, mut answer) = (a.run(|| TcpStream::connect("10.9.0.2:80").unwrap()), [0; 27]);
    for _ in 0..turns {
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        stream.read_exact(&mut answer).unwrap();
    }
    drop(stream);
    server.join().unwrap();
}

#[test]
fn measurements_can_be_switched_off() {
    needs_root!();
    let (a, b) = quiet_pair();
    let scrape = |features: Features| {
        let agent = Agent::start(&b, Config { features, ..watching(&["vb"]) });
        talk(&a, &b, 100);
        let page = eventually("the connection's end", || {
            let page = Page::get(&b, &agent, "/metrics");
            (page.sum("netmon_flows_total", &["protocol=\"tcp\""]) == 1.0).then_some(page)
        });
        page.assert_well_formed();
        agent.stop();
        page
    };
    let spoken = "app_protocol=\"http\"";
    let page = scrape(Features::default());
    assert!(page.sum("netmon_bytes_total", &[spoken]) > 0.0);
    assert!(page.sum("netmon_response_seconds_count", &[spoken]) >= 1.0);
    let normal = page.sum("netmon_rtt_seconds_count", &[]);

    let buckets = Buckets::new(&["0.25", "2"]).unwrap();
    let page = scrape(Features { latency: Some(Precision::High), buckets, ..Features::default() });
    let (high, busy) =
        (page.sum("netmon_rtt_seconds_count", &[]), page.sum("netmon_latency_samples_missed_total", &[]));
    assert!(high + busy > 10.0 * normal, "{high} and {busy} missed, {normal} at normal precision");
    assert_eq!(page.sum("netmon_latency_seconds_bucket", &["le=\"0.00025\""]), 1.0);
    assert!(!page.body.contains("le=\"0.001\""));

    assert!(!page.body.contains("netmon_timestamps_total"));
    let page = scrape(Features { timestamps: TimestampSource::Hardware, ..Features::default() });
    assert!(page.sum("netmon_timestamps_total", &["source=\"kernel\""]) > 0.0, "a veth stamps nothing");
    assert_eq!(page.sum("netmon_timestamps_total", &["source=\"hardware\""]), 0.0);
    assert_eq!(page.sum("netmon_latency_seconds_count", &[]), 1.0);

    let page = scrape(Features { latency: None, apps: Vec::new(), ..Features::default() });
    assert!(!page.body.contains("_seconds_bucket"), "nothing was to be measured: {}", page.body);
    assert_eq!(page.sum("netmon_bytes_total", &[spoken]), 0.0);
    assert!(page.sum("netmon_bytes_total", &["app_protocol=\"\""]) > 0.0);
}
