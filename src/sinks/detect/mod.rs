//! Detection of what looks hostile: scans, floods, brute force, and more. Nothing is blocked.
//!
//! A worker turns the few events of its flows that matter into contacts, and hands them to one judge, who knows every source: the
//! flows of one source lie in all shards. So thresholds are exact, and a flow event costs a worker next to nothing.

mod answered;
mod contact;
mod detective;
mod edges;
mod event;
mod filter;
mod floods;
mod journal;
mod judge;
mod kind;
#[cfg(test)]
mod samples;
mod sources;
mod spotter;
mod tally;
#[cfg(test)]
mod tests;
mod verdict;
mod walk;

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Result;
use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender, bounded, select};

pub use detective::{Detective, Nowhere};
pub use event::{EventFlow, SecurityEvent};
pub use filter::EventFilter;
pub use journal::EventWatch;
pub use judge::Around;
pub use kind::{Kind, Severity};
pub use spotter::{Marks as SpotterMarks, Spotter};

use self::contact::Contact;
use self::event::Finding;
use self::floods::Opened;
use self::journal::{EventCounts, Journal};
use self::judge::Judge;
use super::metrics::{Families, Family, Figures, Reading};
use crate::bpf::Clock;
use crate::config::Security;
use crate::lock;
use crate::names::Names;

/// Between two looks at what had to wait.
const TURN: Duration = Duration::from_secs(1);
/// Most batches that wait for the judge.
const BATCHES: usize = 64;
/// Contacts in a batch at the most.
const BATCH: usize = 512;

/// Who has no name.
const EXTERNAL: &str = "external";

/// What workers hand to the judge.
enum Seen {
    Contacts(Vec<Contact>),
    Opened(Vec<Opened>),
}

/// What the detectors of all shards share.
pub struct Detection {
    on: AtomicBool,
    security: ArcSwap<Security>,
    queue: Sender<Seen>,
    seen: Receiver<Seen>,
    /// Contacts that found no room in the queue.
    lost: AtomicU64,
    /// What found no room with the judge, by what it was.
    turned_away: Mutex<[(&'static str, u64); 3]>,
    journal: Mutex<Journal>,
    own: ArcSwap<HashSet<IpAddr>>,
    /// The name of this node.
    node: String,
}

impl std::fmt::Debug for Detection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Detection").field("on", &self.on).field("security", &self.security).finish_non_exhaustive()
    }
}

impl Detection {
    /// Looks for nothing until [`Detection::run`].
    pub fn new(security: &Security, node: &str) -> Detection {
        let (queue, seen) = bounded(BATCHES);
        Detection {
            on: AtomicBool::new(false),
            security: ArcSwap::from_pointee(security.clone()),
            queue,
            seen,
            lost: AtomicU64::new(0),
            turned_away: Mutex::default(),
            journal: Mutex::default(),
            own: ArcSwap::default(),
            node: node.to_owned(),
        }
    }

    /// Judges by this configuration from now on, if it runs.
    pub fn set(&self, security: &Security) {
        self.security.store(Arc::new(security.clone()));
    }

    /// The configuration in force.
    pub fn security(&self) -> Arc<Security> {
        self.security.load_full()
    }

    /// True while it runs.
    pub fn is_on(&self) -> bool {
        self.on.load(Relaxed)
    }

    /// Sets the addresses of this host.
    pub fn set_own_addresses(&self, addresses: impl Iterator<Item = IpAddr>) {
        self.own.store(Arc::new(addresses.collect()));
    }

    /// The latest events, the oldest first.
    pub fn events(&self) -> Vec<Arc<SecurityEvent>> {
        lock::ignoring_poison(&self.journal).kept()
    }

    /// Events from now on.
    ///
    /// # Errors
    ///
    /// As many watch already as may.
    pub fn watch(&self) -> Result<EventWatch> {
        lock::ignoring_poison(&self.journal).watch()
    }

    fn hand_on(&self, seen: Seen) {
        let count = match &seen {
            Seen::Contacts(contacts) => contacts.len(),
            Seen::Opened(opened) => opened.len(),
        };
        if self.queue.try_send(seen).is_err() {
            self.lost.fetch_add(count as u64, Relaxed);
        }
    }

