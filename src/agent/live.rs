//! What of a running agent can change, and how it does.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

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
    /// Attach these programs in place of the ones there are. The sender goes once that is done.
    Replace(Arc<Programs>, Option<Sender<()>>),
}

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
            self.apply(&settings.config)?;
            tell(&wanted.settings, &settings, &self.live.running());
            wanted.settings = settings;
            Ok(())
        });
        let counter = if taken.is_ok() { &self.live.reloads } else { &self.live.failures };
        counter.fetch_add(1, Relaxed);
        taken.context("the configuration stays as it was")
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
        self.apply(&settings.config)?;
        log::info!("{} is {} now, as asked for by the control socket", key.path, settings.value(key).0);
        *wanted = Wanted { sources, settings };
        Ok(())
    }

    /// Takes what a running agent can take of `wanted`. What can fail comes first.
    fn apply(&self, wanted: &Config) -> Result<()> {
        let live = &self.live;
        let before = live.running();
        let config = before.with_live(wanted);
        let wanted = options(&config, live.cpus);
        if wanted != options(&before, live.cpus) {
            let own = Arc::new(live.loader.load(&wanted)?);
            let trace = lock(&live.trace).as_ref().map(|running| Arc::clone(&running.trace));
            let tracing = trace.map(|trace| live.loader.load_tracing(&wanted, Some(trace))).transpose()?;
            let placed = tracing.map_or_else(|| Arc::clone(&own), |(programs, _)| Arc::new(programs));
            self.time_programs(placed.stats()?);
            *lock(&live.own) = own;
            live.order(&Order::Replace(placed, None))?;
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
    for key in Key::pending(running, &settings.config) {
        let (value, origin) = settings.value(key);
        log::warn!("{}={value} ({origin}) takes a restart; until then it is {}", key.path, key.shown(running));
    }
}
