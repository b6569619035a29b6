//! The thread that follows the interfaces of the host: it attaches to those that come and detaches from those that go.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use crossbeam_channel::Receiver;

use super::news::InterfaceNews;
use crate::agent::board::{Board, COVERAGE_EVERY, Interface, InterfaceStatus};
use crate::agent::reload::{Order, Orders};
use crate::bpf::{self, Attachments, Disturbed, LinkMonitor, Wait, Wakeup};
use crate::config::{Choice, Config, Selection};
use crate::flow::{Facing, Networks};
use crate::pipeline::Pipeline;
use crate::threads::{Thread, Threads};

/// A failed attachment is tried again after this long.
const RETRY: Duration = Duration::from_secs(10);
/// Between two checks for programs that get packets before netmon's.
const LOOK: Duration = Duration::from_secs(10);
/// All hooks are checked within this time, or where there are very many, one part of them each [`ROUND_STEP`]: the kernel does not
/// report TCX links that somebody detaches.
const ROUND: Duration = Duration::from_secs(3);
/// With a thousand interfaces, these checks would be much of what an idle agent takes.
const ROUND_STEP: Duration = Duration::from_secs(1);
/// Interfaces that are checked at once: each check takes the lock that every change of an interface waits for.
const ROUND_PART: usize = 64;
/// Between two checks of hooks for which the kernel has reported a removal: somebody may go on removing programs.
const PATIENCE: Duration = Duration::from_secs(1);
/// After this time no record of an interface that is gone comes any more.
pub(super) const LINGER: Duration = Duration::from_secs(10);

/// The interfaces of the host, and what is attached to them.
struct Interfaces {
    selection: Selection,
    clsact: bool,
    monitor: LinkMonitor,
    attachments: Attachments,
    board: Arc<Board>,
    pipeline: Arc<Pipeline>,
    /// What is known of each, by index.
    known: BTreeMap<u32, Interface>,
    facing: Facing,
    networks: Arc<Networks>,
    retry_at: Option<Instant>,
    gone: VecDeque<(Instant, u32)>,
    news: InterfaceNews,
    look_at: Instant,
    cover_at: Instant,
    round_at: Instant,
    /// Indexes of interfaces that something was removed from, and when they are checked.
    stripped: BTreeSet<u32>,
    stripped_at: Instant,
}

/// The running thread. It ends with the value; everything is detached then.
pub(in crate::agent) struct InterfaceWatch {
    thread: Option<Thread<()>>,
    wakeup: Arc<Wakeup>,
    stopping: Arc<AtomicBool>,
}

impl InterfaceWatch {
    /// Attaches to the interfaces that are there, then follows them on a thread.
    pub(in crate::agent) fn start(
        config: &Config,
        attachments: Attachments,
        board: Arc<Board>,
        pipeline: Arc<Pipeline>,
        orders: &Orders,
        threads: &Threads,
    ) -> Result<InterfaceWatch> {
        let now = Instant::now();
        let mut interfaces = Interfaces {
            selection: config.interfaces.clone(),
            clsact: config.clsact,
            monitor: LinkMonitor::new()?,
            attachments,
            board,
            pipeline,
            known: BTreeMap::new(),
            facing: Facing::default(),
            networks: Arc::default(),
            retry_at: None,
            gone: VecDeque::new(),
            news: InterfaceNews::default(),
            look_at: now,
            cover_at: now,
            round_at: now + ROUND,
            stripped: BTreeSet::new(),
            stripped_at: now,
        };
        interfaces.first()?;
        let wakeup = Arc::new(Wakeup::new()?);
        let orders = orders.take(Some(Arc::clone(&wakeup)));
        let stopping = Arc::new(AtomicBool::new(false));
        let (raised, stopped) = (Arc::clone(&wakeup), Arc::clone(&stopping));
        let thread = threads.start("nm-links", move |_| interfaces.follow(&raised, &orders, &stopped))?;
        Ok(InterfaceWatch { thread: Some(thread), wakeup, stopping })
    }

    /// Detaches from all interfaces, and ends the thread.
    pub(in crate::agent) fn stop(mut self) -> Result<()> {
        self.call();
        self.thread.take().map_or(Ok(()), Thread::stop)
    }

    fn call(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.wakeup.raise();
    }
}

impl Drop for InterfaceWatch {
    fn drop(&mut self) {
        self.call();
    }
}

