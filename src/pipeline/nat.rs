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
use crate::metrics::NatCounts;
use crate::threads::{Thread, Threads};

/// Between two looks for what the thread has to do: rare things that must not hold up a worker.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The kernel may not tell of the end of a connection that began before netmon asked (net.netfilter.nf_conntrack_events=2): those
/// are looked for in a new list.
const LIST_EVERY: Duration = Duration::from_secs(300);
/// If some were not in it: the kernel may leave out what is there, while its table changes. What the next one lacks too has ended.
const LIST_AGAIN: Duration = Duration::from_secs(2);

/// What all workers share. On a record's way there is no lock that all of them take: each looks up the connections whose records come
/// to it in a place of its own, and only who finds that the kernel has told something takes the others' locks.
pub(super) struct Nat {
    /// `None`: the kernel does not tell of translations, or is not to.
    told: Option<Told>,
    translations: Mutex<Translations>,
    /// How many there are.
    known: AtomicUsize,
    /// One a worker, of the keys whose records come by its ring.
    lookups: Box<[Mutex<Lookup>]>,
    /// ICMP errors may come by any ring; they are few.
    errors: RwLock<NatErrors>,
    spread: Spread,
    resyncs: AtomicU64,
    /// Some were missed: all are to be read anew.
    missed: AtomicBool,
}

/// What the kernel tells.
struct Told {
    conntrack: Mutex<Conntrack>,
    queue: ConntrackQueue,
    /// Somebody has taken something from the queue, and it is not known to all yet.
    in_hand: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Nat {
    /// Knows every translation that is in force, and at most so many.
    pub(super) fn new(config: &Config, spread: Spread, workers: usize) -> Arc<Nat> {
        let mut nat = Nat {
            told: None,
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
                Ok(told) => nat.told = Some(told),
                Err(error) => log::warn!("what NAT translates is counted under both addresses: {error:#}"),
            }
        }
        Arc::new(nat)
    }

    fn begin(&self, queue_bytes: usize) -> Result<Told> {
        let list = self.translations().begin_list();
        let mut conntrack = Conntrack::new(queue_bytes)?;
        conntrack.follow_ipvs()?;
        let all = list_translated()?;
        self.change(|translations, news| translations.end_list(list, &all, Clock::now_ns(), news));
        log::info!("conntrack tells of translated addresses: {} connections have such", all.len());
        let queue = conntrack.queue()?;
        Ok(Told { conntrack: Mutex::new(conntrack), queue, in_hand: AtomicBool::new(false) })
    }

    /// To be called after records were read and before they are merged: the translations of all of them are known then.
    pub(super) fn refresh(&self, now_ns: u64) {
        let Some(told) = &self.told else { return };
        if told.queue.is_empty() {
            // What was in the queue when the records were read may be in somebody's hands.
            fence(Ordering::SeqCst);
            if !told.in_hand.load(Ordering::SeqCst) {
                return;
            }
        }
        let mut conntrack = lock(&told.conntrack);
        told.in_hand.store(true, Ordering::SeqCst);
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
        told.in_hand.store(false, Ordering::SeqCst);
        if !whole {
            self.resyncs.fetch_add(1, Ordering::Relaxed);
            self.missed.store(true, Ordering::Relaxed);
        }
    }

    /// Changes what is in force, and tells all who look it up.
    fn change(&self, change: impl FnOnce(&mut Translations, &mut Vec<News>)) {
        let mut translations = self.translations();
        let mut news = Vec::new();
        change(&mut translations, &mut news);
        if news.is_empty() {
            return;
        }
        for (ring, lookup) in self.lookups.iter().enumerate() {
            let mut lookup = lock(lookup);
            for news in &news {
                lookup.learn(news, |key| self.spread.ring(&key.ends, key.v6) == ring);
            }
        }
        let mut errors = self.errors.write().unwrap_or_else(PoisonError::into_inner);
        news.iter().for_each(|news| errors.learn(news));
        self.known.store(translations.len(), Ordering::Relaxed);
    }

    /// Whose records these are, which came by ring `ring`, in `identities`, which is empty if none has translated addresses.
    pub(super) fn identify(&self, ring: usize, records: &[Record], identities: &mut Vec<Option<Identity>>) {
        identities.clear();
        if self.known.load(Ordering::Relaxed) == 0 {
            return;
        }
        let lookup = lock(&self.lookups[ring]);
        identities.extend(records.iter().map(|record| lookup.identify(record).or_else(|| self.of_error(record))));
    }

    fn of_error(&self, record: &Record) -> Option<Identity> {
        NatErrors::concern(record)
            .then(|| self.errors.read().unwrap_or_else(PoisonError::into_inner).identify(record))?
    }

    /// The addresses of this host.
    pub(super) fn own_addresses(&self, addresses: impl Iterator<Item = IpAddr>) {
        if self.told.is_some() {
            let own = addresses.map(|address| Endpoint::of(address, 0).address).collect();
            self.errors.write().unwrap_or_else(PoisonError::into_inner).own(own);
        }
    }

    /// So many translations may be known; those above it go on.
    pub(super) fn bound(&self, most: usize) {
        self.translations().bound(most);
    }

    /// `list_at` is when the next list is due.
    fn look(&self, told: &Told, list_at: &mut Instant) -> Result<()> {
        let missed = self.missed.swap(false, Ordering::Relaxed);
        if missed {
            log::warn!("more connections were translated at once than the kernel could tell of: reading all anew");
        }
        let balanced = lock(&told.conntrack).follow_ipvs()?;
        if balanced {
            log::info!("IPVS balances here: following all connections, for it does not mark those it translates");
        }
        let now = Instant::now();
        let due = *list_at <= now && {
            let translations = self.translations();
            translations.has_listed() || translations.has_missing()
        };
        if missed || balanced || due {
            // Also if it fails.
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

    /// The ring, and so the worker, of a flow.
    pub(super) fn spread(&self) -> Spread {
        self.spread
    }

    fn translations(&self) -> MutexGuard<'_, Translations> {
        lock(&self.translations)
    }
}

/// Starts the thread for what takes long. `None` if there is nothing to keep up.
pub(super) fn follow(nat: Arc<Nat>, threads: &Threads) -> Result<Option<Thread<()>>> {
    if nat.told.is_none() {
        return Ok(None);
    }
    let upkeep = threads.start("nm-conntrack", move |stopped| {
        let mut list_at = Instant::now() + LIST_EVERY;
        while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
            let looked = nat.told.as_ref().map_or(Ok(()), |told| nat.look(told, &mut list_at));
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
            .map(|(_, lookup)| lock(lookup))
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
