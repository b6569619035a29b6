//! The way of the records without the agent's threads, for benchmarks.

use std::sync::Arc;

use anyhow::Result;

use super::live::Live;
use super::names::Naming;
use super::shard::{ShardSink, lock};
use super::shared::Shared;
use super::{build, telling};
use crate::bpf::{Bpf, Clock, Record, RingReader};
use crate::config::{Config, Settings, Sources};
use crate::metrics::{MetricsPage, SeriesIndex, Snapshot, Source};
use crate::worker;

/// The workers of an agent as one value that the calling thread runs: it does what they do, when it is told to.
pub struct Inline {
    shared: Arc<Shared>,
    index: Arc<SeriesIndex>,
    build: crate::metrics::Build,
    workers: Vec<(RingReader, ShardSink)>,
    records: Vec<Record>,
}

impl Inline {
    /// Takes the rings of `bpf`.
    pub fn new(config: &Config, bpf: &mut Bpf<'_>) -> Result<Inline> {
        let rings = bpf.take_rings();
        let index =
            Arc::new(SeriesIndex::new(config.series_limit, config.features.buckets.clone(), telling(config, None)));
        let live = Live::new(Settings::of(config.clone()), Sources::default(), bpf)?;
        let shared = Arc::new(Shared::new(live, bpf, Arc::clone(&index), &Naming::default(), rings.len())?);
        let workers = rings
            .iter()
            .enumerate()
            .map(|(i, ring)| Ok((ring.reader(bpf.clock())?, shared.sink(i))))
            .collect::<Result<_>>()?;
        Ok(Inline { shared, index, build: build(config), workers, records: Vec::new() })
    }

    /// Merges all that waits in the rings; how many records that was.
    pub fn drain(&mut self) -> u64 {
        let Inline { workers, records, .. } = self;
        workers.iter_mut().map(|(reader, sink)| worker::drain(reader, records, sink, Clock::now_ns)).sum()
    }

    /// What a scrape would find; `None` without rings.
    pub fn snapshot(&self) -> Option<Snapshot> {
        self.shared.snapshot()
    }

    /// Does something while all workers are stuck with what they have in hand.
    pub fn stuck<T>(&self, f: impl FnOnce() -> T) -> T {
        let _held: Vec<_> = self.shared.shards().iter().map(|shard| lock(shard)).collect();
        f()
    }

    /// The pages over it.
    pub fn page(&self) -> MetricsPage {
        let source = Arc::clone(&self.shared) as Arc<dyn Source>;
        MetricsPage::new(source, Arc::clone(&self.index), self.build.clone())
    }
}
