//! The events: each is told once in a while, and never more than somebody can read.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::{Result, ensure};
use crossbeam_channel::{Receiver, Sender, bounded};

use super::event::{Finding, SecurityEvent};
use super::kind::{Kind, Severity};

/// An event of the same kind, source and target is told again after this.
const AGAIN_NS: u64 = 600_000_000_000;
/// Most events in a minute, of all sources and of one: who is loud must not drown the others.
const MINUTE_MOST: u32 = 100;
const SHARE_MOST: u32 = 20;
const MINUTE_NS: u64 = 60_000_000_000;
/// Most events that are kept, about a kilobyte each.
const KEPT: usize = 1000;
/// Most values of the label `src`; others are `other`.
const SOURCES_MOST: usize = 200;
/// Most watchers at a time, and events that wait for one.
const WATCHERS: usize = 8;
const WAITING: usize = 256;

/// What identifies events that are the same.
type Same = (Kind, Option<IpAddr>, Option<IpAddr>, Option<u16>);
/// Numbers of events by kind and source.
pub(super) type EventCounts = BTreeMap<(Kind, Arc<str>), u64>;

#[derive(Debug)]
struct Listener {
    events: Sender<Arc<SecurityEvent>>,
    lost: Arc<AtomicU64>,
}

/// The events of a minute.
#[derive(Debug, Default)]
struct Minute {
    began_ns: u64,
    all: u32,
    by_source: HashMap<Option<IpAddr>, u32>,
}

impl Minute {
    /// True if there is room for an event of this source.
    fn has_room(&self, source: Option<IpAddr>) -> bool {
        // A flood has no source: each has another victim.
        let share = self.by_source.get(&source).copied().unwrap_or_default();
        self.all < MINUTE_MOST && (share < SHARE_MOST || source.is_none())
    }

    fn add(&mut self, source: Option<IpAddr>) {
        self.all += 1;
        *self.by_source.entry(source).or_default() += 1;
    }
}

/// The events so far.
#[derive(Debug, Default)]
pub(super) struct Journal {
    kept: VecDeque<Arc<SecurityEvent>>,
    told: HashMap<Same, u64>,
    minute: Minute,
    number: u64,
    /// Events that were told.
    pub(super) counts: EventCounts,
    /// Events that were not.
    pub(super) suppressed: EventCounts,
    listeners: Vec<Listener>,
}

/// Receives events as they are told.
pub struct EventWatch {
    /// The events, the oldest first.
    pub events: Receiver<Arc<SecurityEvent>>,
    lost: Arc<AtomicU64>,
}

impl EventWatch {
    /// How many events found no room since the last call.
    pub fn lost(&self) -> u64 {
        self.lost.swap(0, Relaxed)
    }
}

impl Journal {
    /// Takes a finding of a source with this label. Returns the event, if it is to be told.
    pub(super) fn take(
        &mut self,
        finding: &Finding,
        source: &str,
        now_ns: u64,
        offset_ns: i64,
    ) -> Option<Arc<SecurityEvent>> {
        let key = (finding.kind, self.label(source));
        let same = (finding.kind, finding.source, finding.target, finding.port);
        if now_ns.saturating_sub(self.minute.began_ns) >= MINUTE_NS {
            self.minute = Minute { began_ns: now_ns, ..Minute::default() };
            self.told.retain(|_, at_ns| now_ns.saturating_sub(*at_ns) < AGAIN_NS);
        }
        let is_told = self.told.get(&same).is_some_and(|at_ns| now_ns.saturating_sub(*at_ns) < AGAIN_NS);
        if is_told || !self.minute.has_room(finding.source) {
            *self.suppressed.entry(key).or_default() += 1;
            return None;
        }
        self.minute.add(finding.source);
        self.told.insert(same, now_ns);
        *self.counts.entry(key).or_default() += 1;
        self.number += 1;
        let event = Arc::new(finding.shown(self.number, now_ns, offset_ns));
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(Arc::clone(&event));
        self.listeners.retain(|listener| {
            let sent = listener.events.try_send(Arc::clone(&event));
            if matches!(sent, Err(crossbeam_channel::TrySendError::Full(_))) {
                listener.lost.fetch_add(1, Relaxed);
            }
            !matches!(sent, Err(crossbeam_channel::TrySendError::Disconnected(_)))
        });
        Some(event)
    }

    /// The label of a source, as long as there are not too many.
    fn label(&self, source: &str) -> Arc<str> {
        let known = |counts: &EventCounts| counts.keys().any(|(_, other)| &**other == source);
        let many = || {
            let all: std::collections::BTreeSet<&Arc<str>> =
                self.counts.keys().chain(self.suppressed.keys()).map(|(_, source)| source).collect();
            all.len() >= SOURCES_MOST
        };
        if known(&self.counts) || known(&self.suppressed) || !many() { source.into() } else { "other".into() }
    }

