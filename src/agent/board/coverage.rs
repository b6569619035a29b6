//! The part of the packets counted by the interfaces themselves that was seen. Pure: time is an argument.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::Interface;
use crate::bpf::InterfaceBooks;

/// Between two looks. Each interval is judged by itself, so that a gap shows whatever was seen before it.
pub(in crate::agent) const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How far back `lately` reaches.
const LATELY: Duration = Duration::from_secs(60);

/// Coverage of one hook of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::agent) struct Covered {
    /// Since the interface became known.
    pub(in crate::agent) all: Part,
    /// In the last minute.
    pub(in crate::agent) lately: Part,
}

/// Packets by the interface's own count, and those of them that were seen. More may have been seen, if some were dropped afterwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::agent) struct Part {
    /// Packets by the interface's own count.
    pub(in crate::agent) counted: u64,
    /// Packets that were seen.
    pub(in crate::agent) seen: u64,
}

impl Part {
    /// `None`: there were no packets.
    pub(in crate::agent) fn ratio(self) -> Option<f64> {
        (self.counted > 0).then(|| self.seen as f64 / self.counted as f64)
    }

    fn plus(self, more: Part) -> Part {
        Part { counted: self.counted + more.counted, seen: self.seen + more.seen }
    }

    fn since(self, before: Part) -> Part {
        Part { counted: self.counted - before.counted, seen: self.seen - before.seen }
    }
}

impl std::ops::AddAssign for Part {
    fn add_assign(&mut self, more: Part) {
        *self = self.plus(more);
    }
}

/// What an interface and the programs have counted so far, for one hook.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    counted: u64,
    whole: u64,
    segments: u64,
}

impl Counts {
    fn of(counters: [u64; 2], books: &InterfaceBooks) -> [Counts; 2] {
        let segments = [books.ingress.packets, books.egress.packets];
        [0, 1].map(|i| Counts { counted: counters[i], whole: books.whole[i], segments: segments[i] })
    }

    fn part_since(self, before: Counts, counts_whole: bool) -> Part {
        let counted = self.counted.saturating_sub(before.counted);
        let whole = self.whole.saturating_sub(before.whole);
        let segments = self.segments.saturating_sub(before.segments).max(whole);
        // Drivers differ in whether they count before or after segments are merged: either is full coverage.
        let seen = counted.clamp(whole, if counts_whole { whole } else { segments });
        Part { counted, seen }
    }
}

struct Known {
    counts_whole: bool,
    /// Counts at the last look.
    counts: [Counts; 2],
    parts: [Part; 2],
    /// Parts at the looks of the last minute, and at the last one before that.
    past: VecDeque<(Instant, [Part; 2])>,
}

/// The coverage of all interfaces that have counters.
#[derive(Default)]
pub(super) struct Coverage(BTreeMap<u32, Known>);

impl Coverage {
    /// Takes the present counts. `counters` are the interfaces' own, by index: packets received and sent.
    pub(super) fn look(
        &mut self,
        interfaces: &BTreeMap<u32, Interface>,
        books: &BTreeMap<u32, InterfaceBooks>,
        counters: &HashMap<u32, [u64; 2]>,
        now: Instant,
    ) {
        self.0.retain(|index, _| interfaces.contains_key(index));
        for interface in interfaces.values() {
            let Some(counts) = counts_of(interface.index, books, counters) else { continue };
            let known = self.0.entry(interface.index).or_insert_with(|| Known::from_start(interface, now));
            (known.parts, known.counts) = (known.parts_at(&counts), counts);
            known.past.push_back((now, known.parts));
            while known.past.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= LATELY) {
                known.past.pop_front();
            }
        }
    }

    /// The coverage up to now, with what happened since the last look. By index, for ingress and egress.
    pub(super) fn read(
        &self,
        interfaces: &BTreeMap<u32, Interface>,
        books: &BTreeMap<u32, InterfaceBooks>,
        counters: &HashMap<u32, [u64; 2]>,
        now: Instant,
    ) -> BTreeMap<u32, [Covered; 2]> {
        let of = |interface: &Interface| {
            let counts = counts_of(interface.index, books, counters)?;
            let new;
            let known = match self.0.get(&interface.index) {
                Some(known) => known,
                None => {
                    new = Known::from_start(interface, now);
                    &new
                }
            };
            let parts = known.parts_at(&counts);
            let before = known.past.front().map(|(_, parts)| *parts).unwrap_or_default();
            Some((interface.index, [0, 1].map(|i| Covered { all: parts[i], lately: parts[i].since(before[i]) })))
        };
        interfaces.values().filter_map(of).collect()
    }
}

