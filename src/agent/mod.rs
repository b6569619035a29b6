//! Wires the stages: kernel, workers, flow tables, metrics; starts and stops them.

mod api;
mod config_file;
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
mod upkept;

use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Error, Result, anyhow};
use crossbeam_channel::{Receiver, RecvTimeoutError, select};

use crate::bpf::{self, Bpf, ObjectStorage, Options, Ring, Sweep, Sweeper};
use crate::config::{Config, DEFAULT_DEBUG_SERVER, DEFAULT_SOCKET, External, Precision, Settings, Sources};
use crate::control::{self, Api};
use crate::debug;
use crate::flow::Limits;
use crate::http::{Limits as HttpLimits, Pages, Running, Server};
use crate::metrics::{self, Build, MetricsPage, SeriesIndex, Source, Telling};
use crate::names::{Cluster, Names};
use crate::threads::{Deaths, Lasting};
use crate::worker::Worker;

use api::Operated;
pub use config_file::ConfigWatch;
pub use inline::Inline;
use interfaces::Following;
use live::Live;
use names::Naming;
pub(crate) use pods::KINDS as UNLINKED_KINDS;
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
    for idle in settings.without_effect() {
        log::warn!("without effect: {idle}");
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
    let (deaths, died) = Deaths::new();
    let (shared, workers, rings) = start_workers(live, &mut bpf, &index, &naming, &deaths)?;
    let page = MetricsPage::new(Arc::clone(&shared) as Arc<dyn Source>, Arc::clone(&index), build(config));
    let page = Arc::new(page);
    let clients = &shared.clients;
    let server = server.map(|server| server.count(&clients.metrics, &clients.budget));
    let server = server.map(|server| server.start(Arc::clone(&page) as Arc<dyn Pages>)).transpose()?;
    match &server {
        Some(server) => log::info!("metrics on http://{}/metrics", server.local_addr()),
        None => log::info!("no metrics: export.prometheus.enabled is false"),
    }

    let threads = Threads::start(config, &bpf, &shared, &deaths)?;
    let operated: Arc<dyn Api> = Arc::new(Operated::new(Arc::clone(&shared), page, index, build(config)));
    let debug_server = debug_server.map(|server| server.count(&clients.debug, &clients.budget));
    let control = control.map(|control| control.count(&clients.control, &clients.budget));
    let mut trouble = Trouble::default();
    // Whatever fails from here on: packets that were seen are to be in the books, and nothing is to stay attached.
    if let Some(operating) = trouble.take(Operating::start(control, debug_server, operated)) {
        ready(Handle::new(Arc::clone(&shared), server.as_ref().map(Running::local_addr)));
        let served = || server.as_ref().is_some_and(Running::is_finished);
        let ended = || operating.ended().or(served().then_some("metrics")).or(naming.has_failed().then_some("names"));
        trouble.note(wait(stop, &died, ended));
    }
    let report = finish(&bpf, threads, workers, &rings, &shared, &mut trouble);
    if let Some(server) = server {
        trouble.take(server.stop());
    }
    trouble.0.map_or(Ok(report), Err)
}

/// What went wrong first: the rest often follows from it.
#[derive(Default)]
struct Trouble(Option<Error>);

impl Trouble {
    fn take<T>(&mut self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.note(Some(error));
                None
            }
        }
    }

    fn note(&mut self, error: Option<Error>) {
        match (&self.0, error) {
            (None, first) => self.0 = first,
            (Some(_), Some(later)) => log::error!("while the agent ends: {later:#}"),
            (Some(_), None) => {}
        }
    }
}

/// What serves the operator. It ends with the value.
struct Operating {
    control: Option<control::Running>,
    debugging: Option<Running>,
}

impl Operating {
    fn start(
        control: Option<control::Server>,
        debug_server: Option<Server>,
        operated: Arc<dyn Api>,
    ) -> Result<Operating> {
        let debugging = debug_server.map(|server| start_debugging(server, &operated)).transpose()?;
        let control = control.map(|control| control.start(control::Limits::default(), operated)).transpose()?;
        if let Some(control) = &control {
            log::info!("control socket {}", control.path().display());
        }
        Ok(Operating { control, debugging })
    }