    /// The events that are kept, the oldest first.
    pub(super) fn kept(&self) -> Vec<Arc<SecurityEvent>> {
        self.kept.iter().cloned().collect()
    }

    /// Events from now on.
    ///
    /// # Errors
    ///
    /// As many watch already as may.
    pub(super) fn watch(&mut self) -> Result<EventWatch> {
        // Those that have gone show at the next event only.
        self.listeners.retain(|listener| Arc::strong_count(&listener.lost) > 1);
        ensure!(self.listeners.len() < WATCHERS, "{WATCHERS} watch already: end one of them");
        let (events, received) = bounded(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        self.listeners.push(Listener { events, lost: Arc::clone(&lost) });
        Ok(EventWatch { events: received, lost })
    }
}

/// Writes an event to the log.
pub(super) fn log(event: &SecurityEvent) {
    let level = if event.severity == Severity::Info { log::Level::Info } else { log::Level::Warn };
    log::log!(level, "security: {}: {}", event.kind.name(), event.message);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::samples::{S, ip};
    use super::*;

    fn finding(kind: Kind, source: u32, target: u32) -> Finding {
        Finding {
            kind,
            source: Some(ip(source)),
            source_party: None,
            target: Some(ip(target)),
            port: None,
            target_party: None,
            count: 15,
            threshold: 15,
            window: Duration::from_secs(300),
            between_ns: Some([S, 2 * S]),
            deed: "did it".into(),
            evidence: Vec::new(),
        }
    }

    #[test]
    fn the_same_is_told_every_ten_minutes() {
        let mut journal = Journal::default();
        let mut told = |kind, source, target, at| {
            journal.take(&finding(kind, source, target), "external", at * S, 0).map(|event| event.id)
        };
        assert_eq!(told(Kind::PortScan, 1, 2, 100), Some(1));
        assert_eq!(told(Kind::PortScan, 1, 2, 699), None);
        assert_eq!(told(Kind::PortScan, 1, 3, 699), Some(2));
        assert_eq!(told(Kind::UdpScan, 1, 2, 699), Some(3));
        assert_eq!(told(Kind::PortScan, 2, 2, 699), Some(4));
        assert_eq!(told(Kind::PortScan, 1, 2, 700), Some(5));
        assert_eq!(journal.counts.values().sum::<u64>(), 5);
        assert_eq!(journal.suppressed.values().sum::<u64>(), 1);
        let kept = journal.kept();
        assert_eq!(kept.iter().map(|event| event.id).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert_eq!(kept[0].message, "10.0.0.1 did it");
        assert_eq!(kept[0].time, "1970-01-01T00:01:40.000Z");
    }

    #[test]
    fn a_minute_has_a_hundred_events_and_a_source_twenty_of_them() {
        let mut journal = Journal::default();
        let watch = journal.watch().unwrap();
        let mut told =
            |source, target, at| journal.take(&finding(Kind::PortScan, source, target), "external", at, 0).is_some();
        assert_eq!((0..1000).filter(|&target| told(1, target, S)).count(), 20);
        assert_eq!((0..1000).filter(|&target| told(2 + target % 100, target, S)).count(), 80);
        assert_eq!((1000..2000).filter(|&target| told(1, target, 61 * S)).count(), 20);
        assert_eq!(journal.suppressed.values().sum::<u64>(), 2880);
        assert_eq!(watch.events.try_iter().count(), 120);
    }

    #[test]
    fn labels_are_bounded() {
        let mut journal = Journal::default();
        for source in 0..1000 {
            journal.take(&finding(Kind::PortScan, source, 1), &source.to_string(), S * 100 * u64::from(source), 0);
        }
        assert_eq!(journal.counts.len(), SOURCES_MOST + 1);
        assert_eq!(journal.counts[&(Kind::PortScan, "other".into())], 1000 - SOURCES_MOST as u64);
        assert!(journal.kept().len() <= KEPT && journal.told.len() < 20);
    }

    #[test]
    fn watchers_are_bounded_and_make_way() {
        let mut journal = Journal::default();
        let watches: Vec<EventWatch> = (0..WATCHERS).map(|_| journal.watch().unwrap()).collect();
        assert!(journal.watch().is_err());
        drop(watches);
        let watch = journal.watch().unwrap();
        for target in 0..WAITING as u32 + 5 {
            journal.take(&finding(Kind::PortScan, 1, target), "external", S * 100 * u64::from(target), 0);
        }
        assert_eq!((watch.events.len(), watch.lost(), watch.lost()), (WAITING, 5, 0));
    }
}
