//! From records to the page.

mod names;

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::bpf::{App, Cause, Endpoint, Facts, Hook, Measure, Record, Sample};
use crate::config::{Buckets, Labels};
use crate::flow::{Table, TableLimits};

const MS: u64 = 1_000_000;

fn endpoint(ip: &str, port: u16) -> Endpoint {
    Endpoint::of(ip.parse().unwrap(), port)
}

/// The first packet of a connection to 10.0.0.9:80, with these facts.
fn record(client: &str, port: u16, facts: Facts) -> Record {
    Record {
        v6: false,
        source: endpoint(client, port),
        destination: endpoint("10.0.0.9", 80),
        protocol: 6,
        ifindex: 1,
        hook: Hook::Ingress,
        inner: false,
        vlan: 0,
        inner_vlan: 0,
        packets: 1,
        bytes: 60,
        first_ns: 1,
        last_ns: 1,
        tcp_flags: 2,
        syn: true,
        syn_ack: false,
        cause: Cause::Swept,
        facts: Some(facts),
        ..Record::default()
    }
}

fn took(measure: Measure, ns: u64) -> Facts {
    Facts::of_samples(&[Sample { measure, ns }])
}

fn with(mut facts: Facts, change: impl FnOnce(&mut Facts)) -> Facts {
    change(&mut facts);
    facts
}

struct Fixed {
    sums: Sums,
    index: Arc<SeriesIndex>,
}

impl Source for Fixed {
    fn read(&self) -> Option<Reading> {
        Some(Reading::new(self.sums.clone(), self.index.keys()))
    }

    fn unhealthy(&self) -> Option<String> {
        None
    }

    fn unready(&self) -> Option<String> {
        None
    }
}

/// The page after `records`, of which each worker has merged the same number.
fn page_of(workers: usize, limit: usize, buckets: &str, records: &[Record]) -> String {
    let index = index(limit, buckets, Labels::default());
    let timeout = Duration::from_secs(30);
    let limits = TableLimits { max_flows: 10_000, flow_timeout: timeout, connect_timeout: timeout, max_age: None };
    let mut all = Aggregates::new(Arc::clone(&index)).sums().clone();
    for part in records.chunks(records.len().div_ceil(workers)) {
        let (mut table, mut worker) = (Table::new(limits, 0), Aggregates::new(Arc::clone(&index)));
        part.iter().for_each(|record| table.merge(record, &mut worker));
        table.expire(5_000_000_000, &mut worker);
        all.add(worker.sums());
    }
    shown(&index, all)
}

fn index(limit: usize, buckets: &str, labels: Labels) -> Arc<SeriesIndex> {
    let buckets = Buckets::new(&buckets.split(',').collect::<Vec<_>>()).unwrap();
    Arc::new(SeriesIndex::new(limit, buckets, Identification { labels, grouped: true, ..Identification::default() }))
}

fn shown(index: &Arc<SeriesIndex>, sums: Sums) -> String {
    let figures = FigureList::default().with(|fixed: &Fixed| &*fixed.index);
    let page = MetricsPage::new(Arc::new(Fixed { sums, index: Arc::clone(index) }), figures);
    String::from_utf8(page.make()).unwrap()
}

/// The page of two workers.
fn page(limit: usize, buckets: &str, records: &[Record]) -> String {
    page_of(2, limit, buckets, records)
}

fn value(page: &str, series: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in\n{page}")).parse().unwrap()
}

/// The sum over all series of a metric.
fn total(page: &str, name: &str) -> f64 {
    let of = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    page.lines().filter(of).map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
}

#[test]
fn times_fall_into_their_buckets() {
    let times = [1, MS / 10, MS / 10 + 1, 5 * MS, 2_000 * MS];
    let records: Vec<Record> =
        (1..).zip(times).map(|(port, ns)| record("10.0.0.1", port, took(Measure::Connect, ns))).collect();
    let page = page(1000, "0.1,0.3,5", &records);
    let pair = "src_workload=\"10.0.0.1\",dst_service=\"\",dst_workload=\"10.0.0.9\",dst_namespace=\"\"";
    let bucket = |le: &str| value(&page, &format!("netmon_latency_seconds_bucket{{{pair},le=\"{le}\"}}"));
    assert_eq!(
        ["0.0001", "0.0003", "0.005", "+Inf"].map(bucket),
        [2.0, 3.0, 4.0, 5.0],
        "bounds belong to their bucket"
    );
    assert_eq!(value(&page, &format!("netmon_latency_seconds_count{{{pair}}}")), 5.0);
    let sum = value(&page, &format!("netmon_latency_seconds_sum{{{pair}}}"));
    assert_eq!(sum, times.iter().sum::<u64>() as f64 / 1e9);
    // Three bounds, +Inf, sum, count.
    assert_eq!(value(&page, "netmon_series{metric=\"netmon_latency_seconds\"}"), 6.0);
    assert_eq!(value(&page, "netmon_series{metric=\"netmon_bytes_total\"}"), 1.0);
    assert!(!page.contains("netmon_rtt_seconds_bucket"), "no samples, no series");
}

