//! Which share of the flows the programs track.

use std::mem::offset_of;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::mapped::Mapped;
use super::skel::types::nm_cpu;

/// Tells the running programs which share of the flows to track.
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

    /// From the next packet on, `rate` of all flows: above 0, at most 1. Which ones those are is the same for every rate: a lower
    /// one takes a part of those of a higher one.
    pub fn set(&self, rate: f64) {
        let sample = if rate >= 1.0 { 0 } else { ((rate * 2f64.powi(32)) as u32).max(1) };
        self.rate.store(rate.to_bits(), Relaxed);
        for cpu in 0..self.cpus {
            self.state.store(cpu, offset_of!(nm_cpu, sample), sample);
        }
    }

    /// The share, as it was set last.
    pub fn rate(&self) -> f64 {
        f64::from_bits(self.rate.load(Relaxed))
    }
}
