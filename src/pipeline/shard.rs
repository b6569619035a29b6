//! What one worker owns: its part of the flow table and its sums.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::naming::Namer;
use super::nat::Nat;
use super::worker::Consumer;
use crate::bpf::{Clock, Record};
use crate::flow::{Identity, Observing, Prepared, Table, TableLimits};
use crate::lock;
use crate::names::Names;
use crate::sinks::metrics::{Processing, SAMPLE};
use crate::sinks::{Marks, Sinks};

/// Records that are looked up together, so that their cache misses overlap.
const TOGETHER: usize = 32;

/// A worker's state. Others read it under a short lock.
pub(super) struct Shard {
    pub(super) table: Table<Marks>,
    pub(super) sinks: Sinks,
    pub(super) processing: Processing,
    namer: Namer,
}

impl Shard {
    pub(super) fn new(limits: TableLimits, sinks: Sinks, names: Option<Arc<Names>>, now_ns: u64) -> Arc<Mutex<Shard>> {
        Arc::new(Mutex::new(Shard {
            table: Table::new(limits, now_ns),
            sinks,
            processing: Processing::new(now_ns),
            namer: Namer::new(names),
        }))
    }

    /// The table, its directory and sinks, and how long records take.
    pub(super) fn parts(&mut self) -> (&mut Table<Marks>, Observing<'_, Namer, Sinks>, &mut Processing) {
        let Shard { table, sinks, processing, namer } = self;
        (table, Observing { directory: namer, sinks }, processing)
    }
}

/// Merges a worker's records into its shard, and those of translated connections into the shard of the connection.
pub struct ShardWorker {
    shards: Arc<[Arc<Mutex<Shard>>]>,
    own: usize,
    /// When the worker ticked last. Not under the shard's lock: a worker that waits for the lock has to be noticed.
    ticked_ns: Arc<AtomicU64>,
    nat: Arc<Nat>,
    /// Connections of the records that are being merged, if any have translated addresses.
    identities: Vec<Option<Identity>>,
    /// The next records; `None` for those that belong to another shard.
    prepared: Vec<Option<Prepared>>,
    /// Records of other shards: the shard, the record's number, its connection.
    elsewhere: Vec<(usize, usize, Identity)>,
    until_sample: usize,
}

impl ShardWorker {
    pub(super) fn new(
        shards: Arc<[Arc<Mutex<Shard>>]>,
        own: usize,
        ticked_ns: Arc<AtomicU64>,
        nat: Arc<Nat>,
    ) -> ShardWorker {
        ShardWorker {
            shards,
            own,
            ticked_ns,
            nat,
            identities: Vec::new(),
            prepared: Vec::new(),
            elsewhere: Vec::new(),
            until_sample: 0,
        }
    }

    fn merge_own(&mut self, records: &[Record]) {
        self.nat.identify(self.own, records, &mut self.identities);
        let mut shard = lock::ignoring_poison(&self.shards[self.own]);
        let (table, mut observing, processing) = shard.parts();
        for (first, records) in (0..).step_by(TOGETHER).zip(records.chunks(TOGETHER)) {
            let sampled = (self.until_sample < records.len()).then(Instant::now);
            self.prepared.clear();
            for number in first..first + records.len() {
                let identity = match self.identities.get(number).copied().flatten() {
                    None => Identity::of(&records[number - first]),
                    Some(identity) => match self.nat.spread().ring(&identity.key.ends, identity.key.v6) {
                        ring if ring == self.own => identity,
                        ring => {
                            self.elsewhere.push((ring, number, identity));
                            self.prepared.push(None);
                            continue;
                        }
                    },
                };
                self.prepared.push(Some(table.prepare(identity)));
            }
            table.look_for(&mut self.prepared);
            let preparing = sampled.map(|started| started.elapsed() / records.len() as u32);
            for (record, prepared) in records.iter().zip(&self.prepared) {
                let started = (self.until_sample == 0).then(Instant::now);
                if let Some(prepared) = prepared {
                    table.merge_prepared(prepared, record, &mut observing);
                }
                if let Some(started) = started {
                    processing.record(started.elapsed() + preparing.unwrap_or_default());
                    self.until_sample = SAMPLE;
                }
                self.until_sample -= 1;
            }
        }
        shard.sinks.metrics.count_records(records.len() as u64);
    }

    fn merge_elsewhere(&mut self, records: &[Record]) {
        self.elsewhere.sort_by_key(|(ring, ..)| *ring); // stable: records stay in their order
        for same in self.elsewhere.chunk_by(|a, b| a.0 == b.0) {
            // No other lock is held, so that two workers that hand records to each other do not wait for each other.
            let mut shard = lock::ignoring_poison(&self.shards[same[0].0]);
            let (table, mut observing, _) = shard.parts();
            for (_, number, identity) in same {
                table.merge_as(identity, &records[*number], &mut observing);
            }
        }
        self.elsewhere.clear();
    }
}

impl Consumer for ShardWorker {
    fn records(&mut self, records: &[Record]) {
        self.nat.refresh(Clock::now_ns());
        if !records.is_empty() {
            self.merge_own(records);
            self.merge_elsewhere(records);
        }
    }

    fn undecodable(&mut self, count: u64) {
        lock::ignoring_poison(&self.shards[self.own]).sinks.metrics.count_undecodable(count);
    }

    fn tick(&mut self, now_ns: u64) {
        let mut shard = lock::ignoring_poison(&self.shards[self.own]);
        let (table, mut observing, processing) = shard.parts();
        if let Some(news) = observing.directory.look() {
            table.name_again(news, now_ns, &mut observing);
        }
        table.expire(now_ns, &mut observing);
        processing.turn(now_ns);
        shard.sinks.spotter.tick(now_ns);
        self.ticked_ns.store(now_ns, Relaxed);
    }
}
