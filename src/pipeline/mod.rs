//! The path of the records: a worker for each ring merges them into its shard of the flow table, names the ends of the flows, and
//! reports to the sinks what happens to them.

mod figures;
mod naming;
mod nat;
mod shard;
pub mod worker;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use foldhash::HashMapExt;

use self::nat::Nat;
pub use self::nat::NatCounts;
use self::shard::Shard;
pub use self::shard::ShardWorker;
use crate::bpf::{Clock, Spread};
use crate::config::{Buckets, Config};
use crate::flow::{Counts, Facing, Flow, Networks, Table, TableLimits};
use crate::lock;
use crate::names::Names;
use crate::sinks::detect::Detection;
use crate::sinks::metrics::{Aggregates, Identification, Processing, Reading, SeriesIndex, Sums};
use crate::sinks::{Feed, Marks, Shared};
use crate::threads::{Thread, Threads};

/// A worker that has not ticked for this long is stuck.
const STUCK: Duration = Duration::from_secs(10);

/// Bounds of the flow table of each of so many workers.
pub fn bounds(config: &Config, workers: usize) -> TableLimits {
    TableLimits {
        max_flows: config.max_flows.div_ceil(workers.max(1)),
        flow_timeout: config.flow_timeout,
        connect_timeout: config.connect_timeout,
        max_age: config.max_age,
    }
}

/// Owns the flow tables of all workers, and what the workers share.
pub struct Pipeline {
    shards: Arc<[Arc<Mutex<Shard>>]>,
    /// When each worker ticked last.
    ticked_ns: Vec<Arc<AtomicU64>>,
    nat: Arc<Nat>,
    names: Option<Arc<Names>>,
    sinks: Shared,
    /// Held while series expire.
    expiring: Mutex<()>,
}

impl Pipeline {
    /// Empty shards, one for each worker.
    pub fn new(
        config: &Config,
        spread: Spread,
        workers: usize,
        series: Arc<SeriesIndex>,
        names: Option<Arc<Names>>,
    ) -> Pipeline {
        let limits = bounds(config, workers);
        let sinks = Shared::new(series, Detection::new(&config.security, &config.node_name));
        let shard = |number| Shard::new(limits, sinks.of_shard(number), names.clone(), Clock::now_ns());
        Pipeline {
            shards: (0..workers).map(shard).collect(),
            ticked_ns: (0..workers).map(|_| Arc::new(AtomicU64::new(Clock::now_ns()))).collect(),
            nat: Nat::new(config, spread, workers),
            names,
            sinks,
            expiring: Mutex::default(),
        }
    }

    /// The consumer of the records that the worker of ring `own` reads.
    pub fn worker(&self, own: usize) -> ShardWorker {
        ShardWorker::new(Arc::clone(&self.shards), own, Arc::clone(&self.ticked_ns[own]), Arc::clone(&self.nat))
    }

    /// Starts the thread that keeps up with translations of addresses, if the kernel reports them.
    pub fn follow_translations(&self, threads: &Threads) -> Result<Option<Thread<()>>> {
        nat::follow(Arc::clone(&self.nat), threads)
    }

    /// Workers, each with a shard.
    pub fn workers(&self) -> usize {
        self.shards.len()
    }

    /// What the sinks of all shards share.
    pub fn sinks(&self) -> &Shared {
        &self.sinks
    }

    /// Reports flows that start and end.
    pub fn feed(&self) -> &Arc<Feed> {
        &self.sinks.feed
    }

    /// Judges what looks hostile.
    pub fn detection(&self) -> &Arc<Detection> {
        &self.sinks.detection
    }

    /// Which series there are, and what they take of their budget.
    pub fn series(&self) -> &Arc<SeriesIndex> {
        &self.sinks.series
    }

    /// Who the ends of flows are; `None` if nobody has a name.
    pub fn names(&self) -> Option<&Arc<Names>> {
        self.names.as_ref()
    }

    /// Translations of addresses.
    pub fn translations(&self) -> NatCounts {
        self.nat.counts()
    }

    /// Sets the addresses of this host.
    pub fn set_own_addresses(&self, addresses: impl Iterator<Item = std::net::IpAddr> + Clone) {
        self.nat.own_addresses(addresses.clone());
        self.sinks.detection.set_own_addresses(addresses);
    }

    /// Sets new bounds for all tables.
    pub fn limit(&self, limits: TableLimits) {
        self.nat.bound(limits.max_flows.saturating_mul(self.shards.len()));
        for shard in &*self.shards {
            let mut shard = lock::ignoring_poison(shard);
            let (table, mut observing, _) = shard.parts();
            table.set_limits(limits, &mut observing);
        }
    }

    /// At most so many flows may be in all tables together; those above it are evicted at once.
    pub fn bound_flows(&self, most: usize) {
        self.nat.bound(most);
        for shard in &*self.shards {
            let mut shard = lock::ignoring_poison(shard);
            let (table, mut observing, _) = shard.parts();
            table.bound(most.div_ceil(self.shards.len().max(1)), &mut observing);
        }
    }

    /// Flows in all tables.
    pub fn flow_count(&self) -> usize {
        self.shards.iter().map(|shard| lock::ignoring_poison(shard).table.len()).sum()
    }

