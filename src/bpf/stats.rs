//! What the kernel measures of programs, if it is told to.

use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;

use super::objects::{self, ProgramInfo};

/// Runs of a program and their time (`sysctl kernel.bpf_stats_enabled=1`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramStats {
    /// Name.
    pub name: String,
    /// Times it ran.
    pub runs: u64,
    /// Time it took in all.
    pub run_ns: u64,
}

/// Reads [`ProgramStats`].
#[derive(Debug)]
pub struct ProgramStatsReader(Vec<(String, OwnedFd)>);

impl ProgramStatsReader {
    pub(super) fn new(programs: Vec<(String, OwnedFd)>) -> ProgramStatsReader {
        ProgramStatsReader(programs)
    }

    /// Of the programs that were measured at all.
    pub fn read(&self) -> Vec<ProgramStats> {
        let measured = self.infos().into_iter().filter(|info| info.runs > 0);
        measured.map(|info| ProgramStats { name: info.name, runs: info.runs, run_ns: info.run_ns }).collect()
    }

    /// What the kernel says of each program.
    pub fn infos(&self) -> Vec<ProgramInfo> {
        self.0.iter().filter_map(|(name, fd)| objects::program(name, fd.as_fd())).collect()
    }
}

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
