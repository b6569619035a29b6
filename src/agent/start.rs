//! Starts the agent, and waits until it has to stop.

use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Error, Result, anyhow};
use crossbeam_channel::{Receiver, RecvTimeoutError, select};

use super::Report;
use super::api::AgentApi;
use super::board::Board;
use super::detecting::Detecting;
use super::figures::figures;
use super::limits::{Limiter, Throttle};
use super::names::NamesSource;
use super::ranking::Ranking;
use super::reload::Reload;
use super::served::{Handle, Served};
use super::servers::{OperatorServers, control_socket, debug_server, guard, log_metrics};
use super::stop::{Stopping, Trouble};
use super::watch::ConfigWatch;
use super::watch::interfaces::InterfaceWatch;
use super::watch::pods;
use crate::bpf::{self, Bpf, ObjectStorage, Ring, Sweep, Sweeper};
use crate::clients::Clients;
use crate::config::{Config, External, Settings, Sources};
use crate::control::Api;
use crate::http::{Guard, Pages, Running, Server, ServerLimits};
use crate::names::{Cluster, Names};
use crate::pipeline::Pipeline;
use crate::pipeline::worker::Worker;
use crate::sinks::metrics::{self, Build, Identification, MetricsPage, OwnProcess, SeriesIndex};
use crate::threads::{Thread, Threads};

/// Runs an agent with a configuration that is not read again.
///
/// # Errors
///
/// As [`run_with`].
pub fn run(config: &Config, stop: &Receiver<()>, ready: impl FnOnce(Handle)) -> Result<Report> {
    let (threads, deaths) = Threads::new();
    run_with(Settings::of(config.clone()), Sources::default(), &threads, &deaths, stop, ready)
}

