//! The kernel's books and those of user space, side by side.

use std::collections::BTreeMap;
use std::fmt;

use foldhash::HashMap;

use crate::bpf::{InterfaceBooks, RecordCounts, Tally};
use crate::sinks::metrics::Accounted;

/// What was seen, and what became of it, by interface index.
#[derive(Clone, Debug)]
pub struct Report {
    /// The kernel's side.
    pub books: BTreeMap<u32, InterfaceBooks>,
    /// User space's side: what came in records.
    pub accounted: HashMap<u32, Accounted>,
    /// Records written and lost.
    pub records: RecordCounts,
}

impl Report {
    pub(super) fn new(
        books: BTreeMap<u32, InterfaceBooks>,
        accounted: HashMap<u32, Accounted>,
        records: RecordCounts,
    ) -> Report {
        Report { books, accounted, records }
    }

    /// The sums over all interfaces.
    pub fn conservation(&self) -> Conservation {
        let mut sums = Conservation::default();
        for books in self.books.values() {
            sums.seen += books.seen();
            sums.decapsulated += books.decapsulated;
            sums.ignored += books.not_ip;
            sums.ignored += books.malformed;
            sums.ignored += books.left_out;
            sums.lost += books.ring_full;
        }
        for accounted in self.accounted.values() {
            sums.accounted += accounted.accounted;
            sums.duplicate += accounted.duplicate;
        }
        sums
    }
}

/// Every packet is in one of these: seen + decapsulated = accounted + duplicate + ignored + lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conservation {
    /// Packets that passed a hook.
    pub seen: Tally,
    /// Packets inside tunnelled packets that did.
    pub decapsulated: Tally,
    /// Packets that belong to a flow.
    pub accounted: Tally,
    /// Packets of a flow that another hook accounts.
    pub duplicate: Tally,
    /// Packets that belong to no flow.
    pub ignored: Tally,
    /// Packets whose record could not be written.
    pub lost: Tally,
}

impl Conservation {
    /// Whether every packet and byte is accounted for exactly once.
    pub fn holds(&self) -> bool {
        let mut sum = self.accounted;
        sum += self.duplicate;
        sum += self.ignored;
        sum += self.lost;
        let mut all = self.seen;
        all += self.decapsulated;
        sum == all
    }
}

impl fmt::Display for Conservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Conservation { seen, decapsulated, accounted, duplicate, ignored, lost } = self;
        write!(
            f,
            "packets: {} seen + {} decapsulated = {} accounted + {} duplicate + {} ignored + {} lost ({})",
            seen.packets,
            decapsulated.packets,
            accounted.packets,
            duplicate.packets,
            ignored.packets,
            lost.packets,
            if self.holds() { "exact" } else { "NOT EXACT" }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conservation_is_of_packets_and_bytes() {
        let tally = |packets, bytes| Tally { packets, bytes };
        let mut books =
            Conservation { seen: tally(3, 300), accounted: tally(2, 200), lost: tally(1, 100), ..Default::default() };
        assert!(books.holds());
        books.lost.bytes -= 1;
        assert!(!books.holds());
        books.accounted += tally(1, 51);
        books.decapsulated = tally(1, 50);
        assert!(books.holds());
    }
}
