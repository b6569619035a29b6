//! Switches on the kernel's measurement of BPF programs.

use std::os::fd::{FromRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;

/// While a value exists, the kernel measures the run time of all BPF programs of the host (Linux 5.8).
#[derive(Debug)]
pub struct ProgramTiming(#[expect(dead_code, reason = "closing it ends the measurement")] OwnedFd);

impl ProgramTiming {
    /// Starts the measurement.
    ///
    /// # Errors
    ///
    /// The kernel refuses: it is older than Linux 5.8, or a privilege is missing.
    pub fn start() -> Result<ProgramTiming> {
        // SAFETY: takes no pointers.
        let fd = unsafe { libbpf_sys::bpf_enable_stats(libbpf_sys::BPF_STATS_RUN_TIME) };
        if fd < 0 {
            return Err(Errno::from_raw(-fd)).context("measure the programs");
        }
        // SAFETY: a descriptor that was just opened and that nobody else owns.
        Ok(ProgramTiming(unsafe { OwnedFd::from_raw_fd(fd) }))
    }
}
