//! What of a running agent can change, and how it does.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded, unbounded};

use super::trace::Running;
use super::{bounds, options, telling};
use crate::bpf::{Bpf, Loader, MapInfo, Programs, Sampler, Wakeup, possible_cpus};
use crate::config::{Config, Given, Key, Selection, Settings, Sources};
use crate::metrics::Reloads;

/// Orders that wait for a thread: it takes them within seconds, and programs wait in them.
const ORDERS: usize = 16;

/// What the threads that attach are told.
#[derive(Clone)]
pub(super) enum Order {
    /// Watch these interfaces.
    Select(Selection),
    /// Attach these programs in place of the ones there are, and answer what does not have them, and why.
    Replace(Arc<Programs>, Sender<Vec<String>>),
}

/// Threads that attach have replaced all programs by then.
const PLACE_TIME: Duration = Duration::from_secs(15);

/// A thread that takes orders, and how it is woken for them.
struct Taker {
    orders: Sender<Order>,
    wakeup: Option<Arc<Wakeup>>,
}

/// The settings, and what it takes to change them.
pub(super) struct Live {
    pub(super) sampler: Sampler,
    pub(super) loader: Loader,
    pub(super) cpus: usize,
    /// Those that watch when no packets are traced.
    own: Mutex<Arc<Programs>>,
    /// The trace that runs, if one does.
    pub(super) trace: Mutex<Option<Running>>,
    /// Held while they change.
    settings: Mutex<Wanted>,
    /// What is in force.
    running: Mutex<Config>,
    takers: Mutex<Vec<Taker>>,
    reloads: AtomicU64,
    failures: AtomicU64,
}

struct Wanted {
    sources: Sources,
    settings: Settings,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Live {
    pub(super) fn new(settings: Settings, sources: Sources, bpf: &Bpf<'_>) -> Result<Live> {
        let sampler = bpf.sampler()?;
        sampler.set(settings.config.sampling_rate);
        Ok(Live {
            sampler,
            loader: bpf.loader()?,
            cpus: possible_cpus()?,
            own: Mutex::new(bpf.programs()?),
            trace: Mutex::default(),
            running: Mutex::new(settings.config.clone()),
            settings: Mutex::new(Wanted { sources, settings }),
            takers: Mutex::default(),
            reloads: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        })
    }

    /// Orders for a thread, from now on.
    pub(super) fn take_orders(&self, wakeup: Option<Arc<Wakeup>>) -> Receiver<Order> {
        let (orders, taken) = bounded(ORDERS);
        lock(&self.takers).push(Taker { orders, wakeup });
        taken
    }

    /// An error if somebody does not take them any more, though it has not ended.
    pub(super) fn order(&self, order: &Order) -> Result<()> {
        let mut deaf = false;
        // Who does not listen any more has ended.
        lock(&self.takers).retain(|taker| {
            let heard = taker.orders.try_send(order.clone());
            if let Some(wakeup) = &taker.wakeup {
                wakeup.raise();
            }
            deaf |= matches!(heard, Err(TrySendError::Full(_)));
            !matches!(heard, Err(TrySendError::Disconnected(_)))
        });
        ensure!(!deaf, "a thread that attaches programs has not taken the last {ORDERS} orders: restart the agent");
        Ok(())
    }

    /// Nothing of it changes while the value lives.
    pub(super) fn change(&self) -> impl Drop + '_ {
        lock(&self.settings)
    }

    /// The programs that watch when no packets are traced.
    pub(super) fn own_programs(&self) -> Arc<Programs> {
        Arc::clone(&lock(&self.own))
    }

    /// What is in force.
    pub(super) fn running(&self) -> Config {
        lock(&self.running).clone()
    }

    /// What the kernel says of the maps.
    pub(super) fn maps(&self) -> Vec<MapInfo> {
        self.loader.map_infos()
    }

    /// What was read last.
    pub(super) fn settings(&self) -> Settings {
        lock(&self.settings).settings.clone()
    }