fn counts_of(
    index: u32,
    books: &BTreeMap<u32, InterfaceBooks>,
    counters: &HashMap<u32, [u64; 2]>,
) -> Option<[Counts; 2]> {
    let none = InterfaceBooks::default();
    Some(Counts::of(*counters.get(&index)?, books.get(&index).unwrap_or(&none)))
}

impl Known {
    fn from_start(interface: &Interface, now: Instant) -> Known {
        Known {
            counts_whole: interface.counts_whole,
            counts: Counts::of(interface.start, &InterfaceBooks::default()),
            parts: Default::default(),
            past: VecDeque::from([(now, Default::default())]),
        }
    }

    fn parts_at(&self, counts: &[Counts; 2]) -> [Part; 2] {
        [0, 1].map(|i| self.parts[i].plus(counts[i].part_since(self.counts[i], self.counts_whole)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::InterfaceStatus;
    use crate::bpf::{Link, Mode, Tally};

    struct Host {
        interfaces: BTreeMap<u32, Interface>,
        books: BTreeMap<u32, InterfaceBooks>,
        counters: HashMap<u32, [u64; 2]>,
        coverage: Coverage,
        now: Instant,
    }

    impl Host {
        fn new(kind: &str) -> Host {
            let watched = InterfaceStatus::Watched(Mode::Tcx);
            let interface = Interface::new(&Link::sample(3, "x0", kind), watched, [10, 0]);
            Host {
                interfaces: BTreeMap::from([(3, interface)]),
                books: BTreeMap::new(),
                counters: HashMap::from([(3, [10, 0])]),
                coverage: Coverage::default(),
                now: Instant::now(),
            }
        }

        /// So much came in, and so much of it was seen.
        fn pass(&mut self, counted: u64, segments: u64, whole: u64) {
            self.counters.get_mut(&3).unwrap()[0] += counted;
            let books = self.books.entry(3).or_default();
            books.ingress += Tally { packets: segments, bytes: 0 };
            books.whole[0] += whole;
        }

        fn look(&mut self) {
            self.now += LOOK_EVERY;
            self.coverage.look(&self.interfaces, &self.books, &self.counters, self.now);
        }

        fn read(&self) -> Covered {
            self.coverage.read(&self.interfaces, &self.books, &self.counters, self.now)[&3][0]
        }
    }

    fn ratio(kind: &str, segments: u64, whole: u64, counted: u64) -> f64 {
        let mut host = Host::new(kind);
        host.pass(counted, segments, whole);
        let before = host.read();
        host.look();
        assert_eq!(host.read(), before, "a look changes nothing");
        assert_eq!(before.all.counted, counted, "what it had counted before does not matter");
        before.lately.ratio().unwrap()
    }

    #[test]
    fn a_part_is_of_what_the_interface_counts() {
        assert_eq!(ratio("veth", 400, 100, 100), 1.0, "in whole packets");
        assert_eq!(ratio("veth", 400, 50, 100), 0.5);
        assert_eq!(ratio("veth", 100, 100, 80), 1.25, "some did not get on the wire");
        assert_eq!(ratio("physical", 400, 100, 400), 1.0, "in segments");
        assert_eq!(ratio("physical", 400, 100, 100), 1.0, "or in whole ones");
        assert_eq!(ratio("physical", 400, 100, 800), 0.5);
    }

    #[test]
    fn a_hole_shows_whatever_was_seen_before() {
        for kind in ["veth", "physical"] {
            let mut host = Host::new(kind);
            for _ in 0..10_000 {
                host.pass(100, 400, 100);
                host.look();
            }
            assert_eq!(host.read().lately.ratio(), Some(1.0));
            for _ in 0..12 {
                host.pass(100, 0, 0);
                host.look();
            }
            let blind = host.read();
            assert_eq!((blind.lately, blind.all.seen), (Part { counted: 1200, seen: 0 }, 1_000_000), "{kind}");
            for _ in 0..13 {
                host.pass(100, 100, 100);
                host.look();
            }
            assert_eq!(host.read().lately.ratio(), Some(1.0), "{kind}: over again");
        }
    }

    #[test]
    fn without_packets_there_is_no_part() {
        let mut host = Host::new("veth");
        host.pass(5, 5, 5);
        (0..14).for_each(|_| host.look());
        assert_eq!((host.read().lately.ratio(), host.read().all.ratio()), (None, Some(1.0)));
        host.interfaces.clear();
        host.look();
        assert!(host.coverage.0.is_empty());
    }
}
