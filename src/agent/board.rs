//! The interfaces of the host, whether the programs are where they are to be, and how much they see there.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::bpf::{self, Books, Disturbed};
use crate::metrics::{Coverage, Covered, HookCounts, Interface, InterfaceStatus};

/// What is known of the interfaces.
pub(super) struct Board {
    /// By index.
    interfaces: Mutex<BTreeMap<u32, Interface>>,
    /// The kernel's side of the accounts.
    books: Books,
    coverage: Mutex<Coverage>,
    hooks_lost: AtomicU64,
    hooks_restored: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board {
    pub(super) fn new(books: Books) -> Board {
        Board {
            interfaces: Mutex::default(),
            books,
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
        lock(&self.interfaces).clone()
    }

    /// Their names, by index.
    pub(super) fn names(&self) -> BTreeMap<u32, String> {
        lock(&self.interfaces).iter().map(|(index, interface)| (*index, interface.name.clone())).collect()
    }

    /// The name of one that is known.
    pub(super) fn name_of(&self, index: u32) -> Option<String> {
        lock(&self.interfaces).get(&index).map(|interface| interface.name.clone())
    }

    /// Whether any interface is watched.
    pub(super) fn watches(&self) -> bool {
        lock(&self.interfaces).values().any(|interface| matches!(interface.status, InterfaceStatus::Watched(_)))
    }

    /// An interface is there, or has changed.
    pub(super) fn put(&self, interface: &Interface) {
        lock(&self.interfaces).insert(interface.index, interface.clone());
    }

    /// An interface is gone; records of it may still come.
    pub(super) fn remove(&self, index: u32) {
        lock(&self.interfaces).remove(&index);
    }

    /// How often programs were taken from their hooks.
    pub(super) fn hooks(&self) -> HookCounts {
        HookCounts { lost: self.hooks_lost.load(Relaxed), restored: self.hooks_restored.load(Relaxed) }
    }

    /// Counts and logs interfaces whose hooks somebody has disturbed; what is wrong with those that could not be repaired.
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

    /// Compares what was seen with what the interfaces counted; to be called every [`crate::metrics::COVERAGE_EVERY`].
    pub(super) fn look_at_coverage(&self) {
        let interfaces = self.interfaces();
        // Held while numbers are read: they come in the order of their time.
        let mut coverage = lock(&self.coverage);
        // What cannot be read now is part of the next look.
        if let Ok(counters) = bpf::interface_counters() {
            coverage.look(&interfaces, &self.books.interfaces(), &counters, Instant::now());
        }
    }

    /// The part of the packets that was seen, by interface, for ingress and egress.
    pub(super) fn coverage(&self) -> BTreeMap<u32, [Covered; 2]> {
        let interfaces = self.interfaces();
        let coverage = lock(&self.coverage);
        // If they cannot be read, the page lacks what is made of them and nothing else.
        let counters = bpf::interface_counters().unwrap_or_default();
        coverage.read(&interfaces, &self.books.interfaces(), &counters, Instant::now())
    }
}
