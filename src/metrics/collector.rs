//! Turns a snapshot into metric families.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType, Quantile, Summary};

use super::aggregates::Accounted;
use super::own::{Usage, UsageReader};
use super::page::{Build, Snapshot, Source};
use super::series::{METRICS, OTHER, SeriesIndex};
use crate::bpf::{InterfaceBooks, Tally};
use crate::flow::protocol_name;

use MetricType::{COUNTER, GAUGE, SUMMARY};

/// Every family: name, type, help. The order is that of the numbers below.
const FAMILIES: [(&str, MetricType, &str); 31] = [
    ("netmon_build_info", GAUGE, "What runs here; always 1."),
    ("netmon_flows_active", GAUGE, "Flows in the table."),
    ("netmon_flows_total", COUNTER, "Flows whose outcome is known."),
    ("netmon_flows_evicted_total", COUNTER, "Flows that had to leave the table before their time (flow.max_flows)."),
    ("netmon_bytes_total", COUNTER, "Bytes on the wire from the link-layer header on, by sender and receiver."),
    ("netmon_packets_total", COUNTER, "Packets on the wire, by sender and receiver."),
    ("netmon_packets_seen_total", COUNTER, "Packets that came by a hook."),
    ("netmon_packets_accounted_total", COUNTER, "Of these, packets that belong to a flow."),
    ("netmon_packets_duplicate_total", COUNTER, "Of these, packets of a flow that another hook accounts."),
    ("netmon_packets_ignored_total", COUNTER, "Of these, packets that belong to no flow."),
    ("netmon_packets_lost_total", COUNTER, "Of these, packets whose record could not be written."),
    ("netmon_bytes_seen_total", COUNTER, "Bytes of the packets seen."),
    ("netmon_bytes_accounted_total", COUNTER, "Bytes of the packets accounted."),
    ("netmon_bytes_duplicate_total", COUNTER, "Bytes of the duplicate packets."),
    ("netmon_bytes_ignored_total", COUNTER, "Bytes of the packets ignored."),
    ("netmon_bytes_lost_total", COUNTER, "Bytes of the packets lost."),
    ("netmon_ebpf_events_processed_total", COUNTER, "Records from the programs that workers have merged."),
    ("netmon_ebpf_events_dropped_total", COUNTER, "Records that were lost."),
    ("netmon_ebpf_program_seconds_total", COUNTER, "Time the programs took (kernel.bpf_stats_enabled=1)."),
    ("netmon_ebpf_program_runs_total", COUNTER, "Times the programs ran (kernel.bpf_stats_enabled=1)."),
    ("netmon_interface_info", GAUGE, "Interfaces that are watched; always 1."),
    ("netmon_processing_duration_seconds", SUMMARY, "Time a worker takes for a record, sampled."),
    ("netmon_memory_usage_bytes", GAUGE, "Resident memory of the agent."),
    ("netmon_cpu_usage_percentage", GAUGE, "CPU time of the agent since the last scrape, in percent of one CPU."),
    ("netmon_threads_count", GAUGE, "Threads of the agent."),
    ("netmon_series", GAUGE, "Series in use."),
    ("netmon_series_limit", GAUGE, "Series that all metrics together may have."),
    (
        "netmon_series_overflow_total",
        COUNTER,
        "Times something was counted in the series \"other\" for lack of one of its own.",
    ),
    ("process_cpu_seconds_total", COUNTER, "User and system CPU time spent."),
    ("process_start_time_seconds", GAUGE, "Start time of the process since the Unix epoch."),
    ("process_resident_memory_bytes", GAUGE, "Resident memory size."),
];
/// Those that are only there where the limits can be read.
const MORE: [(&str, MetricType, &str); 3] = [
    ("process_virtual_memory_bytes", GAUGE, "Virtual memory size."),
    ("process_open_fds", GAUGE, "Open file descriptors."),
    ("process_max_fds", GAUGE, "Maximum number of open file descriptors."),
];

pub(super) struct AgentCollector {
    source: Arc<dyn Source>,
    series: Arc<SeriesIndex>,
    build: Build,
    usage: UsageReader,
}

impl AgentCollector {
    pub(super) fn new(source: Arc<dyn Source>, series: Arc<SeriesIndex>, build: Build) -> AgentCollector {
        AgentCollector { source, series, build, usage: UsageReader::new() }
    }

