//! Keeps the agent within `resources.memory_limit` and `resources.cpu_limit`, by doing less before it would exceed them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Result;
use crossbeam_channel::RecvTimeoutError;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use super::ranking::Ranking;
use super::reload::{InForce, ProgramTimes};
use crate::bpf::{Sampler, give_back_memory};
use crate::clients::Budget;
use crate::config::Config;
use crate::pipeline::Pipeline;
use crate::sinks::metrics::{Families, Family, Figures, Reading, resident_bytes};
use crate::threads::{Thread, Threads};

/// Between two sweeps, unless CPU time is short.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Between two looks at memory.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Between two looks at CPU time.
const CPU_EVERY: Duration = Duration::from_secs(1);
/// Between two looks for series that nothing is counted in any more.
const EXPIRE_EVERY: Duration = Duration::from_secs(10);
/// Share of the limit that flows may fill: the rest is for what is needed for a short time, above all by a scrape.
const FILL: f64 = 0.85;
/// Most bytes that a flow takes, with its times and its entry in the index.
const FLOW_BYTES: f64 = 640.0;
/// Fewer flows than this are never enforced: that would free too little.
const FLOWS_LEAST: usize = 1000;
/// Between two times that the allocator gives memory back.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(10);
/// Less than this is not worth giving back.
const WORTH_BYTES: u64 = 16 << 20;
/// How many looks in a row at CPU time above the limit, or well below it, change the level.
const PATIENCE: [u32; 2] = [3, 10];
/// Below this share of the limit is well below it.
const RELAXED: f64 = 0.7;
/// The highest level. From `SAMPLING` on, each level halves the share of flows that is tracked.
const LEVEL_MOST: u32 = 8;
const SAMPLING: u32 = 3;

/// What was done to stay within the limits of memory and CPU time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LimitActions {
    /// Times that flows made room.
    pub(super) shed: u64,
    /// Times that work was slowed down, or fewer flows were tracked.
    pub(super) slowed: u64,
    /// Steps of the latter in force.
    pub(super) cpu_level: u64,
}

/// How much less is done at the moment, and how often that has changed.
pub(super) struct Throttle {
    sampler: Sampler,
    level: AtomicU64,
    shed: AtomicU64,
    slowed: AtomicU64,
}

impl Throttle {
    /// Nothing is slowed down, and the share `sampling_rate` of the flows is tracked.
    pub(super) fn new(sampler: Sampler, sampling_rate: f64) -> Throttle {
        let [level, shed, slowed] = [(); 3].map(|()| AtomicU64::new(0));
        let throttle = Throttle { sampler, level, shed, slowed };
        throttle.set_sampling(sampling_rate);
        throttle
    }

    /// Sets the share of flows that is wanted. Returns the share that is tracked, which may be less.
    pub(super) fn set_sampling(&self, wanted: f64) -> f64 {
        let rate = wanted * share(self.level());
        self.sampler.set(rate);
        rate
    }

    /// Share of the flows that is tracked.
    pub(super) fn sampling_rate(&self) -> f64 {
        self.sampler.rate()
    }

    fn level(&self) -> u32 {
        self.level.load(Relaxed) as u32
    }

    /// What was done to stay within the limits.
    pub(super) fn actions(&self) -> LimitActions {
        let [shed, slowed, cpu_level] = [&self.shed, &self.slowed, &self.level].map(|count| count.load(Relaxed));
        LimitActions { shed, slowed, cpu_level }
    }

    /// Time between two sweeps. If it were longer, flows would be judged before everything is known of them.
    pub(super) fn sweep_every(&self) -> Duration {
        if self.level() == 0 { SWEEP_EVERY } else { 2 * SWEEP_EVERY }
    }

    /// How old a page of metrics may be.
    pub(super) fn page_age(&self) -> Duration {
        [Duration::ZERO, Duration::from_secs(2), Duration::from_secs(10)][self.level().min(2) as usize]
    }
}

impl Figures for Throttle {
    const FAMILIES: &'static [Family] = &[
        Family::gauge("netmon_sampling_rate", "Share of flows that is tracked."),
        Family::counter(
            "netmon_limit_actions_total",
            "Times that flows were shed or work was slowed down to stay within a limit.",
        ),
        Family::gauge(
            "netmon_cpu_limit_level",
            "Steps taken to stay within the CPU limit: 1 and 2 slow down, from 3 on flows are sampled.",
        ),
    ];

    fn collect(&self, _: &Reading, families: &mut Families) {
        families.add("netmon_sampling_rate", &[], self.sampling_rate());
        let LimitActions { shed, slowed, cpu_level } = self.actions();
        for (resource, count) in [("memory", shed), ("cpu", slowed)] {
            families.add("netmon_limit_actions_total", &[("resource", resource)], count as f64);
        }
        families.add("netmon_cpu_limit_level", &[], cpu_level as f64);
    }
}

/// The part of the wanted share of flows that is tracked at this level.
fn share(level: u32) -> f64 {
    0.5f64.powi(level.saturating_sub(SAMPLING - 1) as i32)
}

