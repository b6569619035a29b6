//! Whether the programs are where they are to be, and how much they see there.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::shared::Shared;
use crate::bpf::{self, Disturbed};
use crate::metrics::{Coverage, Covered, HookCounts};

/// What is known of it.
#[derive(Default)]
pub(super) struct Upkept {
    coverage: Mutex<Coverage>,
    lost: AtomicU64,
    restored: AtomicU64,
}

impl Upkept {
    pub(super) fn counts(&self) -> HookCounts {
        HookCounts { lost: self.lost.load(Relaxed), restored: self.restored.load(Relaxed) }
    }

    fn coverage(&self) -> MutexGuard<'_, Coverage> {
        self.coverage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts and tells of interfaces whose hooks somebody has disturbed; what is wrong with those that are not as they are to be.
    pub(super) fn note(&self, disturbed: &[Disturbed]) -> Vec<String> {
        disturbed.iter().filter_map(|one| self.note_one(one)).collect()
    }

    fn note_one(&self, Disturbed { name, lost, error, .. }: &Disturbed) -> Option<String> {
        let hooks = lost.iter().map(|hook| hook.name()).collect::<Vec<_>>().join(" and ");
        self.lost.fetch_add(lost.len() as u64, Relaxed);
        let Some(error) = error else {
            self.restored.fetch_add(lost.len() as u64, Relaxed);
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
}

impl Shared {
    /// Takes note of what part of the packets was seen; to be called now and then.
    pub(super) fn look_at_coverage(&self) {
        let interfaces = self.interfaces();
        // Held while numbers are read: they come in the order of their time.
        let mut coverage = self.upkept.coverage();
        // What cannot be read now is part of the next look.
        if let Ok(counters) = bpf::interface_counters() {
            coverage.look(&interfaces, &self.books.interfaces(), &counters, Instant::now());
        }
    }

    /// What part of the packets was seen, by interface.
    pub(super) fn coverage(&self) -> BTreeMap<u32, [Covered; 2]> {
        let interfaces = self.interfaces();
        let coverage = self.upkept.coverage();
        // Without them the page lacks what is made of them, nothing else.
        let counters = bpf::interface_counters().unwrap_or_default();
        coverage.read(&interfaces, &self.books.interfaces(), &counters, Instant::now())
    }
}
