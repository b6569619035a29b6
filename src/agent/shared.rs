//! What threads share: the shards and the kernel's books, and the view of them that others get.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use foldhash::HashMapExt;

use super::bounds;
use super::limits::Throttle;
use super::live::Live;
use super::names::Naming;
use super::nat::Nat;
use super::programs::ProgramTimes;
use super::report::Report;
use super::shard::{Shard, ShardSink, lock};
use super::top::Looks;
use super::upkept::Upkept;
use crate::bpf::{Books, Bpf, Clock, ProgramInfo, Programs, TimestampSource};
use crate::clients::Clients;
use crate::config::{Buckets, Config, Given, Key, Settings};
use crate::flow::{Counts, Facing, Flow, Limits, Networks};
use crate::metrics::{
    Aggregates, Interface, InterfaceStatus, Processing, Saved, SeriesIndex, Snapshot, Source, Sums, Telling,
};
use crate::names::{Denied, Names, Progress};
use crate::sinks::Feed;

/// A worker that did not come by for this long is stuck.
const STUCK: Duration = Duration::from_secs(10);

pub(super) struct Shared {
    pub(super) live: Live,
    pub(super) books: Books,
    programs: Mutex<ProgramTimes>,
    index: Arc<SeriesIndex>,
    /// Held while series leave.
    leaving: Mutex<()>,
    timestamps: TimestampSource,
    shards: Arc<[Arc<Mutex<Shard>>]>,
    /// When each worker came by last.
    ticked_ns: Vec<Arc<AtomicU64>>,
    nat: Arc<Nat>,
    names: Option<Arc<Names>>,
    pub(super) reading: Option<Progress>,
    interfaces: Mutex<BTreeMap<u32, Interface>>,
    pub(super) upkept: Upkept,
    pub(super) throttle: Throttle,
    pub(super) clients: Clients,
    pub(super) feed: Arc<Feed>,
    pub(super) looks: Mutex<Looks>,
}

impl Shared {
    /// Empty shards, one a worker.
    pub(super) fn new(
        live: Live,
        bpf: &Bpf<'_>,
        index: Arc<SeriesIndex>,
        naming: &Naming,
        workers: usize,
    ) -> Result<Shared> {
        let config = live.running();
        let limits = bounds(&config, workers);
        let feed = Arc::<Feed>::default();
        let shard = |number| {
            let (index, feed, names) = (Arc::clone(&index), Arc::clone(&feed), naming.names.clone());
            Shard::new(number, limits, index, feed, names, Clock::now_ns())
        };
        let shards = (0..workers).map(shard).collect();
        Ok(Shared {
            books: bpf.books()?,
            programs: Mutex::new(ProgramTimes::of(bpf.sweeper()?, live.own_programs())),
            index,
            leaving: Mutex::default(),
            timestamps: config.features.timestamps,
            shards,
            ticked_ns: (0..workers).map(|_| Arc::new(AtomicU64::new(Clock::now_ns()))).collect(),
            nat: Nat::new(&config, bpf.spread(), workers),
            names: naming.names.clone(),
            reading: naming.progress(),
            interfaces: Mutex::default(),
            upkept: Upkept::default(),
            throttle: Throttle::default(),
            clients: Clients::default(),
            feed,
            looks: Mutex::default(),
            live,
        })
    }

    pub(super) fn shards(&self) -> &[Arc<Mutex<Shard>>] {
        &self.shards
    }

    /// The interfaces of the host, by index.
    pub(super) fn interfaces(&self) -> BTreeMap<u32, Interface> {
        self.lock_interfaces().clone()
    }

    pub(super) fn workers(&self) -> usize {
        self.shards.len()
    }

    /// New bounds for all tables.
    pub(super) fn limit(&self, limits: Limits) {
        self.nat.bound(limits.max_flows.saturating_mul(self.shards.len()));
        for shard in &*self.shards {
            let mut shard = lock(shard);
            let (table, mut observing, _) = shard.parts();
            table.set_limits(limits, &mut observing);
        }
    }