/// How many flows there may be.
#[derive(Debug, Default)]
struct Memory {
    /// Resident bytes when flows were shed last: memory that is free inside the process stays resident.
    shed_at: f64,
}

impl Memory {
    /// A bound for the table, which has `flows` flows, and whether some have to be evicted.
    fn bound(&mut self, limit: u64, resident: u64, flows: usize) -> (usize, bool) {
        let room = limit as f64 * FILL - resident as f64;
        if room >= 0.0 {
            self.shed_at = 0.0;
            return (flows + (room / FLOW_BYTES) as usize, false);
        }
        if resident as f64 <= self.shed_at * 1.005 {
            return (flows, false); // what was freed is being used again
        }
        self.shed_at = resident as f64;
        let left = flows.saturating_sub((-room / FLOW_BYTES) as usize + flows / 20).max(FLOWS_LEAST);
        (left.min(flows.max(FLOWS_LEAST)), left < flows)
    }
}

/// Decides when the allocator gives back what was freed: by itself it keeps that for later use.
#[derive(Debug)]
struct Heap {
    asked: Instant,
    /// Resident bytes after that.
    left: u64,
    /// The most flows since then.
    most: usize,
}

impl Heap {
    fn new(now: Instant) -> Heap {
        Heap { asked: now, left: 0, most: 0 }
    }

    /// Whether many flows are gone, or much has become resident that may have been freed since.
    fn is_due(&mut self, flows: usize, resident: u64, now: Instant) -> bool {
        self.most = self.most.max(flows);
        let gone = (self.most - flows) as f64 * FLOW_BYTES > (WORTH_BYTES as f64).max(resident as f64 / 4.0);
        let grown = resident > self.left + self.left / 4 + WORTH_BYTES;
        (gone || grown) && now.duration_since(self.asked) >= GIVE_BACK_EVERY
    }

    fn give_back(&mut self, flows: usize, now: Instant) {
        give_back_memory();
        *self = Heap { asked: now, left: resident_bytes().unwrap_or_default(), most: flows };
    }
}

/// Decides the level by CPU time.
#[derive(Debug, Default)]
struct Cpu {
    above: u32,
    below: u32,
}

impl Cpu {
    /// The next level, after an interval in which `used` CPUs of `limit` were taken.
    fn next(&mut self, level: u32, used: f64, limit: f64) -> u32 {
        (self.above, self.below) = match used {
            used if used > limit => (self.above + 1, 0),
            used if used < limit * RELAXED => (0, self.below + 1),
            _ => (0, 0),
        };
        if self.above >= PATIENCE[0] && level < LEVEL_MOST {
            self.above = 0;
            level + 1
        } else if self.below >= PATIENCE[1] && level > 0 {
            self.below = 0;
            level - 1
        } else {
            level
        }
    }
}

/// What the limiter may touch.
pub(super) struct Limiter {
    /// The flow tables, which give way when memory is short.
    pub(super) pipeline: Arc<Pipeline>,
    /// What slows down when CPU time is short.
    pub(super) throttle: Arc<Throttle>,
    /// What clients take: no flows are evicted for it.
    pub(super) budget: Arc<Budget>,
    /// The limits.
    pub(super) config: Arc<InForce>,
    /// What the programs take.
    pub(super) programs: Arc<ProgramTimes>,
    /// Frees its memory if nobody has asked for a while.
    pub(super) ranking: Arc<Ranking>,
}

impl Limiter {
    /// Starts the thread that keeps the limits.
    pub(super) fn start(self, threads: &Threads) -> Result<Thread<()>> {
        threads.start("nm-limits", move |stopped| {
            let (mut memory, mut cpu) = (Memory::default(), Cpu::default());
            let mut heap = Heap::new(Instant::now());
            let mut bounded = false;
            let mut expired = Instant::now();
            let mut last: Option<(Instant, Duration)> = None;
            loop {
                let config = self.config.get();
                self.ranking.rest();
                bounded = self.keep_memory(&config, &mut memory, &mut heap, bounded);
                if config.cpu_limit_milli.is_none() {
                    // Asking the kernel each second would be a good part of what an idle agent takes.
                    self.keep_cpu(&config, &mut cpu, 0.0);
                    last = None;
                } else if last.is_none_or(|(at, _)| at.elapsed() >= CPU_EVERY) {
                    let (now, time) = (Instant::now(), self.time_used());
                    if let Some((at, before)) = last {
                        let used = time.saturating_sub(before).as_secs_f64() / now.duration_since(at).as_secs_f64();
                        self.keep_cpu(&config, &mut cpu, used);
                    }
                    last = Some((now, time));
                }
                if expired.elapsed() >= EXPIRE_EVERY {
                    self.pipeline.expire_series(config.series_idle);
                    expired = Instant::now();
                }
                let nap = if config.memory_limit.is_some() { LOOK_EVERY } else { CPU_EVERY };
                if stopped.recv_timeout(nap) != Err(RecvTimeoutError::Timeout) {
                    return Ok(());
                }
            }
        })
    }

    /// CPU time of the agent and of its programs.
    fn time_used(&self) -> Duration {
        cpu_time() + self.programs.packet_time()
    }

