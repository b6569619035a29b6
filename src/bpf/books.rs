//! The kernel's books: what the programs saw of each interface, and what became of what is in no record.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Mutex, PoisonError};

use super::mapped::Mapped;
use super::numbers::BOOKED_INTERFACES;
use super::skel::types::{nm_books, nm_books_used, nm_cpu, nm_hook, nm_ignored, nm_tally};

/// Packets and their bytes, on the wire.
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
    /// Every packet that came by the ingress hook.
    pub ingress: Tally,
    /// Every packet that came by the egress hook.
    pub egress: Tally,
    /// The same as the kernel handed them around, in the order of the hooks: a packet that is yet to be cut into segments, or was
    /// put together of them, is one.
    pub whole: [u64; 2],
    /// Ignored: not IP.
    pub not_ip: Tally,
    /// Ignored: an IP packet whose headers are cut short or contradict themselves.
    pub malformed: Tally,
    /// Ignored: of flows that are not in the sample.
    pub left_out: Tally,
    /// Lost: their record found its ring full.
    pub ring_full: Tally,
    /// Found in the packets of tunnels, and accounted or ignored like those seen.
    pub decapsulated: Tally,
}

impl InterfaceBooks {
    /// Both hooks.
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

/// Records written and not written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordCounts {
    /// Written to a ring.
    pub written: u64,
    /// Gone, with what they held, because the ring was full.
    pub lost: u64,
}

/// What else the programs count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Misses {
    /// Times not measured, for another connection had the place in the pairing table.
    pub unpaired: u64,
    /// Times measured and left out, for a record had just been written.
    pub unsampled: u64,
    /// Quotes of ICMP errors left out, for too many came at once.
    pub unquoted: u64,
    /// Moments taken down by the kernel's clock and by the NIC's; counted only where the NIC's is asked for.
    pub stamps: [u64; 2],
}

/// Reads the books.
#[derive(Debug)]
pub struct Books {
    interfaces: Mapped<nm_books>,
    /// Which of them are in use, by CPU: all together they are many megabytes on a large host.
    used: Mapped<nm_books_used>,
    state: Mapped<nm_cpu>,
    cpus: usize,
    /// Of interfaces that are gone.
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

    /// By interface index; 0 stands for the interfaces that are gone, or found no books of their own.
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

    /// Gives up the books of an interface: what is in them counts as interface 0 from now on. To be called when no program and no
    /// cache knows the interface any more.
    pub fn retire(&self, ifindex: u32) {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        for (cpu, slot) in self.slots() {
            if let Some(b) = self.read(cpu, slot).filter(|b| b.ifindex == ifindex) {
                *retired += b.into();
                // Once it is all zeros another interface may take it, and is to find it marked as it left it.
                self.used.store_byte(cpu, slot, 0);
                fence(Ordering::SeqCst);
                self.interfaces.clear(cpu * (BOOKED_INTERFACES + 1) + slot);
            }
        }
    }

    fn read(&self, cpu: usize, slot: usize) -> Option<nm_books> {
        self.interfaces.read(cpu * (BOOKED_INTERFACES + 1) + slot)
    }

    /// What is in use: CPU, and the place there. The one that interfaces without a place share always is.
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

    /// How many books a look at all of them reads.
    pub fn in_use(&self) -> usize {
        self.slots().count()
    }

    /// Of all CPUs.
    pub fn records(&self) -> RecordCounts {
        let mut counts = RecordCounts::default();
        for state in (0..self.cpus).filter_map(|cpu| self.state.read(cpu)) {
            counts.written += state.records;
            counts.lost += state.records_lost;
        }
        counts
    }

    /// Of all CPUs.
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
