//! What the page of metrics has of the board: interfaces, what was seen of their packets, and the books.

use std::collections::BTreeMap;

use foldhash::HashMap;

use super::coverage::{Covered, Part};
use super::{Board, Interface, InterfaceStatus};
use crate::bpf::numbers::BOOKED_INTERFACES;
use crate::bpf::{InterfaceBooks, Misses, TimestampSource};
use crate::config::Choice;
use crate::sinks::metrics::{Accounted, Families, Family, Figures, Reading};

/// The hooks, in the order of what is kept for both of them.
const HOOKS: [&str; 2] = ["ingress", "egress"];

type Interfaces = BTreeMap<u32, Interface>;

/// Interfaces that have series of their own. The others share one in the books, and have none of what describes a single interface.
const MOST_INTERFACES: usize = BOOKED_INTERFACES;

impl Figures for Board {
    const FAMILIES: &'static [Family] = &[
        Family::counter("netmon_packets_seen_total", "Packets that passed a hook."),
        Family::counter("netmon_packets_decapsulated_total", "Packets found inside tunnelled packets."),
        Family::counter("netmon_packets_accounted_total", "Packets, seen or decapsulated, that belong to a flow."),
        Family::counter("netmon_packets_duplicate_total", "Packets of a flow that another hook accounts."),
        Family::counter("netmon_packets_ignored_total", "Packets that belong to no flow."),
        Family::counter("netmon_packets_lost_total", "Packets whose record could not be written."),
        Family::counter("netmon_bytes_seen_total", "Bytes of the packets seen."),
        Family::counter("netmon_bytes_decapsulated_total", "Bytes of the packets decapsulated."),
        Family::counter("netmon_bytes_accounted_total", "Bytes of the packets accounted."),
        Family::counter("netmon_bytes_duplicate_total", "Bytes of the duplicate packets."),
        Family::counter("netmon_bytes_ignored_total", "Bytes of the packets ignored."),
        Family::counter("netmon_bytes_lost_total", "Bytes of the packets lost."),
        Family::counter("netmon_ebpf_events_dropped_total", "Records that were lost."),
        Family::counter("netmon_latency_samples_missed_total", "Times that could not be measured or reported."),
        Family::counter(
            "netmon_icmp_quotes_missed_total",
            "ICMP errors not matched to a flow, because too many came at once.",
        ),
        Family::counter(
            "netmon_timestamps_total",
            "Timestamps taken by each clock (NETMON_TIMESTAMP_SOURCE=hardware).",
        ),
        Family::gauge("netmon_interface_info", "Interfaces of this host and whether their packets are seen; always 1."),
        Family::gauge(
            "netmon_interfaces_without_series",
            "Interfaces beyond 1,024: their packets count as interface \"other\".",
        ),
        Family::gauge(
            "netmon_interface_coverage_ratio",
            "Share of the packets counted by the interface itself in the last minute that was seen.",
        ),
        Family::counter(
            "netmon_interface_packets_total",
            "Packets by the interface's own count, since it became known.",
        ),
        Family::counter(
            "netmon_interface_packets_covered_total",
            "Packets counted by the interface itself that were seen; more than it counted if some were dropped afterwards.",
        ),
        Family::gauge(
            "netmon_interface_programs_outdated",
            "1 if a watched interface runs other programs than it should, because they could not be replaced.",
        ),
        Family::gauge(
            "netmon_interface_programs_before",
            "Other programs that get packets of an interface before netmon's: they may hide some.",
        ),
        Family::counter("netmon_hooks_lost_total", "Times that netmon's program was found removed from a hook."),
        Family::counter("netmon_hooks_restored_total", "Times that a removed program was put back at once."),
    ];

    fn collect(&self, reading: &Reading, families: &mut Families) {
        let parts = self.coverage();
        let (books, records, misses) = (self.books.interfaces(), self.books.records(), self.books.misses());
        let interfaces = self.interfaces();
        conservation(families, &interfaces, &books, reading.sums.interfaces());
        coverage(families, &interfaces, &parts);
        let lost = [("ring_full", records.lost), ("undecodable", reading.sums.undecodable())];
        for (reason, count) in lost {
            families.add("netmon_ebpf_events_dropped_total", &[("reason", reason)], count as f64);
        }
        let Misses { unpaired, unsampled, unquoted, stamps } = misses;
        for (reason, count) in [("collision", unpaired), ("busy", unsampled)] {
            families.add("netmon_latency_samples_missed_total", &[("reason", reason)], count as f64);
        }
        families.add("netmon_icmp_quotes_missed_total", &[], (unquoted + reading.errors_lost) as f64);
        if self.timestamps == TimestampSource::Hardware {
            for (source, count) in ["kernel", "hardware"].into_iter().zip(stamps) {
                families.add("netmon_timestamps_total", &[("source", source)], count as f64);
            }
        }
        let hooks = self.hooks();
        families.add("netmon_hooks_lost_total", &[], hooks.lost as f64);
        families.add("netmon_hooks_restored_total", &[], hooks.restored as f64);
    }
}

