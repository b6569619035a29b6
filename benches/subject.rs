//! What is measured, set up as the agent sets it up, and the means to measure it.

use std::mem::MaybeUninit;
use std::time::Duration;

use anyhow::{Context, Result};
use netmon::agent::{self, Inline};
use netmon::bpf::{Bpf, Frame, Hook, Injector, ObjectStorage, possible_cpus};
use netmon::config::Config;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use crate::support::packet::{self, ACK, IPV4, TCP};
use crate::support::vary::{Order, Vary};

/// Packets of one system call. Their records fit the rings of a default configuration.
pub const CHUNK: u32 = 8192;

/// Longer than it takes until the last end is counted: when nothing of it can be on its way any more.
pub const COUNTED_WITHIN: Duration = Duration::from_secs(30);

/// CPU time of this thread, in nanoseconds.
pub fn cpu_ns() -> f64 {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(0.0, |t| Duration::from(t).as_nanos() as f64)
}

/// Keeps this thread on one CPU, the last: interrupts prefer the first.
pub fn pin() -> Result<()> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let mut set = CpuSet::new();
    set.set(cpus - 1)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("pin the measuring thread")
}

/// The programs as the agent loads them, attached to nothing.
pub fn load(config: &Config) -> Result<Bpf<'static>> {
    // A few kilobytes a measurement: simpler than a value that borrows from itself.
    let storage = Box::leak(Box::new(MaybeUninit::<ObjectStorage>::uninit()));
    Bpf::load(storage, &agent::options(config, possible_cpus()?))
}

/// A pure ACK over IPv4, Ethernet and all.
pub fn small_packet() -> Vec<u8> {
    packet::ethernet(&[], IPV4, &packet::ipv4(TCP, &[], 7, 0, &packet::tcp(ACK, &[], &[])))
}

/// Programs, workers, and packets of many flows that go through both.
pub struct Subject {
    pub bpf: Bpf<'static>,
    pub inline: Inline,
    ours: Vary,
    empty: Vary,
    injectors: [Injector; 2],
    packet: Vec<u8>,
}

/// CPU time of some packets, in nanoseconds of all of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// The programs, the empty one subtracted.
    pub kernel: f64,
    /// The workers.
    pub user: f64,
    pub records: f64,
}

impl Subject {
    pub fn new(config: &Config) -> Result<Subject> {
        let mut bpf = load(config)?;
        let inline = Inline::new(config, &mut bpf)?;
        let (ours, empty) = (Vary::load(&bpf.program(Hook::Ingress, true)?), Vary::over_empty());
        let injectors = [ours.injector(), empty.injector()];
        Ok(Subject { bpf, inline, ours, empty, injectors, packet: small_packet() })
    }

    /// From now on the packets carry this.
    pub fn carry(&mut self, payload: &[u8]) {
        let tcp = packet::tcp(ACK, &[], payload);
        self.packet = packet::ethernet(&[], IPV4, &packet::ipv4(TCP, &[], 7, 0, &tcp));
    }

    /// The next packets belong to `flows` flows in `order`, beginning with `start`.
    pub fn aim(&self, start: u32, order: Order, flows: u32) {
        self.ours.aim(start, order, flows);
        self.empty.aim(start, order, flows);
    }

    /// Runs `packets` packets, in calls of `chunk`; after each one `then` and the workers.
    pub fn run(&mut self, packets: u32, chunk: u32, then: impl Fn() -> Result<()>) -> Result<Cost> {
        let mut cost = Cost::default();
        for _ in 0..packets.div_ceil(chunk) {
            let start = cpu_ns();
            self.injectors[1].inject(&self.packet, Frame::default(), chunk)?;
            let empty = cpu_ns();
            self.injectors[0].inject(&self.packet, Frame::default(), chunk)?;
            then()?;
            let kernel = cpu_ns();
            cost.records += self.inline.drain() as f64;
            cost.user += cpu_ns() - kernel;
            cost.kernel += (kernel - empty) - (empty - start);
        }
        Ok(cost)
    }

    /// Flows in the tables.
    pub fn flows(&self) -> u64 {
        self.inline.snapshot().map_or(0, |s| s.active.values().sum())
    }

    /// Records that found their ring full.
    pub fn lost(&self) -> u64 {
        self.inline.snapshot().map_or(0, |s| s.records.lost)
    }

    /// Of handling one record, in nanoseconds.
    pub fn p99(&self) -> f64 {
        self.inline.snapshot().map_or(f64::NAN, |s| s.processing.quantile(0.99) * 1e9)
    }
}

/// Rounds `count` down to whole chunks.
pub fn whole(count: u32, chunk: u32) -> u32 {
    (count / chunk).max(1) * chunk
}
