//! The programs of the packet path, and how they are loaded again with other constants while packets flow.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{Map, MapCore, OpenObject};
use nix::sys::signal::{SigSet, Signal};

use super::chain::program_info;
use super::clock::Clock;
use super::constants;
use super::links::Framing;
use super::load::Options;
use super::objects::{self, MapInfo, ProgramInfo};
use super::record::Hook;
use super::skel::{NetmonSkel, NetmonSkelBuilder, OpenNetmonSkel};
use super::trace::Trace;

/// A program, and the kernel's id of it.
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

/// The programs of one framing.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) ingress: Program,
    pub(super) egress: Program,
}

impl Pair {
    pub(super) fn of(&self, hook: Hook) -> &Program {
        match hook {
            Hook::Ingress => &self.ingress,
            Hook::Egress => &self.egress,
        }
    }
}

/// Which programs of the object are loaded: those for packets with this framing, and of these the ones that trace or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    framing: Framing,
    traces: bool,
}

impl Kind {
    /// Leaves out the programs of all other kinds.
    fn choose(self, open: &mut OpenNetmonSkel<'_>) {
        let progs = &mut open.progs;
        for (framing, traces, programs) in [
            (Framing::Ethernet, false, [&mut progs.nm_ingress, &mut progs.nm_egress]),
            (Framing::Ip, false, [&mut progs.nm_ingress_l3, &mut progs.nm_egress_l3]),
            (Framing::Ethernet, true, [&mut progs.nm_ingress_t, &mut progs.nm_egress_t]),
            (Framing::Ip, true, [&mut progs.nm_ingress_l3_t, &mut progs.nm_egress_l3_t]),
        ] {
            let chosen = self == Kind { framing, traces };
            programs.into_iter().for_each(|program| program.set_autoload(chosen));
        }
    }

    fn pair(self, skel: &NetmonSkel<'_>) -> Result<Pair> {
        let progs = &skel.progs;
        let (ingress, egress) = match (self.framing, self.traces) {
            (Framing::Ethernet, false) => (&progs.nm_ingress, &progs.nm_egress),
            (Framing::Ip, false) => (&progs.nm_ingress_l3, &progs.nm_egress_l3),
            (Framing::Ethernet, true) => (&progs.nm_ingress_t, &progs.nm_egress_t),
            (Framing::Ip, true) => (&progs.nm_ingress_l3_t, &progs.nm_egress_l3_t),
        };
        Ok(Pair { ingress: Program::of(ingress)?, egress: Program::of(egress)? })
    }
}

/// Makes the object load only what every host needs: the programs for packets with an Ethernet header.
pub(super) fn choose_first(open: &mut OpenNetmonSkel<'_>) {
    Kind { framing: Framing::Ethernet, traces: false }.choose(open);
}

/// The programs that see packets. They live as long as somebody holds them or they are attached.
#[derive(Debug)]
pub struct Programs {
    ethernet: Arc<Pair>,
    /// Few hosts have interfaces without Ethernet, and the verifier takes as long for these as for the others: they are loaded with the
    /// first such interface.
    ip: Mutex<Option<Arc<Pair>>>,
    loader: Arc<Loader>,
    options: Options,
    trace: Option<Arc<Trace>>,
}

impl Programs {
    pub(super) fn of(skel: &NetmonSkel<'_>, loader: Arc<Loader>, options: &Options) -> Result<Programs> {
        Programs::new(skel, loader, options, None)
    }

    fn new(
        skel: &NetmonSkel<'_>,
        loader: Arc<Loader>,
        options: &Options,
        trace: Option<Arc<Trace>>,
    ) -> Result<Programs> {
        let ethernet = Kind { framing: Framing::Ethernet, traces: trace.is_some() }.pair(skel)?;
        Ok(Programs { ethernet: Arc::new(ethernet), ip: Mutex::default(), loader, options: options.clone(), trace })
    }

    /// A handle to one of them: `ethernet` says whether its packets start with an Ethernet header.
    ///
    /// # Errors
    ///
    /// As for [`Self::pair`].
    pub fn program(&self, hook: Hook, ethernet: bool) -> Result<OwnedFd> {
        let pair = self.pair(if ethernet { Framing::Ethernet } else { Framing::Ip })?;
        pair.of(hook).fd.try_clone().context("duplicate a program")
    }

    /// Those for interfaces of this framing.
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

