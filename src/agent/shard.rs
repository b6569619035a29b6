//! What one worker owns: its part of the flow table and its sums.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::bpf::Record;
use crate::flow::{Limits, Table};
use crate::metrics::{Aggregates, Processing, SAMPLE, SeriesIndex};
use crate::worker::Sink;

/// A worker's state. Others look at it under a short lock.
pub(super) struct Shard {
    pub(super) table: Table,
    pub(super) aggregates: Aggregates,
    pub(super) processing: Processing,
    pub(super) ticked_ns: u64,
}

impl Shard {
    pub(super) fn new(limits: Limits, index: Arc<SeriesIndex>, now_ns: u64) -> Arc<Mutex<Shard>> {
        Arc::new(Mutex::new(Shard {
            table: Table::new(limits, now_ns),
            aggregates: Aggregates::new(index),
            processing: Processing::new(now_ns),
            ticked_ns: now_ns,
        }))
    }
}

/// A worker that panicked has said so; its sums are still true.
pub(super) fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Merges a worker's records into its shard.
pub(super) struct ShardSink {
    shard: Arc<Mutex<Shard>>,
    until_sample: usize,
}

impl ShardSink {
    pub(super) fn new(shard: Arc<Mutex<Shard>>) -> ShardSink {
        ShardSink { shard, until_sample: 0 }
    }
}

impl Sink for ShardSink {
    fn records(&mut self, records: &[Record]) {
        let mut shard = lock(&self.shard);
        let Shard { table, aggregates, processing, .. } = &mut *shard;
        for record in records {
            if self.until_sample == 0 {
                let start = Instant::now();
                table.merge(record, aggregates);
                processing.record(start.elapsed());
                self.until_sample = SAMPLE;
            } else {
                table.merge(record, aggregates);
            }
            self.until_sample -= 1;
        }
        aggregates.count_records(records.len() as u64);
    }

    fn undecodable(&mut self, count: u64) {
        lock(&self.shard).aggregates.count_undecodable(count);
    }

    fn tick(&mut self, now_ns: u64) {
        let mut shard = lock(&self.shard);
        let Shard { table, aggregates, processing, ticked_ns } = &mut *shard;
        table.expire(now_ns, aggregates);
        processing.turn(now_ns);
        *ticked_ns = now_ns;
    }
}
