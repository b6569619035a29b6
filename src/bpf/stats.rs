//! What the kernel measures of programs, if it is told to.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;

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
        self.0
            .iter()
            .filter_map(|(name, fd)| {
                let mut info = libbpf_sys::bpf_prog_info::default();
                let mut size = size_of_val(&info) as u32;
                // SAFETY: `info` is as large as `size` says.
                let err = unsafe { libbpf_sys::bpf_prog_get_info_by_fd(fd.as_raw_fd(), &mut info, &mut size) };
                (err == 0 && info.run_cnt > 0).then(|| ProgramStats {
                    name: name.clone(),
                    runs: info.run_cnt,
                    run_ns: info.run_time_ns,
                })
            })
            .collect()
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