/// seen + decapsulated = accounted + duplicate + ignored + lost, but for what is still on its way.
fn conservation(
    families: &mut Families,
    interfaces: &Interfaces,
    seen: &BTreeMap<u32, InterfaceBooks>,
    accounted: &HashMap<u32, Accounted>,
) {
    let named = interfaces.iter().take(MOST_INTERFACES);
    let names: BTreeMap<u32, &str> = named.map(|(index, interface)| (*index, interface.name.as_str())).collect();
    let name = |index: &u32| names.get(index).copied().unwrap_or("other");
    // Interfaces that are gone, or that have no books of their own, count as one.
    let mut books = BTreeMap::<&str, (InterfaceBooks, Accounted)>::new();
    for (index, interface) in interfaces {
        if matches!(interface.status, InterfaceStatus::Watched(_)) {
            books.insert(name(index), Default::default());
        }
    }
    for (index, more) in seen {
        books.entry(name(index)).or_default().0 += *more;
    }
    for (index, more) in accounted {
        books.entry(name(index)).or_default().1 += *more;
    }
    for (name, (kernel, accounted)) in books {
        for (hook, seen) in HOOKS.into_iter().zip([kernel.ingress, kernel.egress]) {
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

/// Which interfaces there are, and what part of the packets that they counted themselves was seen.
fn coverage(families: &mut Families, interfaces: &Interfaces, coverage: &BTreeMap<u32, [Covered; 2]>) {
    // Two names can be the same for a moment, after a change of names: one sum, or Prometheus refuses the page.
    let mut counted = BTreeMap::<(&str, &str), u64>::new();
    let mut covered = BTreeMap::<(&str, &str), u64>::new();
    let mut lately = BTreeMap::<(&str, &str, &str), Part>::new();
    let without_lines = interfaces.len().saturating_sub(MOST_INTERFACES);
    families.add("netmon_interfaces_without_series", &[], without_lines as f64);
    for interface in interfaces.values().take(MOST_INTERFACES) {
        let Interface { name, kind, status, .. } = interface;
        let mode = if let InterfaceStatus::Watched(mode) = status { mode.name() } else { "" };
        let index = interface.index.to_string();
        let pairs = [
            ("interface", name.as_str()),
            ("ifindex", &index),
            ("kind", kind),
            ("status", status.name()),
            ("mode", mode),
        ];
        families.add("netmon_interface_info", &pairs, 1.0);
        if let InterfaceStatus::Watched(_) = status {
            for (hook, before) in HOOKS.into_iter().zip(&interface.before) {
                let pairs = [("interface", name.as_str()), ("hook", hook)];
                families.add("netmon_interface_programs_before", &pairs, before.len() as f64);
            }
            let outdated = f64::from(u8::from(interface.outdated.is_some()));
            families.add("netmon_interface_programs_outdated", &[("interface", name)], outdated);
        }
        // What repeats another interface is no hole.
        if *status == InterfaceStatus::Left(Choice::Repeats) {
            continue;
        }
        let Some(parts) = coverage.get(&interface.index) else { continue };
        for (hook, part) in HOOKS.into_iter().zip(parts) {
            *counted.entry((name, hook)).or_default() += part.all.counted;
            // Where nothing is to be seen there is no hole.
            if !matches!(status, InterfaceStatus::Left(_)) {
                *covered.entry((name, hook)).or_default() += part.all.seen;
            }
            *lately.entry((name, hook, status.name())).or_default() += part.lately;
        }
    }
    for (metric, sums) in
        [("netmon_interface_packets_total", counted), ("netmon_interface_packets_covered_total", covered)]
    {
        for ((name, hook), packets) in sums {
            families.add(metric, &[("interface", name), ("hook", hook)], packets as f64);
        }
    }
    for ((name, hook, status), part) in lately {
        if let Some(ratio) = part.ratio() {
            let pairs = [("interface", name), ("hook", hook), ("status", status)];
            families.add("netmon_interface_coverage_ratio", &pairs, ratio);
        }
    }
}
