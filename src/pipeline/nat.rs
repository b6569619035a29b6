//! Keeps the translations of addresses up to date, so that a connection is one flow under whatever addresses it is seen.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::Result;
use crossbeam_channel::RecvTimeoutError;

use crate::bpf::{Clock, Conntrack, ConntrackQueue, Endpoint, Record, Spread, Tracking, list_translated};
use crate::config::Config;
use crate::flow::{Identity, Lookup, NatErrors, News, Translations};
use crate::lock;
use crate::threads::{Thread, Threads};

/// Between two rounds of the thread, which does what is rare and must not hold up a worker.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The kernel may not report the end of a connection that began before netmon subscribed (net.netfilter.nf_conntrack_events=2). A new
/// list shows which of those have ended.
const LIST_EVERY: Duration = Duration::from_secs(300);
/// Until the next list if some were missing: the kernel may leave out connections while its table changes. Those missing from the next
/// one too have ended.
const LIST_AGAIN: Duration = Duration::from_secs(2);

/// What all workers share. On a record's way there is no lock that all of them take: each looks up the connections of its own records in
/// a table of its own, and takes the others' locks only if it finds events of the kernel.
pub(super) struct Nat {
    /// `None`: the kernel does not report translations, or netmon is not to follow them.
    events: Option<ConntrackEvents>,
    translations: Mutex<Translations>,
    /// How many translations there are.
    known: AtomicUsize,
    /// One for each worker, with the keys whose records come by its ring.
    lookups: Box<[Mutex<Lookup>]>,
    /// ICMP errors may come by any ring; they are few.
    errors: RwLock<NatErrors>,
    spread: Spread,
    resyncs: AtomicU64,
    /// Some events were missed: all translations have to be read again.
    missed: AtomicBool,
}

/// Events of the kernel about connections that have translated addresses.
struct ConntrackEvents {
    conntrack: Mutex<Conntrack>,
    queue: ConntrackQueue,
    /// A worker has taken events from the queue, and not all workers know them yet.
    in_hand: AtomicBool,
}

/// Translations of addresses by NAT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NatCounts {
    /// Connections that have one.
    pub translations: u64,
    /// Those that found no room.
    pub refused: u64,
    /// Times that all had to be read again, because more came at once than the kernel could report.
    pub resyncs: u64,
}

impl Nat {
    /// Knows every translation that is in force, and at most so many.
    pub(super) fn new(config: &Config, spread: Spread, workers: usize) -> Arc<Nat> {
        let mut nat = Nat {
            events: None,
            translations: Mutex::new(Translations::new(config.max_flows)),
            known: AtomicUsize::new(0),
            lookups: (0..workers).map(|_| Mutex::default()).collect(),
            errors: RwLock::default(),
            spread,
            resyncs: AtomicU64::new(0),
            missed: AtomicBool::new(false),
        };
        if config.nat {
            match nat.begin(config.nat_queue_bytes) {
                Ok(events) => nat.events = Some(events),
                Err(error) => log::warn!("what NAT translates is counted under both addresses: {error:#}"),
            }
        }
        Arc::new(nat)
    }

    fn begin(&self, queue_bytes: usize) -> Result<ConntrackEvents> {
        let list = self.translations().begin_list();
        let mut conntrack = Conntrack::new(queue_bytes)?;
        conntrack.follow_ipvs()?;
        let all = list_translated()?;
        self.change(|translations, news| translations.end_list(list, &all, Clock::now_ns(), news));
        log::info!("following translated addresses through conntrack: {} connections have some now", all.len());
        let queue = conntrack.queue()?;
        Ok(ConntrackEvents { conntrack: Mutex::new(conntrack), queue, in_hand: AtomicBool::new(false) })
    }

    /// Reads new events. To be called after records were read and before they are merged: the translations of all of them are known
    /// then.
    pub(super) fn refresh(&self, now_ns: u64) {
        let Some(events) = &self.events else { return };
        if events.queue.is_empty() {
            // Another worker may have taken, but not applied, what was in the queue when the records were read.
            fence(Ordering::SeqCst);
            if !events.in_hand.load(Ordering::SeqCst) {
                return;
            }
        }
        let mut conntrack = lock::ignoring_poison(&events.conntrack);
        events.in_hand.store(true, Ordering::SeqCst);
        let mut read: Vec<Tracking> = Vec::new();
        let whole = conntrack.read(|tracking| read.push(tracking)).unwrap_or_else(|error| {
            log::debug!("{error:#}");
            false
        });
        if !read.is_empty() {
            self.change(|translations, news| {
                read.iter().for_each(|tracking| translations.apply(tracking, now_ns, news));
            });
        }
        events.in_hand.store(false, Ordering::SeqCst);
        if !whole {
            self.resyncs.fetch_add(1, Ordering::Relaxed);
            self.missed.store(true, Ordering::Relaxed);
        }
    }

    /// Changes the translations, and passes the changes on to all lookup tables.
    fn change(&self, change: impl FnOnce(&mut Translations, &mut Vec<News>)) {
        let mut translations = self.translations();
        let mut news = Vec::new();
        change(&mut translations, &mut news);
        if news.is_empty() {
            return;
        }
        for (ring, lookup) in self.lookups.iter().enumerate() {
            let mut lookup = lock::ignoring_poison(lookup);
            for news in &news {
                lookup.learn(news, |key| self.spread.ring(&key.ends, key.v6) == ring);
            }
        }
        let mut errors = self.errors.write().unwrap_or_else(PoisonError::into_inner);
        news.iter().for_each(|news| errors.learn(news));
        self.known.store(translations.len(), Ordering::Relaxed);
    }