impl Interfaces {
    fn first(&mut self) -> Result<()> {
        let links = self.monitor.links();
        let missing = self.selection.missing(links);
        if !missing.is_empty() {
            let names: Vec<&str> = links.values().map(|link| link.name.as_str()).collect();
            bail!(
                "no interface {} (there are {}): name one of these with --interface",
                missing.join(", "),
                names.join(", ")
            );
        }
        self.reconcile();
        for line in self.news.report_at_once(&self.known, Instant::now()) {
            log::info!("{line}");
        }
        self.look();
        let failed = |interface: &Interface| match &interface.status {
            InterfaceStatus::Failed(error) => Some(format!("{}: {error}", interface.name)),
            _ => None,
        };
        let failures: Vec<String> = self.known.values().filter_map(failed).collect();
        if self.attachments.is_empty() {
            if !failures.is_empty() {
                bail!("no interface could be attached: {}", failures.join("; "));
            }
            log::warn!("no interface to watch yet: waiting for {}", self.selection.describe());
        }
        Ok(())
    }

    fn follow(mut self, wakeup: &Wakeup, orders: &Receiver<Order>, stopping: &AtomicBool) -> Result<()> {
        loop {
            let nap = self.due().saturating_duration_since(Instant::now());
            match self.monitor.wait(nap, wakeup)? {
                Wait::Ended if stopping.load(Ordering::Relaxed) => return Ok(()),
                Wait::Ended => {
                    // Before the orders are read: one that comes later raises it again.
                    wakeup.lower();
                    orders.try_iter().try_for_each(|order| self.obey(order))?;
                }
                Wait::Changed => self.reconcile(),
                Wait::Same if self.retry_at.is_some_and(|at| at <= Instant::now()) => self.reconcile(),
                Wait::Same => {}
            }
            self.retire();
            for line in self.news.report(&self.known, Instant::now()) {
                log::info!("{line}");
            }
            self.look_at_hooks()?;
            if self.look_at <= Instant::now() {
                self.look();
            }
            if self.cover_at <= Instant::now() {
                self.cover_at = Instant::now() + COVERAGE_EVERY;
                self.board.look_at_coverage();
            }
        }
    }

    /// When the next thing is due.
    fn due(&self) -> Instant {
        let stripped_at = (!self.stripped.is_empty()).then_some(self.stripped_at);
        let gone_at = self.gone.front().map(|(at, _)| *at);
        let due = [self.retry_at, gone_at, self.news.due(), stripped_at, Some(self.cover_at), Some(self.round_at)];
        due.into_iter().flatten().fold(self.look_at, Instant::min)
    }

    /// Checks whether everything is still attached, and attaches again what somebody has removed.
    fn look_at_hooks(&mut self) -> Result<()> {
        let now = Instant::now();
        let stripped = self.monitor.take_stripped();
        let failed = |index| self.known.get(index).is_some_and(|one| matches!(one.status, InterfaceStatus::Failed(_)));
        if stripped.iter().any(failed) {
            // What was in the way may be gone.
            self.retry_at = Some(now);
        }
        self.stripped.extend(stripped.into_iter().filter(|index| self.attachments.contains(*index)));
        let mut disturbed = Vec::new();
        if !self.stripped.is_empty() && self.stripped_at <= now {
            disturbed = self.attachments.look_at(&std::mem::take(&mut self.stripped))?;
            self.stripped_at = now + PATIENCE;
        }
        if self.round_at <= now {
            disturbed.extend(self.attachments.look(ROUND_PART)?);
            let parts = self.attachments.len().div_ceil(ROUND_PART).max(1) as u32;
            self.round_at = now + (ROUND / parts).max(ROUND_STEP);
        }
        self.disturbed(&disturbed);
        Ok(())
    }

    /// Takes note of disturbed interfaces. Returns what is wrong with those that are not as they should be.
    fn disturbed(&mut self, disturbed: &[Disturbed]) -> Vec<String> {
        let troubles = self.board.disturbed(disturbed);
        for one in disturbed {
            let Some(known) = self.known.get_mut(&one.index) else { continue };
            if let Some(error) = one.error.as_ref().filter(|_| !one.lost.is_empty()) {
                known.status = InterfaceStatus::Failed(format!("{error:#}"));
                self.news.left(one.index, &known.name, Instant::now());
                self.retry_at = self.retry_at.or(Some(Instant::now() + RETRY));
                self.board.put(known);
            }
        }
        for known in self.known.values_mut() {
            if known.look_at(&self.attachments) {
                self.board.put(known);
            }
        }
        troubles
    }

    fn obey(&mut self, order: Order) -> Result<()> {
        match order {
            Order::Select(selection) => {
                let missing = selection.missing(self.monitor.links()).join(", ");
                if !missing.is_empty() {
                    log::warn!("no interface {missing} yet: it is watched as soon as there is one");
                }
                self.selection = selection;
                self.reconcile();
            }
            Order::Replace(programs, answer) => {
                let disturbed = self.attachments.replace(programs)?;
                // Whoever asked may have given up.
                let _ = answer.send(self.disturbed(&disturbed));
            }
        }
        Ok(())
    }

