//! Attaches the programs to interfaces.

use std::collections::HashMap;
use std::io::Error as IoError;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use anyhow::{Context, Result};
use libbpf_rs::{TC_EGRESS, TC_INGRESS, TcAttachPoint, TcHook, TcHookBuilder};
use nix::errno::Errno;
use nix::net::if_::if_indextoname;

use super::chain;
use super::links::{Framing, Link};
use super::programs::{Pair, Programs};

/// Of the clsact filters, so that a later start tells its own from other people's.
pub(super) const HANDLE: u32 = 0x6e6d; // "nm"
/// Early in the chain, but behind the 1 that others like to claim.
pub const PRIORITY: u32 = 2;

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
    Tcx([OwnedFd; 2]),
    Clsact,
}

/// The interfaces that are watched. Dropping it detaches.
pub struct Attachments {
    programs: Arc<Programs>,
    attached: HashMap<u32, (Attachment, Framing)>,
}

impl Attachments {
    pub(super) fn new(programs: Arc<Programs>) -> Attachments {
        Attachments { programs, attached: HashMap::new() }
    }

    /// Puts other programs in the place of those that are attached, one after the other, each in one step: every packet is seen by
    /// the one or the other. Where that fails the old one stays; what failed, by interface.
    pub fn replace(&mut self, programs: Arc<Programs>) -> Vec<(u32, anyhow::Error)> {
        self.programs = programs;
        let replaced = self.attached.iter().map(|(&index, (attachment, framing))| {
            let pair = self.programs.pair(*framing);
            let result = match attachment {
                Attachment::Tcx([ingress, egress]) => {
                    update(ingress, &pair.ingress).and_then(|()| update(egress, &pair.egress))
                }
                Attachment::Clsact => [(&pair.ingress, TC_INGRESS), (&pair.egress, TC_EGRESS)]
                    .into_iter()
                    .try_for_each(|(program, point)| {
                        numbered(filter(program.as_fd(), index, point).replace(true).attach())
                            .map(drop)
                            .map_err(Into::into)
                    }),
            };
            (index, result)
        });
        // The link of an interface that vanished leads nowhere.
        let failed = replaced.filter_map(|(index, result)| Some((index, result.err()?)));
        failed.filter(|(_, error)| !is(error, &[Errno::ENOLINK, Errno::ENODEV])).collect()
    }

    /// Attaches both hooks of `link`; the mode that was used, `None` if the interface is gone meanwhile. Tries TCX first unless
    /// `clsact` is asked for.
    pub fn attach(&mut self, link: &Link, clsact: bool) -> Result<Option<Mode>> {
        let framing = link.framing.context("its packets are neither Ethernet nor IP")?;
        let programs = self.programs.pair(framing);
        let mut result = attach(link, programs, clsact);
        // Once more: it may have been to another namespace and come back without the qdisc it had just got.
        if result.as_ref().is_err_and(|error| !is(error, &[Errno::ENODEV])) {
            result = attach(link, programs, clsact);
        }
        let (attachment, mode) = match result {
            Ok(attached) => attached,
            // It is no device any more some time before it has no name any more.
            Err(error) if is(&error, &[Errno::ENODEV]) || if_indextoname(link.index).is_err() => return Ok(None),
            Err(error) => return Err(error),
        };
        self.attached.insert(link.index, (attachment, framing));
        Ok(Some(mode))
    }

    /// The interface is watched.
    pub fn contains(&self, index: u32) -> bool {
        self.attached.contains_key(&index)
    }

    /// Names of the programs that have packets of a watched interface before ours, for ingress and egress.
    pub fn programs_before(&self, index: u32) -> Result<[Vec<String>; 2]> {
        let mode = match self.attached.get(&index) {
            Some((Attachment::Tcx(_), _)) => Mode::Tcx,
            Some((Attachment::Clsact, _)) => Mode::Clsact,
            None => return Ok(Default::default()),
        };
        chain::before(index, mode, self.programs.all())
    }

    /// Nothing is watched.
    pub fn is_empty(&self) -> bool {
        self.attached.is_empty()
    }

    /// Detaches from an interface. One that vanished took clsact's filters along; a TCX link would go with it, wherever it is.
    pub fn detach(&mut self, index: u32) {
        match self.attached.remove(&index) {
            None => {}
            Some((Attachment::Tcx(links), _)) => drop(links),
            Some((Attachment::Clsact, framing)) => {
                for point in [TC_INGRESS, TC_EGRESS] {
                    // Handle and priority say which filter; the program does not matter.
                    if let Err(error) = filter(self.programs.pair(framing).ingress.as_fd(), index, point).detach() {
                        log::debug!("detach from interface {index}: {error}");
                    }
                }
            }
        }
    }

