//! Reports flows that start and end to whoever watches. Only those that may pass a watcher's filter are copied for it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use anyhow::{Result, ensure};
use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender, bounded};

use crate::filter::Filter;
use crate::flow::{Details, Flow, FlowEvent, Sink, Status};
use crate::line::Line;
use crate::lock;

/// Most watchers at a time.
const WATCHERS: usize = 8;
/// Most events that wait for a watcher.
const WAITING: usize = 4096;
/// Memory that the waiting events of one watcher may take.
pub const WATCH_BYTES: usize = WAITING * (size_of::<Happened>() + size_of::<Details>());

/// What happened to a flow.
#[derive(Clone, Debug)]
pub struct Happened {
    /// `start`, `end` or `fail`, as in the output of `netmon-cli flows watch`.
    pub event: &'static str,
    /// The shard that has the flow.
    pub shard: usize,
    /// The flow as it was when it happened.
    pub flow: Flow,
}

#[derive(Clone, Debug)]
struct Watcher {
    filter: Arc<Filter>,
    events: Sender<Happened>,
    lost: Arc<AtomicU64>,
}

/// Where events go. Workers read who watches, and wait neither for each other nor for whoever comes or goes.
#[derive(Debug, Default)]
pub struct Feed {
    any: AtomicBool,
    watchers: ArcSwap<Vec<Watcher>>,
    /// Held while the list of watchers changes.
    changing: Mutex<()>,
}

impl Feed {
    /// Events from now on, of flows that may pass the filter.
    ///
    /// # Errors
    ///
    /// As many watch already as may.
    pub fn watch(self: &Arc<Feed>, filter: Filter) -> Result<Watched> {
        let _changing = lock::ignoring_poison(&self.changing);
        let mut watchers = Vec::clone(&self.watchers.load());
        ensure!(watchers.len() < WATCHERS, "{WATCHERS} watch already: end one of them");
        let (events, received) = bounded(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        watchers.push(Watcher { filter: Arc::new(filter), events, lost: Arc::clone(&lost) });
        self.watchers.store(Arc::new(watchers));
        self.any.store(true, Relaxed);
        Ok(Watched { feed: Arc::clone(self), events: received, lost })
    }

    fn forget(&self, gone: &Arc<AtomicU64>) {
        let _changing = lock::ignoring_poison(&self.changing);
        let mut watchers = Vec::clone(&self.watchers.load());
        watchers.retain(|watcher| !Arc::ptr_eq(&watcher.lost, gone));
        self.any.store(!watchers.is_empty(), Relaxed);
        self.watchers.store(Arc::new(watchers));
    }

    fn report(&self, event: &'static str, shard: usize, flow: &Flow) {
        let early = Line::early(flow, true);
        for watcher in self.watchers.load().iter().filter(|watcher| watcher.filter.may_match(&early)) {
            // A worker waits for no watcher, and copies nothing for one that has no room.
            if watcher.events.is_full()
                || watcher.events.try_send(Happened { event, shard, flow: flow.clone() }).is_err()
            {
                watcher.lost.fetch_add(1, Relaxed);
            }
        }
    }
}

/// The watcher's end of the feed. Dropping it ends the watch.
pub struct Watched {
    feed: Arc<Feed>,
    /// What happened, oldest first.
    pub events: Receiver<Happened>,
    lost: Arc<AtomicU64>,
}

impl Watched {
    /// How many events found no room since the last call.
    pub fn lost(&self) -> u64 {
        self.lost.swap(0, Relaxed)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.feed.forget(&self.lost);
    }
}

/// Reports the events of one shard's flows to whoever watches.
#[derive(Debug)]
pub struct Reporter {
    feed: Arc<Feed>,
    shard: usize,
}

impl Reporter {
    /// For the shard with this number.
    pub fn new(feed: Arc<Feed>, shard: usize) -> Reporter {
        Reporter { feed, shard }
    }
}

impl Sink for Reporter {
    type Mark = ();

    #[inline]
    fn handle(&mut self, event: FlowEvent<'_>, flow: &Flow, _mark: &mut ()) {
        let event = match event {
            FlowEvent::Started => "start",
            FlowEvent::Ended(outcome) if outcome.status() == Status::Failed => "fail",
            FlowEvent::Ended(_) => "end",
            _ => return,
        };
        if self.feed.any.load(Relaxed) {
            self.feed.report(event, self.shard, flow);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bpf::{Endpoint, Record};
    use crate::flow::{Quiet, Table, TableLimits};

    /// To port 80.
    fn flow() -> Flow {
        let second = Duration::from_secs(1);
        let limits = TableLimits { max_flows: 9, flow_timeout: second, connect_timeout: second, max_age: None };
        let mut table = Table::new(limits, 0);
        let end = |host, port| Endpoint { address: [host; 16], port };
        let (source, destination) = (end(1, 40_000), end(2, 80));
        table.merge(
            &Record { source, destination, protocol: 6, packets: 1, syn: true, ..Record::default() },
            &mut Quiet,
        );
        table.iter().next().cloned().unwrap()
    }

    #[test]
    fn only_those_are_copied_that_somebody_may_want_and_has_room_for() {
        let feed = Arc::<Feed>::default();
        let watch = |filter: &str| feed.watch(Filter::parse(filter).unwrap()).unwrap();
        let watchers = ["port=80", "port=443", "port=80 and interface=eth0", "port=443 or start<2000"].map(watch);
        let flow = flow();
        for _ in 0..WAITING + 5 {
            feed.report("start", 0, &flow);
        }
        let received = watchers.each_ref().map(|watcher| (watcher.events.len(), watcher.lost()));
        assert_eq!(
            received,
            [(WAITING, 5), (0, 0), (WAITING, 5), (WAITING, 5)],
            "what only a line has is not known yet"
        );
        assert_eq!(watchers[0].lost(), 0, "since the last call");
    }

    #[test]
    fn who_has_gone_takes_no_place() {
        let feed = Arc::<Feed>::default();
        for _ in 0..3 {
            let watchers: Vec<Watched> = (0..WATCHERS).map(|_| feed.watch(Filter::default()).unwrap()).collect();
            assert!(feed.watch(Filter::default()).is_err() && feed.any.load(Relaxed));
            drop(watchers);
            assert!(!feed.any.load(Relaxed));
        }
    }
}
