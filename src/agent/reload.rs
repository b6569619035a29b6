//! Changes of a running agent: its configuration, and the programs that watch.

mod ledger;
mod trace;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded, unbounded};

pub(super) use self::ledger::ProgramTimes;
use self::trace::ActiveTrace;
pub(super) use self::trace::Tracing;
use super::detecting::Detecting;
use super::limits::Throttle;
use super::start::identification;
use crate::bpf::{Bpf, Loader, MapInfo, Programs, Wakeup, possible_cpus};
use crate::config::{Config, Given, Key, Selection, Settings, Sources};
use crate::lock;
use crate::pipeline::{Pipeline, bounds};
use crate::sinks::metrics::{Families, Family, Figures, Reading};

/// Most orders that wait for a thread. It takes them within seconds, and they hold programs.
const WAITING_MOST: usize = 16;

/// An order for the threads that attach programs.
#[derive(Clone)]
pub(super) enum Order {
    /// Watch these interfaces.
    Select(Selection),
    /// Attach these programs in place of the present ones, and answer which interfaces do not have them, and why.
    Replace(Arc<Programs>, Sender<Vec<String>>),
}

/// Hands orders to the threads that attach programs.
#[derive(Default)]
pub(super) struct Orders(Mutex<Vec<Recipient>>);

/// A thread that takes orders, and how it is woken for them.
struct Recipient {
    orders: Sender<Order>,
    wakeup: Option<Arc<Wakeup>>,
}

impl Orders {
    /// Receives orders for the calling thread from now on; `wakeup` is raised for each.
    pub(super) fn take(&self, wakeup: Option<Arc<Wakeup>>) -> Receiver<Order> {
        let (orders, taken) = bounded(WAITING_MOST);
        lock::ignoring_poison(&self.0).push(Recipient { orders, wakeup });
        taken
    }

    /// Fails if a thread has stopped taking orders without having ended.
    fn give(&self, order: &Order) -> Result<()> {
        let mut stuck = false;
        // Drop recipients whose thread has ended.
        lock::ignoring_poison(&self.0).retain(|recipient| {
            let given = recipient.orders.try_send(order.clone());
            if let Some(wakeup) = &recipient.wakeup {
                wakeup.raise();
            }
            stuck |= matches!(given, Err(TrySendError::Full(_)));
            !matches!(given, Err(TrySendError::Disconnected(_)))
        });
        ensure!(
            !stuck,
            "a thread that attaches programs has not taken the last {WAITING_MOST} orders: restart the agent"
        );
        Ok(())
    }
}

/// Threads that attach have replaced all programs within this time.
const PLACE_TIME: Duration = Duration::from_secs(15);

/// The configuration in force.
pub(super) struct InForce(Mutex<Config>);

impl InForce {
    /// A copy of it.
    pub(super) fn get(&self) -> Config {
        lock::ignoring_poison(&self.0).clone()
    }
}

/// How often the configuration was read again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ReloadCounts {
    /// Times that it was taken.
    pub(super) taken: u64,
    /// Times that it was refused, because something was wrong with it.
    pub(super) failed: u64,
}

/// Owns the configuration and the loaded programs, and changes both while the agent runs.
pub(super) struct Reload {
    in_force: Arc<InForce>,
    pipeline: Arc<Pipeline>,
    throttle: Arc<Throttle>,
    detecting: Arc<Detecting>,
    orders: Arc<Orders>,
    loader: Arc<Loader>,
    cpus: usize,
    /// The programs that watch when no packets are traced.
    own: Mutex<Arc<Programs>>,
    times: Arc<ProgramTimes>,
    /// The trace that runs, if one does.
    trace: Mutex<Option<ActiveTrace>>,
    /// The configuration as read last. Held while anything changes.
    given: Mutex<GivenSettings>,
    reloads: AtomicU64,
    failures: AtomicU64,
}

struct GivenSettings {
    sources: Sources,
    settings: Settings,
}

