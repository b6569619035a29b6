//! The programs of the packet path, and how they are loaded again with other constants while packets flow.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use anyhow::{Context, Result};
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{Map, MapCore, OpenObject};
use nix::sys::signal::{SigSet, Signal};

use super::clock::Clock;
use super::constants;
use super::links::Framing;
use super::load::Options;
use super::objects::{self, MapInfo};
use super::record::Hook;
use super::skel::{NetmonSkel, NetmonSkelBuilder, OpenNetmonSkel};
use super::stats::ProgramStatsReader;
use super::trace::Trace;

/// The programs of one framing.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) ingress: OwnedFd,
    pub(super) egress: OwnedFd,
}

/// The programs that see packets. They live as long as somebody holds them or they are attached.
#[derive(Debug)]
pub struct Programs {
    ethernet: Pair,
    ip: Pair,
    sweep: OwnedFd,
}

impl Programs {
    pub(super) fn of(skel: &NetmonSkel<'_>) -> Result<Programs> {
        let progs = &skel.progs;
        let own = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().context("duplicate a program");
        Ok(Programs {
            ethernet: Pair { ingress: own(progs.nm_ingress.as_fd())?, egress: own(progs.nm_egress.as_fd())? },
            ip: Pair { ingress: own(progs.nm_ingress_l3.as_fd())?, egress: own(progs.nm_egress_l3.as_fd())? },
            sweep: own(progs.nm_sweep.as_fd())?,
        })
    }

    /// Those that trace.
    fn tracing(skel: &NetmonSkel<'_>) -> Result<Programs> {
        let progs = &skel.progs;
        let own = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().context("duplicate a program");
        Ok(Programs {
            ethernet: Pair { ingress: own(progs.nm_ingress_t.as_fd())?, egress: own(progs.nm_egress_t.as_fd())? },
            ip: Pair { ingress: own(progs.nm_ingress_l3_t.as_fd())?, egress: own(progs.nm_egress_l3_t.as_fd())? },
            sweep: own(progs.nm_sweep.as_fd())?,
        })
    }

    /// A handle to one of them: `ethernet` tells whether its packets start with an Ethernet header.
    pub fn program(&self, hook: Hook, ethernet: bool) -> Result<OwnedFd> {
        let pair = if ethernet { &self.ethernet } else { &self.ip };
        let program = if hook == Hook::Ingress { &pair.ingress } else { &pair.egress };
        program.try_clone().context("duplicate a program")
    }

    /// Those for interfaces of this framing.
    pub(super) fn pair(&self, framing: Framing) -> &Pair {
        match framing {
            Framing::Ethernet => &self.ethernet,
            Framing::Ip => &self.ip,
        }
    }

    /// All that see packets.
    pub(super) fn all(&self) -> [&OwnedFd; 4] {
        [&self.ethernet.ingress, &self.ethernet.egress, &self.ip.ingress, &self.ip.egress]
    }

    /// A handle to read the kernel's statistics of the programs with.
    pub fn stats(&self) -> Result<ProgramStatsReader> {
        let [ingress, egress, ingress_l3, egress_l3] = self.all();
        let named = [
            ("nm_ingress", ingress),
            ("nm_egress", egress),
            ("nm_ingress_l3", ingress_l3),
            ("nm_egress_l3", egress_l3),
            ("nm_sweep", &self.sweep),
        ];
        let fds = named.into_iter().map(|(name, fd)| Ok((name.to_owned(), fd.try_clone()?)));
        Ok(ProgramStatsReader::new(fds.collect::<Result<_>>().context("duplicate a program")?))
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
    pub fn load(&self, options: &Options) -> Result<Programs> {
        let mut storage = MaybeUninit::uninit();
        let open = self.open(&mut storage, options, false, &[])?;
        let skel = load(open)?;
        Programs::of(&skel)
    }

    /// Programs that do the same, and trace: a new trace, or one that goes on.
    pub fn load_tracing(&self, options: &Options, trace: Option<Arc<Trace>>) -> Result<(Programs, Arc<Trace>)> {
        let mut storage = MaybeUninit::uninit();
        let maps = trace.as_ref().map_or(&[][..], |trace| trace.maps());
        let mut open = self.open(&mut storage, options, true, maps)?;
        let progs = &mut open.progs;
        for (plain, tracing) in [
            (&mut progs.nm_ingress, &mut progs.nm_ingress_t),
            (&mut progs.nm_egress, &mut progs.nm_egress_t),
            (&mut progs.nm_ingress_l3, &mut progs.nm_ingress_l3_t),
            (&mut progs.nm_egress_l3, &mut progs.nm_egress_l3_t),
        ] {
            plain.set_autoload(false);
            tracing.set_autoload(true);
        }
        let skel = load(open)?;
        let trace = trace.map_or_else(|| Trace::of(&skel, self.cpus).map(Arc::new), Ok)?;
        Ok((Programs::tracing(&skel)?, trace))
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
