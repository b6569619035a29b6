//! The interfaces of the host: what is watched, and how much of it is seen.

use std::collections::BTreeMap;

use super::coverage::Part;
use super::families::Families;
use super::page::Snapshot;
use crate::bpf::numbers::BOOKED_INTERFACES;
use crate::bpf::{Link, Mode};
use crate::config::Choice;

/// An interface of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Interface index.
    pub index: u32,
    /// Its present name.
    pub name: String,
    /// Of interface: `physical`, `veth`, `bridge`.
    pub kind: String,
    /// What becomes of its packets.
    pub status: InterfaceStatus,
    /// What it had counted when it became known: packets received and sent.
    pub start: [u64; 2],
    /// Names of other programs that have its packets before netmon's, for ingress and egress.
    pub before: [Vec<String>; 2],
    /// Why it runs other programs than it is to, if it does.
    pub outdated: Option<String>,
    /// It faces a workload: the other end is a pod's or a container's.
    pub workload: bool,
    /// It counts packets as the kernel hands them around, not as they are on the wire.
    pub counts_whole: bool,
}

/// What becomes of the packets of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterfaceStatus {
    /// They are seen.
    Watched(Mode),
    /// They are left alone, on purpose.
    Left(Choice),
    /// They should be seen, and cannot: why.
    Failed(String),
}

impl InterfaceStatus {
    /// As in labels.
    pub fn name(&self) -> &'static str {
        match self {
            InterfaceStatus::Watched(_) => Choice::Watch.name(),
            InterfaceStatus::Left(choice) => choice.name(),
            InterfaceStatus::Failed(_) => "failed",
        }
    }
}

impl Interface {
    /// `start` as for the field.
    pub fn new(link: &Link, status: InterfaceStatus, start: [u64; 2]) -> Interface {
        Interface {
            index: link.index,
            name: link.name.clone(),
            kind: link.kind.clone(),
            status,
            start,
            before: Default::default(),
            outdated: None,
            workload: link.workload,
            counts_whole: link.counts_whole(),
        }
    }

    /// Something that others are told is not as before.
    pub fn differs(&self, link: &Link, status: &InterfaceStatus) -> bool {
        self.name != link.name || self.status != *status || self.workload != link.workload
    }
}

/// Interfaces with lines of their own; the others share one in the books, and have none of what only a single one can have.
pub(super) const MOST_INTERFACES: usize = BOOKED_INTERFACES;

/// Which interfaces there are, and what part of the packets that they counted themselves was seen.
pub(super) fn coverage(families: &mut Families, snapshot: &Snapshot) {
    // Two names can be the same for a moment, after a change of names: one sum, or Prometheus refuses the page.
    let mut counted = BTreeMap::<(&str, &str), u64>::new();
    let mut covered = BTreeMap::<(&str, &str), u64>::new();
    let mut lately = BTreeMap::<(&str, &str, &str), Part>::new();
    let without_lines = snapshot.interfaces.len().saturating_sub(MOST_INTERFACES);
    families.add("netmon_interfaces_without_series", &[], without_lines as f64);
    for interface in snapshot.interfaces.values().take(MOST_INTERFACES) {
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
        let Some(parts) = snapshot.coverage.get(&interface.index) else { continue };
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

const HOOKS: [&str; 2] = ["ingress", "egress"];