#[test]
fn each_measure_has_its_metric() {
    let samples = [
        (Measure::HandshakeClient, "handshake_seconds_count{", "side=\"client\""),
        (Measure::HandshakeServer, "handshake_seconds_count{", "side=\"server\""),
        (Measure::Rtt, "rtt_seconds_count{", "10.0.0.1"),
        (Measure::Response, "response_seconds_count{", "app_protocol=\"http\""),
    ];
    for (measure, name, label) in samples {
        let facts = with(took(measure, MS), |facts| facts.app = App::named("http"));
        let asked = record("10.0.0.1", 1, Facts::default());
        let answer = Record { source: asked.destination, destination: asked.source, syn: false, ..asked.clone() };
        let by_server = [Measure::HandshakeServer, Measure::Response].contains(&measure);
        let measured = Record { facts: Some(facts), ..if by_server { answer } else { asked.clone() } };
        let page = page_of(1, 1000, "1", &[asked, measured]);
        let line = page.lines().find(|line| line.contains(name)).unwrap();
        assert!(line.contains(label) && line.ends_with(" 1"), "{line}");
    }
    let facts = with(Facts::default(), |facts| (facts.retransmits, facts.resets) = (3, 1));
    let page = page(1000, "1", &[record("10.0.0.1", 1, facts)]);
    assert_eq!((total(&page, "netmon_retransmits_total"), total(&page, "netmon_resets_total")), (3.0, 1.0));
}

#[test]
fn totals_stay_exact_when_the_budget_is_used_up() {
    let records: Vec<Record> = (1..=100)
        .map(|i| {
            let facts = with(took(Measure::HandshakeServer, i * MS), |facts| facts.retransmits = 2);
            record(&format!("10.0.1.{i}"), 1, facts)
        })
        .collect();
    // A pair takes two lines of traffic, five of the histogram, one of the counter; in this order.
    let page = page(3 * 8 + 2 + 1, "10,50", &records);
    let other = "src_workload=\"other\",dst_service=\"other\",dst_workload=\"other\",dst_namespace=\"other\"";
    let others = value(&page, &format!("netmon_handshake_seconds_count{{{other},side=\"server\"}}"));
    assert_eq!(others, 97.0, "the fourth found no room for a histogram");
    assert_eq!(total(&page, "netmon_handshake_seconds_count"), 100.0);
    assert!((total(&page, "netmon_handshake_seconds_sum") - 5.05).abs() < 1e-9);
    assert_eq!(total(&page, "netmon_retransmits_total"), 200.0);
    assert_eq!(value(&page, &format!("netmon_retransmits_total{{{other}}}")), 192.0, "the fourth has one");
    assert_eq!(total(&page, "netmon_packets_total"), 100.0);
    let [series, refused] = ["series", "series_overflow_total"].map(|name| {
        ["handshake_seconds", "retransmits_total", "bytes_total", "packets_total", "rtt_seconds"]
            .map(|metric| value(&page, &format!("netmon_{name}{{metric=\"netmon_{metric}\"}}")))
    });
    assert_eq!(series, [15.0, 4.0, 4.0, 4.0, 0.0]);
    assert_eq!(refused, [97.0, 96.0, 96.0, 96.0, 0.0]);
    assert_eq!(series.iter().sum::<f64>(), value(&page, "netmon_series_limit"));
}

#[test]
fn traffic_counts_as_what_it_speaks_from_its_first_packet_on() {
    let of = |app| record("10.0.0.1", 1, with(Facts::default(), |facts| facts.app = App::named(app)));
    let later = |app| Record { syn: false, ..of(app) };
    let page = page_of(1, 1000, "1", &[of(""), later(""), later("redis"), later("")]);
    let packets = |app: &str| {
        let (kind, ends) = ("protocol=\"tcp\",direction=\"ingress\"", "src_ip=\"10.0.0.1\",dst_ip=\"10.0.0.9\"");
        value(&page, &format!("netmon_packets_total{{{kind},{ends},app_protocol=\"{app}\"}}"))
    };
    assert_eq!((packets("redis"), total(&page, "netmon_packets_total")), (4.0, 4.0));
}

#[test]
fn icmp_errors_count_by_kind_and_flow() {
    let opened = record("10.0.0.1", 1, Facts::default());
    let error = |icmp_type, icmp_code| Record { cause: Cause::Quoted, icmp_type, icmp_code, ..opened.clone() };
    let page = page_of(1, 1000, "1", &[opened.clone(), error(3, 1), error(3, 1), error(3, 13), error(11, 0)]);
    let count = |kind: &str| value(&page, &format!("netmon_icmp_errors_total{{kind=\"{kind}\"}}"));
    let kinds = ["host_unreachable", "admin_prohibited", "time_exceeded", "port_unreachable"];
    assert_eq!(kinds.map(count), [1.0, 1.0, 1.0, 0.0], "one a flow and kind");
}
