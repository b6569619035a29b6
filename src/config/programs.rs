//! What the configuration means for the programs in the kernel.

use std::time::Duration;

use super::{Config, Precision};
use crate::bpf::ProgramOptions;

/// A cached entry that had no packet for this long leaves the kernel.
const CACHE_IDLE: Duration = Duration::from_secs(1);
/// A busy one reports this often.
const CACHE_REPORT: Duration = Duration::from_secs(2);
/// Seconds; longer than a TCP sender waits before it repeats a segment, in all but the worst of times.
const CACHE_FORGET: u32 = 30;
/// Between two RTT probes of one direction of a connection.
const PROBE_EVERY: Duration = Duration::from_secs(1);

impl Config {
    /// How the programs are loaded on a host with so many possible CPUs.
    pub fn program_options(&self, possible_cpus: usize) -> ProgramOptions {
        ProgramOptions {
            rings: self.workers,
            ring_records: self.ring_records(),
            batch: self.batch_size,
            cache_slots: self.cache_slots(possible_cpus),
            idle: CACHE_IDLE,
            report: CACHE_REPORT,
            forget: CACHE_FORGET,
            timestamps: self.features.timestamps,
            latency: self.features.latency.map(|precision| match precision {
                Precision::Normal => PROBE_EVERY,
                Precision::High => Duration::ZERO,
            }),
            apps: self.features.apps.clone(),
            decapsulation: self.features.decapsulation,
            injected: false,
        }
    }
}
