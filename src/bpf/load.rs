//! Opens, sizes and loads the BPF object.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapCore, MapFlags, OpenObject, PrintLevel};

use super::app::App;
use super::attach::Attachments;
use super::books::Books;
use super::cache_sweep::Sweeper;
use super::clock::Clock;
use super::constants::{self, pairs};
use super::mapped::Mapped;
use super::numbers::{BOOKED_INTERFACES, MOST_RINGS};
use super::programs::{Loader, Programs, choose_first, trace_maps};
use super::ring::Ring;
use super::sampling::Sampler;
use super::skel::types::nm_number;
use super::skel::{NetmonSkel, NetmonSkelBuilder};
use super::spread::Spread;

/// Number of sets of the flow cache that share facts.
const FACTS_SETS: u32 = 1 << nm_number::NM_FACTS_SHIFT.0;

/// The log target of libbpf's messages. There are many when programs are loaded, and none otherwise.
pub const LOG_TARGET: &str = "libbpf";

/// The source of precise times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimestampSource {
    /// The kernel's monotonic clock, read when the packet is seen.
    #[default]
    Kernel,
    /// The NIC's timestamp of packets that carry one, else as above.
    Hardware,
    /// The timestamp of an injected packet ([`Frame::at_ns`](super::Frame)): all times in records are of that clock.
    Capture,
}

/// What is fixed once the programs are loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct ProgramOptions {
    /// Number of rings, one per worker: 1 to 64.
    pub rings: usize,
    /// Number of records a ring holds; its size in bytes is rounded up to a power of two.
    pub ring_records: usize,
    /// Number of records that may wait before a worker is woken.
    pub batch: usize,
    /// Flow directions the cache holds on each CPU for IPv4; a quarter as many for IPv6. Rounded to powers of two.
    pub cache_slots: u32,
    /// A cached entry is reported after this long without a packet.
    pub idle: Duration,
    /// Interval at which a busy entry is reported.
    pub report: Duration,
    /// Number of sweeps without a packet after which an entry, with what is known of the connection, leaves the cache.
    pub forget: u32,
    /// The source of precise times.
    pub timestamps: TimestampSource,
    /// Time between two RTT probes of a direction; zero: they follow each other without a pause. `None`: no times are measured.
    pub latency: Option<Duration>,
    /// Application protocols to look for; if empty, no payload is examined.
    pub apps: Vec<App>,
    /// Whether to look into tunnels.
    pub decapsulation: bool,
    /// Packets are injected into the programs instead of passing the hooks of an interface.
    pub injected: bool,
}

/// Number of CPUs that the kernel may bring up, by which per-CPU memory is multiplied.
///
/// # Errors
///
/// The kernel's list of CPUs cannot be read.
pub fn possible_cpus() -> Result<usize> {
    libbpf_rs::num_possible_cpus().context("count the CPUs")
}

/// The loaded programs and what belongs to them.
pub struct Bpf<'obj> {
    pub(super) skel: NetmonSkel<'obj>,
    loader: Arc<Loader>,
    programs: Arc<Programs>,
    clock: Arc<Clock>,
    cpus: usize,
    spread: Spread,
    /// One ring per worker, until they are taken.
    rings: Vec<Ring>,
}

/// Sends libbpf's own messages to the log; without it they go to standard error.
pub fn set_log_sink() {
    fn sink(level: PrintLevel, message: String) {
        let message = message.trim_end();
        match level {
            // What libbpf warns of comes back as an error; the message adds the details.
            PrintLevel::Warn => log::debug!(target: LOG_TARGET, "{message}"),
            PrintLevel::Info => log::debug!(target: LOG_TARGET, "{message}"),
            PrintLevel::Debug => log::trace!(target: LOG_TARGET, "{message}"),
        }
    }
    libbpf_rs::set_print(Some((PrintLevel::Debug, sink)));
}

