//! Runs the sweep program on each CPU.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;

use super::clock::Clock;
use super::mapped::Mapped;
use super::numbers::MOST_CACHE_SETS;
use super::objects::{self, ProgramInfo};
use super::skel::types::{nm_cpu, nm_number};

/// What a sweep does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// Reports entries that are idle, new or due, and removes those that have long been idle.
    Due,
    /// Empties the caches. Only after all programs are detached, because the caches of offline CPUs are swept from other CPUs.
    All,
}

/// What the sweep program returns other than the set to continue with.
const SWEEP_DONE: u32 = nm_number::NM_SWEEP_DONE.0;
const SWEEP_BUSY: u32 = nm_number::NM_SWEEP_BUSY.0;

/// How long to wait for a busy cache. A packet takes microseconds, or some milliseconds if the hypervisor suspends the CPU
/// meanwhile.
const BUSY_MOST: Duration = Duration::from_millis(100);

/// Sweeps the caches of all CPUs.
#[derive(Debug)]
pub struct Sweeper {
    program: OwnedFd,
    state: Mapped<nm_cpu>,
    cpus: usize,
    clock: Arc<Clock>,
    /// The warning about a cache that is always in use has been logged.
    complained: AtomicBool,
}

impl Sweeper {
    pub(super) fn new(program: OwnedFd, state: Mapped<nm_cpu>, cpus: usize, clock: Arc<Clock>) -> Sweeper {
        Sweeper { program, state, cpus, clock, complained: AtomicBool::new(false) }
    }

    /// Reads both clocks before any packet is stamped, repeatedly until a reading was close to the start of a jiffy.
    pub(super) fn calibrate(&self) -> Result<()> {
        let start = Clock::now_ns();
        loop {
            // Any CPU will do, and there is no such set to sweep.
            self.run(0, false, false, MOST_CACHE_SETS, Sweep::Due)?;
            self.read_clocks(0);
            if Clock::now_ns() - start > 2 * self.clock.tick_ns() {
                return Ok(());
            }
        }
    }

    /// What the kernel reports about the sweep program; `None` if it does not.
    pub fn info(&self) -> Option<ProgramInfo> {
        objects::program("nm_sweep", self.program.as_fd())
    }

    /// Sweeps the caches of all CPUs once; empty ones are skipped.
    ///
    /// # Errors
    ///
    /// The kernel does not run the program.
    pub fn sweep(&self, what: Sweep) -> Result<()> {
        for cpu in 0..self.cpus {
            self.sweep_cpu(cpu, what).with_context(|| format!("sweep the cache of CPU {cpu}"))?;
        }
        Ok(())
    }

    /// True if no cache holds anything, and no batch of records does. Meaningful after sweeping [`Sweep::All`]: while packets arrive
    /// it does not last.
    pub fn is_empty(&self) -> bool {
        (0..self.cpus).filter_map(|cpu| self.state.read(cpu)).all(|s| s.live4 == 0 && s.live6 == 0 && s.batched == 0)
    }

    /// Records that packets and sweeps have written into rings since the programs were loaded.
    pub fn records(&self) -> u64 {
        (0..self.cpus).filter_map(|cpu| self.state.read(cpu)).map(|state| state.records).sum()
    }

    fn sweep_cpu(&self, cpu: usize, what: Sweep) -> Result<()> {
        let Some(state) = self.state.read(cpu) else { return Ok(()) };
        // Batches are written by the sweep of either family.
        let used = [(false, state.live4 != 0 || state.batched != 0), (true, state.live6 != 0)];
        for v6 in used.into_iter().filter(|f| f.1).map(|f| f.0) {
            let mut set = 0;
            let mut busy_since = None;
            while set != SWEEP_DONE {
                let ran = match self.run(cpu, true, v6, set, what) {
                    // Offline: its cache has to wait until it is back, or until no program can use it any more.
                    Err(Errno::ENXIO) if what == Sweep::Due => return Ok(()),
                    Err(Errno::ENXIO) => self.run(cpu, false, v6, set, what),
                    ran => ran,
                };
                match ran {
                    // The sweep interrupted a packet: try again, but do not keep the other CPUs waiting for long.
                    Ok(SWEEP_BUSY) if busy_since.get_or_insert_with(Instant::now).elapsed() > BUSY_MOST => {
                        if !self.complained.swap(true, Ordering::Relaxed) {
                            log::warn!("the cache of CPU {cpu} is always in use: what it holds is reported later");
                        }
                        return Ok(());
                    }
                    Ok(SWEEP_BUSY) => {}
                    Ok(next) => (set, busy_since) = (next, None),
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
        self.read_clocks(cpu);
        Ok(())
    }

    fn read_clocks(&self, cpu: usize) {
        if let Some(state) = self.state.read(cpu).filter(|s| s.monotonic_ns != 0) {
            self.clock.observe(state.jiffies, state.monotonic_ns);
        }
    }

    /// Runs one slice. Returns the set to continue with, or one of the constants above.
    fn run(&self, cpu: usize, there: bool, v6: bool, set: u32, what: Sweep) -> Result<u32, Errno> {
        let all = what == Sweep::All;
        let mut args = [cpu as u64, v6.into(), set.into(), all.into(), self.clock.latest()];
        let mut options = libbpf_sys::bpf_test_run_opts {
            sz: size_of::<libbpf_sys::bpf_test_run_opts>() as _,
            ctx_in: args.as_mut_ptr().cast(),
            ctx_size_in: size_of_val(&args) as _,
            flags: if there { libbpf_sys::BPF_F_TEST_RUN_ON_CPU } else { 0 },
            cpu: if there { cpu as u32 } else { 0 },
            ..Default::default()
        };
        // SAFETY: the options and what they point to outlive the call.
        let err = unsafe { libbpf_sys::bpf_prog_test_run_opts(self.program.as_raw_fd(), &mut options) };
        if err < 0 { Err(Errno::from_raw(-err)) } else { Ok(options.retval) }
    }
}
