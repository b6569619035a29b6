//! Wires the stages: kernel, workers, flow tables, metrics; starts and stops them.

mod api;
mod config_file;
mod feed;
mod inline;
mod interfaces;
mod limits;
mod live;
mod names;
mod naming;
mod nat;
mod news;
mod objects;
mod pods;
mod programs;
mod report;
mod shard;
mod shared;
mod top;
mod trace;

use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::bpf::{self, Bpf, ObjectStorage, Options, Ring, Sweep, Sweeper};
use crate::config::{Config, DEFAULT_DEBUG_SERVER, DEFAULT_SOCKET, External, Precision, Settings, Sources};
use crate::control::{self, Api};
use crate::debug;
use crate::flow::Limits;
use crate::http::{Limits as HttpLimits, Pages, Running, Server};
use crate::metrics::{self, Build, MetricsPage, SeriesIndex, Source, Telling};
use crate::names::{Cluster, Names};
use crate::worker::Worker;

use api::Operated;
pub use config_file::ConfigWatch;
pub use inline::Inline;
use interfaces::Following;
use limits::Limiting;
use live::Live;
use names::Naming;
use nat::Upkeep;
pub(crate) use pods::KINDS as UNLINKED_KINDS;
use pods::Watching;
pub use report::{Conservation, Report};
pub use shared::Handle;
use shared::Shared;

/// Between two sweeps.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// A cached entry that had no packet for this long leaves the kernel.
const CACHE_IDLE: Duration = Duration::from_secs(1);
/// A busy one reports this often.
const CACHE_REPORT: Duration = Duration::from_secs(2);
/// Longer than a TCP sender waits before it repeats a segment, in all but the worst of times.
const CACHE_FORGET: u32 = 30;
/// Between two RTT probes of one direction of a connection.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// The caches must be empty this long after the programs are detached.
const DRAIN_TIME: Duration = Duration::from_secs(3);

/// Runs an agent with a configuration that stays.
pub fn run(config: &Config, stop: &Receiver<()>, ready: impl FnOnce(Handle)) -> Result<Report> {
    run_with(Settings::of(config.clone()), Sources::default(), stop, ready)
}

/// Runs an agent until something comes by `stop`, or it is closed. `ready` is called once packets are being watched. The
/// `settings` are what the `sources` had; a reload reads them again.
pub fn run_with(
    settings: Settings,
    sources: Sources,
    stop: &Receiver<()>,
    ready: impl FnOnce(Handle),
) -> Result<Report> {
    let config = &settings.config.clone();
    bpf::check_host()?;
    let _claim = bpf::claim_host()?;
    bpf::set_log_sink();
    log_kernel();
    let removed = bpf::remove_leftovers()?;
    if removed > 0 {
        log::info!("removed {removed} filters that a killed agent had left");
    }
    if config.security_monitoring {
        log::warn!("features.security_monitoring is on, but this version has no such detection");
    }
    let server =
        config.metrics_enabled.then(|| Server::bind(metrics::SERVER, &config.metrics_addr, HttpLimits::default()));
    let server = server.transpose()?;
    let debug_server = debug_server(config)?;
    let control = control_socket(config)?;
    bpf::allow_many_descriptors(config.workers)?;
    let naming = Naming::start(config)?;

    let cpus = bpf::possible_cpus()?;
    let mut storage = MaybeUninit::<ObjectStorage>::uninit();
    let mut bpf = Bpf::load(&mut storage, &options(config, cpus))?;
    log::info!(
        "loaded: {} workers, rings of {} records, caches of {} flows on each of {cpus} CPUs, {:.1} MiB of kernel memory",
        config.workers,
        config.ring_records(),
        config.cache_slots(cpus),
        bpf.kernel_bytes() as f64 / f64::from(1 << 20)
    );

    let telling = telling(config, naming.names.as_ref());
    let index = Arc::new(SeriesIndex::new(config.series_limit, config.features.buckets.clone(), telling));
    let live = Live::new(settings, sources, &bpf)?;
    let (shared, workers, rings) = start_workers(live, &mut bpf, &index, &naming)?;
    let page = MetricsPage::new(Arc::clone(&shared) as Arc<dyn Source>, Arc::clone(&index), build(config));
    let page = Arc::new(page);
    let clients = &shared.clients;
    let server = server.map(|server| server.count(&clients.metrics, &clients.budget));
    let server = server.map(|server| server.start(Arc::clone(&page) as Arc<dyn Pages>)).transpose()?;
    match &server {
        Some(server) => log::info!("metrics on http://{}/metrics", server.local_addr()),
        None => log::info!("no metrics: export.prometheus.enabled is false"),
    }

    let threads = match Threads::start(config, &bpf, &shared) {
        Ok(threads) => threads,
        Err(error) => {
            for worker in workers {
                // What it has to say matters less than why the agent cannot start.
                let _ = worker.finish();
            }
            return Err(error);
        }
    };
    let operated: Arc<dyn Api> = Arc::new(Operated::new(Arc::clone(&shared), page, index, build(config)));
    let debug_server = debug_server.map(|server| server.count(&clients.debug, &clients.budget));
    let debugging = debug_server.map(|server| start_debugging(server, &operated)).transpose()?;
    let control = control.map(|control| control.count(&clients.control, &clients.budget));
    let control = control.map(|control| control.start(control::Limits::default(), operated)).transpose()?;
    if let Some(control) = &control {
        log::info!("control socket {}", control.path().display());
    }
    ready(Handle::new(Arc::clone(&shared), server.as_ref().map(Running::local_addr)));

    let failure = wait(stop, &workers, || threads.has_failed() || naming.has_failed());
    drop(control);
    drop(debugging);
    let (following, sweeps) = threads.stop_some()?;
    let report = finish(&bpf, following, sweeps, workers, &rings, &shared, server)?;
    match failure {
        Some(failure) => bail!(failure),
        None => Ok(report),
    }
}