    /// Copies of all flows.
    pub fn flows(&self) -> Vec<Flow> {
        self.shards
            .iter()
            .flat_map(|shard| lock::ignoring_poison(shard).table.iter().cloned().collect::<Vec<_>>())
            .collect()
    }

    /// Gives `look` the table of a worker, which waits meanwhile: `look` should copy and not work. `None`: there is no such table.
    pub fn look<T>(&self, shard: usize, look: impl FnOnce(&Table<Marks>) -> T) -> Option<T> {
        self.shards.get(shard).map(|shard| look(&lock::ignoring_poison(shard).table))
    }

    /// Sets new buckets for all histograms, which start again from zero.
    pub fn set_buckets(&self, buckets: &Buckets) {
        self.series().set_buckets(buckets.clone());
        for shard in &*self.shards {
            lock::ignoring_poison(shard).sinks.metrics.renew_buckets();
        }
    }

    /// From now on the ends of series are identified in this way. All series start again from zero.
    pub fn relabel(&self, identification: Identification) {
        let _expiring = lock::ignoring_poison(&self.expiring);
        let mut shards: Vec<_> = self.shards.iter().map(|shard| lock::ignoring_poison(shard)).collect();
        let mut workers: Vec<_> = shards.iter_mut().map(|shard| &mut shard.sinks.metrics).collect();
        Aggregates::renew_labels(&mut workers, identification);
        for shard in &mut shards {
            let (table, observing, _) = shard.parts();
            table.visit(|flow, marks| observing.sinks.metrics.recount(flow, &mut marks.metrics));
        }
    }

    /// Drops series in which nothing was counted for this long.
    pub fn expire_series(&self, idle: Duration) {
        let since_ns = Clock::now_ns().saturating_sub(idle.as_nanos() as u64);
        let _expiring = lock::ignoring_poison(&self.expiring);
        // Whoever locks all shards at once does so in this order; anyone else locks one after the other.
        let mut shards: Vec<_> = self.shards.iter().map(|shard| lock::ignoring_poison(shard)).collect();
        let mut workers: Vec<_> = shards.iter_mut().map(|shard| &mut shard.sinks.metrics).collect();
        Aggregates::expire_idle(&mut workers, since_ns);
    }

    /// No record of an interface will come any more.
    pub fn retire(&self, ifindex: u32) {
        for shard in &*self.shards {
            lock::ignoring_poison(shard).sinks.metrics.retire(ifindex);
        }
    }

    /// Sets which interfaces face a workload.
    pub fn face(&self, workloads: &Facing) {
        for shard in &*self.shards {
            lock::ignoring_poison(shard).table.face(Facing::clone(workloads));
        }
    }

    /// Sets in which networks addresses are unique.
    pub fn divide(&self, networks: &Arc<Networks>) {
        for shard in &*self.shards {
            lock::ignoring_poison(shard).table.divide(Arc::clone(networks));
        }
    }

    /// Ends all flows, so that the last metrics have their outcomes.
    pub fn end_flows(&self) {
        for shard in &*self.shards {
            let mut shard = lock::ignoring_poison(shard);
            let (table, mut observing, _) = shard.parts();
            table.end_all(&mut observing);
        }
    }

    /// The sums of all workers; `None` without workers.
    pub fn sums(&self) -> Option<Sums> {
        self.shards.iter().map(|shard| lock::ignoring_poison(shard).sinks.metrics.sums().clone()).reduce(
            |mut sum, more| {
                sum.add(&more);
                sum
            },
        )
    }

    /// What the workers hold now; `None` without workers.
    pub fn read(&self) -> Option<Reading> {
        let mut active = Counts::new();
        let (mut forgotten, mut errors_lost) = (0, 0);
        let mut processing = Processing::new(Clock::now_ns());
        for shard in &*self.shards {
            let shard = lock::ignoring_poison(shard);
            for (&key, count) in shard.table.counts() {
                *active.entry(key).or_default() += count;
            }
            forgotten += shard.table.forgotten();
            errors_lost += shard.table.errors_lost();
            processing.add(&shard.processing);
        }
        // Between the two no series may expire, because its number could go to another.
        let expiring = lock::ignoring_poison(&self.expiring);
        let (sums, keys) = (self.sums()?, self.series().keys());
        drop(expiring);
        Some(Reading { sums, keys, active, forgotten, errors_lost, processing })
    }

    /// What is wrong with the workers, if something is. It waits for none of them.
    pub fn unhealthy(&self) -> Option<String> {
        let now = Clock::now_ns();
        let stuck = |at: &&Arc<AtomicU64>| now.saturating_sub(at.load(Ordering::Relaxed)) > STUCK.as_nanos() as u64;
        let stuck = self.ticked_ns.iter().filter(stuck).count();
        (stuck > 0).then(|| format!("{stuck} of {} workers do not progress", self.ticked_ns.len()))
    }

    /// Runs `act` while all workers are stuck.
    pub fn while_stuck<T>(&self, act: impl FnOnce() -> T) -> T {
        let _held: Vec<_> = self.shards.iter().map(|shard| lock::ignoring_poison(shard)).collect();
        act()
    }
}
