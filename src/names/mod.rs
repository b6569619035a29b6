//! Who an address is: the cluster's objects become an immutable index of names, which the flows' threads look into.
//!
//! [`Store`] takes objects as they come and changes its index in place; what was published before stays as it is, for the
//! two share all parts that did not change. [`Names`] is where the published index is found.

mod index;
pub mod objects;
#[cfg(test)]
mod samples;
mod store;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};

pub use index::{Answer, Cluster, End, Index, NamedNetwork, Size};
pub use store::{Counts, Kind, Object, Store};
pub use watch::{Denied, Enabled, KindStatus, Options, Progress, Reached, Scope, State, Status, Watcher, reach, start};

/// Nanoseconds since the Unix epoch.
pub type UnixNs = u64;

/// The index of the present. Reading it waits for nobody.
#[derive(Debug)]
pub struct Names {
    current: ArcSwap<Index>,
    generation: AtomicU64,
}

impl Names {
    /// Starts with what is known without asking anybody.
    pub fn new(index: Index) -> Names {
        Names { current: ArcSwap::from_pointee(index), generation: AtomicU64::new(0) }
    }

    /// The index of the present; it does not change while it is held. To be held for a batch of lookups, not longer: what it
    /// alone has stays in memory.
    pub fn load(&self) -> Guard<Arc<Index>> {
        self.current.load()
    }

    /// Another number than before: another index is there, and what was [`Answer::NotYet`] may be known.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Puts another index in place.
    pub fn publish(&self, index: Index) {
        self.current.store(Arc::new(index));
        // After the index: who sees the number finds it, or a later one.
        self.generation.fetch_add(1, Ordering::Release);
    }
}
