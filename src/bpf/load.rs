//! Opens, sizes and loads the BPF object.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapCore, MapFlags, OpenObject, PrintLevel};

use super::app::App;
use super::attach::{Attachments, Pair};
use super::books::Books;
use super::cache_sweep::Sweeper;
use super::clock::Clock;
use super::mapped::Mapped;
use super::ring::Ring;
use super::skel::types::nm_clock_source;
use super::skel::{NetmonSkel, NetmonSkelBuilder};
use super::spread::Spread;
use super::stats::ProgramStatsReader;

/// Slots of an interface's books on a CPU; one more is shared. As NM_INTERFACES in bpf/types.h.
pub(super) const INTERFACES: usize = 1024;
/// As NM_WAYS.
const WAYS: u32 = 4;
/// As 2^NM_FACTS_SHIFT.
const FACTS_SETS: u32 = 2;
/// As NM_PAIRS.
const PAIRS: u32 = 2048;
/// A connection that was silent for this long yields its place in the pairing table.
const PAIR_STALE: Duration = Duration::from_secs(1);
/// Of one flow, at most a record in this time is written only because it has many samples.
const SAMPLE_GAP: Duration = Duration::from_millis(16);
/// As NM_GROUPS and NM_GROUP_MAX.
const SETS: std::ops::RangeInclusive<u32> = 64..=64 * 1024;
/// As NM_MAX_RINGS.
const RINGS: std::ops::RangeInclusive<usize> = 1..=64;

/// Where precise times come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimestampSource {
    /// The kernel's monotonic clock, read when the packet is seen.
    #[default]
    Kernel,
    /// The NIC's stamp of packets that carry one, else as above.
    Hardware,
    /// The stamp that comes with an injected packet ([`Frame::at_ns`](super::Frame)): all times of records are of that clock.
    Capture,
}

/// What is fixed for the life of a load.
#[derive(Clone, Debug)]
pub struct Options {
    /// Rings, one a worker: 1 to 64.
    pub rings: usize,
    /// Records that a ring holds; rounded up to a power of two of bytes.
    pub ring_records: usize,
    /// Records that wait before a worker is woken.
    pub batch: usize,
    /// Flow directions the cache holds on each CPU for IPv4; a quarter as many for IPv6. Rounded to powers of two.
    pub cache_slots: u32,
    /// A cached entry without packets for this long leaves.
    pub idle: Duration,
    /// A busy entry reports this often.
    pub report: Duration,
    /// What is known of a connection is dropped after so many sweeps without a packet.
    pub forget: u32,
    /// Where precise times come from.
    pub timestamps: TimestampSource,
    /// Measure times; `None`: not at all. Else the time between two RTT probes of a direction, zero: each segment is one.
    pub latency: Option<Duration>,
    /// Application protocols to look for; none: no payload is looked at.
    pub apps: Vec<App>,
    /// Look into tunnels.
    pub decapsulation: bool,
}

/// CPUs that the kernel may bring up: what per-CPU memory is multiplied by.
pub fn possible_cpus() -> Result<usize> {
    libbpf_rs::num_possible_cpus().context("count the CPUs")
}

/// The loaded programs and what belongs to them.
pub struct Bpf<'obj> {
    pub(super) skel: NetmonSkel<'obj>,
    clock: Arc<Clock>,
    cpus: usize,
    spread: Spread,
    /// One a worker, to be taken.
    rings: Vec<Ring>,
}

/// Sends libbpf's own messages to the log; without it they go to standard error.
pub fn set_log_sink() {
    fn sink(level: PrintLevel, message: String) {
        let message = message.trim_end();
        match level {
            // What libbpf warns of comes back as an error; the message adds the details.
            PrintLevel::Warn => log::debug!("{message}"),
            PrintLevel::Info => log::debug!("{message}"),
            PrintLevel::Debug => log::trace!("{message}"),
        }
    }
    libbpf_rs::set_print(Some((PrintLevel::Debug, sink)));
}