    /// What is loaded, by the names under which it is measured.
    fn loaded(&self) -> impl Iterator<Item = (Arc<Pair>, [&'static str; 2])> {
        let ip = self.ip.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let ethernet = (Arc::clone(&self.ethernet), ["nm_ingress", "nm_egress"]);
        std::iter::once(ethernet).chain(ip.map(|pair| (pair, ["nm_ingress_l3", "nm_egress_l3"])))
    }

    /// The kernel's ids of those that are loaded.
    pub(super) fn ids(&self) -> Vec<u32> {
        self.loaded().flat_map(|(pair, _)| [pair.ingress.id, pair.egress.id]).collect()
    }

    /// What the kernel says of each that is loaded.
    pub fn infos(&self) -> Vec<ProgramInfo> {
        let infos = |(pair, names): (Arc<Pair>, [&'static str; 2])| {
            let programs = names.into_iter().zip([&pair.ingress, &pair.egress]);
            programs.filter_map(|(name, program)| objects::program(name, program.as_fd())).collect::<Vec<_>>()
        };
        self.loaded().flat_map(infos).collect()
    }
}

/// Loads the programs again: what they know is in the maps, which stay.
#[derive(Debug)]
pub struct Loader {
    maps: Vec<(String, OwnedFd)>,
    clock: Arc<Clock>,
    cpus: usize,
    seed: u64,
}

impl Loader {
    pub(super) fn new(skel: &NetmonSkel<'_>, clock: Arc<Clock>, cpus: usize, seed: u64) -> Result<Loader> {
        let kept = |map: &Map<'_>| map.autocreate() && !holds_constants(&map.name().to_string_lossy());
        let maps = skel.object().maps().filter(kept);
        let own = |map: Map<'_>| -> Result<(String, OwnedFd)> {
            Ok((map.name().to_string_lossy().into_owned(), map.as_fd().try_clone_to_owned()?))
        };
        let maps = maps.map(own).collect::<Result<_>>().context("duplicate a map")?;
        Ok(Loader { maps, clock, cpus, seed })
    }

    /// What the kernel says of each map.
    pub fn map_infos(&self) -> Vec<MapInfo> {
        self.maps.iter().filter_map(|(_, fd)| objects::map(fd)).collect()
    }

    /// Programs with these options. Sizes of maps, rings and the clock must be as they were: they are facts of the maps.
    pub fn load(self: &Arc<Self>, options: &Options) -> Result<Programs> {
        let mut storage = MaybeUninit::uninit();
        let mut open = self.open(&mut storage, options, false, &[])?;
        choose_first(&mut open);
        Programs::of(&load(open)?, Arc::clone(self), options)
    }

    /// Programs that do the same, and trace: a new trace, or one that goes on.
    pub fn load_tracing(
        self: &Arc<Self>,
        options: &Options,
        trace: Option<Arc<Trace>>,
    ) -> Result<(Programs, Arc<Trace>)> {
        let mut storage = MaybeUninit::uninit();
        let maps = trace.as_ref().map_or(&[][..], |trace| trace.maps());
        let mut open = self.open(&mut storage, options, true, maps)?;
        Kind { framing: Framing::Ethernet, traces: true }.choose(&mut open);
        let skel = load(open)?;
        let trace = trace.map_or_else(|| Trace::of(&skel, self.cpus).map(Arc::new), Ok)?;
        Ok((Programs::new(&skel, Arc::clone(self), options, Some(Arc::clone(&trace)))?, trace))
    }

    /// The programs for a framing that the first load left out.
    fn load_later(&self, options: &Options, framing: Framing, trace: Option<&Trace>) -> Result<Pair> {
        let kind = Kind { framing, traces: trace.is_some() };
        let mut storage = MaybeUninit::uninit();
        let mut open = self.open(&mut storage, options, kind.traces, trace.map_or(&[][..], |trace| trace.maps()))?;
        kind.choose(&mut open);
        kind.pair(&load(open)?)
    }

    /// The object, over the maps there are and `more`.
    fn open<'obj>(
        &self,
        storage: &'obj mut MaybeUninit<OpenObject>,
        options: &Options,
        trace: bool,
        more: &[(String, OwnedFd)],
    ) -> Result<OpenNetmonSkel<'obj>> {
        let mut open = NetmonSkelBuilder::default().open(storage).context("open the BPF object")?;
        // It goes on as it is: nothing that changes in a running agent concerns it.
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

/// Whether the maps of a trace are made.
pub(super) fn trace_maps(open: &mut OpenNetmonSkel<'_>, made: bool) -> Result<()> {
    let maps = &mut open.maps;
    for map in [&mut maps.nm_trace_ring, &mut maps.nm_trace_filters, &mut maps.nm_tracers, &mut maps.nm_trace_control] {
        map.set_autocreate(made).context("choose the maps to make")?;
    }
    Ok(())
}

/// A signal is kept from this thread: the verifier gives up at one (EAGAIN), and libbpf tries again five times only, while a
/// profile of the agent sends a signal every 10 ms of CPU time.
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
        // A mask that was in force is a valid one.
        let _ = self.0.thread_set_mask();
    }
}

fn holds_constants(map: &str) -> bool {
    map.ends_with(".rodata")
}
