//! Maps addresses to names: the cluster's objects become an immutable index of names, which the worker threads query.
//!
//! [`Store`] receives objects as they arrive and changes its index in place. An index published earlier stays as it was, and
//! shares all unchanged parts with the new one. [`Names`] holds the published index.

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
pub use watch::{
    Denied, Enabled, KindStatus, NamesOptions, Progress, Reached, Scope, State, Status, Watcher, reach, start,
};

/// Nanoseconds since the Unix epoch.
pub type UnixNs = u64;

/// The current index. Readers never wait.
#[derive(Debug)]
pub struct Names {
    current: ArcSwap<Index>,
    generation: AtomicU64,
}

impl Names {
    /// Starts with `index`, at generation 0.
    pub fn new(index: Index) -> Names {
        Names { current: ArcSwap::from_pointee(index), generation: AtomicU64::new(0) }
    }

    /// Returns the current index, which does not change while it is held. Hold it for one batch of lookups and no longer, because
    /// it keeps its parts in memory.
    pub fn load(&self) -> Guard<Arc<Index>> {
        self.current.load()
    }

    /// Number of indexes published so far. If it has changed, an address that was [`Answer::NotYet`] may be known now.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Replaces the current index and increments the generation.
    pub fn publish(&self, index: Index) {
        self.current.store(Arc::new(index));
        // After the index, so that a reader that sees the new number also sees this index or a later one.
        self.generation.fetch_add(1, Ordering::Release);
    }
}
