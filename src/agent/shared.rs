//! What threads share: the shards and the kernel's books, and the view of them that others get.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::HashMapExt;

use super::nat::Nat;
use super::report::Report;
use super::shard::{Shard, ShardSink, lock};
use crate::bpf::{self, Books, Clock, ProgramStatsReader, TimestampSource};
use crate::flow::{Counts, Facing, Flow};
use crate::metrics::{Aggregates, Interface, InterfaceStatus, Processing, Snapshot, Source};

/// A worker that did not come by for this long is stuck.
const STUCK: Duration = Duration::from_secs(10);

pub(super) struct Shared {
    books: Books,
    programs: ProgramStatsReader,
    timestamps: TimestampSource,
    shards: Arc<[Arc<Mutex<Shard>>]>,
    nat: Arc<Nat>,
    interfaces: Mutex<BTreeMap<u32, Interface>>,
}

impl Shared {
    pub(super) fn new(
        books: Books,
        programs: ProgramStatsReader,
        timestamps: TimestampSource,
        shards: Vec<Arc<Mutex<Shard>>>,
        nat: Arc<Nat>,
    ) -> Shared {
        Shared { books, programs, timestamps, shards: shards.into(), nat, interfaces: Mutex::default() }
    }

    /// For the worker of ring `own`.
    pub(super) fn sink(&self, own: usize) -> ShardSink {
        ShardSink::new(Arc::clone(&self.shards), own, Arc::clone(&self.nat))
    }

    pub(super) fn nat(&self) -> Arc<Nat> {
        Arc::clone(&self.nat)
    }

    /// An interface is there, or has changed.
    pub(super) fn know(&self, interface: &Interface) {
        self.lock_interfaces().insert(interface.index, interface.clone());
    }

    /// An interface is gone; records of it may still come.
    pub(super) fn forget(&self, index: u32) {
        self.lock_interfaces().remove(&index);
    }

    /// Name of an interface that is known.
    pub(super) fn name_of(&self, index: u32) -> Option<String> {
        self.lock_interfaces().get(&index).map(|interface| interface.name.clone())
    }

    /// No record of an interface will come any more.
    pub(super) fn retire(&self, index: u32) {
        for shard in &*self.shards {
            lock(shard).aggregates.retire(index);
        }
        self.books.retire(index);
    }

    fn lock_interfaces(&self) -> MutexGuard<'_, BTreeMap<u32, Interface>> {
        self.interfaces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells all tables which interfaces face a workload.
    pub(super) fn face(&self, workloads: Facing) {
        for shard in &*self.shards {
            lock(shard).table.face(Facing::clone(&workloads));
        }
    }

    /// Ends all flows: what they came to is in the last metrics.
    pub(super) fn end_flows(&self) {
        for shard in &*self.shards {
            let mut shard = lock(shard);
            let Shard { table, aggregates, .. } = &mut *shard;
            table.end_all(aggregates);
        }
    }

    fn aggregates(&self) -> Option<Aggregates> {
        self.shards.iter().map(|shard| lock(shard).aggregates.clone()).reduce(|mut sum, more| {
            sum.add(&more);
            sum
        })
    }

    pub(super) fn report(&self) -> Report {
        let accounted = self.aggregates().map(|a| a.interfaces().clone()).unwrap_or_default();
        Report::new(self.books.interfaces(), accounted, self.books.records())
    }
}

impl Source for Shared {
    fn snapshot(&self) -> Option<Snapshot> {
        let mut active = Counts::new();
        let mut processing = Processing::new(Clock::now_ns());
        for shard in &*self.shards {
            let shard = lock(shard);
            for (&key, count) in shard.table.counts() {
                *active.entry(key).or_default() += count;
            }
            processing.add(&shard.processing);
        }
        Some(Snapshot {
            aggregates: self.aggregates()?,
            active,
            books: self.books.interfaces(),
            records: self.books.records(),
            misses: self.books.misses(),
            timestamps: self.timestamps,
            processing,
            interfaces: self.lock_interfaces().clone(),
            // Without them the page lacks what is made of them, nothing else.
            counters: bpf::interface_counters().unwrap_or_default(),
            programs: self.programs.read(),
            nat: self.nat.counts(),
        })
    }

    fn unhealthy(&self) -> Option<String> {
        let now = Clock::now_ns();
        let stuck = |shard: &Arc<Mutex<Shard>>| now.saturating_sub(lock(shard).ticked_ns) > STUCK.as_nanos() as u64;
        let stuck = self.shards.iter().filter(|s| stuck(s)).count();
        (stuck > 0).then(|| format!("{stuck} of {} workers do not progress", self.shards.len()))
    }

    fn unready(&self) -> Option<String> {
        let watched = |interface: &Interface| matches!(interface.status, InterfaceStatus::Watched(_));
        (!self.lock_interfaces().values().any(watched)).then(|| "no interface is watched yet".to_owned())
    }
}

/// A view of a running agent.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    metrics_addr: SocketAddr,
}

impl Handle {
    pub(super) fn new(shared: Arc<Shared>, metrics_addr: SocketAddr) -> Handle {
        Handle { shared, metrics_addr }
    }

    /// Where the metrics are served.
    pub fn metrics_addr(&self) -> SocketAddr {
        self.metrics_addr
    }

    /// The books as they stand; what is in caches and rings is missing.
    pub fn report(&self) -> Report {
        self.shared.report()
    }

    /// The interfaces of the host, by index.
    pub fn interfaces(&self) -> BTreeMap<u32, Interface> {
        self.shared.lock_interfaces().clone()
    }

    /// Copies of all flows in the tables.
    pub fn flows(&self) -> Vec<Flow> {
        self.shared.shards.iter().flat_map(|shard| lock(shard).table.iter().cloned().collect::<Vec<_>>()).collect()
    }
}