impl<'obj> Bpf<'obj> {
    /// Loads the object and creates the rings. Attaches nothing yet.
    ///
    /// # Errors
    ///
    /// The number of rings is out of range, memory or privileges are missing, or the kernel refuses the programs.
    pub fn load(storage: &'obj mut MaybeUninit<OpenObject>, options: &ProgramOptions) -> Result<Bpf<'obj>> {
        Bpf::load_after(storage, options, |_| {})
    }

    /// The same, with a call of `last` before the object is loaded.
    pub(super) fn load_after(
        storage: &'obj mut MaybeUninit<OpenObject>,
        options: &ProgramOptions,
        last: impl FnOnce(&mut OpenObject),
    ) -> Result<Bpf<'obj>> {
        let cpus = possible_cpus()?;
        let clock = match options.timestamps {
            TimestampSource::Capture => Clock::of_capture(),
            TimestampSource::Kernel | TimestampSource::Hardware => Clock::of_kernel()?,
        };
        let [sets4, sets6] = constants::sets(options);
        if !(1..=MOST_RINGS).contains(&options.rings) {
            bail!("{} workers: from 1 to {MOST_RINGS} are possible", options.rings);
        }

        let mut open = NetmonSkelBuilder::default().open(storage).context("open the BPF object")?;
        let spread = Spread { seed: seed(), rings: options.rings as u32 };
        constants::set(&mut open, options, &clock, cpus, spread.seed)?;
        trace_maps(&mut open, false)?;
        choose_first(&mut open, options)?;
        let count = cpus as u32;
        open.maps.nm_cache4.set_max_entries(count * sets4)?;
        open.maps.nm_cache6.set_max_entries(count * sets6)?;
        open.maps.nm_facts4.set_max_entries((count * sets4).div_ceil(FACTS_SETS))?;
        open.maps.nm_facts6.set_max_entries((count * sets6).div_ceil(FACTS_SETS))?;
        open.maps.nm_pairs.set_max_entries(pairs(cpus))?;
        open.maps.nm_l7s.set_max_entries(count)?;
        open.maps.nm_cpus.set_max_entries(count)?;
        open.maps.nm_batches.set_max_entries(count * options.rings as u32)?;
        open.maps.nm_books_used.set_max_entries(count)?;
        open.maps.nm_interfaces.set_max_entries(count * (BOOKED_INTERFACES as u32 + 1))?;
        last(open.open_object_mut());
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
        let clock = Arc::new(clock);
        let loader = Arc::new(Loader::new(&skel, Arc::clone(&clock), cpus, spread.seed)?);
        let programs = Arc::new(Programs::of(&skel, Arc::clone(&loader), options)?);
        let bpf = Bpf { skel, loader, programs, clock, cpus, spread, rings };
        bpf.sweeper()?.calibrate().context("run the sweep program")?;
        Ok(bpf)
    }

    /// Takes the rings; none are left afterwards.
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

    /// A handle to sweep with, for a separate thread.
    ///
    /// # Errors
    ///
    /// A descriptor cannot be duplicated or a map cannot be mapped.
    pub fn sweeper(&self) -> Result<Sweeper> {
        let program = self.skel.progs.nm_sweep.as_fd().try_clone_to_owned().context("duplicate a program")?;
        let cpus = Mapped::new(&self.skel.maps.nm_cpus, self.cpus)?;
        Ok(Sweeper::new(program, cpus, self.cpus, Arc::clone(&self.clock)))
    }

    /// A handle to read the books with.
    ///
    /// # Errors
    ///
    /// A map cannot be mapped.
    pub fn books(&self) -> Result<Books> {
        let interfaces = Mapped::new(&self.skel.maps.nm_interfaces, self.cpus * (BOOKED_INTERFACES + 1))?;
        let used = Mapped::new(&self.skel.maps.nm_books_used, self.cpus)?;
        Ok(Books::new(interfaces, used, Mapped::new(&self.skel.maps.nm_cpus, self.cpus)?, self.cpus))
    }

    /// A handle to set which share of the flows is tracked.
    ///
    /// # Errors
    ///
    /// A map cannot be mapped.
    pub fn sampler(&self) -> Result<Sampler> {
        Ok(Sampler::new(Mapped::new(&self.skel.maps.nm_cpus, self.cpus)?, self.cpus))
    }

    /// Waits until no program is running that started before the call: the kernel waits for that when a map of maps is updated.
    ///
    /// # Errors
    ///
    /// The kernel refuses the update.
    pub fn wait_for_programs(&self, ring: &Ring) -> Result<()> {
        self.skel
            .maps
            .nm_ring
            .update(&0u32.to_ne_bytes(), &ring.raw_fd().to_ne_bytes(), MapFlags::ANY)
            .context("wait for running programs")
    }

    /// A handle to a program for packets that start with an Ethernet header, as those of a capture always do, or, without
    /// `ethernet`, with the IP header.
    ///
    /// # Errors
    ///
    /// As for [`Programs::program`].
    pub fn program(&self, hook: super::Hook, ethernet: bool) -> Result<OwnedFd> {
        self.programs.program(hook, ethernet)
    }

    /// The programs, to be attached.
    pub fn programs(&self) -> Arc<Programs> {
        Arc::clone(&self.programs)
    }

    /// A handle to attach the programs with, for a separate thread.
    pub fn attachments(&self) -> Attachments {
        Attachments::new(self.programs())
    }

    /// A handle to load the same programs with other constants over the same maps.
    pub fn loader(&self) -> Arc<Loader> {
        Arc::clone(&self.loader)
    }

    /// Kernel memory of the maps, in bytes.
    pub fn kernel_bytes(&self) -> u64 {
        let maps = &self.skel.maps;
        let size = |m: &dyn MapCore| u64::from(m.max_entries()) * u64::from(m.value_size());
        let arrays: [&dyn MapCore; 12] = [
            &maps.nm_cache4,
            &maps.nm_cache6,
            &maps.nm_facts4,
            &maps.nm_facts6,
            &maps.nm_pairs,
            &maps.nm_windows,
            &maps.nm_l7s,
            &maps.nm_cpus,
            &maps.nm_batches,
            &maps.nm_interfaces,
            &maps.nm_books_used,
            &maps.nm_fragments,
        ];
        arrays.into_iter().map(size).sum::<u64>() + self.ring_bytes()
    }

    /// Of that, the memory of the rings, until they are taken.
    pub fn ring_bytes(&self) -> u64 {
        self.rings.iter().map(Ring::bytes).sum()
    }
}

fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library's hasher keys are random.
    std::hash::RandomState::new().build_hasher().finish()
}
