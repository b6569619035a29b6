//! The programs of the packet path, and how to load them again with other constants while packets flow.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result};
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{Map, MapCore, OpenObject};
use nix::sys::signal::{SigSet, Signal};

use super::chain::program_info;
use super::clock::Clock;
use super::constants;
use super::links::Framing;
use super::load::ProgramOptions;
use super::objects::{self, MapInfo, ProgramInfo};
use super::record::Hook;
use super::skel::{NetmonSkel, NetmonSkelBuilder, OpenNetmonSkel};
use super::tcx::TcxUse;
use super::trace::Trace;
use super::trial::has_kfunc;

/// A program and its id in the kernel.
#[derive(Debug)]
pub(super) struct Program {
    fd: OwnedFd,
    pub(super) id: u32,
}

impl Program {
    pub(super) fn of(program: &impl AsFd) -> Result<Program> {
        let fd = program.as_fd().try_clone_to_owned().context("duplicate a program")?;
        let id = program_info(&fd)?.id;
        Ok(Program { fd, id })
    }
}

impl AsFd for Program {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Program {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// The programs for one framing.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) ingress: Program,
    pub(super) egress: Program,
    /// The names under which they are measured: the same if there is only one.
    names: [&'static str; 2],
}

impl Pair {
    pub(super) fn of(&self, hook: Hook) -> &Program {
        match hook {
            Hook::Ingress => &self.ingress,
            Hook::Egress => &self.egress,
        }
    }
}

/// Selects the programs to load: those for packets with this framing, with or without a trace; one for both hooks or one for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    framing: Framing,
    traces: bool,
    both: bool,
}

impl Kind {
    fn of(options: &ProgramOptions, framing: Framing, traces: bool) -> Result<Kind> {
        // The kernel does not set the hook of injected packets.
        let both = !options.injected && shows_hook()?;
        Ok(Kind { framing, traces, both })
    }

    /// Makes the object load these programs and no others.
    fn choose(self, open: &mut OpenNetmonSkel<'_>) {
        for mut program in open.open_object_mut().progs_mut() {
            let name = program.name().to_string_lossy().into_owned();
            if name != SWEEP {
                program.set_autoload(self.names().contains(&name.as_str()));
            }
        }
    }

    /// The programs for ingress and egress.
    fn names(self) -> [&'static str; 2] {
        match (self.framing, self.traces, self.both) {
            (Framing::Ethernet, false, true) => ["nm_both"; 2],
            (Framing::Ip, false, true) => ["nm_both_l3"; 2],
            (Framing::Ethernet, true, true) => ["nm_both_t"; 2],
            (Framing::Ip, true, true) => ["nm_both_l3_t"; 2],
            (Framing::Ethernet, false, false) => ["nm_ingress", "nm_egress"],
            (Framing::Ip, false, false) => ["nm_ingress_l3", "nm_egress_l3"],
            (Framing::Ethernet, true, false) => ["nm_ingress_t", "nm_egress_t"],
            (Framing::Ip, true, false) => ["nm_ingress_l3_t", "nm_egress_l3_t"],
        }
    }

    /// The programs, which are loaded, under the names of those that do not trace.
    fn pair(self, skel: &NetmonSkel<'_>) -> Result<Pair> {
        let of = |name: &str| {
            let mut programs = skel.object().progs();
            let program = programs.find(|program| program.name().to_string_lossy() == name);
            Program::of(&program.with_context(|| format!("the BPF object has no {name}"))?)
        };
        let [ingress, egress] = self.names();
        let names = Kind { traces: false, ..self }.names();
        Ok(Pair { ingress: of(ingress)?, egress: of(egress)?, names })
    }
}

/// The program of the sweep, which does not depend on the packets.
const SWEEP: &str = "nm_sweep";

/// Whether a program can find out at which hook it runs.
fn shows_hook() -> Result<bool> {
    static SHOWS: OnceLock<bool> = OnceLock::new();
    if let Some(shows) = SHOWS.get() {
        return Ok(*shows);
    }
    let shows = has_kfunc("bpf_cast_to_kern_ctx")?;
    Ok(*SHOWS.get_or_init(|| shows))
}

/// Makes the object load only what every host needs: the programs for packets with an Ethernet header.
pub(super) fn choose_first(open: &mut OpenNetmonSkel<'_>, options: &ProgramOptions) -> Result<()> {
    Kind::of(options, Framing::Ethernet, false)?.choose(open);
    Ok(())
}

/// Names of the programs that are loaded for the first interface without Ethernet.
pub(super) fn names_of_later(options: &ProgramOptions) -> Result<[&'static str; 2]> {
    Ok(Kind::of(options, Framing::Ip, false)?.names())
}

/// The programs that see packets. They stay loaded while somebody holds them or they are attached.
#[derive(Debug)]
pub struct Programs {
    ethernet: Arc<Pair>,
    /// Few hosts have interfaces without Ethernet, and the verifier takes as long for these programs as for the others, so they are
    /// loaded for the first such interface.
    ip: Mutex<Option<Arc<Pair>>>,
    loader: Arc<Loader>,
    options: ProgramOptions,
    trace: Option<Arc<Trace>>,
}

impl Programs {
    pub(super) fn of(skel: &NetmonSkel<'_>, loader: Arc<Loader>, options: &ProgramOptions) -> Result<Programs> {
        Programs::new(skel, loader, options, None)
    }

