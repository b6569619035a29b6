//! Attaches the programs to interfaces.

use std::os::fd::AsFd;
use std::ptr::NonNull;

use anyhow::{Context, Error, Result};
use libbpf_rs::{AsRawLibbpf, ErrorKind, Link as BpfLink, ProgramMut, TC_EGRESS, TC_INGRESS, TcHook, TcHookBuilder};

use super::links::{Framing, Link};
use super::load::Bpf;

/// Of the clsact filters, so that a later start tells its own from other people's.
pub(super) const HANDLE: u32 = 0x6e6d; // "nm"
/// Early in the chain, but behind the 1 that others like to claim.
pub(super) const PRIORITY: u32 = 2;

/// How programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// TCX links, Linux 6.6 on: the kernel removes them when the agent is gone.
    Tcx,
    /// Filters of the clsact qdisc.
    Clsact,
}

impl Mode {
    /// As in logs and output.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Tcx => "tcx",
            Mode::Clsact => "clsact",
        }
    }
}

enum Attachment {
    Tcx([BpfLink; 2]),
    Clsact([TcHook; 2]),
}

/// The interfaces that are watched. Dropping it detaches.
#[derive(Default)]
pub struct Attachments {
    attached: Vec<(Link, Attachment)>,
}

impl Attachments {
    /// Attaches both hooks of `link`; the mode that was used. Tries TCX first unless `clsact` is asked for.
    pub fn attach(&mut self, bpf: &Bpf<'_>, link: &Link, clsact: bool) -> Result<Mode> {
        let progs = &bpf.skel.progs;
        let (ingress, egress) = match link.framing.context("its packets are neither Ethernet nor IP")? {
            Framing::Ethernet => (&progs.nm_ingress, &progs.nm_egress),
            Framing::Ip => (&progs.nm_ingress_l3, &progs.nm_egress_l3),
        };
        if !clsact {
            match attach_tcx(link, ingress, egress) {
                Ok(links) => {
                    self.attached.push((link.clone(), Attachment::Tcx(links)));
                    return Ok(Mode::Tcx);
                }
                // A kernel without TCX does not know the attach type.
                Err(error) if is_unsupported(&error) => log::debug!("{error:#}: using clsact"),
                Err(error) => return Err(error),
            }
        }
        let hooks = attach_clsact(link, ingress, egress)?;
        self.attached.push((link.clone(), Attachment::Clsact(hooks)));
        Ok(Mode::Clsact)
    }

    /// The interfaces that are watched.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.attached.iter().map(|(link, _)| link)
    }

    /// Detaches all. Interfaces that vanished took their programs along.
    pub fn detach(&mut self) {
        for (link, attachment) in self.attached.drain(..) {
            match attachment {
                Attachment::Tcx(links) => drop(links),
                Attachment::Clsact(hooks) => {
                    for mut hook in hooks {
                        if let Err(error) = hook.detach() {
                            log::debug!("detach from {}: {error}", link.name);
                        }
                    }
                }
            }
        }
    }
}

impl Drop for Attachments {
    fn drop(&mut self) {
        self.detach();
    }
}

fn is_unsupported(error: &Error) -> bool {
    let kind = error.downcast_ref::<libbpf_rs::Error>().map(|e| e.kind());
    matches!(kind, Some(ErrorKind::InvalidInput | ErrorKind::Unsupported))
}

fn attach_tcx(link: &Link, ingress: &ProgramMut<'_>, egress: &ProgramMut<'_>) -> Result<[BpfLink; 2]> {
    let attach = |program: &ProgramMut<'_>, side| -> Result<BpfLink> {
        let options = libbpf_sys::bpf_tcx_opts {
            sz: size_of::<libbpf_sys::bpf_tcx_opts>() as _,
            // At the head: seen before another program can end the chain.
            flags: libbpf_sys::BPF_F_BEFORE,
            ..Default::default()
        };
        let program = program.as_libbpf_object().as_ptr();
        // SAFETY: a loaded program, of the section that names its side; the options outlive the call.
        let raw = unsafe { libbpf_sys::bpf_program__attach_tcx(program, link.index as i32, &options) };
        let Some(raw) = NonNull::new(raw) else {
            let error = libbpf_rs::Error::from(std::io::Error::last_os_error());
            return Err(Error::new(error).context(format!("attach tcx {side} on {}", link.name)));
        };
        // SAFETY: a link that nobody else owns.
        Ok(unsafe { BpfLink::from_ptr(raw) })
    };
    Ok([attach(ingress, "ingress")?, attach(egress, "egress")?])
}

fn attach_clsact(link: &Link, ingress: &ProgramMut<'_>, egress: &ProgramMut<'_>) -> Result<[TcHook; 2]> {
    let attach = |program: &ProgramMut<'_>, point, side| -> Result<TcHook> {
        let mut hook = TcHookBuilder::new(program.as_fd())
            .ifindex(link.index as i32)
            .handle(HANDLE)
            .priority(PRIORITY)
            .hook(point);
        hook.create().with_context(|| format!("add the clsact qdisc to {}", link.name))?;
        hook.attach().with_context(|| {
            format!(
                "attach clsact {side} on {} (priority {PRIORITY}, handle {HANDLE:#x}): another filter may hold these",
                link.name
            )
        })
    };
    let mut first = attach(ingress, TC_INGRESS, "ingress")?;
    match attach(egress, TC_EGRESS, "egress") {
        Ok(second) => Ok([first, second]),
        Err(error) => {
            let _ = first.detach();
            Err(error)
        }
    }
}