    /// True if the table is bounded more tightly than the configuration asks for.
    fn keep_memory(&self, config: &Config, memory: &mut Memory, heap: &mut Heap, bounded: bool) -> bool {
        self.budget.fit(config.memory_limit);
        let (flows, now) = (self.pipeline.flow_count(), Instant::now());
        let resident = resident_bytes();
        if heap.is_due(flows, resident.unwrap_or_default(), now) {
            heap.give_back(flows, now);
        }
        let Some((limit, resident)) = config.memory_limit.zip(resident) else {
            if bounded {
                self.pipeline.bound_flows(config.max_flows);
            }
            return false;
        };
        // What clients take comes out of the part that flows leave free: no flows are evicted for it.
        let (bound, shed) = memory.bound(limit, resident.saturating_sub(self.budget.peak() as u64), flows);
        let bound = bound.min(config.max_flows);
        if shed {
            self.throttle.shed.fetch_add(1, Relaxed);
        }
        let tight = bound < config.max_flows && bound < flows + flows / 10 + FLOWS_LEAST;
        if tight && !bounded {
            log::warn!(
                "{} MiB of resources.memory_limit {} MiB are in use: embryonic and idle flows make room, {flows} are there",
                resident >> 20,
                limit >> 20
            );
        }
        if bounded && !tight {
            log::info!("{} MiB are in use: there is room for flows again", resident >> 20);
        }
        self.pipeline.bound_flows(bound);
        if shed {
            // Else it could not be seen whether that was enough.
            heap.give_back(self.pipeline.flow_count(), now);
        }
        tight
    }

    fn keep_cpu(&self, config: &Config, cpu: &mut Cpu, used: f64) {
        let level = self.throttle.level();
        let next = match config.cpu_limit_milli {
            Some(milli) => cpu.next(level, used, f64::from(milli) / 1000.0),
            None => 0,
        };
        if next == level {
            return;
        }
        self.throttle.level.store(next.into(), Relaxed);
        let rate = self.throttle.set_sampling(config.sampling_rate);
        let limit = config.cpu_limit_milli.unwrap_or_default();
        if next > level {
            self.throttle.slowed.fetch_add(1, Relaxed);
            let step = match next {
                1 => "sweeps and scrapes slow down".to_owned(),
                2 => "scrapes slow down more".to_owned(),
                _ => format!("{rate} of the flows are tracked"),
            };
            log::warn!("{:.0}m of resources.cpu_limit {limit}m are in use: {step}", used * 1000.0);
        } else {
            log::info!("{:.0}m of CPU are in use: one step back, {rate} of the flows are tracked", used * 1000.0);
        }
    }
}

/// CPU time of this process.
fn cpu_time() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Duration::ZERO };
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(micros.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn flows_may_fill_what_is_left() {
        let mut memory = Memory::default();
        let (bound, shed) = memory.bound(100 * MIB, 20 * MIB, 1000);
        assert!(!shed && (100_000..120_000).contains(&bound), "{bound}");
        assert_eq!(memory.bound(100 * MIB, 85 * MIB, 90_000), (90_000, false));
    }

    #[test]
    fn above_the_fill_some_go_and_no_more_unless_it_grows() {
        let mut memory = Memory::default();
        let (bound, shed) = memory.bound(100 * MIB, 90 * MIB, 100_000);
        assert!(shed && bound < 95_000 && bound > 80_000, "{bound}");
        // The memory stays resident.
        assert_eq!(memory.bound(100 * MIB, 90 * MIB, bound), (bound, false));
        assert!(memory.bound(100 * MIB, 92 * MIB, bound).1);
        assert!(!memory.bound(100 * MIB, 80 * MIB, bound).1);
        assert!(memory.bound(100 * MIB, 90 * MIB, bound).1);
        let few = memory.bound(100 * MIB, 99 * MIB, 500);
        assert_eq!(few, (FLOWS_LEAST, false), "what is not flows cannot be shed");
    }

    #[test]
    fn cpu_steps_have_patience() {
        let mut cpu = Cpu::default();
        let mut level = 0;
        let run = |cpu: &mut Cpu, level: &mut u32, used: f64, times: u32| {
            (0..times).for_each(|_| *level = cpu.next(*level, used, 1.0));
            *level
        };
        assert_eq!(run(&mut cpu, &mut level, 1.5, 2), 0);
        assert_eq!(run(&mut cpu, &mut level, 0.9, 1), 0, "a short peak does not count");
        assert_eq!(run(&mut cpu, &mut level, 1.5, 3), 1);
        assert_eq!(run(&mut cpu, &mut level, 1.5, 300), LEVEL_MOST);
        assert_eq!(run(&mut cpu, &mut level, 0.8, 300), LEVEL_MOST, "neither too much nor well below");
        assert_eq!(run(&mut cpu, &mut level, 0.1, 10), LEVEL_MOST - 1);
        assert_eq!(run(&mut cpu, &mut level, 0.1, 300), 0);
    }

    #[test]
    fn sampling_comes_last() {
        assert_eq!([0, 1, 2, 3, 4, 5].map(share), [1.0, 1.0, 1.0, 0.5, 0.25, 0.125]);
    }
}
