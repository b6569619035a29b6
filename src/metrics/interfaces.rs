//! The interfaces of the host: what is watched, and how much of it is seen.

use std::collections::{BTreeMap, HashMap};

use super::families::Families;
use super::page::Snapshot;
use crate::bpf::{InterfaceBooks, Link, Mode};
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
pub(super) const MOST_INTERFACES: usize = 1024;

/// Which interfaces there are, and what part of the packets that they counted themselves was seen.
pub(super) fn coverage(families: &mut Families, snapshot: &Snapshot) {
    // Two names can be the same for a moment, after a change of names: one sum, or Prometheus refuses the page.
    let mut seen = BTreeMap::<(&str, &str, &str), (u64, f64)>::new();
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
        }
        // What repeats another interface is no hole.
        if *status == InterfaceStatus::Left(Choice::Repeats) {
            continue;
        }
        let books = snapshot.books.get(&interface.index).copied().unwrap_or_default();
        for (hook, counted, part) in parts(interface, &books, &snapshot.counters) {
            let sum = seen.entry((name, hook, status.name())).or_default();
            sum.0 += counted;
            sum.1 += part;
        }
    }
    for ((name, hook, status), (counted, part)) in seen {
        let pairs = [("interface", name), ("hook", hook)];
        families.add("netmon_interface_packets_total", &pairs, counted as f64);
        if counted > 0 {
            let pairs = [("interface", name), ("hook", hook), ("status", status)];
            families.add("netmon_interface_coverage_ratio", &pairs, part / counted as f64);
        }
    }
}

const HOOKS: [&str; 2] = ["ingress", "egress"];

/// What part of the packets that a watched interface counted itself was seen, for ingress and egress.
pub fn coverage_of(
    interface: &Interface,
    books: &InterfaceBooks,
    counters: &HashMap<u32, [u64; 2]>,
) -> [Option<f64>; 2] {
    let mut coverage = [None; 2];
    for (place, (_, counted, part)) in coverage.iter_mut().zip(parts(interface, books, counters)) {
        *place = (counted > 0).then(|| part / counted as f64);
    }
    coverage
}

/// Of each hook: what the interface counted, and what of that was seen.
fn parts<'a>(
    interface: &Interface,
    books: &InterfaceBooks,
    counters: &'a HashMap<u32, [u64; 2]>,
) -> impl Iterator<Item = (&'static str, u64, f64)> + use<'a> {
    let now = counters.get(&interface.index).copied();
    let (start, counts_whole) = (interface.start, interface.counts_whole);
    let seen = [(books.ingress.packets, books.whole[0]), (books.egress.packets, books.whole[1])];
    now.into_iter().flat_map(move |now| {
        (0..2).map(move |i| {
            let (segments, whole) = seen[i];
            let counted = now[i].saturating_sub(start[i]);
            // Drivers differ in whether they count before or after segments were put together: both are everything.
            let all = if counts_whole { whole..=whole } else { whole..=segments };
            let part = if all.contains(&counted) {
                counted
            } else if counted < whole {
                whole
            } else {
                *all.end()
            };
            (HOOKS[i], counted, part as f64)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::Tally;

    fn part(kind: &str, segments: u64, whole: u64, counted: u64) -> f64 {
        let interface = Interface::new(&Link::sample(3, "x0", kind), InterfaceStatus::Watched(Mode::Tcx), [10, 0]);
        let ingress = Tally { packets: segments, bytes: 0 };
        let books = InterfaceBooks { ingress, whole: [whole, 0], ..InterfaceBooks::default() };
        let counters = HashMap::from([(3, [10 + counted, 0])]);
        let (hook, of, part) = parts(&interface, &books, &counters).next().unwrap();
        assert_eq!((hook, of), ("ingress", counted));
        part / of as f64
    }

    #[test]
    fn a_part_is_of_what_the_interface_counts() {
        assert_eq!(part("veth", 400, 100, 100), 1.0, "in whole packets");
        assert_eq!(part("veth", 400, 50, 100), 0.5);
        assert_eq!(part("veth", 100, 100, 80), 1.25, "some did not get on the wire");
        assert_eq!(part("physical", 400, 100, 400), 1.0, "in segments");
        assert_eq!(part("physical", 400, 100, 100), 1.0, "or in whole ones");
        assert_eq!(part("physical", 400, 100, 800), 0.5);
    }
}
