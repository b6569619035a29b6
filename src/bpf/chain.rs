//! The programs of an interface that run before ours: they may drop a packet or redirect it.

use std::collections::BTreeSet;
use std::io::Error as IoError;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use libbpf_rs::ProgramHandle;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use super::hooks::{Mode, PRIORITY};
use super::netlink::dump;
use super::route::Route;

/// Programs read for each hook; the kernel allows 64 (BPF_MPROG_MAX).
const MOST: usize = 64;

/// Names of the programs that see the packets of an interface before ours, for ingress and egress.
pub(super) fn before(index: u32, mode: Mode, ours: &[u32]) -> Result<[Vec<String>; 2]> {
    let hook = |attach_type, parent| -> Result<Vec<String>> {
        let chain = tcx_chain(index, attach_type)?;
        let first = chain.iter().take_while(|id| !ours.contains(id)).map(|&id| program_name(id));
        Ok(match mode {
            Mode::Tcx => first.collect(),
            // All TCX programs run before all clsact filters.
            Mode::Clsact => first.chain(filters_before(index, parent)?).collect(),
        })
    };
    let clsact = |minor| TcHandle { major: u16::MAX, minor };
    Ok([
        hook(libbpf_sys::BPF_TCX_INGRESS, clsact(TC_H_MIN_INGRESS))?,
        hook(libbpf_sys::BPF_TCX_EGRESS, clsact(TC_H_MIN_EGRESS))?,
    ])
}

/// include/uapi/linux/pkt_sched.h
pub(super) const TC_H_MIN_INGRESS: u16 = 0xfff2;
pub(super) const TC_H_MIN_EGRESS: u16 = 0xfff3;

/// What the kernel reports about a program.
pub(super) fn program_info(program: &impl AsRawFd) -> Result<libbpf_sys::bpf_prog_info> {
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut size = size_of_val(&info) as u32;
    // SAFETY: `info` is as large as `size` says.
    let err = unsafe { libbpf_sys::bpf_prog_get_info_by_fd(program.as_raw_fd(), &mut info, &mut size) };
    anyhow::ensure!(err == 0, "read the properties of a program: {}", IoError::from_raw_os_error(-err));
    Ok(info)
}

fn program_name(id: u32) -> String {
    let name = ProgramHandle::from_prog_id(id).map(|program| program.name().to_string_lossy().into_owned());
    match name {
        Ok(name) if !name.is_empty() => format!("{name} (id {id})"),
        _ => format!("id {id}"),
    }
}

/// Ids of the programs in the order in which they run; none on a kernel without TCX.
pub(super) fn tcx_chain(index: u32, attach_type: libbpf_sys::bpf_attach_type) -> Result<Vec<u32>> {
    let mut ids = vec![0; MOST];
    let mut options = libbpf_sys::bpf_prog_query_opts {
        sz: size_of::<libbpf_sys::bpf_prog_query_opts>() as _,
        prog_ids: ids.as_mut_ptr(),
        ..Default::default()
    };
    options.__bindgen_anon_1.count = MOST as u32;
    // SAFETY: room for as many ids as `count` says; both outlive the call.
    let err = unsafe { libbpf_sys::bpf_prog_query_opts(index as i32, attach_type, &mut options) };
    match Errno::from_raw(-err) {
        _ if err >= 0 => {}
        Errno::EINVAL | Errno::ENOENT | Errno::ENODEV => return Ok(Vec::new()),
        errno => return Err(errno).context("read the programs of an interface"),
    }
    // SAFETY: the kernel has set the count.
    ids.truncate(unsafe { options.__bindgen_anon_1.count } as usize);
    Ok(ids)
}

/// Filters of clsact with a smaller priority number than ours.
fn filters_before(index: u32, parent: TcHandle) -> Result<Vec<String>> {
    let mut request = TcMessage::default();
    request.header.family = AddressFamily::Unspec;
    request.header.index = index as i32;
    request.header.parent = parent;
    let found = dump(Route(RouteNetlinkMessage::GetTrafficFilter(request)), |message| {
        let RouteNetlinkMessage::NewTrafficFilter(message) = message.0 else { return None };
        let priority = message.header.info >> 16;
        let kind = message.attributes.iter().find_map(|attribute| match attribute {
            TcAttribute::Kind(kind) => Some(kind.clone()),
            _ => None,
        });
        (priority < PRIORITY).then(|| format!("{} filter of priority {priority}", kind.unwrap_or_default()))
    });
    // The kernel lists each filter twice: as an element of the chain, and by itself.
    let found: BTreeSet<String> = found.context("read the filters of an interface")?.into_iter().collect();
    Ok(found.into_iter().collect())
}
