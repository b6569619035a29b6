//! Removes what a killed agent leaves behind: clsact filters on the host and in the pods it watched. TCX links vanish with their
//! owner.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, anyhow};
use libbpf_rs::{MapCore, MapFlags, MapHandle, ProgramHandle};

use super::hooks::{filter, program_in_place};
use super::links::read_links;
use super::namespaces::{Namespace, list_namespaces, own_namespace};
use super::record::Hook;
use super::skel::types::rodata;

/// Removes the filters of earlier agents of this network namespace, wherever they are, and returns how many. Touches only filters
/// with our handle, our priority and a program of our name; the qdisc stays, because others may use it.
///
/// # Errors
///
/// Interfaces or namespaces cannot be listed, or a filter cannot be removed.
pub fn remove_leftovers() -> Result<usize> {
    let home = own_namespace()?;
    // Here, nobody else can have added them.
    let mut removed = remove_here(|_| true)?;
    // In other namespaces they may belong to an agent that runs in yet another one.
    let is_ours = move |program| home_of(program) == Some(home);
    // On a separate thread: a thread that cannot return to its namespace must not continue.
    let thread = std::thread::Builder::new().name("nm-leftovers".to_owned()).spawn(move || {
        let namespaces = list_namespaces()?;
        Ok(namespaces.values().map(|there| remove_there(there, is_ours)).sum::<usize>())
    });
    let beyond: Result<usize> = thread.context("start a thread")?.join().map_err(|_| anyhow!("a thread panicked"))?;
    removed += beyond?;
    Ok(removed)
}

fn remove_there(namespace: &Namespace, is_ours: impl Fn(u32) -> bool) -> usize {
    match namespace.within(|| remove_here(is_ours)) {
        Ok(Some(Ok(removed))) => removed,
        // The namespace has gone, and its filters with it.
        Ok(None) => 0,
        // Without CAP_SYS_ADMIN, no earlier agent has added any there either.
        Ok(Some(Err(error))) | Err(error) => {
            log::debug!("look for filters of an earlier agent in {}: {error:#}", namespace.name);
            0
        }
    }
}

fn remove_here(is_ours: impl Fn(u32) -> bool) -> Result<usize> {
    let mut removed = 0;
    // A descriptor has to be passed; neither query nor removal uses it.
    let any = std::io::stderr();
    for link in read_links()? {
        for hook in [Hook::Ingress, Hook::Egress] {
            let Ok(Some(id)) = program_in_place(any.as_fd(), link.index, hook) else { continue };
            let is_named = ProgramHandle::from_prog_id(id).is_ok_and(|p| p.name().to_string_lossy().starts_with("nm_"));
            if is_named && is_ours(id) {
                let removal = filter(any.as_fd(), link.index, hook).detach();
                removal.with_context(|| format!("remove a filter of an earlier agent from {}", link.name))?;
                removed += 1;
            }
        }
    }
    Ok(removed)
}

/// The inode of the network namespace of the agent that loaded a program of ours; `None` if that cannot be read.
fn home_of(program: u32) -> Option<u64> {
    // SAFETY: takes no pointers.
    let fd = unsafe { libbpf_sys::bpf_prog_get_fd_by_id(program) };
    if fd < 0 {
        return None;
    }
    // SAFETY: a descriptor that was just opened and that nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut maps = [0u32; 64];
    let mut info = libbpf_sys::bpf_prog_info {
        nr_map_ids: maps.len() as u32,
        map_ids: maps.as_mut_ptr() as u64,
        ..Default::default()
    };
    let mut size = size_of_val(&info) as u32;
    // SAFETY: `info` is as large as `size` says, and there is room for as many ids as it says.
    let err = unsafe { libbpf_sys::bpf_prog_get_info_by_fd(fd.as_raw_fd(), &mut info, &mut size) };
    if err < 0 {
        return None;
    }
    let maps = maps.iter().take(info.nr_map_ids as usize).filter_map(|id| MapHandle::from_map_id(*id).ok());
    let constants = maps.into_iter().find(|map| map.name().to_string_lossy().ends_with(".rodata"))?;
    let value = constants.lookup(&0u32.to_ne_bytes(), MapFlags::ANY).ok()??;
    // A program of another version may have something else there, but not the number of a namespace.
    let at = std::mem::offset_of!(rodata, nm_home);
    Some(u64::from_ne_bytes(value.get(at..at + size_of::<u64>())?.try_into().ok()?))
}
