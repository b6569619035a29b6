//! Attaches programs by TCX links, to a limited number of interfaces.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use anyhow::Result;

use super::chain::before;
use super::hooks::{Kept, Mode, failed};
use super::programs::{Pair, Program};
use super::record::Hook;

/// Interfaces that are attached by TCX although nobody else is. To make or close a link, the kernel waits for an RCU grace period
/// while it holds the lock of all interfaces (`tcx_entry_sync` in include/net/tcx.h): with a thousand interfaces the agent would
/// take half a minute to start, and again to stop. Filters of clsact take no such time.
const MOST: usize = 32;

/// The number of interfaces that are attached by TCX.
#[derive(Clone, Debug, Default)]
pub(super) struct TcxUse(Arc<AtomicUsize>);

impl TcxUse {
    /// Whether another one may be attached by TCX without need.
    pub(super) fn has_room(&self) -> bool {
        self.0.load(Relaxed) < MOST
    }
}

/// The links at an interface, for each hook. The kernel detaches the programs when they are dropped.
pub(super) struct TcxLinks {
    links: [OwnedFd; 2],
    used: TcxUse,
}

impl TcxLinks {
    /// Attaches programs to both hooks.
    pub(super) fn put(index: u32, programs: &Pair, used: &TcxUse) -> Result<TcxLinks> {
        let ingress = add_tcx(index, Hook::Ingress, &programs.ingress)?;
        Ok(TcxLinks::new([ingress, add_tcx(index, Hook::Egress, &programs.egress)?], used))
    }

    pub(super) fn new(links: [OwnedFd; 2], used: &TcxUse) -> TcxLinks {
        used.0.fetch_add(1, Relaxed);
        TcxLinks { links, used: used.clone() }
    }

    /// Makes sure that a hook has this program.
    pub(super) fn keep(&mut self, index: u32, hook: Hook, program: &Program) -> Result<Kept> {
        let link = &mut self.links[hook as usize];
        let mut info = libbpf_sys::bpf_link_info::default();
        let mut size = size_of_val(&info) as u32;
        // SAFETY: `info` is as large as `size` says.
        let err = unsafe { libbpf_sys::bpf_link_get_info_by_fd(link.as_raw_fd(), &mut info, &mut size) };
        if err < 0 {
            return Err(failed(err).context("read the state of a tcx link"));
        }
        // SAFETY: the link is of this type. A detached one has no interface.
        let lost = unsafe { info.__bindgen_anon_1.tcx.ifindex } == 0;
        if lost {
            let result = add_tcx(index, hook, program).map(|added| *link = added);
            return Ok(Kept { lost, result });
        }
        if info.prog_id != program.id {
            // SAFETY: two open descriptors; no options.
            let err = unsafe { libbpf_sys::bpf_link_update(link.as_raw_fd(), program.as_raw_fd(), std::ptr::null()) };
            if err < 0 {
                return Err(failed(err).context(format!("update the tcx {} link", hook.name())));
            }
        }
        Ok(Kept { lost, result: Ok(()) })
    }
}

impl Drop for TcxLinks {
    fn drop(&mut self) {
        self.used.0.fetch_sub(1, Relaxed);
    }
}

/// Whether others see the packets of the interface before a filter of ours would: TCX programs, or filters of higher priority.
pub(super) fn has_others_ahead(index: u32) -> Result<bool> {
    Ok(before(index, Mode::Clsact, &[])?.iter().any(|programs| !programs.is_empty()))
}

/// Attaches a program to the head of the chain of a hook.
pub(super) fn add_tcx(index: u32, hook: Hook, program: &Program) -> Result<OwnedFd> {
    let point = match hook {
        Hook::Ingress => libbpf_sys::BPF_TCX_INGRESS,
        Hook::Egress => libbpf_sys::BPF_TCX_EGRESS,
    };
    let options = libbpf_sys::bpf_link_create_opts {
        sz: size_of::<libbpf_sys::bpf_link_create_opts>() as _,
        // At the head, so that packets are seen before another program can end the chain.
        flags: libbpf_sys::BPF_F_BEFORE,
        ..Default::default()
    };
    // SAFETY: an open program; the options outlive the call.
    let fd = unsafe { libbpf_sys::bpf_link_create(program.as_raw_fd(), index as i32, point, &options) };
    if fd < 0 {
        return Err(failed(fd).context(format!("attach tcx {}", hook.name())));
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
