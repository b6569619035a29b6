//! What one worker owns: its part of the flow table and its sums.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::naming::Namer;
use super::nat::Nat;
use crate::bpf::{Clock, Record};
use crate::flow::{Identity, Limits, Observing, Table};
use crate::metrics::{Aggregates, Processing, SAMPLE, SeriesIndex};
use crate::names::Names;
use crate::sinks::{Feed, Marks, Reporter, Sinks};
use crate::worker::Sink;

/// A worker's state. Others look at it under a short lock.
pub(super) struct Shard {
    pub(super) table: Table<Marks>,
    pub(super) sinks: Sinks,
    pub(super) processing: Processing,
    namer: Namer,
}

impl Shard {
    pub(super) fn new(
        number: usize,
        limits: Limits,
        index: Arc<SeriesIndex>,
        feed: Arc<Feed>,
        names: Option<Arc<Names>>,
        now_ns: u64,
    ) -> Arc<Mutex<Shard>> {
        Arc::new(Mutex::new(Shard {
            table: Table::new(limits, now_ns),
            sinks: Sinks { metrics: Aggregates::new(index), reporter: Reporter::new(feed, number) },
            processing: Processing::new(now_ns),
            namer: Namer::new(names),
        }))
    }

    /// The table, those that surround it, and how long records take.
    pub(super) fn parts(&mut self) -> (&mut Table<Marks>, Observing<'_, Namer, Sinks>, &mut Processing) {
        let Shard { table, sinks, processing, namer } = self;
        (table, Observing { directory: namer, sinks }, processing)
    }
}

/// A worker that panicked has said so; its sums are still true.
pub(super) fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Merges a worker's records into its shard, and those of translated connections into the shard of the connection.
pub(super) struct ShardSink {
    shards: Arc<[Arc<Mutex<Shard>>]>,
    own: usize,
    /// When the worker came by last. Not under the shard's lock: it is to be seen that a worker waits for that.
    ticked_ns: Arc<AtomicU64>,
    nat: Arc<Nat>,
    /// Whose the records are that are being merged, if they have translated addresses.
    identities: Vec<Option<Identity>>,
    /// Of other shards: which, the record's number, whose it is.
    elsewhere: Vec<(usize, usize, Identity)>,
    until_sample: usize,
}

impl ShardSink {
    pub(super) fn new(
        shards: Arc<[Arc<Mutex<Shard>>]>,
        own: usize,
        ticked_ns: Arc<AtomicU64>,
        nat: Arc<Nat>,
    ) -> ShardSink {
        ShardSink { shards, own, ticked_ns, nat, identities: Vec::new(), elsewhere: Vec::new(), until_sample: 0 }
    }

    fn merge_own(&mut self, records: &[Record]) {
        self.nat.identify(self.own, records, &mut self.identities);
        let mut shard = lock(&self.shards[self.own]);
        let (table, mut observing, processing) = shard.parts();
        for (number, record) in records.iter().enumerate() {
            let started = (self.until_sample == 0).then(Instant::now);
            match self.identities.get(number).copied().flatten() {
                None => table.merge(record, &mut observing),
                Some(identity) => match self.nat.spread().ring(&identity.key.ends, identity.key.v6) {
                    ring if ring == self.own => table.merge_as(&identity, record, &mut observing),
                    ring => self.elsewhere.push((ring, number, identity)),
                },
            }
            if let Some(started) = started {
                processing.record(started.elapsed());
                self.until_sample = SAMPLE;
            }
            self.until_sample -= 1;
        }
        shard.sinks.metrics.count_records(records.len() as u64);
    }

    fn merge_elsewhere(&mut self, records: &[Record]) {
        self.elsewhere.sort_by_key(|(ring, ..)| *ring); // stable: records stay in their order
        for same in self.elsewhere.chunk_by(|a, b| a.0 == b.0) {
            // No other lock is held: two workers that hand records to each other do not wait for each other.
            let mut shard = lock(&self.shards[same[0].0]);
            let (table, mut observing, _) = shard.parts();
            for (_, number, identity) in same {
                table.merge_as(identity, &records[*number], &mut observing);
            }
        }
        self.elsewhere.clear();
    }
}

impl Sink for ShardSink {
    fn records(&mut self, records: &[Record]) {
        self.nat.refresh(Clock::now_ns());
        if !records.is_empty() {
            self.merge_own(records);
            self.merge_elsewhere(records);
        }
    }

    fn undecodable(&mut self, count: u64) {
        lock(&self.shards[self.own]).sinks.metrics.count_undecodable(count);
    }

    fn tick(&mut self, now_ns: u64) {
        let mut shard = lock(&self.shards[self.own]);
        let (table, mut observing, processing) = shard.parts();
        if let Some(news) = observing.directory.look() {
            table.name_again(news, now_ns, &mut observing);
        }
        table.expire(now_ns, &mut observing);
        processing.turn(now_ns);
        self.ticked_ns.store(now_ns, Relaxed);
    }
}
