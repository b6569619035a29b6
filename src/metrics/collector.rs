//! Turns a snapshot into metric families.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use prometheus::proto::{MetricFamily, Quantile, Summary};

use super::aggregates::Accounted;
use super::budget::OTHER;
use super::ends::Role;
use super::families::Families;
use super::interfaces::{InterfaceStatus, MOST_INTERFACES, coverage};
use super::own::{Usage, UsageReader};
use super::page::{Build, Snapshot, Source};
use super::pair_page::pairs;
use super::series::SeriesIndex;
use crate::bpf::{App, InterfaceBooks, TimestampSource};
use crate::clients::{Clients, Reason};
use crate::flow::{ErrorKind, protocol_name};

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
        let mut families = Families::new();
        let build = &self.build;
        let info = [("version", build.version), ("commit", build.commit), ("arch", build.arch), ("node", &build.node)];
        families.add("netmon_build_info", &info, 1.0);
        flows(&mut families, &snapshot);
        self.traffic(&mut families, &snapshot);
        pairs(&mut families, &snapshot.sums.pairs, self.series.telling().labels);
        conservation(&mut families, &snapshot);
        coverage(&mut families, &snapshot);
        programs(&mut families, &snapshot);
        if let Some(clients) = self.source.clients() {
            turned_away(&mut families, clients);
        }
        own(&mut families, &snapshot, &self.usage.read());
        families.into_vec()
    }
}

fn flows(families: &mut Families, snapshot: &Snapshot) {
    for (&(protocol, direction), &count) in &snapshot.active {
        let pairs = [("protocol", &*protocol_name(protocol)), ("direction", direction.name())];
        families.add("netmon_flows_active", &pairs, count as f64);
    }
    families.add("netmon_flows_expired_total", &[], snapshot.sums.expired_flows() as f64);
    families.add("netmon_flows_forgotten_total", &[], snapshot.forgotten as f64);
    families.add("netmon_flows_hurried_total", &[], snapshot.sums.hurried as f64);
    families.add("netmon_flows_evicted_total", &[], snapshot.sums.evicted as f64);
}

impl AgentCollector {
    fn traffic(&self, families: &mut Families, snapshot: &Snapshot) {
        let labels = self.series.telling().labels;
        let mut values: Vec<(&str, String)> = Vec::with_capacity(8);
        for (number, line) in snapshot.sums.series.iter().enumerate().filter(|(_, line)| line.tally.packets > 0) {
            values.clear();
            if number == OTHER as usize {
                let ends = Role::Source.kept(labels).chain(Role::Destination.kept(labels)).map(|(_, name)| name);
                let names = ["protocol", "direction"].into_iter().chain(ends).chain(["app_protocol"]);
                values.extend(names.map(|name| (name, "other".to_owned())));
            } else if let Some(key) = snapshot.keys.get(number) {
                values.push(("protocol", protocol_name(key.protocol).into_owned()));
                values.push(("direction", key.direction.name().to_owned()));
                key.source.each(Role::Source, labels, |name, value| values.push((name, value)));
                key.destination.each(Role::Destination, labels, |name, value| values.push((name, value)));
                values.push(("app_protocol", key.app.map_or("", App::name).to_owned()));
            } else {
                continue; // has left since
            }
            let pairs: Vec<(&str, &str)> = values.iter().map(|(name, value)| (*name, value.as_str())).collect();
            families.tally("netmon_packets_total", "netmon_bytes_total", &pairs, line.tally);
        }
        families.tally("netmon_packets_expired_total", "netmon_bytes_expired_total", &[], snapshot.sums.expired);
        for used in self.series.usage() {
            let pairs = [("metric", used.metric)];
            families.add("netmon_series", &pairs, used.lines as f64);
            families.add("netmon_series_overflow_total", &pairs, used.refused as f64);
            families.add("netmon_series_expired_total", &pairs, used.expired as f64);
        }
        families.add("netmon_series_limit", &[], self.series.limit() as f64);
        families.add("netmon_names_missed_total", &[], snapshot.sums.nameless as f64);
    }
}

