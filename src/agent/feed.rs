//! Tells whoever watches of flows that start and end.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, ensure};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::naming::Namer;
use crate::bpf::{Record, Sample};
use crate::flow::{ErrorKind, Flow, Named, Observer, Outcome, Status};
use crate::metrics::Aggregates;

/// Watchers at a time.
const WATCHERS: usize = 8;
/// Events that wait for one of them.
const WAITING: usize = 8192;

/// What happened to a flow, and the shard that has it.
#[derive(Clone, Debug)]
pub(super) struct Happened {
    pub(super) event: &'static str,
    pub(super) shard: usize,
    pub(super) flow: Flow,
}

struct Watcher {
    events: Sender<Happened>,
    lost: Arc<AtomicU64>,
}

/// Where events go.
#[derive(Default)]
pub(super) struct Feed {
    any: AtomicBool,
    watchers: Mutex<Vec<Watcher>>,
}

impl Feed {
    /// Events from now on; and how many found no room.
    pub(super) fn watch(&self) -> Result<(Receiver<Happened>, Arc<AtomicU64>)> {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(watchers.len() < WATCHERS, "{WATCHERS} watch already: end one of them");
        let (events, received) = bounded(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        watchers.push(Watcher { events, lost: Arc::clone(&lost) });
        self.any.store(true, Relaxed);
        Ok((received, lost))
    }

    fn tell(&self, event: &'static str, shard: usize, flow: &Flow) {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|watcher| {
            match watcher.events.try_send(Happened { event, shard, flow: flow.clone() }) {
                Ok(()) => true,
                // A worker waits for nobody.
                Err(TrySendError::Full(_)) => {
                    watcher.lost.fetch_add(1, Relaxed);
                    true
                }
                Err(TrySendError::Disconnected(_)) => false,
            }
        });
        self.any.store(!watchers.is_empty(), Relaxed);
    }
}

/// Counts what happens to the flows of a shard, and tells of it.
pub(super) struct Observing<'a> {
    pub(super) aggregates: &'a mut Aggregates,
    pub(super) namer: &'a mut Namer,
    pub(super) feed: &'a Feed,
    pub(super) shard: usize,
}

impl Observer for Observing<'_> {
    fn started(&mut self, flow: &Flow) {
        if self.feed.any.load(Relaxed) {
            self.feed.tell("start", self.shard, flow);
        }
    }

    fn ended(&mut self, flow: &Flow, outcome: Outcome) {
        self.aggregates.ended(flow, outcome);
        if self.feed.any.load(Relaxed) {
            let event = if outcome.status() == Status::Failed { "fail" } else { "end" };
            self.feed.tell(event, self.shard, flow);
        }
    }

    fn appeared(&mut self, flow: &Flow, sender: usize) -> u32 {
        self.aggregates.appeared(flow, sender)
    }

    fn named(&mut self, flow: &Flow) -> Named {
        self.namer.named(flow)
    }

    fn hurried(&mut self) {
        self.aggregates.hurried();
    }

    fn nameless(&mut self, flow: &Flow) {
        self.namer.nameless(flow);
        self.aggregates.nameless(flow);
    }

    fn sent(&mut self, flow: &Flow, sender: usize, record: &Record) {
        self.aggregates.sent(flow, sender, record);
    }

    fn duplicate(&mut self, record: &Record) {
        self.aggregates.duplicate(record);
    }

    fn measured(&mut self, flow: &Flow, sender: usize, sample: Sample) {
        self.aggregates.measured(flow, sender, sample);
    }

    fn icmp_error(&mut self, flow: &Flow, kind: ErrorKind) {
        self.aggregates.icmp_error(flow, kind);
    }

    fn icmp_error_lost(&mut self) {
        self.aggregates.icmp_error_lost();
    }

    fn evicted(&mut self, flow: &Flow) {
        self.aggregates.evicted(flow);
    }

    fn removed(&mut self, flow: &Flow) {
        self.aggregates.removed(flow);
    }
}
