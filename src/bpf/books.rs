//! The kernel's books: what the programs saw on each interface, and what happened to packets that are in no record.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Mutex, PoisonError};

use super::mapped::Mapped;
use super::numbers::BOOKED_INTERFACES;
use super::skel::types::{nm_books, nm_books_used, nm_cpu, nm_hook, nm_ignored, nm_tally};

/// Packets and bytes on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets on the wire.
    pub packets: u64,
    /// Bytes from the link-layer header on.
    pub bytes: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

impl From<nm_tally> for Tally {
    fn from(t: nm_tally) -> Tally {
        Tally { packets: t.packets, bytes: t.bytes }
    }
}

/// What the programs counted on one interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceBooks {
    /// Every packet seen at the ingress hook.
    pub ingress: Tally,
    /// Every packet seen at the egress hook.
    pub egress: Tally,
    /// The same in packets as the kernel passes them, ingress first: a packet that is yet to be segmented, or was merged from
    /// segments, counts as one.
    pub whole: [u64; 2],
    /// Ignored: not IP.
    pub not_ip: Tally,
    /// Ignored: IP packets whose headers are cut off or inconsistent.
    pub malformed: Tally,
    /// Ignored: packets of flows outside the sample.
    pub left_out: Tally,
    /// Lost: their record did not fit into its ring.
    pub ring_full: Tally,
    /// Packets found inside tunnel packets, and accounted or ignored like those seen.
    pub decapsulated: Tally,
}

impl InterfaceBooks {
    /// Packets seen at both hooks.
    pub fn seen(&self) -> Tally {
        let mut seen = self.ingress;
        seen += self.egress;
        seen
    }
}

impl From<nm_books> for InterfaceBooks {
    fn from(b: nm_books) -> InterfaceBooks {
        let seen = |hook: nm_hook| b.seen[hook.0 as usize].into();
        let ignored = |why: nm_ignored| b.ignored[why.0 as usize].into();
        InterfaceBooks {
            ingress: seen(nm_hook::NM_INGRESS),
            egress: seen(nm_hook::NM_EGRESS),
            whole: b.whole,
            not_ip: ignored(nm_ignored::NM_NOT_IP),
            malformed: ignored(nm_ignored::NM_MALFORMED),
            left_out: b.left_out.into(),
            ring_full: b.lost.into(),
            decapsulated: b.inner.into(),
        }
    }
}

impl AddAssign for InterfaceBooks {
    fn add_assign(&mut self, other: InterfaceBooks) {
        self.ingress += other.ingress;
        self.egress += other.egress;
        self.whole[0] += other.whole[0];
        self.whole[1] += other.whole[1];
        self.not_ip += other.not_ip;
        self.malformed += other.malformed;
        self.left_out += other.left_out;
        self.ring_full += other.ring_full;
        self.decapsulated += other.decapsulated;
    }
}

/// Records written and lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordCounts {
    /// Written to a ring.
    pub written: u64,
    /// Lost with their content because the ring was full.
    pub lost: u64,
}

/// Other events that the programs count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Misses {
    /// Packets not measured because another connection held the slot in the pairing table.
    pub unpaired: u64,
    /// Measured times dropped because a record had just been written or the ring was full.
    pub unsampled: u64,
    /// Quotes of ICMP errors dropped because too many came at once or the ring was full.
    pub unquoted: u64,
    /// Timestamps taken from the kernel's clock and from the NIC's; counted only if the NIC's are requested.
    pub stamps: [u64; 2],
}

/// Reads the books.
#[derive(Debug)]
pub struct Books {
    interfaces: Mapped<nm_books>,
    /// Which of them are in use, by CPU, because all of them together are many megabytes on a large host.
    used: Mapped<nm_books_used>,
    state: Mapped<nm_cpu>,
    cpus: usize,
    /// The books of interfaces that are gone.
    retired: Mutex<InterfaceBooks>,
}

impl Books {
    pub(super) fn new(
        interfaces: Mapped<nm_books>,
        used: Mapped<nm_books_used>,
        state: Mapped<nm_cpu>,
        cpus: usize,
    ) -> Books {
        Books { interfaces, used, state, cpus, retired: Mutex::default() }
    }

    /// The books by interface index; 0 stands for interfaces that are gone or have no books of their own.
    pub fn interfaces(&self) -> BTreeMap<u32, InterfaceBooks> {
        let retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = BTreeMap::<u32, InterfaceBooks>::new();
        for b in self.slots().filter_map(|(cpu, slot)| self.read(cpu, slot)) {
            let books = InterfaceBooks::from(b);
            if books != InterfaceBooks::default() {
                *all.entry(b.ifindex).or_default() += books;
            }
        }
        if *retired != InterfaceBooks::default() {
            *all.entry(0).or_default() += *retired;
        }
        all
    }

    /// Frees the books of an interface: from now on their content counts as interface 0. To be called when neither programs nor
    /// caches refer to the interface any more.
    pub fn retire(&self, ifindex: u32) {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        for (cpu, slot) in self.slots() {
            if let Some(b) = self.read(cpu, slot).filter(|b| b.ifindex == ifindex) {
                *retired += b.into();
                // Cleared before the slot: once that is all zeros another interface may take it, and its mark must not be cleared.
                self.used.store_byte(cpu, slot, 0);
                fence(Ordering::SeqCst);
                self.interfaces.clear(cpu * (BOOKED_INTERFACES + 1) + slot);
            }
        }
    }

    fn read(&self, cpu: usize, slot: usize) -> Option<nm_books> {
        self.interfaces.read(cpu * (BOOKED_INTERFACES + 1) + slot)
    }

    /// CPU and slot of the books in use, which always include the slot that interfaces without books of their own share.
    fn slots(&self) -> impl Iterator<Item = (usize, usize)> {
        let of_cpu = |cpu: usize| {
            let used = self.used.read(cpu).map_or([0; BOOKED_INTERFACES], |used| used.slot);
            (0..BOOKED_INTERFACES)
                .filter(move |slot| used[*slot] != 0)
                .chain([BOOKED_INTERFACES])
                .map(move |slot| (cpu, slot))
        };
        (0..self.cpus).flat_map(of_cpu)
    }

    /// Number of books that [`Self::interfaces`] reads.
    pub fn in_use(&self) -> usize {
        self.slots().count()
    }

    /// Records of all CPUs.
    pub fn records(&self) -> RecordCounts {
        let mut counts = RecordCounts::default();
        for state in (0..self.cpus).filter_map(|cpu| self.state.read(cpu)) {
            counts.written += state.records;
            counts.lost += state.records_lost;
        }
        counts
    }

    /// Misses of all CPUs.
    pub fn misses(&self) -> Misses {
        let mut misses = Misses::default();
        for state in (0..self.cpus).filter_map(|cpu| self.state.read(cpu)) {
            misses.unpaired += state.unpaired;
            misses.unsampled += state.unsampled;
            misses.unquoted += state.unquoted;
            misses.stamps[0] += state.stamps[0];
            misses.stamps[1] += state.stamps[1];
        }
        misses
    }
}