    fn new(
        skel: &NetmonSkel<'_>,
        loader: Arc<Loader>,
        options: &ProgramOptions,
        trace: Option<Arc<Trace>>,
    ) -> Result<Programs> {
        let ethernet = Kind::of(options, Framing::Ethernet, trace.is_some())?.pair(skel)?;
        Ok(Programs { ethernet: Arc::new(ethernet), ip: Mutex::default(), loader, options: options.clone(), trace })
    }

    /// Counts the interfaces that programs over the same maps are attached to by TCX.
    pub(super) fn tcx(&self) -> TcxUse {
        self.loader.tcx.clone()
    }

    /// A handle to the program of `hook`, for packets that start with an Ethernet header or, without `ethernet`, with the IP header.
    ///
    /// # Errors
    ///
    /// The program is not loaded yet and the kernel refuses it, or the process has no descriptor left.
    pub fn program(&self, hook: Hook, ethernet: bool) -> Result<OwnedFd> {
        let pair = self.pair(if ethernet { Framing::Ethernet } else { Framing::Ip })?;
        pair.of(hook).fd.try_clone().context("duplicate a program")
    }

    /// The programs for interfaces of this framing.
    ///
    /// # Errors
    ///
    /// They are not loaded yet, and the kernel refuses them.
    pub(super) fn pair(&self, framing: Framing) -> Result<Arc<Pair>> {
        if framing == Framing::Ethernet {
            return Ok(Arc::clone(&self.ethernet));
        }
        let mut ip = self.ip.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pair) = &*ip {
            return Ok(Arc::clone(pair));
        }
        let pair = self.loader.load_later(&self.options, framing, self.trace.as_deref());
        let pair = Arc::new(pair.context("load the programs for interfaces without Ethernet")?);
        Ok(Arc::clone(ip.insert(pair)))
    }

    fn loaded(&self) -> impl Iterator<Item = Arc<Pair>> {
        let ip = self.ip.lock().unwrap_or_else(PoisonError::into_inner).clone();
        std::iter::once(Arc::clone(&self.ethernet)).chain(ip)
    }

    /// The kernel's ids of the loaded programs.
    pub(super) fn ids(&self) -> Vec<u32> {
        self.loaded().flat_map(|pair| [pair.ingress.id, pair.egress.id]).collect()
    }

    /// What the kernel reports about each loaded program; one that it does not report on is left out.
    pub fn infos(&self) -> Vec<ProgramInfo> {
        let infos = |pair: Arc<Pair>| {
            let mut programs: Vec<_> = pair.names.into_iter().zip([&pair.ingress, &pair.egress]).collect();
            programs.dedup_by_key(|(name, _)| *name);
            programs.into_iter().filter_map(|(name, of)| objects::program(name, of.as_fd())).collect::<Vec<_>>()
        };
        self.loaded().flat_map(infos).collect()
    }
}

/// Loads the programs again over the same maps, which keep all state.
#[derive(Debug)]
pub struct Loader {
    maps: Vec<(String, OwnedFd)>,
    clock: Arc<Clock>,
    cpus: usize,
    seed: u64,
    tcx: TcxUse,
}