    /// Detaches from all.
    pub fn detach_all(&mut self) {
        let all: Vec<u32> = self.attached.keys().copied().collect();
        all.into_iter().for_each(|index| self.detach(index));
    }
}

impl Drop for Attachments {
    fn drop(&mut self) {
        self.detach_all();
    }
}

/// True if a system call failed that way.
fn is(error: &anyhow::Error, wanted: &[Errno]) -> bool {
    let code = error.downcast_ref::<IoError>().and_then(IoError::raw_os_error);
    code.is_some_and(|code| wanted.iter().any(|errno| *errno as i32 == code))
}

/// With the number of the error: the crate keeps it to itself, libbpf leaves it in errno.
fn numbered<T>(result: libbpf_rs::Result<T>) -> std::io::Result<T> {
    result.map_err(|_| IoError::last_os_error())
}

/// Puts another program into a TCX link.
fn update(link: &OwnedFd, program: &OwnedFd) -> Result<()> {
    // SAFETY: two open descriptors; no options.
    let err = unsafe { libbpf_sys::bpf_link_update(link.as_raw_fd(), program.as_raw_fd(), std::ptr::null()) };
    if err < 0 {
        return Err(anyhow::Error::new(IoError::from_raw_os_error(-err)).context("update a tcx link"));
    }
    Ok(())
}

fn attach(link: &Link, programs: &Pair, clsact: bool) -> Result<(Attachment, Mode)> {
    if !clsact {
        match attach_tcx(link, programs) {
            Ok(links) => return Ok((Attachment::Tcx(links), Mode::Tcx)),
            // A kernel without TCX does not know the attach type.
            Err(error) if is(&error, &[Errno::EINVAL, Errno::EOPNOTSUPP]) => log::debug!("{error:#}: using clsact"),
            Err(error) => return Err(error),
        }
    }
    attach_clsact(link, programs)?;
    Ok((Attachment::Clsact, Mode::Clsact))
}

fn attach_tcx(link: &Link, programs: &Pair) -> Result<[OwnedFd; 2]> {
    let attach = |program: &OwnedFd, point, side| -> Result<OwnedFd> {
        let options = libbpf_sys::bpf_link_create_opts {
            sz: size_of::<libbpf_sys::bpf_link_create_opts>() as _,
            // At the head: seen before another program can end the chain.
            flags: libbpf_sys::BPF_F_BEFORE,
            ..Default::default()
        };
        // SAFETY: an open program; the options outlive the call.
        let fd = unsafe { libbpf_sys::bpf_link_create(program.as_raw_fd(), link.index as i32, point, &options) };
        if fd < 0 {
            let error = IoError::from_raw_os_error(-fd);
            return Err(anyhow::Error::new(error).context(format!("attach tcx {side} on {}", link.name)));
        }
        // SAFETY: a new descriptor that nobody else owns.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    };
    Ok([
        attach(&programs.ingress, libbpf_sys::BPF_TCX_INGRESS, "ingress")?,
        attach(&programs.egress, libbpf_sys::BPF_TCX_EGRESS, "egress")?,
    ])
}

/// Our filter of the clsact qdisc at an interface.
fn filter(program: BorrowedFd<'_>, index: u32, point: TcAttachPoint) -> TcHook {
    TcHookBuilder::new(program).ifindex(index as i32).handle(HANDLE).priority(PRIORITY).hook(point)
}

fn attach_clsact(link: &Link, programs: &Pair) -> Result<()> {
    let attach = |program: &OwnedFd, point, side| -> Result<TcHook> {
        let mut filter = filter(program.as_fd(), link.index, point);
        numbered(filter.create()).with_context(|| format!("add the clsact qdisc to {}", link.name))?;
        numbered(filter.attach()).with_context(|| {
            format!(
                "attach clsact {side} on {} (priority {PRIORITY}, handle {HANDLE:#x}): another filter may hold these",
                link.name
            )
        })
    };
    let mut first = attach(&programs.ingress, TC_INGRESS, "ingress")?;
    if let Err(error) = attach(&programs.egress, TC_EGRESS, "egress") {
        let _ = first.detach();
        return Err(error);
    }
    Ok(())
}
