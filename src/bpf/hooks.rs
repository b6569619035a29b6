//! The two hooks of an interface: attaches programs to them, checks, replaces and detaches them. All of this must happen in the
//! network namespace of the interface, because its index is valid only there.

use std::io::Error as IoError;
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result, bail};
use libbpf_rs::{TC_EGRESS, TC_INGRESS, TcHook, TcHookBuilder};
use nix::errno::Errno;

use super::links::{Framing, Link};
use super::programs::{Pair, Program};
use super::record::Hook;
use super::tcx::{TcxLinks, TcxUse, add_tcx, has_others_ahead};

/// Handle of the clsact filters, by which a later start recognises its own.
pub(super) const HANDLE: u32 = 0x6e6d; // "nm"
/// Priority of the clsact filters: early in the chain, but after 1, which others often use.
pub const PRIORITY: u32 = 2;

/// How programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// TCX links, from Linux 6.6 on: the kernel removes them when the agent has ended.
    Tcx,
    /// Filters of the clsact qdisc.
    Clsact,
}

impl Mode {
    /// The name in logs and output.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Tcx => "tcx",
            Mode::Clsact => "clsact",
        }
    }
}

/// What is attached, for each hook.
enum Held {
    Tcx(TcxLinks),
    /// Ids of the programs in our filters. A filter with our handle and priority but another program is not ours.
    Clsact([u32; 2]),
}

/// The hooks of an interface.
pub(super) struct Hooks {
    index: u32,
    pub(super) framing: Framing,
    /// Counts the interfaces that are attached by TCX; `None` if TCX must not be used.
    tcx: Option<TcxUse>,
    held: Held,
}

/// The result of checking a hook.
#[derive(Debug)]
pub(super) struct Kept {
    /// Our program was no longer there.
    pub(super) lost: bool,
    /// Whether the hook has the right program now.
    pub(super) result: Result<()>,
}

const SIDES: [Hook; 2] = [Hook::Ingress, Hook::Egress];

impl Hooks {
    /// Attaches programs to both hooks: by TCX, unless `tcx` is missing, the kernel has none, or many interfaces are attached by it
    /// and nobody is ahead of a filter at this one.
    pub(super) fn put(link: &Link, framing: Framing, programs: &Pair, tcx: Option<TcxUse>) -> Result<Hooks> {
        let hooks = |held, tcx| Hooks { index: link.index, framing, tcx, held };
        if let Some(used) = tcx.as_ref()
            && (used.has_room() || has_others_ahead(link.index)?)
        {
            match TcxLinks::put(link.index, programs, used) {
                Ok(links) => return Ok(hooks(Held::Tcx(links), tcx)),
                // A kernel without TCX does not know the attach type.
                Err(error) if is(&error, &[Errno::EINVAL, Errno::EOPNOTSUPP]) => log::debug!("{error:#}: using clsact"),
                Err(error) => return Err(error),
            }
        }
        put_filters(link.index, programs).map(|ids| hooks(Held::Clsact(ids), tcx))
    }

    pub(super) fn mode(&self) -> Mode {
        match self.held {
            Held::Tcx(_) => Mode::Tcx,
            Held::Clsact(_) => Mode::Clsact,
        }
    }

    /// Makes sure that both hooks have these programs. Replaces each atomically, so that either the old or the new program sees
    /// every packet, and attaches a program again that somebody has removed.
    pub(super) fn keep(&mut self, programs: &Pair) -> [Kept; 2] {
        if let Err(error) = self.go_ahead(programs) {
            log::debug!("{error:#}"); // what is missing then is found below
        }
        SIDES.map(|hook| {
            let program = programs.of(hook);
            let looked = match &mut self.held {
                Held::Tcx(links) => links.keep(self.index, hook, program),
                Held::Clsact(ids) => keep_filter(self.index, hook, &mut ids[hook as usize], program),
            };
            looked.unwrap_or_else(|error| Kept { lost: false, result: Err(error) })
        })
    }

    /// Programs that run before our filter may drop or redirect packets: where somebody has added one, ours goes to the head of TCX.
    /// Each hook misses the packets of a few microseconds.
    fn go_ahead(&mut self, programs: &Pair) -> Result<()> {
        let (Held::Clsact(ids), Some(used)) = (&self.held, &self.tcx) else { return Ok(()) };
        if !has_others_ahead(self.index)? {
            return Ok(());
        }
        let moved = SIDES.map(|hook| {
            take_filter(self.index, hook, ids[hook as usize]);
            add_tcx(self.index, hook, programs.of(hook))
        });
        self.held = match moved {
            [Ok(ingress), Ok(egress)] => Held::Tcx(TcxLinks::new([ingress, egress], used)),
            [Err(error), _] | [_, Err(error)] => {
                log::debug!("{error:#}: staying with clsact");
                Held::Clsact(put_filters(self.index, programs)?)
            }
        };
        Ok(())
    }