    /// All families. Not by a registry: it sorts the series by their labels, for a third of the time of a scrape.
    pub(super) fn collect(&self) -> Vec<MetricFamily> {
        let Some(snapshot) = self.source.snapshot() else { return Vec::new() };
        let mut families = Families(BTreeMap::new());
        let build = &self.build;
        let info = [("version", build.version), ("commit", build.commit), ("arch", build.arch), ("node", &build.node)];
        families.add("netmon_build_info", &info, 1.0);
        flows(&mut families, &snapshot);
        self.traffic(&mut families, &snapshot);
        conservation(&mut families, &snapshot);
        programs(&mut families, &snapshot);
        own(&mut families, &snapshot, &self.usage.read());
        families.0.into_values().collect()
    }
}

/// The families being filled, by name.
struct Families(BTreeMap<&'static str, MetricFamily>);

fn labels(pairs: &[(&str, &str)]) -> Vec<LabelPair> {
    pairs
        .iter()
        .map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        })
        .collect()
}

impl Families {
    fn push(&mut self, name: &'static str, pairs: &[(&str, &str)], fill: impl FnOnce(&mut Metric, MetricType)) {
        let family = match self.0.entry(name) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let Some(&(_, kind, help)) = FAMILIES.iter().chain(&MORE).find(|f| f.0 == name) else { return };
                let mut family = MetricFamily::default();
                family.set_name(name.to_owned());
                family.set_help(help.to_owned());
                family.set_field_type(kind);
                entry.insert(family)
            }
        };
        let mut metric = Metric::from_label(labels(pairs));
        fill(&mut metric, family.get_field_type());
        family.mut_metric().push(metric);
    }

    fn add(&mut self, name: &'static str, pairs: &[(&str, &str)], value: f64) {
        self.push(name, pairs, |metric, kind| {
            if kind == COUNTER {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            } else {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        });
    }

    fn tally(&mut self, packets: &'static str, bytes: &'static str, pairs: &[(&str, &str)], tally: Tally) {
        self.add(packets, pairs, tally.packets as f64);
        self.add(bytes, pairs, tally.bytes as f64);
    }
}

fn flows(families: &mut Families, snapshot: &Snapshot) {
    for (&(protocol, direction), &count) in &snapshot.active {
        let pairs = [("protocol", &*protocol_name(protocol)), ("direction", direction.name())];
        families.add("netmon_flows_active", &pairs, count as f64);
    }
    for (&(protocol, direction, outcome), &count) in &snapshot.aggregates.ended {
        let pairs = [
            ("protocol", &*protocol_name(protocol)),
            ("direction", direction.name()),
            ("status", outcome.status().name()),
            ("reason", outcome.reason().map_or("", |r| r.name())),
        ];
        families.add("netmon_flows_total", &pairs, count as f64);
    }
    families.add("netmon_flows_evicted_total", &[], snapshot.aggregates.evicted as f64);
}

impl AgentCollector {
    fn traffic(&self, families: &mut Families, snapshot: &Snapshot) {
        let keys = self.series.keys();
        for (number, tally) in snapshot.aggregates.series.iter().enumerate().filter(|(_, t)| t.packets > 0) {
            if number == OTHER as usize {
                let other = ["protocol", "direction", "src_ip", "dst_ip"].map(|name| (name, "other"));
                families.tally("netmon_packets_total", "netmon_bytes_total", &other, *tally);
            } else if let Some(key) = keys.get(number - 1) {
                let (source, destination) = (key.source.to_string(), key.destination.to_string());
                let pairs = [
                    ("protocol", &*protocol_name(key.protocol)),
                    ("direction", key.direction.name()),
                    ("src_ip", &source),
                    ("dst_ip", &destination),
                ];
                families.tally("netmon_packets_total", "netmon_bytes_total", &pairs, *tally);
            }
        }
        for metric in ["netmon_bytes_total", "netmon_packets_total"] {
            families.add("netmon_series", &[("metric", metric)], (keys.len()) as f64);
            let refused = self.series.refused() as f64;
            families.add("netmon_series_overflow_total", &[("metric", metric)], refused);
        }
        debug_assert_eq!(METRICS, 2);
        families.add("netmon_series_limit", &[], self.series.limit() as f64);
    }
}