    /// What of it has ended by itself.
    fn ended(&self) -> Option<&'static str> {
        let control = self.control.as_ref().is_some_and(control::Running::is_finished).then_some("control");
        control.or(self.debugging.as_ref().is_some_and(Running::is_finished).then_some("debug"))
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

fn start_workers(
    live: Live,
    bpf: &mut Bpf<'_>,
    index: &Arc<SeriesIndex>,
    naming: &Naming,
    deaths: &Deaths,
) -> Result<Started> {
    let rings = bpf.take_rings();
    let shared = Arc::new(Shared::new(live, bpf, Arc::clone(index), naming, rings.len())?);
    let workers = rings
        .iter()
        .enumerate()
        .map(|(i, ring)| Worker::start(i, ring.try_clone()?, bpf.clock(), shared.sink(i), deaths))
        .collect::<Result<_>>()?;
    Ok((shared, workers, rings))
}

/// The threads besides workers and those that serve.
struct Threads {
    sweeps: Lasting<Sweeper>,
    limiting: Lasting<()>,
    upkeep: Option<Lasting<()>>,
    following: Following,
    watching: Option<Lasting<()>>,
}

impl Threads {
    /// Those that attach come last. All end with their values.
    fn start(config: &Config, bpf: &Bpf<'_>, shared: &Arc<Shared>, deaths: &Deaths) -> Result<Threads> {
        Ok(Threads {
            sweeps: start_sweeps(bpf.sweeper()?, Arc::clone(shared), deaths)?,
            limiting: limits::start(Arc::clone(shared), deaths)?,
            upkeep: nat::start_upkeep(shared.nat(), deaths)?,
            following: Following::start(config, bpf.attachments()?, Arc::clone(shared), deaths)?,
            watching: pods::start(config, bpf.programs()?, Arc::clone(shared), deaths)?,
        })
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
fn wait(stop: &Receiver<()>, died: &Receiver<String>, ended: impl Fn() -> Option<&'static str>) -> Option<Error> {
    loop {
        select! {
            recv(stop) -> _ => return None,
            recv(died) -> reason => return Some(Error::msg(reason.unwrap_or_default())),
            default(Duration::from_secs(1)) => {}
        }
        if let Some(name) = ended() {
            return Some(anyhow!("the thread nm-{name} has ended by itself; the log says why"));
        }
    }
}

/// Detaches, brings everything that is still on its way into the books, and ends all threads; whatever fails, as far as it goes.
fn finish(
    bpf: &Bpf<'_>,
    threads: Threads,
    workers: Vec<Worker>,
    rings: &[Ring],
    shared: &Shared,
    trouble: &mut Trouble,
) -> Report {
    let started = Instant::now();
    let Threads { sweeps, limiting, upkeep, following, watching } = threads;
    for thread in [Some(limiting), upkeep, watching].into_iter().flatten() {
        trouble.take(thread.stop());
    }
    trouble.take(following.stop());
    if let Some(ring) = rings.first() {
        trouble.take(bpf.wait_for_programs(ring));
    }
    let sweeper = trouble.take(sweeps.stop()).or_else(|| trouble.take(bpf.sweeper()));
    // A full ring makes the sweep leave entries where they are: come again while the workers empty it.
    workers.iter().for_each(Worker::hurry);
    if let Some(sweeper) = sweeper {
        while !sweeper.is_empty() && started.elapsed() < DRAIN_TIME {
            if trouble.take(sweeper.sweep(Sweep::All)).is_none() {
                break;
            }
            std::thread::yield_now();
        }
    }
    for worker in workers {
        trouble.take(worker.finish());
    }
    shared.end_flows();
    let report = shared.report();
    log::info!("stopped after {:.1} s; {}", started.elapsed().as_secs_f64(), report.conservation());
    report
}

/// Starts the thread that sweeps, once a second unless CPU time is short.
fn start_sweeps(sweeper: Sweeper, shared: Arc<Shared>, deaths: &Deaths) -> Result<Lasting<Sweeper>> {
    deaths.watch("nm-sweep", move |stopped| {
        while stopped.recv_timeout(shared.throttle.sweep_every()) == Err(RecvTimeoutError::Timeout) {
            sweeper.sweep(Sweep::Due)?;
        }
        Ok(sweeper)
    })
}