    /// Detaches the programs. The clsact filters of an interface that has vanished are gone with it; a TCX link ends with its
    /// descriptor, wherever the interface is.
    pub(super) fn take_away(self) {
        if let Held::Clsact(ids) = self.held {
            SIDES.into_iter().zip(ids).for_each(|(hook, id)| take_filter(self.index, hook, id));
        }
    }
}

/// True if a system call failed with one of these errors.
pub(super) fn is(error: &anyhow::Error, wanted: &[Errno]) -> bool {
    let code = error.downcast_ref::<IoError>().and_then(IoError::raw_os_error);
    code.is_some_and(|code| wanted.iter().any(|errno| *errno as i32 == code))
}

/// Restores the error number: the crate does not pass it on, but libbpf leaves it in errno.
fn numbered<T>(result: libbpf_rs::Result<T>) -> Result<T, IoError> {
    result.map_err(|_| IoError::last_os_error())
}

/// The error that a function of libbpf returned as a negative number.
pub(super) fn failed(err: i32) -> anyhow::Error {
    anyhow::Error::new(IoError::from_raw_os_error(-err))
}

/// Our filter of the clsact qdisc at an interface.
pub(super) fn filter(program: BorrowedFd<'_>, index: u32, hook: Hook) -> TcHook {
    let point = match hook {
        Hook::Ingress => TC_INGRESS,
        Hook::Egress => TC_EGRESS,
    };
    TcHookBuilder::new(program).ifindex(index as i32).handle(HANDLE).priority(PRIORITY).hook(point)
}

/// Adds our filters to both hooks. Returns the ids of their programs.
fn put_filters(index: u32, programs: &Pair) -> Result<[u32; 2]> {
    let ingress = put_filter(index, Hook::Ingress, &programs.ingress)?;
    match put_filter(index, Hook::Egress, &programs.egress) {
        Ok(egress) => Ok([ingress, egress]),
        Err(error) => {
            take_filter(index, Hook::Ingress, ingress);
            Err(error)
        }
    }
}

/// Adds our filter. Returns the id of its program.
fn put_filter(index: u32, hook: Hook, program: &Program) -> Result<u32> {
    let mut filter = filter(program.as_fd(), index, hook);
    numbered(filter.create()).context("add the clsact qdisc")?;
    numbered(filter.attach()).with_context(|| {
        format!(
            "attach clsact {} (priority {PRIORITY}, handle {HANDLE:#x}): another filter may hold these",
            hook.name()
        )
    })?;
    Ok(program.id)
}

/// The id of the program of the filter with our handle and priority, if there is one.
pub(super) fn program_in_place(program: BorrowedFd<'_>, index: u32, hook: Hook) -> Result<Option<u32>> {
    match numbered(filter(program, index, hook).query()) {
        Ok(id) => Ok(Some(id)),
        // No filter; no qdisc or none of its chains.
        Err(error) if matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::ENOENT | Errno::EINVAL)) => {
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("read the clsact {} filter", hook.name())),
    }
}

fn keep_filter(index: u32, hook: Hook, held: &mut u32, program: &Program) -> Result<Kept> {
    let result = match program_in_place(program.as_fd(), index, hook)? {
        Some(id) if id == program.id => Ok(()),
        Some(id) if id == *held => {
            let replaced = numbered(filter(program.as_fd(), index, hook).replace(true).attach());
            replaced.with_context(|| format!("replace the clsact {} filter", hook.name()))?;
            Ok(())
        }
        Some(id) => {
            let result = not_ours(hook, id);
            return Ok(Kept { lost: true, result });
        }
        None => {
            let result = put_filter(index, hook, program).map(|id| *held = id);
            return Ok(Kept { lost: true, result });
        }
    };
    *held = program.id;
    Ok(Kept { lost: false, result })
}

fn not_ours(hook: Hook, id: u32) -> Result<()> {
    bail!(
        "another filter is in the place of netmon's at clsact {} (priority {PRIORITY}, handle {HANDLE:#x}, program {id}): remove it",
        hook.name()
    )
}

/// Removes our filter; a foreign one in its place stays.
fn take_filter(index: u32, hook: Hook, held: u32) {
    // A descriptor has to be passed; neither query nor removal uses it.
    let any = std::io::stderr();
    let taken = program_in_place(any.as_fd(), index, hook).and_then(|id| match id {
        Some(id) if id == held => Ok(numbered(filter(any.as_fd(), index, hook).detach())?),
        Some(id) => not_ours(hook, id),
        None => Ok(()),
    });
    match taken {
        Err(error) if !is(&error, &[Errno::ENODEV]) => log::warn!("detach from interface {index}: {error:#}"),
        _ => {}
    }
}