/// seen = accounted + duplicate + ignored + lost, but for what is still on its way.
fn conservation(families: &mut Families, snapshot: &Snapshot) {
    let names: HashMap<u32, &str> =
        snapshot.interfaces.iter().map(|(index, name, _)| (*index, name.as_str())).collect();
    for (index, name, mode) in &snapshot.interfaces {
        let index = index.to_string();
        families.add("netmon_interface_info", &[("interface", name), ("ifindex", &index), ("mode", mode)], 1.0);
    }
    // Interfaces that are gone, or that found no books of their own, count as one.
    let mut books = BTreeMap::<&str, (InterfaceBooks, Accounted)>::new();
    for (index, name, _) in &snapshot.interfaces {
        books.insert(names.get(index).copied().unwrap_or(name), Default::default());
    }
    for (index, more) in &snapshot.books {
        books.entry(names.get(index).copied().unwrap_or("other")).or_default().0 += *more;
    }
    for (index, more) in &snapshot.aggregates.interfaces {
        let sum = &mut books.entry(names.get(index).copied().unwrap_or("other")).or_default().1;
        sum.accounted += more.accounted;
        sum.duplicate += more.duplicate;
    }
    for (name, (kernel, accounted)) in books {
        for (hook, seen) in [("ingress", kernel.ingress), ("egress", kernel.egress)] {
            let pairs = [("interface", name), ("hook", hook)];
            families.tally("netmon_packets_seen_total", "netmon_bytes_seen_total", &pairs, seen);
        }
        let at = [("interface", name)];
        families.tally("netmon_packets_accounted_total", "netmon_bytes_accounted_total", &at, accounted.accounted);
        families.tally("netmon_packets_duplicate_total", "netmon_bytes_duplicate_total", &at, accounted.duplicate);
        for (reason, ignored) in [("not_ip", kernel.not_ip), ("malformed", kernel.malformed)] {
            let pairs = [("interface", name), ("reason", reason)];
            families.tally("netmon_packets_ignored_total", "netmon_bytes_ignored_total", &pairs, ignored);
        }
        let pairs = [("interface", name), ("reason", "ring_full")];
        families.tally("netmon_packets_lost_total", "netmon_bytes_lost_total", &pairs, kernel.ring_full);
    }
}

fn programs(families: &mut Families, snapshot: &Snapshot) {
    families.add("netmon_ebpf_events_processed_total", &[], snapshot.aggregates.records as f64);
    for (reason, count) in [("ring_full", snapshot.records.lost), ("undecodable", snapshot.aggregates.undecodable)] {
        families.add("netmon_ebpf_events_dropped_total", &[("reason", reason)], count as f64);
    }
    for program in &snapshot.programs {
        let pairs = [("program", program.name.as_str())];
        families.add("netmon_ebpf_program_seconds_total", &pairs, program.run_ns as f64 / 1e9);
        families.add("netmon_ebpf_program_runs_total", &pairs, program.runs as f64);
    }
}

fn own(families: &mut Families, snapshot: &Snapshot, usage: &Usage) {
    families.push("netmon_processing_duration_seconds", &[], |metric, _| {
        let mut summary = Summary::default();
        summary.set_sample_count(snapshot.processing.samples());
        summary.set_sample_sum(snapshot.processing.sum_seconds());
        let quantiles = [0.5, 0.9, 0.99].map(|q| {
            let mut quantile = Quantile::default();
            quantile.set_quantile(q);
            quantile.set_value(snapshot.processing.quantile(q));
            quantile
        });
        summary.set_quantile(quantiles.to_vec());
        metric.set_summary(summary);
    });
    for (name, value) in [
        ("netmon_memory_usage_bytes", usage.resident_bytes as f64),
        ("netmon_cpu_usage_percentage", usage.cpu_percent),
        ("netmon_threads_count", usage.threads as f64),
        ("process_cpu_seconds_total", usage.cpu_seconds),
        ("process_start_time_seconds", usage.start_seconds),
        ("process_resident_memory_bytes", usage.resident_bytes as f64),
        ("process_virtual_memory_bytes", usage.virtual_bytes as f64),
        ("process_open_fds", usage.open_fds as f64),
        ("process_max_fds", usage.max_fds as f64),
    ] {
        families.add(name, &[], value);
    }
}