    /// Flows in all tables.
    pub(super) fn flow_count(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).table.len()).sum()
    }

    /// So many flows may be in all tables together; those above it leave at once.
    pub(super) fn bound_flows(&self, most: usize) {
        self.nat.bound(most);
        for shard in &*self.shards {
            let mut shard = lock(shard);
            let (table, mut observing, _) = shard.parts();
            table.bound(most.div_ceil(self.shards.len().max(1)), &mut observing);
        }
    }

    /// That the programs took, where the kernel keeps it.
    pub(super) fn program_time(&self) -> Duration {
        let programs = self.lock_programs().read();
        // The sweep runs in the agent's own time.
        let packets = programs.iter().filter(|program| program.name != "nm_sweep");
        Duration::from_nanos(packets.map(|program| program.run_ns).sum())
    }

    /// New buckets for all histograms, which begin anew.
    pub(super) fn measure_by(&self, buckets: &Buckets) {
        self.index.set_buckets(buckets.clone());
        for shard in &*self.shards {
            lock(shard).sinks.metrics.renew_buckets();
        }
    }

    /// Tells ends of series from each other by these labels from now on. All series begin anew.
    pub(super) fn tell_by(&self, telling: Telling) {
        let _leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        let mut shards: Vec<_> = self.shards.iter().map(|shard| lock(shard)).collect();
        let mut workers: Vec<_> = shards.iter_mut().map(|shard| &mut shard.sinks.metrics).collect();
        Aggregates::renew_labels(&mut workers, telling);
        for shard in &mut shards {
            let (table, observing, _) = shard.parts();
            table.visit(|flow, marks| observing.sinks.metrics.recount(flow, &mut marks.metrics));
        }
    }

    /// Lets go of series in which nothing was counted for this long.
    pub(super) fn expire_series(&self, idle: Duration) {
        let since_ns = Clock::now_ns().saturating_sub(idle.as_nanos() as u64);
        let _leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        // In this order alone all are held at once: whoever else takes two takes one after the other.
        let mut shards: Vec<_> = self.shards.iter().map(|shard| lock(shard)).collect();
        let mut workers: Vec<_> = shards.iter_mut().map(|shard| &mut shard.sinks.metrics).collect();
        Aggregates::expire_idle(&mut workers, since_ns);
    }

    /// These programs are about to take the place of those that run.
    pub(super) fn time_programs(&self, programs: Arc<Programs>) {
        self.lock_programs().begin(programs);
    }

    /// They have, everywhere.
    pub(super) fn programs_placed(&self) {
        self.lock_programs().placed();
    }

    /// What the kernel says of the programs that see packets, and of the sweep.
    pub(super) fn program_infos(&self) -> Vec<ProgramInfo> {
        self.lock_programs().infos()
    }

    fn lock_programs(&self) -> MutexGuard<'_, ProgramTimes> {
        self.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the worker of ring `own`.
    pub(super) fn sink(&self, own: usize) -> ShardSink {
        ShardSink::new(Arc::clone(&self.shards), own, Arc::clone(&self.ticked_ns[own]), Arc::clone(&self.nat))
    }

    pub(super) fn names(&self) -> Option<&Arc<Names>> {
        self.names.as_ref()
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
            lock(shard).sinks.metrics.retire(index);
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

    /// Tells all tables in which networks addresses are unique.
    pub(super) fn divide(&self, networks: &Arc<Networks>) {
        for shard in &*self.shards {
            lock(shard).table.divide(Arc::clone(networks));
        }
    }

    /// Ends all flows: what they came to is in the last metrics.
    pub(super) fn end_flows(&self) {
        for shard in &*self.shards {
            let mut shard = lock(shard);
            let (table, mut observing, _) = shard.parts();
            table.end_all(&mut observing);
        }
    }

    /// The sums of all workers.
    pub(super) fn sums(&self) -> Option<Sums> {
        self.shards.iter().map(|shard| lock(shard).sinks.metrics.sums().clone()).reduce(|mut sum, more| {
            sum.add(&more);
            sum
        })
    }

    pub(super) fn report(&self) -> Report {
        let accounted = self.sums().map(|sums| sums.interfaces().clone()).unwrap_or_default();
        Report::new(self.books.interfaces(), accounted, self.books.records())
    }
}

