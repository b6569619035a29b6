//! The way of the records without the agent's threads, for benchmarks.

use std::sync::Arc;

use anyhow::Result;

use super::names::NamesSource;
use super::served::Served;
use super::start::{Owners, build};
use crate::bpf::{Bpf, Clock, Record, RingReader};
use crate::clients::Clients;
use crate::config::{Config, Settings, Sources};
use crate::metrics::{Build, MetricsPage, Snapshot, Source};
use crate::pipeline::{ShardWorker, worker};
use crate::threads::Threads;

/// The workers of an agent as one value that the calling thread runs: it does what they do, when it is asked to.
pub struct Inline {
    served: Arc<Served>,
    build: Build,
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
        let owners = Owners::new(Settings::of(config.clone()), Sources::default(), bpf, rings.len(), None)?;
        let worker = |(i, ring): (usize, &crate::bpf::Ring)| Ok((ring.reader(bpf.clock())?, owners.pipeline.worker(i)));
        let workers = rings.iter().enumerate().map(worker).collect::<Result<_>>()?;
        let (threads, _) = Threads::new();
        let served = owners.served(config, Clients::default(), &NamesSource::default(), &threads);
        Ok(Inline { served: Arc::new(served), build: build(config), workers, records: Vec::new() })
    }

    /// Merges all that waits in the rings; how many records that was.
    pub fn drain(&mut self) -> u64 {
        let Inline { workers, records, .. } = self;
        workers.iter_mut().map(|(reader, consumer)| worker::drain(reader, records, consumer, Clock::now_ns)).sum()
    }

    /// What a scrape would find; `None` without rings.
    pub fn snapshot(&self) -> Option<Snapshot> {
        self.served.snapshot()
    }

    /// Does something while all workers are stuck with what they have in hand.
    pub fn stuck<T>(&self, act: impl FnOnce() -> T) -> T {
        self.served.pipeline.while_stuck(act)
    }

    /// The pages over it.
    pub fn page(&self) -> MetricsPage {
        let source = Arc::clone(&self.served) as Arc<dyn Source>;
        MetricsPage::new(source, Arc::clone(self.served.pipeline.series()), self.build.clone())
    }
}