    pub(super) fn reloads(&self) -> Reloads {
        Reloads { taken: self.reloads.load(Relaxed), failed: self.failures.load(Relaxed) }
    }
}

impl super::shared::Shared {
    /// Reads the configuration again and takes what a running agent can take. If anything is wrong, nothing changes.
    pub(super) fn reload(&self) -> Result<()> {
        let mut wanted = lock(&self.live.settings);
        let taken = Settings::read(&wanted.sources).and_then(|settings| {
            let placed = self.apply(&settings.config)?;
            tell(&wanted.settings, &settings, &self.live.running());
            wanted.settings = settings;
            Ok(placed)
        });
        let everywhere = taken.context("the configuration stays as it was").flatten();
        let counter = if everywhere.is_ok() { &self.live.reloads } else { &self.live.failures };
        counter.fetch_add(1, Relaxed);
        everywhere
    }

    /// Gives a key another value until the agent ends, or takes that back; one that takes a restart is refused.
    pub(super) fn set(&self, key: &'static Key, given: Option<Given>) -> Result<()> {
        anyhow::ensure!(
            key.live,
            "{} takes a restart: set it in the file, by {} or by --set",
            key.path,
            key.variable(),
        );
        let mut wanted = lock(&self.live.settings);
        let mut sources = wanted.sources.clone();
        match &given {
            Some(given) => drop(sources.set.insert(key.path, given.clone())),
            None => drop(sources.set.remove(key.path)),
        }
        let settings = Settings::read(&sources)?;
        let placed = self.apply(&settings.config)?;
        log::info!("{} is {} now, as asked for by the control socket", key.path, settings.value(key).0);
        *wanted = Wanted { sources, settings };
        placed
    }

    /// Takes what a running agent can take of `wanted`. What can fail comes first. If it was taken: whether it is in force everywhere.
    fn apply(&self, wanted: &Config) -> Result<Result<()>> {
        let live = &self.live;
        let before = live.running();
        let config = before.with_live(wanted);
        let wanted = options(&config, live.cpus);
        let mut placed = Ok(());
        if wanted != options(&before, live.cpus) {
            let own = Arc::new(live.loader.load(&wanted)?);
            let trace = lock(&live.trace).as_ref().map(|running| Arc::clone(&running.trace));
            let tracing = trace.map(|trace| live.loader.load_tracing(&wanted, Some(trace))).transpose()?;
            let programs = tracing.map_or_else(|| Arc::clone(&own), |(programs, _)| Arc::new(programs));
            *lock(&live.own) = own;
            placed = self.put_in_place(programs).context("the configuration was taken, but not everywhere");
        }
        self.limit(bounds(&config, self.workers()));
        if config.interfaces.patterns() != before.interfaces.patterns() {
            live.order(&Order::Select(config.interfaces.clone()))?;
        }
        if config.features.buckets != before.features.buckets {
            self.measure_by(&config.features.buckets);
        }
        let told = telling(&config, self.names());
        if told != telling(&before, self.names()) {
            self.tell_by(told);
        }
        live.sampler.set(config.sampling_rate * self.throttle.share());
        if config.log_level != before.log_level {
            log::set_max_level(config.log_level);
        }
        *lock(&live.running) = config;
        Ok(placed)
    }

    /// Attaches programs in place of those that are, and waits until that is done. An error names each interface that does not have
    /// them; it gets them as soon as it can.
    pub(super) fn put_in_place(&self, programs: Arc<Programs>) -> Result<()> {
        self.time_programs(Arc::clone(&programs));
        let (answer, answers) = unbounded();
        self.live.order(&Order::Replace(programs, answer))?;
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
        anyhow::ensure!(troubles.is_empty(), "{}", troubles.join("; "));
        self.programs_placed();
        Ok(())
    }
}

/// One line for what changed, and one for each value that has to wait.
fn tell(before: &Settings, settings: &Settings, running: &Config) {
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
    for key in Key::pending(running, &settings.config) {
        let (value, origin) = settings.value(key);
        log::warn!("{}={value} ({origin}) takes a restart; until then it is {}", key.path, key.shown(running));
    }
}