impl Source for Shared {
    fn snapshot(&self) -> Option<Snapshot> {
        let mut active = Counts::new();
        let (mut forgotten, mut errors_lost) = (0, 0);
        let mut processing = Processing::new(Clock::now_ns());
        for shard in &*self.shards {
            let shard = lock(shard);
            for (&key, count) in shard.table.counts() {
                *active.entry(key).or_default() += count;
            }
            forgotten += shard.table.forgotten();
            errors_lost += shard.table.errors_lost();
            processing.add(&shard.processing);
        }
        // Between the two no series may leave, and its number go to another.
        let leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        let (sums, keys) = (self.sums()?, self.index.keys());
        drop(leaving);
        let coverage = self.coverage();
        Some(Snapshot {
            sums,
            keys,
            active,
            forgotten,
            errors_lost,
            books: self.books.interfaces(),
            records: self.books.records(),
            misses: self.books.misses(),
            timestamps: self.timestamps,
            processing,
            interfaces: self.lock_interfaces().clone(),
            coverage,
            hooks: self.upkept.counts(),
            programs: self.lock_programs().read(),
            sampling_rate: self.live.sampler.rate(),
            reloads: self.live.reloads(),
            saved: Saved {
                shed: self.throttle.shed.load(Ordering::Relaxed),
                slowed: self.throttle.slowed.load(Ordering::Relaxed),
                cpu_level: self.throttle.cpu_level(),
            },
            nat: self.nat.counts(),
            names: self.reading.as_ref().map(Progress::read),
        })
    }

    fn page_age(&self) -> Duration {
        self.throttle.page_age()
    }

    fn clients(&self) -> Option<&Clients> {
        Some(&self.clients)
    }

    fn unhealthy(&self) -> Option<String> {
        let now = Clock::now_ns();
        let stuck = |at: &&Arc<AtomicU64>| now.saturating_sub(at.load(Ordering::Relaxed)) > STUCK.as_nanos() as u64;
        let stuck = self.ticked_ns.iter().filter(stuck).count();
        (stuck > 0).then(|| format!("{stuck} of {} workers do not progress", self.ticked_ns.len()))
    }

    fn unready(&self) -> Option<String> {
        let watched = |interface: &Interface| matches!(interface.status, InterfaceStatus::Watched(_));
        if !self.lock_interfaces().values().any(watched) {
            return Some("no interface is watched yet".to_owned());
        }
        // Later on the last known names are served, however old.
        let reading = self.reading.as_ref().map(Progress::read).filter(|status| !status.synced)?;
        if let Some(denied) = reading.denied.filter(Denied::is_serious) {
            return Some(format!("{denied}. {}", Denied::REMEDY));
        }
        let error = reading.last_error.map_or(String::new(), |(_, text)| format!(": {text}"));
        Some(format!("the names of the cluster are not all read yet{error}"))
    }
}

/// A view of a running agent.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    metrics_addr: Option<SocketAddr>,
}

impl Handle {
    pub(super) fn new(shared: Arc<Shared>, metrics_addr: Option<SocketAddr>) -> Handle {
        Handle { shared, metrics_addr }
    }

    /// Where the metrics are served, if they are.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics_addr
    }

    /// The books as they stand; what is in caches and rings is missing.
    pub fn report(&self) -> Report {
        self.shared.report()
    }

    /// Reads the configuration again, and takes what can be taken while running.
    pub fn reload(&self) -> Result<()> {
        self.shared.reload()
    }

    /// Gives a key of the configuration another value, for as long as the agent runs.
    pub fn set(&self, key: &'static Key, given: Option<Given>) -> Result<()> {
        self.shared.set(key, given)
    }

    /// The configuration as it was read last.
    pub fn settings(&self) -> Settings {
        self.shared.live.settings()
    }

    /// The configuration in force.
    pub fn running(&self) -> Config {
        self.shared.live.running()
    }

    /// The interfaces of the host, by index.
    pub fn interfaces(&self) -> BTreeMap<u32, Interface> {
        self.shared.interfaces()
    }

    /// Copies of all flows in the tables.
    pub fn flows(&self) -> Vec<Flow> {
        self.shared.shards.iter().flat_map(|shard| lock(shard).table.iter().cloned().collect::<Vec<_>>()).collect()
    }
}