/// Runs an agent until `stop` receives something or is closed. `ready` is called once packets are being watched. The
/// `settings` are what the `sources` had; a reload reads them again. The agent adds its threads to the caller's list, which
/// may have others already; the first death of any of them ends the agent.
///
/// # Errors
///
/// The first thing that went wrong: the host lacks what the agent needs, or a thread has ended.
pub fn run_with(
    settings: Settings,
    sources: Sources,
    threads: &Threads,
    deaths: &Receiver<String>,
    stop: &Receiver<()>,
    ready: impl FnOnce(Handle),
) -> Result<Report> {
    let config = &settings.config.clone();
    let file = sources.file.clone();
    let callers = threads.running();
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
    let guard = guard(config)?;
    let server =
        config.metrics_enabled.then(|| Server::bind(metrics::SERVER, &config.metrics_addr, ServerLimits::default()));
    let server = server.transpose()?.map(|server| server.protect(guard.clone()));
    let debug_server = debug_server(config)?;
    let control = control_socket(config)?;
    bpf::allow_many_descriptors(config.workers)?;
    let names = NamesSource::start(config, threads)?;

    let cpus = bpf::possible_cpus()?;
    let mut storage = MaybeUninit::<ObjectStorage>::uninit();
    let mut bpf = Bpf::load(&mut storage, &config.program_options(cpus))?;
    log::info!(
        "loaded: {} workers, rings of {} records, caches of {} flows on each of {cpus} CPUs, {:.1} MiB of kernel memory",
        config.workers,
        config.ring_records(),
        config.cache_slots(cpus),
        bpf.kernel_bytes() as f64 / f64::from(1 << 20)
    );

    let rings = bpf.take_rings();
    let owners = Owners::new(settings, sources, &bpf, rings.len(), names.names(), threads)?;
    let workers = start_workers(&owners.pipeline, &rings, &bpf, threads)?;
    let clients = Clients::default();
    let ranking = Arc::new(Ranking::new(Arc::clone(&owners.pipeline), Arc::clone(&clients.budget)));
    let server = server.map(|server| server.count(&clients.metrics, &clients.budget));
    let debug_server = debug_server.map(|server| server.count(&clients.debug, &clients.budget));
    let control = control.map(|control| control.count(&clients.control, &clients.budget));
    let served = Arc::new(owners.served(config, clients, guard, &names, threads));
    let page = Arc::new(MetricsPage::new(Arc::clone(&served), figures()));
    let server = server.map(|server| server.start(threads, Arc::clone(&page) as Arc<dyn Pages>)).transpose()?;
    match &server {
        Some(server) => log_metrics(server.local_addr(), served.guard.as_deref()),
        None => log::info!("no metrics: export.prometheus.enabled is false"),
    }

    let stopping = Stopping {
        sweeps: start_sweeps(bpf.sweeper()?, Arc::clone(&owners.throttle), threads)?,
        limits: owners.limiter(&served, Arc::clone(&ranking)).start(threads)?,
        translations: owners.pipeline.follow_translations(threads)?,
        // Those that attach come last.
        interfaces: owners.watch_interfaces(config, &bpf, threads)?,
        pods: owners.watch_pods(config, &bpf, threads)?,
        workers,
        detecting: Arc::clone(&owners.detecting),
        names,
        metrics: server,
    };
    let api: Arc<dyn Api> = Arc::new(AgentApi::new(Arc::clone(&served), ranking, page));
    let mut trouble = Trouble::default();
    // Whatever fails from here on, packets that were seen have to be in the books, and nothing may stay attached.
    let operator = trouble.take(OperatorServers::start(control, debug_server, &api, threads));
    let mut config_watch = None;
    if operator.is_some() {
        let handle = Handle::new(Arc::clone(&served), stopping.metrics.as_ref().map(Running::local_addr));
        config_watch = watch_config(file.as_deref(), &handle);
        // Loading the programs takes memory that nothing needs any more.
        bpf::give_back_memory();
        ready(handle);
        trouble.note(wait(stop, deaths));
    }
    trouble.take(config_watch.map(ConfigWatch::stop).transpose());
    let report = stopping.stop(&bpf, rings.first(), &owners.pipeline, &owners.board, &mut trouble);
    if let Some(operator) = operator {
        operator.stop(&mut trouble);
    }
    let mut left = threads.running();
    left.retain(|name| !callers.contains(name));
    if !left.is_empty() {
        trouble.note(Some(anyhow!("these threads have not ended: {}", left.join(", "))));
    }
    trouble.0.map_or(Ok(report), Err)
}

/// Makes the agent reload whenever its configuration file changes. If the file cannot be watched, a SIGHUP is needed.
fn watch_config(file: Option<&Path>, handle: &Handle) -> Option<ConfigWatch> {
    let watch = ConfigWatch::start(file?, handle.clone());
    watch.inspect_err(|error| log::warn!("changes of the configuration take a SIGHUP: {error:#}")).ok()
}

/// The owners of an agent's state.
pub(super) struct Owners {
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) board: Arc<Board>,
    pub(super) reload: Arc<Reload>,
    pub(super) throttle: Arc<Throttle>,
    pub(super) detecting: Arc<Detecting>,
}

impl Owners {
    pub(super) fn new(
        settings: Settings,
        sources: Sources,
        bpf: &Bpf<'_>,
        workers: usize,
        names: Option<Arc<Names>>,
        threads: &Threads,
    ) -> Result<Owners> {
        let config = &settings.config;
        let labels = identification(config, names.as_ref());
        let series = Arc::new(SeriesIndex::new(config.series_limit, config.features.buckets.clone(), labels));
        let pipeline = Arc::new(Pipeline::new(config, bpf.spread(), workers, series, names));
        let throttle = Arc::new(Throttle::new(bpf.sampler()?, config.sampling_rate));
        let board = Board::new(bpf.books()?, config.features.timestamps);
        let detecting = Arc::new(Detecting::new(Arc::clone(&pipeline), threads));
        detecting.follow(&config.security)?;
        let parts = (Arc::clone(&pipeline), Arc::clone(&throttle), Arc::clone(&detecting));
        let reload = Reload::new(settings, sources, bpf, parts)?;
        Ok(Owners { pipeline, board: Arc::new(board), reload: Arc::new(reload), throttle, detecting })
    }

