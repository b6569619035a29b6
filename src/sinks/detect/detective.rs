//! Detection without a thread of its own, by the caller's clock: for captures.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::event::{Finding, SecurityEvent};
use super::journal::Journal;
use super::judge::{Around, Judge};
use super::spotter::{Marks, Spotter};
use super::{Detection, Seen};
use crate::config::Security;
use crate::flow::{Flow, FlowEvent, Sink};

/// Between two looks at what had to wait.
const TURN_NS: u64 = 1_000_000_000;

/// Spots, judges, and keeps the events.
pub struct Detective {
    detection: Arc<Detection>,
    spotter: Spotter,
    judge: Judge,
    journal: Journal,
    pub(super) found: Vec<Finding>,
    /// As of the last tick, and of the last turn.
    now_ns: u64,
    turned_ns: u64,
}

/// Nothing is known but what the packets show.
pub struct Nowhere;

impl Around for Nowhere {
    fn is_own(&self, _: IpAddr) -> bool {
        false
    }

    fn node(&self) -> &str {
        ""
    }

    fn has_lost_its_pod(&self, _: IpAddr, _: u64) -> bool {
        false
    }
}

impl Detective {
    /// Judges by this configuration, from `now_ns` of the flows' clock on.
    pub fn new(security: &Security, now_ns: u64) -> Detective {
        let detection = Arc::new(Detection::new(security, ""));
        detection.on.store(security.enabled, Relaxed);
        Detective {
            spotter: Spotter::new(Arc::clone(&detection)),
            judge: Judge::new(detection.security(), now_ns),
            detection,
            journal: Journal::default(),
            found: Vec::new(),
            now_ns,
            turned_ns: now_ns,
        }
    }

    /// Judges what was spotted, as of `now_ns`. To be called at least as often as a worker ticks, as long as there are packets.
    pub fn tick(&mut self, now_ns: u64, around: &impl Around) {
        self.now_ns = now_ns;
        self.spotter.tick(now_ns);
        for seen in self.detection.seen.try_iter() {
            match seen {
                Seen::Contacts(contacts) => {
                    contacts.iter().for_each(|contact| self.judge.contact(contact, around, &mut self.found));
                }
                Seen::Opened(opened) => opened.into_iter().for_each(|opened| self.judge.opened(opened)),
            }
        }
        if now_ns.saturating_sub(self.turned_ns) >= TURN_NS {
            self.turned_ns = now_ns;
            self.judge.turn(now_ns, &mut self.found);
        }
    }

    /// Events since the last call. `offset_ns` takes the flows' clock to the time since 1970.
    pub fn events(&mut self, offset_ns: i64) -> Vec<Arc<SecurityEvent>> {
        let Detective { found, journal, now_ns, .. } = self;
        found.drain(..).filter_map(|finding| journal.take(&finding, "", *now_ns, offset_ns)).collect()
    }

    /// Contacts that were lost because ticks were too rare.
    pub fn lost(&self) -> u64 {
        self.detection.lost.load(Relaxed)
    }
}

impl Sink for Detective {
    type Mark = Marks;

    #[inline]
    fn handle(&mut self, event: FlowEvent<'_>, flow: &Flow, mark: &mut Marks) {
        self.spotter.handle(event, flow, mark);
    }
}