impl Reload {
    pub(super) fn new(
        settings: Settings,
        sources: Sources,
        bpf: &Bpf<'_>,
        (pipeline, throttle, detecting): (Arc<Pipeline>, Arc<Throttle>, Arc<Detecting>),
    ) -> Result<Reload> {
        let own = bpf.programs();
        Ok(Reload {
            in_force: Arc::new(InForce(Mutex::new(settings.config.clone()))),
            pipeline,
            throttle,
            detecting,
            orders: Arc::default(),
            loader: bpf.loader(),
            cpus: possible_cpus()?,
            times: Arc::new(ProgramTimes::of(bpf.sweeper()?, Arc::clone(&own))),
            own: Mutex::new(own),
            trace: Mutex::default(),
            given: Mutex::new(GivenSettings { sources, settings }),
            reloads: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        })
    }

    /// The configuration in force.
    pub(super) fn in_force(&self) -> &Arc<InForce> {
        &self.in_force
    }

    /// The configuration as it was read last.
    pub(super) fn settings(&self) -> Settings {
        lock::ignoring_poison(&self.given).settings.clone()
    }

    /// How often the configuration was read again.
    pub(super) fn counts(&self) -> ReloadCounts {
        ReloadCounts { taken: self.reloads.load(Relaxed), failed: self.failures.load(Relaxed) }
    }

    /// What the kernel reports of the maps.
    pub(super) fn maps(&self) -> Vec<MapInfo> {
        self.loader.map_infos()
    }

    /// CPU time of the programs, and what else the kernel reports of them.
    pub(super) fn program_times(&self) -> &Arc<ProgramTimes> {
        &self.times
    }

    /// Hands orders to the threads that attach programs.
    pub(super) fn orders(&self) -> &Orders {
        &self.orders
    }

    /// The options that programs have to be loaded with now.
    fn options(&self) -> crate::bpf::ProgramOptions {
        self.in_force.get().program_options(self.cpus)
    }

    /// The programs that watch when no packets are traced.
    fn own_programs(&self) -> Arc<Programs> {
        Arc::clone(&lock::ignoring_poison(&self.own))
    }

    /// Neither configuration nor programs change while the value lives.
    fn hold(&self) -> impl Drop + '_ {
        lock::ignoring_poison(&self.given)
    }

    /// Reads the configuration again and takes what a running agent can take. If anything is wrong, nothing changes.
    pub(super) fn reload(&self) -> Result<()> {
        let mut given = lock::ignoring_poison(&self.given);
        let taken = Settings::read(&given.sources).and_then(|settings| {
            let placed = self.apply(&settings.config)?;
            log_changes(&given.settings, &settings, &self.in_force.get());
            given.settings = settings;
            Ok(placed)
        });
        let everywhere = taken.context("the configuration stays as it was").flatten();
        let counter = if everywhere.is_ok() { &self.reloads } else { &self.failures };
        counter.fetch_add(1, Relaxed);
        everywhere
    }

    /// Gives a key another value until the agent ends; `None` takes that back. A key that takes a restart is refused.
    pub(super) fn set(&self, key: &'static Key, value: Option<Given>) -> Result<()> {
        ensure!(key.live, "{} takes a restart: set it in the file, by {} or by --set", key.path, key.variable(),);
        let mut given = lock::ignoring_poison(&self.given);
        let mut sources = given.sources.clone();
        match &value {
            Some(value) => drop(sources.set.insert(key.path, value.clone())),
            None => drop(sources.set.remove(key.path)),
        }
        let settings = Settings::read(&sources)?;
        let placed = self.apply(&settings.config)?;
        log::info!("{} is {} now, set through the control socket", key.path, settings.value(key).0);
        *given = GivenSettings { sources, settings };
        placed
    }

    /// Takes what a running agent can take of `wanted`. What can fail comes first. The inner result says whether it is in force
    /// everywhere.
    fn apply(&self, wanted: &Config) -> Result<Result<()>> {
        let before = self.in_force.get();
        let config = before.with_live(wanted);
        let wanted = config.program_options(self.cpus);
        let mut placed = Ok(());
        if wanted != before.program_options(self.cpus) {
            let own = Arc::new(self.loader.load(&wanted)?);
            let trace = lock::ignoring_poison(&self.trace).as_ref().map(|active| Arc::clone(&active.trace));
            let tracing = trace.map(|trace| self.loader.load_tracing(&wanted, Some(trace))).transpose()?;
            let programs = tracing.map_or_else(|| Arc::clone(&own), |(programs, _)| Arc::new(programs));
            *lock::ignoring_poison(&self.own) = own;
            placed = self.put_in_place(programs).context("the configuration was taken, but not everywhere");
        }
        self.detecting.follow(&config.security)?;
        self.pipeline.limit(bounds(&config, self.pipeline.workers()));
        if config.interfaces.patterns() != before.interfaces.patterns() {
            self.orders.give(&Order::Select(config.interfaces.clone()))?;
        }
        if config.features.buckets != before.features.buckets {
            self.pipeline.set_buckets(&config.features.buckets);
        }
        let labels = identification(&config, self.pipeline.names());
        if labels != identification(&before, self.pipeline.names()) {
            self.pipeline.relabel(labels);
        }
        self.throttle.set_sampling(config.sampling_rate);
        if config.log_level != before.log_level {
            log::set_max_level(config.log_level);
        }
        *lock::ignoring_poison(&self.in_force.0) = config;
        Ok(placed)
    }

    /// Attaches programs in place of the present ones, and waits until that is done. An error names each interface that does not have
    /// them; it gets them as soon as possible.
    fn put_in_place(&self, programs: Arc<Programs>) -> Result<()> {
        self.times.begin(Arc::clone(&programs));
        let (answer, answers) = unbounded();
        self.orders.give(&Order::Replace(programs, answer))?;
        let until = Instant::now() + PLACE_TIME;
        let mut troubles = Vec::new();
        loop {
            match answers.recv_deadline(until) {
                Ok(more) => troubles.extend(more),
                // All have answered.
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    troubles.push(format!("not all programs were replaced within {PLACE_TIME:?}"));
                    break;
                }
            }
        }
        ensure!(troubles.is_empty(), "{}", troubles.join("; "));
        self.times.placed();
        Ok(())
    }
}

