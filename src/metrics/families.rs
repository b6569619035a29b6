//! Metric families being filled.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use crate::bpf::Tally;

use MetricType::{COUNTER, GAUGE, HISTOGRAM, SUMMARY};

/// Every family: name, type, help.
const FAMILIES: [(&str, MetricType, &str); 71] = [
    ("netmon_build_info", GAUGE, "What runs here; always 1."),
    ("netmon_flows_active", GAUGE, "Flows in the table."),
    ("netmon_flows_total", COUNTER, "Flows whose outcome is known, by who used whose service."),
    ("netmon_flows_expired_total", COUNTER, "Flows that series had which have left."),
    (
        "netmon_flows_hurried_total",
        COUNTER,
        "Flows counted before it was settled what they are, for too many were new.",
    ),
    (
        "netmon_flows_forgotten_total",
        COUNTER,
        "Connections that fell silent and were forgotten for others: what comes of them later is judged without their past.",
    ),
    ("netmon_flows_evicted_total", COUNTER, "Flows that had to leave the table before their time (flow.max_flows)."),
    ("netmon_bytes_total", COUNTER, "Bytes on the wire from the link-layer header on, by sender and receiver."),
    ("netmon_packets_total", COUNTER, "Packets on the wire, by sender and receiver."),
    ("netmon_packets_seen_total", COUNTER, "Packets that came by a hook."),
    ("netmon_packets_decapsulated_total", COUNTER, "Packets found inside those of tunnels."),
    ("netmon_packets_accounted_total", COUNTER, "Of these, and of those seen, packets that belong to a flow."),
    ("netmon_packets_duplicate_total", COUNTER, "Of these, packets of a flow that another hook accounts."),
    ("netmon_packets_ignored_total", COUNTER, "Of these, packets that belong to no flow."),
    ("netmon_packets_lost_total", COUNTER, "Of these, packets whose record could not be written."),
    ("netmon_bytes_seen_total", COUNTER, "Bytes of the packets seen."),
    ("netmon_bytes_decapsulated_total", COUNTER, "Bytes of the packets decapsulated."),
    ("netmon_bytes_accounted_total", COUNTER, "Bytes of the packets accounted."),
    ("netmon_bytes_duplicate_total", COUNTER, "Bytes of the duplicate packets."),
    ("netmon_bytes_ignored_total", COUNTER, "Bytes of the packets ignored."),
    ("netmon_bytes_lost_total", COUNTER, "Bytes of the packets lost."),
    (
        "netmon_latency_seconds",
        HISTOGRAM,
        "TCP connect time at this node: the client's first SYN to its ACK of the answer.",
    ),
    ("netmon_handshake_seconds", HISTOGRAM, "The halves of a TCP handshake: how long the server took, and the client."),
    ("netmon_rtt_seconds", HISTOGRAM, "Data or an ICMP echo request to its acknowledgement."),
    ("netmon_response_seconds", HISTOGRAM, "Last byte of a request to the first byte of the answer."),
    ("netmon_retransmits_total", COUNTER, "TCP segments with bytes that were sent before."),
    ("netmon_resets_total", COUNTER, "TCP segments with RST."),
    ("netmon_latency_samples_missed_total", COUNTER, "Times that could not be measured, or not be told."),
    ("netmon_icmp_errors_total", COUNTER, "ICMP errors about flows, one a flow and kind."),
    ("netmon_icmp_quotes_missed_total", COUNTER, "ICMP errors not matched to a flow, for too many came at once."),
    ("netmon_timestamps_total", COUNTER, "Moments taken down by each clock (NETMON_TIMESTAMP_SOURCE=hardware)."),
    ("netmon_ebpf_events_processed_total", COUNTER, "Records from the programs that workers have merged."),
    ("netmon_ebpf_events_dropped_total", COUNTER, "Records that were lost."),
    ("netmon_ebpf_program_seconds_total", COUNTER, "Time the programs took (kernel.bpf_stats_enabled=1)."),
    ("netmon_ebpf_program_runs_total", COUNTER, "Times the programs ran (kernel.bpf_stats_enabled=1)."),
    (
        "netmon_interface_coverage_ratio",
        GAUGE,
        "Part of the packets that an interface counted itself in the last minute which was seen.",
    ),
    ("netmon_interface_info", GAUGE, "Interfaces of this host and what becomes of their packets; always 1."),
    ("netmon_interfaces_without_series", GAUGE, "Interfaces beyond 1,024: their packets count as interface \"other\"."),
    ("netmon_interface_packets_total", COUNTER, "Packets by the interface's own count, since it became known."),
    (
        "netmon_interface_packets_covered_total",
        COUNTER,
        "Of these, packets that were seen; more if some were dropped afterwards.",
    ),
    (
        "netmon_interface_programs_outdated",
        GAUGE,
        "1 if a watched interface runs other programs than it is to, for they could not be replaced.",
    ),
    ("netmon_hooks_lost_total", COUNTER, "Times that somebody had taken netmon's program from a hook."),
    ("netmon_hooks_restored_total", COUNTER, "Of these, times that it was put back at once."),
    (
        "netmon_interface_programs_before",
        GAUGE,
        "Other programs that have packets of an interface before netmon's: they may hide some.",
    ),
    ("netmon_nat_translations", GAUGE, "Connections whose addresses NAT translates."),
    ("netmon_nat_translations_refused_total", COUNTER, "Those that found no room: counted under both addresses."),
    ("netmon_nat_resyncs_total", COUNTER, "Times that all translations were read anew, for some were missed."),
    ("netmon_names_age_seconds", GAUGE, "Time since the API server was last heard about every kind of objects."),
    ("netmon_names_objects", GAUGE, "Objects of the cluster that names are made of."),
    ("netmon_names_errors_total", COUNTER, "Requests to the API server that failed, and watches that broke off."),
    ("netmon_sampling_rate", GAUGE, "Share of flows that is tracked."),
    (
        "netmon_limit_actions_total",
        COUNTER,
        "Times that flows were shed, or work was slowed down, to stay within a limit.",
    ),
    (
        "netmon_cpu_limit_level",
        GAUGE,
        "Steps taken to stay within the CPU limit: 1, 2 slow down; from 3 on flows are sampled.",
    ),
    ("netmon_config_reloads_total", COUNTER, "Times that a changed configuration was taken."),
    ("netmon_config_reload_failures_total", COUNTER, "Times that one was refused: something was wrong with it."),
    ("netmon_log_lines_held_back_total", COUNTER, "Lines of the log that were left out, for too many came at once."),
    (
        "netmon_clients_turned_away_total",
        COUNTER,
        "Clients of the agent's own servers that were refused, or closed to make way for others.",
    ),
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
    ("netmon_series_expired_total", COUNTER, "Series that have left: nothing was counted in them for a long time."),
    ("netmon_packets_expired_total", COUNTER, "Packets that series had which have left."),
    ("netmon_bytes_expired_total", COUNTER, "Bytes of these."),
    ("netmon_names_missed_total", COUNTER, "Flows with an end that got no name in time."),
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

/// The name of every metric there may be.
pub fn metric_names() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().chain(&MORE).map(|family| family.0)
}

/// The families being filled, by name.
pub(super) struct Families(BTreeMap<&'static str, MetricFamily>);

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
    pub(super) fn new() -> Families {
        Families(BTreeMap::new())
    }

    /// In the order of their names.
    pub(super) fn into_vec(self) -> Vec<MetricFamily> {
        self.0.into_values().collect()
    }

    pub(super) fn push(
        &mut self,
        name: &'static str,
        pairs: &[(&str, &str)],
        fill: impl FnOnce(&mut Metric, MetricType),
    ) {
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

    pub(super) fn add(&mut self, name: &'static str, pairs: &[(&str, &str)], value: f64) {
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

    pub(super) fn tally(&mut self, packets: &'static str, bytes: &'static str, pairs: &[(&str, &str)], tally: Tally) {
        self.add(packets, pairs, tally.packets as f64);
        self.add(bytes, pairs, tally.bytes as f64);
    }
}