    /// Judges until `stopped` is closed.
    pub fn run(&self, names: Option<&Arc<Names>>, stopped: &Receiver<()>) {
        let mut judge = Judge::new(self.security(), Clock::now_ns());
        let mut turn_at = Instant::now() + TURN;
        let mut found = Vec::new();
        self.on.store(true, Relaxed);
        loop {
            let seen = select! {
                recv(stopped) -> _ => break,
                recv(self.seen) -> seen => seen.ok(),
                default(turn_at.saturating_duration_since(Instant::now())) => None,
            };
            // Not while it waits: whoever holds an index of names keeps its parts in memory.
            let around = Surroundings {
                node: &self.node,
                own: self.own.load_full(),
                names: names.map(|names| names.load()),
                offset_ns: Clock::offset_to_1970(),
            };
            match seen {
                Some(Seen::Contacts(contacts)) => {
                    contacts.iter().for_each(|contact| judge.contact(contact, &around, &mut found));
                }
                Some(Seen::Opened(opened)) => opened.into_iter().for_each(|opened| judge.opened(opened)),
                None => {}
            }
            if Instant::now() >= turn_at {
                turn_at = Instant::now() + TURN;
                judge.set(self.security());
                judge.turn(Clock::now_ns(), &mut found);
                *lock::ignoring_poison(&self.turned_away) = judge.turned_away();
            }
            self.tell(&mut found, around.offset_ns);
        }
        self.on.store(false, Relaxed);
        // What it has not judged is of no use to the next one.
        self.seen.try_iter().for_each(drop);
    }

    /// Tells what was found, as far as it is not too much.
    fn tell(&self, found: &mut Vec<Finding>, offset_ns: i64) {
        for finding in found.drain(..) {
            let label = self.label(&finding);
            let told = lock::ignoring_poison(&self.journal).take(&finding, &label, Clock::now_ns(), offset_ns);
            if let Some(event) = told {
                journal::log(&event);
            }
        }
    }

    /// The value of the label `src`: a workload with its namespace, a node or a named network, never an address.
    fn label(&self, finding: &Finding) -> String {
        let own = || finding.source.is_some_and(|ip| self.own.load().contains(&ip));
        let party = finding.source_party.as_ref();
        match party.and_then(|party| Some((party.namespace.as_ref(), party.title()?))) {
            Some((Some(namespace), title)) => format!("{namespace}/{title}"),
            Some((None, title)) => title.to_string(),
            None if own() => self.node.clone(),
            None => EXTERNAL.to_owned(),
        }
    }
}

struct Surroundings<'a, N> {
    node: &'a str,
    own: Arc<HashSet<IpAddr>>,
    names: Option<N>,
    offset_ns: i64,
}

impl<N: std::ops::Deref<Target = Arc<crate::names::Index>>> Around for Surroundings<'_, N> {
    fn is_own(&self, ip: IpAddr) -> bool {
        self.own.contains(&ip)
    }

    fn node(&self) -> &str {
        self.node
    }

    fn has_lost_its_pod(&self, ip: IpAddr, at_ns: u64) -> bool {
        self.names.as_ref().is_some_and(|index| index.has_lost_its_pod(ip, at_ns.saturating_add_signed(self.offset_ns)))
    }
}

impl Figures for Detection {
    const FAMILIES: &'static [Family] = &[
        Family::counter("netmon_security_events_total", "Events that look hostile, by kind and by who did it."),
        Family::counter(
            "netmon_security_suppressed_total",
            "Events not told: the same one was told in the last ten minutes, or 20 of the source or 100 of all in a minute.",
        ),
        Family::counter(
            "netmon_security_turned_away_total",
            "What was not judged for lack of room: sources, servers, edges, or contacts that came too fast.",
        ),
    ];

    fn collect(&self, _: &Reading, families: &mut Families) {
        if !self.is_on() {
            return;
        }
        let mut add = |name, counts: &EventCounts| {
            for ((kind, source), &count) in counts {
                families.add(name, &[("kind", kind.name()), ("src", &**source)], count as f64);
            }
        };
        let journal = lock::ignoring_poison(&self.journal);
        // Most begin at 0, so that the first event is an increase.
        let security = self.security();
        let mut counts = journal.counts.clone();
        for kind in Kind::ALL.into_iter().filter(|kind| kind.is_wanted(&security)) {
            counts.entry((kind, EXTERNAL.into())).or_default();
        }
        add("netmon_security_events_total", &counts);
        add("netmon_security_suppressed_total", &journal.suppressed);
        drop(journal);
        let lost = self.lost.load(Relaxed);
        let turned_away = *lock::ignoring_poison(&self.turned_away);
        for (what, count) in turned_away.into_iter().filter(|(what, _)| !what.is_empty()).chain([("contacts", lost)]) {
            families.add("netmon_security_turned_away_total", &[("what", what)], count as f64);
        }
    }
}