/// seen + decapsulated = accounted + duplicate + ignored + lost, but for what is still on its way.
fn conservation(families: &mut Families, snapshot: &Snapshot) {
    let named = snapshot.interfaces.iter().take(MOST_INTERFACES);
    let names: HashMap<u32, &str> = named.map(|(index, interface)| (*index, interface.name.as_str())).collect();
    let name = |index: &u32| names.get(index).copied().unwrap_or("other");
    // Interfaces that are gone, or that found no books of their own, count as one.
    let mut books = BTreeMap::<&str, (InterfaceBooks, Accounted)>::new();
    for (index, interface) in &snapshot.interfaces {
        if matches!(interface.status, InterfaceStatus::Watched(_)) {
            books.insert(name(index), Default::default());
        }
    }
    for (index, more) in &snapshot.books {
        books.entry(name(index)).or_default().0 += *more;
    }
    for (index, more) in &snapshot.sums.interfaces {
        books.entry(name(index)).or_default().1 += *more;
    }
    for (name, (kernel, accounted)) in books {
        for (hook, seen) in [("ingress", kernel.ingress), ("egress", kernel.egress)] {
            let pairs = [("interface", name), ("hook", hook)];
            families.tally("netmon_packets_seen_total", "netmon_bytes_seen_total", &pairs, seen);
        }
        let at = [("interface", name)];
        let inner = kernel.decapsulated;
        families.tally("netmon_packets_decapsulated_total", "netmon_bytes_decapsulated_total", &at, inner);
        families.tally("netmon_packets_accounted_total", "netmon_bytes_accounted_total", &at, accounted.accounted);
        families.tally("netmon_packets_duplicate_total", "netmon_bytes_duplicate_total", &at, accounted.duplicate);
        for (reason, ignored) in
            [("not_ip", kernel.not_ip), ("malformed", kernel.malformed), ("sampling", kernel.left_out)]
        {
            let pairs = [("interface", name), ("reason", reason)];
            families.tally("netmon_packets_ignored_total", "netmon_bytes_ignored_total", &pairs, ignored);
        }
        let pairs = [("interface", name), ("reason", "ring_full")];
        families.tally("netmon_packets_lost_total", "netmon_bytes_lost_total", &pairs, kernel.ring_full);
    }
}

fn programs(families: &mut Families, snapshot: &Snapshot) {
    families.add("netmon_ebpf_events_processed_total", &[], snapshot.sums.records as f64);
    for (reason, count) in [("ring_full", snapshot.records.lost), ("undecodable", snapshot.sums.undecodable)] {
        families.add("netmon_ebpf_events_dropped_total", &[("reason", reason)], count as f64);
    }
    for (reason, count) in [("collision", snapshot.misses.unpaired), ("busy", snapshot.misses.unsampled)] {
        families.add("netmon_latency_samples_missed_total", &[("reason", reason)], count as f64);
    }
    for kind in ErrorKind::ALL {
        let count = snapshot.sums.errors.get(&kind).copied().unwrap_or_default();
        families.add("netmon_icmp_errors_total", &[("kind", kind.name())], count as f64);
    }
    let missed = snapshot.misses.unquoted + snapshot.errors_lost;
    families.add("netmon_icmp_quotes_missed_total", &[], missed as f64);
    families.add("netmon_hooks_lost_total", &[], snapshot.hooks.lost as f64);
    families.add("netmon_hooks_restored_total", &[], snapshot.hooks.restored as f64);
    families.add("netmon_nat_translations", &[], snapshot.nat.translations as f64);
    families.add("netmon_nat_translations_refused_total", &[], snapshot.nat.refused as f64);
    families.add("netmon_nat_resyncs_total", &[], snapshot.nat.resyncs as f64);
    if let Some(names) = &snapshot.names {
        families.add("netmon_names_age_seconds", &[], names.age.as_secs_f64());
        for kind in &names.kinds {
            let labels = [("kind", kind.kind.name())];
            families.add("netmon_names_objects", &labels, kind.objects as f64);
            families.add("netmon_names_errors_total", &labels, kind.errors as f64);
        }
    }
    families.add("netmon_sampling_rate", &[], snapshot.sampling_rate);
    for (resource, count) in [("memory", snapshot.saved.shed), ("cpu", snapshot.saved.slowed)] {
        families.add("netmon_limit_actions_total", &[("resource", resource)], count as f64);
    }
    families.add("netmon_cpu_limit_level", &[], snapshot.saved.cpu_level as f64);
    families.add("netmon_config_reloads_total", &[], snapshot.reloads.taken as f64);
    families.add("netmon_config_reload_failures_total", &[], snapshot.reloads.failed as f64);
    families.add("netmon_log_lines_held_back_total", &[], crate::logging::held_back() as f64);
    if snapshot.timestamps == TimestampSource::Hardware {
        for (source, count) in ["kernel", "hardware"].into_iter().zip(snapshot.misses.stamps) {
            families.add("netmon_timestamps_total", &[("source", source)], count as f64);
        }
    }
    for program in &snapshot.programs {
        let pairs = [("program", program.name.as_str())];
        families.add("netmon_ebpf_program_seconds_total", &pairs, program.run_ns as f64 / 1e9);
        families.add("netmon_ebpf_program_runs_total", &pairs, program.runs as f64);
    }
}

fn turned_away(families: &mut Families, clients: &Clients) {
    for (server, turned) in clients.turned() {
        for reason in Reason::ALL {
            let labels = [("server", server), ("reason", reason.name())];
            families.add("netmon_clients_turned_away_total", &labels, turned.of(reason) as f64);
        }
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