    /// What the servers show.
    pub(super) fn served(
        &self,
        config: &Config,
        clients: Clients,
        guard: Option<Arc<Guard>>,
        names: &NamesSource,
        threads: &Threads,
    ) -> Served {
        Served {
            pipeline: Arc::clone(&self.pipeline),
            board: Arc::clone(&self.board),
            reload: Arc::clone(&self.reload),
            throttle: Arc::clone(&self.throttle),
            clients,
            guard,
            names: names.progress(),
            process: OwnProcess::new(build(config)),
            threads: threads.clone(),
        }
    }

    fn limiter(&self, served: &Served, ranking: Arc<Ranking>) -> Limiter {
        Limiter {
            pipeline: Arc::clone(&self.pipeline),
            throttle: Arc::clone(&self.throttle),
            budget: Arc::clone(&served.clients.budget),
            config: Arc::clone(self.reload.in_force()),
            programs: Arc::clone(self.reload.program_times()),
            ranking,
        }
    }

    fn watch_interfaces(&self, config: &Config, bpf: &Bpf<'_>, threads: &Threads) -> Result<InterfaceWatch> {
        let (board, pipeline) = (Arc::clone(&self.board), Arc::clone(&self.pipeline));
        InterfaceWatch::start(config, bpf.attachments(), board, pipeline, self.reload.orders(), threads)
    }

    fn watch_pods(&self, config: &Config, bpf: &Bpf<'_>, threads: &Threads) -> Result<Option<Thread<()>>> {
        let (board, pipeline) = (Arc::clone(&self.board), Arc::clone(&self.pipeline));
        pods::start(config, bpf.programs(), board, pipeline, self.reload.orders(), threads)
    }
}

fn start_workers(pipeline: &Pipeline, rings: &[Ring], bpf: &Bpf<'_>, threads: &Threads) -> Result<Vec<Worker>> {
    let start =
        |(i, ring): (usize, &Ring)| Worker::start(i, ring.try_clone()?, bpf.clock(), pipeline.worker(i), threads);
    rings.iter().enumerate().map(start).collect()
}

/// Starts the thread that sweeps.
fn start_sweeps(sweeper: Sweeper, throttle: Arc<Throttle>, threads: &Threads) -> Result<Thread<Sweeper>> {
    threads.start("nm-sweep", move |stopped| {
        while stopped.recv_timeout(throttle.sweep_every()) == Err(RecvTimeoutError::Timeout) {
            sweeper.sweep(Sweep::Due)?;
        }
        Ok(sweeper)
    })
}

/// Sleeps until the agent has to stop. Returns what failed, if that is why.
fn wait(stop: &Receiver<()>, deaths: &Receiver<String>) -> Option<Error> {
    select! {
        recv(stop) -> _ => None,
        recv(deaths) -> reason => Some(Error::msg(reason.unwrap_or_default())),
    }
}

/// How the ends of series are identified.
pub(super) fn identification(config: &Config, names: Option<&Arc<Names>>) -> Identification {
    let cluster = names.is_some_and(|names| names.load().cluster() != Cluster::Absent);
    let grouped = match config.external {
        External::Auto => cluster,
        External::Group => true,
        External::Address => false,
    };
    Identification { labels: config.labels, chosen: config.chosen.clone(), grouped }
}

fn build(config: &Config) -> Build {
    Build {
        version: env!("NETMON_VERSION"),
        commit: env!("NETMON_COMMIT"),
        arch: std::env::consts::ARCH,
        node: config.node_name.clone(),
    }
}

fn log_kernel() {
    let read = |name| std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
    log::info!("netmon {} ({}) on Linux {}", env!("NETMON_VERSION"), env!("NETMON_COMMIT"), read("osrelease").trim());
}
