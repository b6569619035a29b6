//! The interfaces of the host, whether the programs are where they should be, and how much they see there.

mod coverage;
mod figures;
mod interface;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use self::coverage::Coverage;
pub(super) use self::coverage::{Covered, LOOK_EVERY as COVERAGE_EVERY};
pub use self::interface::{Interface, InterfaceStatus};
use crate::bpf::{self, Books, Disturbed, TimestampSource};
use crate::lock;

/// What is known of the interfaces.
pub(super) struct Board {
    /// By index.
    interfaces: Mutex<BTreeMap<u32, Interface>>,
    /// The kernel's side of the accounts.
    books: Books,
    /// The clock that was asked for.
    timestamps: TimestampSource,
    coverage: Mutex<Coverage>,
    hooks_lost: AtomicU64,
    hooks_restored: AtomicU64,
}

/// Hooks that netmon's program was taken from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HookCounts {
    /// Times that somebody had removed it.
    pub(super) lost: u64,
    /// Times that it was put back at once.
    pub(super) restored: u64,
}

impl Board {
    pub(super) fn new(books: Books, timestamps: TimestampSource) -> Board {
        Board {
            interfaces: Mutex::default(),
            books,
            timestamps,
            coverage: Mutex::default(),
            hooks_lost: AtomicU64::new(0),
            hooks_restored: AtomicU64::new(0),
        }
    }

    pub(super) fn books(&self) -> &Books {
        &self.books
    }

    /// The interfaces of the host, by index.
    pub(super) fn interfaces(&self) -> BTreeMap<u32, Interface> {
        lock::ignoring_poison(&self.interfaces).clone()
    }

    /// Their names, by index.
    pub(super) fn names(&self) -> BTreeMap<u32, String> {
        lock::ignoring_poison(&self.interfaces)
            .iter()
            .map(|(index, interface)| (*index, interface.name.clone()))
            .collect()
    }

    /// The name of one that is known.
    pub(super) fn name_of(&self, index: u32) -> Option<String> {
        lock::ignoring_poison(&self.interfaces).get(&index).map(|interface| interface.name.clone())
    }

    /// Whether any interface is watched.
    pub(super) fn watches(&self) -> bool {
        lock::ignoring_poison(&self.interfaces)
            .values()
            .any(|interface| matches!(interface.status, InterfaceStatus::Watched(_)))
    }

    /// An interface is there, or has changed.
    pub(super) fn put(&self, interface: &Interface) {
        lock::ignoring_poison(&self.interfaces).insert(interface.index, interface.clone());
    }

    /// An interface is gone; records of it may still come.
    pub(super) fn remove(&self, index: u32) {
        lock::ignoring_poison(&self.interfaces).remove(&index);
    }

    /// How often programs were removed from their hooks.
    pub(super) fn hooks(&self) -> HookCounts {
        HookCounts { lost: self.hooks_lost.load(Relaxed), restored: self.hooks_restored.load(Relaxed) }
    }

    /// Counts and logs interfaces whose hooks somebody has disturbed. Returns what is wrong with those that could not be repaired.
    pub(super) fn disturbed(&self, disturbed: &[Disturbed]) -> Vec<String> {
        disturbed.iter().filter_map(|one| self.disturbed_one(one)).collect()
    }

    fn disturbed_one(&self, Disturbed { name, lost, error, .. }: &Disturbed) -> Option<String> {
        let hooks = lost.iter().map(|hook| hook.name()).collect::<Vec<_>>().join(" and ");
        self.hooks_lost.fetch_add(lost.len() as u64, Relaxed);
        let Some(error) = error else {
            self.hooks_restored.fetch_add(lost.len() as u64, Relaxed);
            log::warn!("somebody had taken netmon's program from {hooks} of {name}: it is there again");
            return None;
        };
        if lost.is_empty() {
            let trouble = format!("{name} keeps the programs as they were before: {error:#}");
            log::error!("{trouble}; trying again");
            return Some(trouble);
        }
        log::error!("somebody has taken netmon's program from {hooks} of {name}, and it cannot be put back: {error:#}");
        Some(format!("{name} is not watched any more: {error:#}"))
    }

    /// Compares what was seen with what the interfaces counted; to be called every [`COVERAGE_EVERY`].
    pub(super) fn look_at_coverage(&self) {
        let interfaces = self.interfaces();
        // Held while the numbers are read, so that they come in the order of their time.
        let mut coverage = lock::ignoring_poison(&self.coverage);
        // What cannot be read now is part of the next look.
        if let Ok(counters) = bpf::interface_counters() {
            coverage.look(&interfaces, &self.books.interfaces(), &counters, Instant::now());
        }
    }

    /// The part of the packets that was seen, by interface, for ingress and egress.
    pub(super) fn coverage(&self) -> BTreeMap<u32, [Covered; 2]> {
        let interfaces = self.interfaces();
        let coverage = lock::ignoring_poison(&self.coverage);
        // If they cannot be read, the page lacks what is made of them and nothing else.
        let counters = bpf::interface_counters().unwrap_or_default();
        coverage.read(&interfaces, &self.books.interfaces(), &counters, Instant::now())
    }
}
