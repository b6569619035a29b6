//! The kernel measures programs if it is told to.

use std::os::fd::{FromRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;

/// Makes the kernel measure all programs of the host for as long as the value lives (Linux 5.8).
#[derive(Debug)]
pub struct ProgramTiming(#[expect(dead_code, reason = "closing it ends the measurement")] OwnedFd);

impl ProgramTiming {
    /// Starts.
    pub fn start() -> Result<ProgramTiming> {
        // SAFETY: takes no pointers.
        let fd = unsafe { libbpf_sys::bpf_enable_stats(libbpf_sys::BPF_STATS_RUN_TIME) };
        if fd < 0 {
            return Err(Errno::from_raw(-fd)).context("measure the programs");
        }
        // SAFETY: a descriptor that was just opened and nobody else knows.
        Ok(ProgramTiming(unsafe { OwnedFd::from_raw_fd(fd) }))
    }
}
