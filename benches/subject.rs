//! The measured programs and workers, set up as the agent sets them up, and functions to measure them.

use std::mem::MaybeUninit;
use std::time::Duration;

use anyhow::{Context, Result};
use netmon::agent::Inline;
use netmon::bpf::{Bpf, Frame, Hook, Injector, ObjectStorage, ProgramOptions, possible_cpus};
use netmon::config::Config;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use crate::support::kernel::Kernel;
use crate::support::packet::{self, ACK, IPV4, TCP};
use crate::support::vary::{Order, Vary};

/// Packets per system call. Their records fit the rings of the default configuration.
pub const CHUNK: u32 = 8192;

/// Upper bound of the time until the last end is counted: by then nothing can still be in flight.
pub const COUNTED_WITHIN: Duration = Duration::from_secs(30);

/// CPU time of this thread, in nanoseconds.
pub fn cpu_ns() -> f64 {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(0.0, |t| Duration::from(t).as_nanos() as f64)
}

/// Pins this thread to the last CPU, because interrupts prefer the first.
pub fn pin() -> Result<()> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let mut set = CpuSet::new();
    set.set(cpus - 1)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("pin the measuring thread")
}

/// Undoes that. An agent that a pinned thread starts would have to share its CPU, and would start fewer workers.
pub fn unpin() -> Result<()> {
    let mut set = CpuSet::new();
    (0..CpuSet::count()).try_for_each(|cpu| set.set(cpu))?;
    sched_setaffinity(Pid::from_raw(0), &set).context("let the measuring thread run anywhere")
}

/// The programs as the agent loads them, but not attached.
pub fn load(config: &Config) -> Result<Bpf<'static>> {
    // Leaks a few kilobytes per measurement, which is simpler than a value that borrows from itself.
    let storage = Box::leak(Box::new(MaybeUninit::<ObjectStorage>::uninit()));
    Bpf::load(storage, &ProgramOptions { injected: true, ..config.program_options(possible_cpus()?) })
}

/// The same, with readers of the rings.
pub fn load_kernel() -> Result<Kernel> {
    Kernel::load(ProgramOptions { injected: true, ..Config::default().program_options(possible_cpus()?) })
}

/// A pure ACK over IPv4, including its Ethernet header.
pub fn small_packet() -> Vec<u8> {
    packet::ethernet(&[], IPV4, &packet::ipv4(TCP, &[], 7, 0, &packet::tcp(ACK, &[], &[])))
}

/// TCP options as Linux sends them: NOP, NOP, timestamps.
pub const TIMESTAMPS: [u8; 12] = [1, 1, 8, 10, 0, 1, 2, 3, 0, 4, 5, 6];

/// A segment of 1,514 bytes in the middle of a transfer: there is nothing to recognise, but the first byte does not show it.
pub fn data_packet() -> Vec<u8> {
    let text = b"and so they went on, and on ".repeat(52);
    packet::ethernet(&[], IPV4, &packet::ipv4(TCP, &[], 7, 0, &packet::tcp(ACK, &TIMESTAMPS, &text[..1448])))
}

/// The packet that carries the request of a connection.
pub fn request_packet() -> Vec<u8> {
    let request = packet::tcp(ACK, &[], b"GET / HTTP/1.1\r\n\r\n");
    packet::ethernet(&[], IPV4, &packet::ipv4(TCP, &[], 7, 0, &request))
}

/// Programs, workers, and the packets of many flows to send through both.
pub struct Subject {
    pub bpf: Bpf<'static>,
    pub inline: Inline,
    ours: Vary,
    empty: Vary,
    injectors: [Injector; 2],
    packet: Vec<u8>,
}

/// Total CPU time of a number of packets, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// CPU time of the programs, minus that of an empty program.
    pub kernel: f64,
    /// CPU time of the workers.
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

    /// Sets the payload of subsequent packets.
    pub fn carry(&mut self, payload: &[u8]) {
        let tcp = packet::tcp(ACK, &[], payload);
        self.packet = packet::ethernet(&[], IPV4, &packet::ipv4(TCP, &[], 7, 0, &tcp));
    }

    /// Makes the next packets belong to `flows` flows in `order`, beginning with flow `start`.
    pub fn aim(&self, start: u32, order: Order, flows: u32) {
        self.ours.aim(start, order, flows);
        self.empty.aim(start, order, flows);
    }

    /// Runs `packets` packets, `chunk` per call; calls `then` and the workers after each call.
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
        self.inline.reading().map_or(0, |s| s.active.values().sum())
    }

    /// Records dropped because their ring was full.
    pub fn lost(&self) -> u64 {
        self.inline.report().records.lost
    }

    /// Time to handle one record, in nanoseconds.
    pub fn p99(&self) -> f64 {
        self.inline.reading().map_or(f64::NAN, |s| s.processing.quantile(0.99) * 1e9)
    }
}

/// Rounds `count` down to whole chunks.
pub fn whole(count: u32, chunk: u32) -> u32 {
    (count / chunk).max(1) * chunk
}
