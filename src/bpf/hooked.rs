//! Lists every program that sees the packets of an interface, no matter who attached it.

use std::io::Error as IoError;
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use libbpf_rs::ProgramHandle;
use netlink_packet_route::tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::chain::{TC_H_MIN_EGRESS, TC_H_MIN_INGRESS, program_info, tcx_chain};
use super::hooks::{HANDLE, PRIORITY};
use super::netlink::dump;
use super::record::Hook;
use super::route::Route;

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChainPlace {
    /// In the driver or directly after it, before all of TC.
    Xdp,
    /// In a chain of TCX links, at this position; the first is 0.
    Tcx(usize),
    /// A filter of the clsact qdisc with this priority.
    Clsact(u32),
}

/// A program, or a filter of another kind, that sees the packets of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hooked {
    /// The hook of the interface.
    pub hook: Hook,
    /// Where at that hook.
    pub place: ChainPlace,
    /// Name of the program, or kind of the filter.
    pub name: String,
    /// Id of the program, if it is one.
    pub id: Option<u32>,
    /// Id of the user who loaded the program, if known.
    pub loaded_by: Option<u32>,
    /// Whether it is netmon's.
    pub ours: bool,
}

/// All programs of an interface, in the order in which they see a packet, first those at ingress.
///
/// # Errors
///
/// The kernel refuses a list.
pub fn list_hooked(index: u32) -> Result<Vec<Hooked>> {
    let mut found = Vec::new();
    if let Some(id) = xdp(index)? {
        found.push(program(Hook::Ingress, ChainPlace::Xdp, id));
    }
    let sides = [
        (Hook::Ingress, libbpf_sys::BPF_TCX_INGRESS, TC_H_MIN_INGRESS),
        (Hook::Egress, libbpf_sys::BPF_TCX_EGRESS, TC_H_MIN_EGRESS),
    ];
    for (hook, attach_type, minor) in sides {
        let chain = tcx_chain(index, attach_type)?;
        found.extend(chain.into_iter().enumerate().map(|(at, id)| program(hook, ChainPlace::Tcx(at), id)));
        found.extend(filters(index, hook, TcHandle { major: u16::MAX, minor })?);
    }
    Ok(found)
}

fn program(hook: Hook, place: ChainPlace, id: u32) -> Hooked {
    let handle = ProgramHandle::from_prog_id(id);
    let name = handle.as_ref().map(|handle| handle.name().to_string_lossy().into_owned()).unwrap_or_default();
    let loaded_by = handle.ok().and_then(|handle| Some(program_info(&handle.as_fd()).ok()?.created_by_uid));
    let ours = place != ChainPlace::Xdp && is_our_name(&name);
    Hooked { hook, place, name, id: Some(id), loaded_by, ours }
}

fn is_our_name(name: &str) -> bool {
    name.starts_with("nm_both") || name.starts_with("nm_ingress") || name.starts_with("nm_egress")
}

fn xdp(index: u32) -> Result<Option<u32>> {
    let mut id = 0;
    // SAFETY: writes one id.
    let err = unsafe { libbpf_sys::bpf_xdp_query_id(index as i32, 0, &mut id) };
    match nix::errno::Errno::from_raw(-err) {
        _ if err >= 0 => Ok((id != 0).then_some(id)),
        // The interface has gone meanwhile.
        nix::errno::Errno::ENODEV => Ok(None),
        errno => Err(IoError::from(errno)).context("read the XDP program of an interface"),
    }
}

fn filters(index: u32, hook: Hook, parent: TcHandle) -> Result<Vec<Hooked>> {
    let mut request = TcMessage::default();
    request.header.family = AddressFamily::Unspec;
    request.header.index = index as i32;
    request.header.parent = parent;
    let found = dump(Route(RouteNetlinkMessage::GetTrafficFilter(request)), |message| match message.0 {
        RouteNetlinkMessage::NewTrafficFilter(message) => filter(hook, &message),
        _ => None,
    });
    let mut found = found.context("read the filters of an interface")?;
    found.sort_by_key(|filter| match filter.place {
        ChainPlace::Clsact(priority) => priority,
        _ => 0,
    });
    Ok(found)
}

/// `None` for an element of the chain, which the kernel lists in addition to the filters in it.
fn filter(hook: Hook, message: &TcMessage) -> Option<Hooked> {
    let handle = u32::from(message.header.handle);
    let priority = message.header.info >> 16;
    let (mut kind, mut name, mut id) = (String::new(), None, None);
    for attribute in &message.attributes {
        match attribute {
            TcAttribute::Kind(text) => kind.clone_from(text),
            TcAttribute::Options(options) => {
                for option in options {
                    match option {
                        TcOption::Bpf(TcFilterBpfOption::ProgId(number)) => id = Some(*number),
                        TcOption::Bpf(TcFilterBpfOption::ProgName(text)) => name = Some(text.clone()),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if handle == 0 {
        return None;
    }
    let place = ChainPlace::Clsact(priority);
    let Some(id) = id else {
        return Some(Hooked { hook, place, name: format!("{kind} filter"), id, loaded_by: None, ours: false });
    };
    let mut hooked = program(hook, place, id);
    if hooked.name.is_empty() {
        hooked.name = name.unwrap_or_default();
    }
    hooked.ours &= handle == HANDLE && priority == PRIORITY;
    Some(hooked)
}
