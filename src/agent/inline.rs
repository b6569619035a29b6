//! The path of the records without the agent's threads, for benchmarks.

use std::sync::Arc;

use anyhow::Result;

use super::figures::figures;
use super::names::NamesSource;
use super::report::Report;
use super::served::Served;
use super::start::Owners;
use crate::bpf::{Bpf, Clock, Record, RingReader};
use crate::clients::Clients;
use crate::config::{Config, Settings, Sources};
use crate::pipeline::{ShardWorker, worker};
use crate::sinks::metrics::{MetricsPage, Reading, Source};
use crate::threads::Threads;

/// The workers of an agent as one value, which the calling thread runs when it wants to.
pub struct Inline {
    served: Arc<Served>,
    workers: Vec<(RingReader, ShardWorker)>,
    records: Vec<Record>,
}

impl Inline {
    /// Takes the rings of `bpf`.
    ///
    /// # Errors
    ///
    /// The kernel refuses to share a map or a ring.
    pub fn new(config: &Config, bpf: &mut Bpf<'_>) -> Result<Inline> {
        let rings = bpf.take_rings();
        let (threads, _) = Threads::new();
        let owners = Owners::new(Settings::of(config.clone()), Sources::default(), bpf, rings.len(), None, &threads)?;
        let worker = |(i, ring): (usize, &crate::bpf::Ring)| Ok((ring.reader(bpf.clock())?, owners.pipeline.worker(i)));
        let workers = rings.iter().enumerate().map(worker).collect::<Result<_>>()?;
        let served = owners.served(config, Clients::default(), None, &NamesSource::default(), &threads);
        Ok(Inline { served: Arc::new(served), workers, records: Vec::new() })
    }

    /// Merges all that waits in the rings; how many records that was.
    pub fn drain(&mut self) -> u64 {
        let Inline { workers, records, .. } = self;
        workers.iter_mut().map(|(reader, consumer)| worker::drain(reader, records, consumer, Clock::now_ns)).sum()
    }

    /// What the workers hold; `None` without rings.
    pub fn reading(&self) -> Option<Reading> {
        self.served.read()
    }

    /// The books as they stand; what is in caches and rings is missing.
    pub fn report(&self) -> Report {
        self.served.report()
    }

    /// Runs `act` while all workers are stuck.
    pub fn stuck<T>(&self, act: impl FnOnce() -> T) -> T {
        self.served.pipeline.while_stuck(act)
    }

    /// The pages over it.
    pub fn page(&self) -> MetricsPage {
        MetricsPage::new(Arc::clone(&self.served), figures())
    }
}