impl Figures for Reload {
    const FAMILIES: &'static [Family] = &[
        Family::counter("netmon_config_reloads_total", "Times that a changed configuration was taken."),
        Family::counter(
            "netmon_config_reload_failures_total",
            "Times that a changed configuration was refused, because something was wrong with it.",
        ),
        Family::counter("netmon_ebpf_program_seconds_total", "CPU time of the programs (kernel.bpf_stats_enabled=1)."),
        Family::counter("netmon_ebpf_program_runs_total", "Times the programs ran (kernel.bpf_stats_enabled=1)."),
    ];

    fn collect(&self, _: &Reading, families: &mut Families) {
        let ReloadCounts { taken, failed } = self.counts();
        families.add("netmon_config_reloads_total", &[], taken as f64);
        families.add("netmon_config_reload_failures_total", &[], failed as f64);
        for program in self.times.read() {
            let pairs = [("program", program.name.as_str())];
            families.add("netmon_ebpf_program_seconds_total", &pairs, program.run_ns as f64 / 1e9);
            families.add("netmon_ebpf_program_runs_total", &pairs, program.runs as f64);
        }
    }
}

/// Logs what changed in one line, and each value that has to wait in another.
fn log_changes(before: &Settings, settings: &Settings, in_force: &Config) {
    let changed = Key::all().filter(|key| key.live && before.value(key).0 != settings.value(key).0);
    let names: Vec<String> = changed.map(|key| format!("{}={}", key.path, settings.value(key).0)).collect();
    match names.as_slice() {
        [] => log::info!("configuration read again: nothing new to take"),
        names => log::info!("configuration read again: {}", names.join(", ")),
    }
    let known = before.without_effect();
    for idle in settings.without_effect().iter().filter(|idle| !known.contains(idle)) {
        log::warn!("without effect: {idle}");
    }
    for key in Key::pending(in_force, &settings.config) {
        let (value, origin) = settings.value(key);
        log::warn!("{}={value} ({origin}) takes a restart; until then it is {}", key.path, key.shown(in_force));
    }
}