/// The one that nobody asked for may be missing: another agent may have it, or the file system be read-only.
fn control_socket(config: &Config) -> Result<Option<control::Server>> {
    let Some(path) = &config.socket else { return Ok(None) };
    match control::Server::bind(path) {
        Err(error) if *path == Path::new(DEFAULT_SOCKET) => {
            log::warn!("no control socket: {error:#}");
            Ok(None)
        }
        bound => bound.map(Some),
    }
}

/// As with the control socket: that of `--debug` alone may be missing.
fn debug_server(config: &Config) -> Result<Option<Server>> {
    let Some(address) = &config.debug_server else { return Ok(None) };
    match Server::bind(debug::SERVER, address, HttpLimits::default()) {
        Err(error) if address == DEFAULT_DEBUG_SERVER => {
            log::warn!("no debug server: {error:#}");
            Ok(None)
        }
        bound => bound.map(Some),
    }
}

/// It stops when the value goes.
fn start_debugging(server: Server, api: &Arc<dyn Api>) -> Result<Running> {
    let running = server.start(Arc::new(debug::DebugPages::new(Arc::clone(api))))?;
    let address = running.local_addr();
    log::info!("debug server on http://{address}/debug/pprof/");
    if !address.ip().is_loopback() {
        log::warn!("whoever reaches {address} may read flows and configuration, and take profiles");
    }
    Ok(running)
}

/// How an agent with this configuration loads its programs.
pub fn options(config: &Config, possible_cpus: usize) -> Options {
    Options {
        rings: config.workers,
        ring_records: config.ring_records(),
        batch: config.batch_size,
        cache_slots: config.cache_slots(possible_cpus),
        idle: CACHE_IDLE,
        report: CACHE_REPORT,
        forget: CACHE_FORGET,
        timestamps: config.features.timestamps,
        latency: config.features.latency.map(|precision| match precision {
            Precision::Normal => PROBE_EVERY,
            Precision::High => Duration::ZERO,
        }),
        apps: config.features.apps.clone(),
        decapsulation: config.features.decapsulation,
    }
}

/// How ends of series are told from each other.
fn telling(config: &Config, names: Option<&Arc<Names>>) -> Telling {
    let cluster = names.is_some_and(|names| names.load().cluster() != Cluster::Absent);
    let grouped = match config.external {
        External::Auto => cluster,
        External::Group => true,
        External::Address => false,
    };
    Telling { labels: config.labels, grouped }
}

fn build(config: &Config) -> Build {
    Build {
        version: env!("CARGO_PKG_VERSION"),
        commit: env!("NETMON_COMMIT"),
        arch: std::env::consts::ARCH,
        node: config.node_name.clone(),
    }
}

fn log_kernel() {
    let read = |name| std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
    log::info!(
        "netmon {} ({}) on Linux {}",
        env!("CARGO_PKG_VERSION"),
        env!("NETMON_COMMIT"),
        read("osrelease").trim()
    );
}

type Started = (Arc<Shared>, Vec<Worker>, Vec<Ring>);

fn start_workers(live: Live, bpf: &mut Bpf<'_>, index: &Arc<SeriesIndex>, naming: &Naming) -> Result<Started> {
    let rings = bpf.take_rings();
    let shared = Arc::new(Shared::new(live, bpf, Arc::clone(index), naming, rings.len())?);
    let workers = rings
        .iter()
        .enumerate()
        .map(|(i, ring)| Worker::start(i, ring.try_clone()?, bpf.clock(), shared.sink(i)))
        .collect::<Result<_>>()?;
    Ok((shared, workers, rings))
}

