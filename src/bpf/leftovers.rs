//! What a killed agent leaves behind: clsact filters. TCX links vanish with their owner.

use std::os::fd::AsFd;

use anyhow::{Context, Result};
use libbpf_rs::{ProgramHandle, TC_EGRESS, TC_INGRESS, TcHookBuilder};

use super::attach::{HANDLE, PRIORITY};
use super::links::list_links;

/// Removes filters of an earlier agent from all interfaces; returns how many. Only what has our handle, our priority and
/// a program of our name is touched; the qdisc stays, others may use it.
pub fn remove_leftovers() -> Result<usize> {
    let mut removed = 0;
    // A descriptor has to be given; neither the look nor the removal uses it.
    let any = std::io::stderr();
    for link in list_links()? {
        for point in [TC_INGRESS, TC_EGRESS] {
            let mut hook = TcHookBuilder::new(any.as_fd())
                .ifindex(link.index as i32)
                .handle(HANDLE)
                .priority(PRIORITY)
                .hook(point);
            let Ok(id) = hook.query() else { continue };
            let ours = ProgramHandle::from_prog_id(id).is_ok_and(|p| p.name().to_string_lossy().starts_with("nm_"));
            if ours {
                hook.detach().with_context(|| format!("remove a filter of an earlier agent from {}", link.name))?;
                removed += 1;
            }
        }
    }
    Ok(removed)
}