impl Loader {
    pub(super) fn new(skel: &NetmonSkel<'_>, clock: Arc<Clock>, cpus: usize, seed: u64) -> Result<Loader> {
        let kept = |map: &Map<'_>| map.autocreate() && !holds_constants(&map.name().to_string_lossy());
        let maps = skel.object().maps().filter(kept);
        let own = |map: Map<'_>| -> Result<(String, OwnedFd)> {
            Ok((map.name().to_string_lossy().into_owned(), map.as_fd().try_clone_to_owned()?))
        };
        let maps = maps.map(own).collect::<Result<_>>().context("duplicate a map")?;
        Ok(Loader { maps, clock, cpus, seed, tcx: TcxUse::default() })
    }

    /// What the kernel reports about each map; one that it does not report on is left out.
    pub fn map_infos(&self) -> Vec<MapInfo> {
        self.maps.iter().filter_map(|(_, fd)| objects::map(fd)).collect()
    }

    /// Loads programs with these options. The sizes of maps, the rings and the clock must be the same as before, because the maps
    /// depend on them.
    ///
    /// # Errors
    ///
    /// The kernel refuses the programs.
    pub fn load(self: &Arc<Self>, options: &ProgramOptions) -> Result<Programs> {
        let mut storage = MaybeUninit::uninit();
        let mut open = self.open(&mut storage, options, false, &[])?;
        choose_first(&mut open, options)?;
        Programs::of(&load(open)?, Arc::clone(self), options)
    }

    /// Loads programs that trace as well: with a new trace, or one that continues.
    ///
    /// # Errors
    ///
    /// The kernel refuses the programs, or the maps of the trace cannot be mapped.
    pub fn load_tracing(
        self: &Arc<Self>,
        options: &ProgramOptions,
        trace: Option<Arc<Trace>>,
    ) -> Result<(Programs, Arc<Trace>)> {
        let mut storage = MaybeUninit::uninit();
        let maps = trace.as_ref().map_or(&[][..], |trace| trace.maps());
        let mut open = self.open(&mut storage, options, true, maps)?;
        Kind::of(options, Framing::Ethernet, true)?.choose(&mut open);
        let skel = load(open)?;
        let trace = trace.map_or_else(|| Trace::of(&skel, self.cpus).map(Arc::new), Ok)?;
        Ok((Programs::new(&skel, Arc::clone(self), options, Some(Arc::clone(&trace)))?, trace))
    }

    /// Loads the programs for a framing that the first load left out.
    fn load_later(&self, options: &ProgramOptions, framing: Framing, trace: Option<&Trace>) -> Result<Pair> {
        let kind = Kind::of(options, framing, trace.is_some())?;
        let mut storage = MaybeUninit::uninit();
        let mut open = self.open(&mut storage, options, kind.traces, trace.map_or(&[][..], |trace| trace.maps()))?;
        kind.choose(&mut open);
        kind.pair(&load(open)?)
    }

    /// Opens the object over the existing maps and `more`.
    fn open<'obj>(
        &self,
        storage: &'obj mut MaybeUninit<OpenObject>,
        options: &ProgramOptions,
        trace: bool,
        more: &[(String, OwnedFd)],
    ) -> Result<OpenNetmonSkel<'obj>> {
        let mut open = NetmonSkelBuilder::default().open(storage).context("open the BPF object")?;
        // The sweep program stays as it is: nothing that changes in a running agent affects it.
        open.progs.nm_sweep.set_autoload(false);
        constants::set(&mut open, options, &self.clock, self.cpus, self.seed)?;
        trace_maps(&mut open, trace)?;
        open.maps.nm_tracers.set_max_entries(self.cpus as u32)?;
        for mut map in open.open_object_mut().maps_mut() {
            let name = map.name().to_string_lossy().into_owned();
            if let Some((_, fd)) = self.maps.iter().chain(more).find(|(own, _)| *own == name) {
                map.reuse_fd(fd.as_fd()).with_context(|| format!("take over map {name}"))?;
            }
        }
        Ok(open)
    }
}

fn load<'obj>(open: OpenNetmonSkel<'obj>) -> Result<NetmonSkel<'obj>> {
    let _undisturbed = Undisturbed::by(Signal::SIGPROF);
    open.load().map_err(super::preflight::explain_load_error)
}

/// Chooses whether the maps of a trace are created.
pub(super) fn trace_maps(open: &mut OpenNetmonSkel<'_>, made: bool) -> Result<()> {
    let maps = &mut open.maps;
    for map in [&mut maps.nm_trace_ring, &mut maps.nm_trace_filters, &mut maps.nm_tracers, &mut maps.nm_trace_control] {
        map.set_autocreate(made).context("choose the maps to create")?;
    }
    Ok(())
}

/// Blocks a signal for this thread: the verifier gives up at a signal (EAGAIN), and libbpf retries only five times, while a
/// profile of the agent sends a signal for every 10 ms of CPU time.
struct Undisturbed(SigSet);

impl Undisturbed {
    fn by(signal: Signal) -> Option<Undisturbed> {
        let before = SigSet::thread_get_mask().ok()?;
        SigSet::from_iter([signal]).thread_block().ok()?;
        Some(Undisturbed(before))
    }
}

impl Drop for Undisturbed {
    fn drop(&mut self) {
        // Cannot fail: the mask was in force before.
        let _ = self.0.thread_set_mask();
    }
}

fn holds_constants(map: &str) -> bool {
    map.ends_with(".rodata")
}