    /// Fills `identities` with the connections of records that came by ring `ring`; empty if no connection has translated addresses.
    pub(super) fn identify(&self, ring: usize, records: &[Record], identities: &mut Vec<Option<Identity>>) {
        identities.clear();
        if self.known.load(Ordering::Relaxed) == 0 {
            return;
        }
        let lookup = lock::ignoring_poison(&self.lookups[ring]);
        identities.extend(records.iter().map(|record| lookup.identify(record).or_else(|| self.of_error(record))));
    }

    fn of_error(&self, record: &Record) -> Option<Identity> {
        NatErrors::concern(record)
            .then(|| self.errors.read().unwrap_or_else(PoisonError::into_inner).identify(record))?
    }

    /// The addresses of this host.
    pub(super) fn own_addresses(&self, addresses: impl Iterator<Item = IpAddr>) {
        if self.events.is_some() {
            let own = addresses.map(|address| Endpoint::of(address, 0).address).collect();
            self.errors.write().unwrap_or_else(PoisonError::into_inner).own(own);
        }
    }

    /// At most so many translations may be known from now on. Those above stay until they end.
    pub(super) fn bound(&self, most: usize) {
        self.translations().bound(most);
    }

    /// A round of the thread. `list_at` is when the next list is due.
    fn look(&self, events: &ConntrackEvents, list_at: &mut Instant) -> Result<()> {
        let missed = self.missed.swap(false, Ordering::Relaxed);
        if missed {
            log::warn!(
                "more connections were translated at once than the kernel could report: reading all of them again"
            );
        }
        let balanced = lock::ignoring_poison(&events.conntrack).follow_ipvs()?;
        if balanced {
            log::info!(
                "IPVS balances load on this host: following all connections, because it does not mark those it translates"
            );
        }
        let now = Instant::now();
        let due = *list_at <= now && {
            let translations = self.translations();
            translations.has_listed() || translations.has_missing()
        };
        if missed || balanced || due {
            // Also if the list cannot be read.
            *list_at = now + LIST_AGAIN;
            let list = self.translations().begin_list();
            let all = list_translated()?;
            self.change(|translations, news| translations.end_list(list, &all, Clock::now_ns(), news));
            if !self.translations().has_missing() {
                *list_at = now + LIST_EVERY;
            }
        }
        self.change(|translations, news| translations.expire(Clock::now_ns(), news));
        Ok(())
    }

    pub(super) fn counts(&self) -> NatCounts {
        let translations = self.translations();
        NatCounts {
            translations: translations.len() as u64,
            refused: translations.refused(),
            resyncs: self.resyncs.load(Ordering::Relaxed),
        }
    }

    /// Finds the ring, and so the worker, of a flow.
    pub(super) fn spread(&self) -> Spread {
        self.spread
    }

    fn translations(&self) -> MutexGuard<'_, Translations> {
        lock::ignoring_poison(&self.translations)
    }
}

/// Starts the thread that does what takes long. `None` if there is nothing to follow.
pub(super) fn follow(nat: Arc<Nat>, threads: &Threads) -> Result<Option<Thread<()>>> {
    if nat.events.is_none() {
        return Ok(None);
    }
    let upkeep = threads.start("nm-conntrack", move |stopped| {
        let mut list_at = Instant::now() + LIST_EVERY;
        while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
            let looked = nat.events.as_ref().map_or(Ok(()), |events| nat.look(events, &mut list_at));
            if let Err(error) = looked {
                log::warn!("{error:#}");
            }
        }
        Ok(())
    });
    upkeep.map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::Translated;
    use crossbeam_channel::bounded;

    #[test]
    fn nobody_waits_for_what_others_hold() {
        let config = Config { nat: false, ..Config::default() };
        let nat = Nat::new(&config, Spread::sample(4), 4);
        let end = |host: u8, port: u16| Endpoint::of(IpAddr::from([10, 0, 0, host]), port);
        let ends = [end(1, 1000), end(2, 80)];
        let translated = Translated { protocol: 6, v6: false, dialled: ends, answered: [end(1, 1000), end(3, 8080)] };
        nat.change(|all, news| all.apply(&Tracking::Begun(translated), 0, news));
        let [source, destination] = ends;
        let record = Record { protocol: 6, source, destination, ..Record::default() };
        let ring = nat.spread().ring(&ends, false);
        // All that another worker may hold, whatever it is doing.
        let _translations = nat.translations();
        let _lookups: Vec<_> = nat
            .lookups
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != ring)
            .map(|(_, lookup)| lock::ignoring_poison(lookup))
            .collect();
        let _errors = nat.errors.write().unwrap();
        let (asking, (done, answer)) = (Arc::clone(&nat), bounded(1));
        let thread = std::thread::spawn(move || {
            let mut identities = Vec::new();
            asking.refresh(0);
            asking.identify(ring, &[record], &mut identities);
            let _ = done.send(identities);
        });
        let identities = answer.recv_timeout(Duration::from_secs(10)).expect("it waits for a lock that others hold");
        assert_eq!(identities[0].and_then(|identity| identity.tracked?.nat.server), Some(end(3, 8080)));
        thread.join().unwrap();
    }
}