    /// Looks for programs that get packets before netmon's. They may change at any time, and the kernel does not report it.
    fn look(&mut self) {
        self.look_at = Instant::now() + LOOK;
        for interface in self.known.values_mut() {
            // The interface may be about to vanish.
            let Ok(before) = self.attachments.programs_before(interface.index) else { continue };
            if before == interface.before {
                continue;
            }
            for (hook, programs) in ["ingress", "egress"].into_iter().zip(&before) {
                if !programs.is_empty() {
                    let programs = programs.join(", ");
                    log::warn!("packets at {hook} of {} pass {programs} before netmon sees them", interface.name);
                }
            }
            interface.before = before;
            self.board.put(interface);
        }
    }

    /// Makes what is attached what it should be.
    fn reconcile(&mut self) {
        let workloads = self.monitor.links().values().filter(|link| link.workload);
        let facing = Facing::new(workloads.map(|link| link.index).collect());
        if facing != self.facing {
            // Before the first packet of any of them.
            self.pipeline.face(&facing);
            self.facing = facing;
        }
        let links = self.monitor.links();
        let networks = Networks::new(links, |link| self.selection.judge(link, links) == Choice::Watch);
        if networks != self.networks {
            self.pipeline.divide(&networks);
            self.networks = networks;
        }
        self.pipeline.set_own_addresses(self.monitor.addresses());
        for index in self.monitor.take_removed() {
            if let Some(name) = self.leave(index) {
                self.news.left(index, &name, Instant::now());
            }
        }
        let retry = self.retry_at.is_some_and(|at| at <= Instant::now());
        let mut failed = false;
        // First those to be watched: an interface is left to others only once these show its packets.
        let links = self.monitor.links();
        let mut links: Vec<_> = links.values().map(|link| (self.selection.judge(link, links), link)).collect();
        links.sort_by_key(|(choice, _)| *choice != Choice::Watch);
        for (choice, link) in links {
            let known = self.known.get(&link.index);
            let status = match (choice, known.map(|known| &known.status)) {
                (Choice::Watch, Some(watched @ InterfaceStatus::Watched(_))) => watched.clone(),
                (Choice::Watch, Some(failed @ InterfaceStatus::Failed(_))) if !retry => failed.clone(),
                (Choice::Watch, before) => match self.attachments.attach(link, self.clsact) {
                    Ok(None) => continue, // vanished meanwhile: the kernel is about to report it
                    Ok(Some(mode)) => {
                        self.news.came(link.index, Instant::now());
                        InterfaceStatus::Watched(mode)
                    }
                    Err(error) => {
                        let error = format!("{error:#}");
                        if before != Some(&InterfaceStatus::Failed(error.clone())) {
                            log::warn!("cannot watch {}: {error}", link.name);
                        }
                        InterfaceStatus::Failed(error)
                    }
                },
                (other, _) => {
                    if self.attachments.contains(link.index) {
                        self.attachments.detach(link.index);
                        self.news.left(link.index, &link.name, Instant::now());
                    }
                    InterfaceStatus::Left(other)
                }
            };
            failed |= matches!(status, InterfaceStatus::Failed(_));
            if known.is_none_or(|known| known.differs(link, &status)) {
                let start = known.map(|known| known.start).or_else(|| bpf::counters_of(link.index));
                let mut interface = Interface::new(link, status, start.unwrap_or_default());
                interface.before = known.map(|known| known.before.clone()).unwrap_or_default();
                interface.outdated = known.and_then(|known| known.outdated.clone());
                self.board.put(&interface);
                self.known.insert(link.index, interface);
            }
        }
        self.news.look(&self.known, Instant::now());
        let later = || Instant::now() + RETRY;
        self.retry_at = failed.then(|| self.retry_at.filter(|_| !retry).unwrap_or_else(later));
    }

    /// An interface is gone; its name if it was watched.
    fn leave(&mut self, index: u32) -> Option<String> {
        self.attachments.detach(index);
        self.board.remove(index);
        let known = self.known.remove(&index)?;
        self.gone.push_back((Instant::now() + LINGER, index));
        matches!(known.status, InterfaceStatus::Watched(_)).then_some(known.name)
    }

    /// Retires the books of interfaces that are gone for good.
    fn retire(&mut self) {
        while let Some(&(_, index)) = self.gone.front().filter(|(at, _)| *at <= Instant::now()) {
            self.gone.pop_front();
            if !self.known.contains_key(&index) {
                self.pipeline.retire(index);
                self.board.books().retire(index);
            }
        }
    }
}
