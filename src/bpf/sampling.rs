//! Sets which share of the flows the programs track.

use std::mem::offset_of;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::mapped::Mapped;
use super::skel::types::nm_cpu;

/// Sets which share of the flows the running programs track.
#[derive(Debug)]
pub struct Sampler {
    state: Mapped<nm_cpu>,
    cpus: usize,
    rate: AtomicU64,
}

impl Sampler {
    pub(super) fn new(state: Mapped<nm_cpu>, cpus: usize) -> Sampler {
        Sampler { state, cpus, rate: AtomicU64::new(1f64.to_bits()) }
    }

    /// From the next packet on, tracks the share `rate` of all flows, which must be above 0 and at most 1. The flows of a lower
    /// rate are always a subset of those of a higher one.
    pub fn set(&self, rate: f64) {
        let sample = if rate >= 1.0 { 0 } else { ((rate * 2f64.powi(32)) as u32).max(1) };
        self.rate.store(rate.to_bits(), Relaxed);
        for cpu in 0..self.cpus {
            self.state.store(cpu, offset_of!(nm_cpu, sample), sample);
        }
    }

    /// The share that was set last.
    pub fn rate(&self) -> f64 {
        f64::from_bits(self.rate.load(Relaxed))
    }
}