impl<'obj> Bpf<'obj> {
    /// Loads the object and makes the rings. Nothing is attached yet.
    pub fn load(storage: &'obj mut MaybeUninit<OpenObject>, options: &Options) -> Result<Bpf<'obj>> {
        let cpus = possible_cpus()?;
        let clock = match options.timestamps {
            TimestampSource::Capture => Clock::of_capture(),
            TimestampSource::Kernel | TimestampSource::Hardware => Clock::of_kernel()?,
        };
        let sets4 = sets(options.cache_slots);
        let sets6 = sets(options.cache_slots / 4);
        if !RINGS.contains(&options.rings) {
            bail!("{} workers: from {} to {} are possible", options.rings, RINGS.start(), RINGS.end());
        }

        let mut open = NetmonSkelBuilder::default().open(storage).context("open the BPF object")?;
        let rodata = open.maps.rodata_data.as_deref_mut().context("the BPF object has no constants")?;
        rodata.nm_shift4 = sets4.ilog2();
        rodata.nm_shift6 = sets6.ilog2();
        rodata.nm_rings = options.rings as u32;
        // Any CPU may be the only one that fills a ring: the share of each must keep the whole within a batch.
        // Half a ring leaves room for what comes while the worker gets up.
        rodata.nm_wake_every = (options.batch.min(options.ring_records / 2) / cpus).max(1) as u32;
        let spread = Spread { seed: seed(), rings: options.rings as u32 };
        rodata.nm_seed = spread.seed;
        rodata.nm_idle = clock.ticks(options.idle).min(u64::from(u32::MAX / 2)) as u32;
        rodata.nm_report = clock.ticks(options.report).min(u64::from(u32::MAX / 2)) as u32;
        rodata.nm_forget = options.forget;
        rodata.nm_fragment_timeout = clock.ticks(Duration::from_secs(30)); // as net.ipv4.ipfrag_time
        rodata.nm_tick_ns = clock.tick_ns() as u32;
        let (source, unit_shift, sample_gap) = match options.timestamps {
            TimestampSource::Kernel => (nm_clock_source::NM_CLOCK_KERNEL, 0, clock.ticks(SAMPLE_GAP)),
            TimestampSource::Hardware => (nm_clock_source::NM_CLOCK_HARDWARE, 0, clock.ticks(SAMPLE_GAP)),
            // All samples of a capture are told.
            TimestampSource::Capture => (nm_clock_source::NM_CLOCK_CAPTURE, 20, 0),
        };
        let units = |d: Duration| d.as_nanos().div_ceil(u128::from(clock.tick_ns()) << unit_shift).min(0x7fff);
        rodata.nm_clock = source.0 as u8;
        rodata.nm_unit_shift = unit_shift;
        rodata.nm_sample_gap = sample_gap as u32;
        rodata.nm_latency = u8::from(options.latency.is_some());
        rodata.nm_probe_every = units(options.latency.unwrap_or_default()) as u16;
        rodata.nm_pair_stale = units(PAIR_STALE) as u32;
        rodata.nm_apps = options.apps.iter().fold(0, |mask, app| mask | app.bit());
        rodata.nm_decapsulate = u8::from(options.decapsulation);
        rodata.nm_preemptible = u8::from(super::preflight::is_preempt_rt());
        let count = cpus as u32;
        open.maps.nm_cache4.set_max_entries(count * sets4)?;
        open.maps.nm_cache6.set_max_entries(count * sets6)?;
        let pairs = (count * PAIRS).next_power_of_two();
        rodata.nm_pair_shift = pairs.ilog2();
        open.maps.nm_facts4.set_max_entries((count * sets4).div_ceil(FACTS_SETS))?;
        open.maps.nm_facts6.set_max_entries((count * sets6).div_ceil(FACTS_SETS))?;
        open.maps.nm_pairs.set_max_entries(pairs)?;
        open.maps.nm_l7s.set_max_entries(count)?;
        open.maps.nm_cpus.set_max_entries(count)?;
        open.maps.nm_interfaces.set_max_entries(count * (INTERFACES as u32 + 1))?;
        let skel = open.load().map_err(super::preflight::explain_load_error)?;

        let rings = (0..options.rings)
            .map(|i| {
                let ring = Ring::create(i, options.ring_records)?;
                skel.maps
                    .nm_ring
                    .update(&(i as u32).to_ne_bytes(), &ring.raw_fd().to_ne_bytes(), MapFlags::ANY)
                    .with_context(|| format!("hand ring {i} to the programs"))?;
                Ok(ring)
            })
            .collect::<Result<_>>()?;
        let bpf = Bpf { skel, clock: Arc::new(clock), cpus, spread, rings };
        bpf.sweeper()?.calibrate().context("run the sweep program")?;
        Ok(bpf)
    }

    /// The rings, once.
    pub fn take_rings(&mut self) -> Vec<Ring> {
        std::mem::take(&mut self.rings)
    }

    /// How records are spread over the rings.
    pub fn spread(&self) -> Spread {
        self.spread
    }

    /// The clock of the records.
    pub fn clock(&self) -> Arc<Clock> {
        Arc::clone(&self.clock)
    }

    /// A handle to sweep with, for a thread of its own.
    pub fn sweeper(&self) -> Result<Sweeper> {
        let program = self.skel.progs.nm_sweep.as_fd().try_clone_to_owned().context("duplicate a program")?;
        let cpus = Mapped::new(&self.skel.maps.nm_cpus, self.cpus)?;
        Ok(Sweeper::new(program, cpus, self.cpus, Arc::clone(&self.clock)))
    }

    /// A handle to read the books with.
    pub fn books(&self) -> Result<Books> {
        let interfaces = Mapped::new(&self.skel.maps.nm_interfaces, self.cpus * (INTERFACES + 1))?;
        Ok(Books::new(interfaces, Mapped::new(&self.skel.maps.nm_cpus, self.cpus)?, self.cpus))
    }

    /// Returns once no program runs that was started before the call: the kernel waits for that when a map of maps is
    /// updated.
    pub fn wait_for_programs(&self, ring: &Ring) -> Result<()> {
        self.skel
            .maps
            .nm_ring
            .update(&0u32.to_ne_bytes(), &ring.raw_fd().to_ne_bytes(), MapFlags::ANY)
            .context("wait for running programs")
    }

    /// A handle to a program: `ethernet` tells whether its packets start with an Ethernet header.
    pub fn program(&self, hook: super::Hook, ethernet: bool) -> Result<OwnedFd> {
        let progs = &self.skel.progs;
        let program = match (hook, ethernet) {
            (super::Hook::Ingress, true) => &progs.nm_ingress,
            (super::Hook::Egress, true) => &progs.nm_egress,
            (super::Hook::Ingress, false) => &progs.nm_ingress_l3,
            (super::Hook::Egress, false) => &progs.nm_egress_l3,
        };
        program.as_fd().try_clone_to_owned().context("duplicate a program")
    }

    /// What attaches the programs, for a thread of its own.
    pub fn attachments(&self) -> Result<Attachments> {
        let pair = |ethernet| -> Result<Pair> {
            Ok(Pair {
                ingress: self.program(super::Hook::Ingress, ethernet)?,
                egress: self.program(super::Hook::Egress, ethernet)?,
            })
        };
        Ok(Attachments::new(pair(true)?, pair(false)?))
    }

    /// A handle to read the kernel's statistics of the programs with.
    pub fn program_stats(&self) -> Result<ProgramStatsReader> {
        let progs = &self.skel.progs;
        let all = [&progs.nm_ingress, &progs.nm_egress, &progs.nm_ingress_l3, &progs.nm_egress_l3, &progs.nm_sweep];
        let fds = all.map(|p| Ok((p.name().to_string_lossy().into_owned(), p.as_fd().try_clone_to_owned()?)));
        let fds = fds.into_iter().collect::<Result<_>>().context("duplicate a program")?;
        Ok(ProgramStatsReader::new(fds))
    }

    /// Bytes of kernel memory that the maps take.
    pub fn kernel_bytes(&self) -> u64 {
        let maps = &self.skel.maps;
        let size = |m: &dyn MapCore| u64::from(m.max_entries()) * u64::from(m.value_size());
        let arrays: [&dyn MapCore; 10] = [
            &maps.nm_cache4,
            &maps.nm_cache6,
            &maps.nm_facts4,
            &maps.nm_facts6,
            &maps.nm_pairs,
            &maps.nm_windows,
            &maps.nm_l7s,
            &maps.nm_cpus,
            &maps.nm_interfaces,
            &maps.nm_fragments,
        ];
        arrays.into_iter().map(size).sum::<u64>() + self.ring_bytes()
    }

    /// Of these, the rings', until they are taken.
    pub fn ring_bytes(&self) -> u64 {
        self.rings.iter().map(Ring::bytes).sum()
    }
}

/// Sets for so many slots, within what the programs can take.
fn sets(slots: u32) -> u32 {
    slots.div_ceil(WAYS).next_power_of_two().clamp(*SETS.start(), *SETS.end())
}

fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library's hasher keys are random.
    std::hash::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_powers_of_two_in_range() {
        assert_eq!(sets(16384), 4096);
        assert_eq!(sets(10000), 4096);
        assert_eq!(sets(1), 64);
        assert_eq!(sets(u32::MAX / 8), 64 * 1024);
    }
}