/// The threads besides workers and metrics.
struct Threads {
    sweeps: Sweeps,
    limiting: Limiting,
    upkeep: Option<Upkeep>,
    following: Following,
    watching: Option<Watching>,
}

impl Threads {
    /// Those that attach come last, and the ones before them end with their values.
    fn start(config: &Config, bpf: &Bpf<'_>, shared: &Arc<Shared>) -> Result<Threads> {
        Ok(Threads {
            sweeps: Sweeps::start(bpf.sweeper()?, Arc::clone(shared))?,
            limiting: Limiting::start(Arc::clone(shared))?,
            upkeep: Upkeep::start(shared.nat())?,
            following: Following::start(config, bpf.attachments()?, Arc::clone(shared))?,
            watching: Watching::start(config, bpf.attachments()?, Arc::clone(shared))?,
        })
    }

    fn has_failed(&self) -> bool {
        let pods_failed = self.watching.as_ref().is_some_and(Watching::is_finished);
        self.sweeps.thread.is_finished() || self.following.is_finished() || pods_failed
    }

    /// All but those that are returned.
    fn stop_some(self) -> Result<(Following, Sweeps)> {
        self.limiting.stop();
        if let Some(upkeep) = self.upkeep {
            upkeep.stop();
        }
        if let Some(watching) = self.watching {
            watching.stop()?.detach_all();
        }
        Ok((self.following, self.sweeps))
    }
}

/// Bounds of the flow table of each of so many workers.
pub fn bounds(config: &Config, workers: usize) -> Limits {
    Limits {
        max_flows: config.max_flows.div_ceil(workers.max(1)),
        flow_timeout: config.flow_timeout,
        connect_timeout: config.connect_timeout,
        max_age: config.max_age,
    }
}

/// Sleeps until the agent is to stop; what failed, if that is why.
fn wait(stop: &Receiver<()>, workers: &[Worker], others_ended: impl Fn() -> bool) -> Option<String> {
    loop {
        match stop.recv_timeout(Duration::from_secs(1)) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if workers.iter().any(Worker::is_finished) || others_ended() {
            return Some("a thread of the agent ended by itself; the log says why".to_owned());
        }
    }
}

/// Detaches, brings everything that is still on its way into the books, and ends all threads.
fn finish(
    bpf: &Bpf<'_>,
    following: Following,
    sweeps: Sweeps,
    workers: Vec<Worker>,
    rings: &[Ring],
    shared: &Shared,
    server: Option<Running>,
) -> Result<Report> {
    let started = Instant::now();
    following.stop()?.detach_all();
    if let Some(ring) = rings.first() {
        bpf.wait_for_programs(ring)?;
    }
    let sweeper = sweeps.stop()?;
    // A full ring makes the sweep leave entries where they are: come again while the workers empty it.
    workers.iter().for_each(Worker::hurry);
    while !sweeper.is_empty() && started.elapsed() < DRAIN_TIME {
        sweeper.sweep(Sweep::All)?;
        std::thread::yield_now();
    }
    for worker in workers {
        worker.finish()?;
    }
    shared.end_flows();
    let report = shared.report();
    log::info!("stopped after {:.1} s; {}", started.elapsed().as_secs_f64(), report.conservation());
    if let Some(server) = server {
        server.stop()?;
    }
    Ok(report)
}

/// The thread that sweeps, once a second unless CPU time is short.
struct Sweeps {
    thread: JoinHandle<Result<Sweeper>>,
    stop: Sender<()>,
}

impl Sweeps {
    fn start(sweeper: Sweeper, shared: Arc<Shared>) -> Result<Sweeps> {
        let (stop, stopped) = bounded::<()>(0);
        let thread = Builder::new()
            .name("nm-sweep".to_owned())
            .spawn(move || {
                while stopped.recv_timeout(shared.throttle.sweep_every()) == Err(RecvTimeoutError::Timeout) {
                    if let Err(error) = sweeper.sweep(Sweep::Due) {
                        log::error!("{error:#}");
                        return Err(error);
                    }
                }
                Ok(sweeper)
            })
            .context("start the sweep thread")?;
        Ok(Sweeps { thread, stop })
    }

    fn stop(self) -> Result<Sweeper> {
        drop(self.stop);
        match self.thread.join() {
            Ok(result) => result,
            Err(_) => bail!("the sweep thread panicked"),
        }
    }
}
