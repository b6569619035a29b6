//! Keeps the translations of addresses up to date, so that a connection is one flow under whatever addresses it is seen.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use anyhow::Result;
use crossbeam_channel::RecvTimeoutError;

use crate::bpf::{Clock, Conntrack, Endpoint, Spread, Tracking, list_translated};
use crate::config::Config;
use crate::flow::Translations;
use crate::metrics::NatCounts;
use crate::threads::{Deaths, Lasting};

/// Between two looks for what the thread has to do: rare things that must not hold up a worker.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The kernel may not tell of the end of a connection that began before netmon asked (net.netfilter.nf_conntrack_events=2): those
/// are looked for in a new list.
const LIST_EVERY: Duration = Duration::from_secs(300);
/// If some were not in it: the kernel may leave out what is there, while its table changes. What the next one lacks too has ended.
const LIST_AGAIN: Duration = Duration::from_secs(2);

/// What all workers share.
pub(super) struct Nat {
    /// `None`: the kernel does not tell of translations, or is not to.
    conntrack: Option<Mutex<Conntrack>>,
    translations: RwLock<Translations>,
    spread: Spread,
    resyncs: AtomicU64,
    /// Some were missed: all are to be read anew.
    missed: AtomicBool,
}

impl Nat {
    /// Knows every translation that is in force, and at most so many.
    pub(super) fn new(config: &Config, spread: Spread) -> Arc<Nat> {
        let mut translations = Translations::new(config.max_flows);
        let conntrack = config.nat.then(|| Conntrack::new(config.nat_queue_bytes)).and_then(|conntrack| {
            let list = translations.begin_list();
            let told = conntrack.and_then(|mut conntrack| {
                conntrack.follow_ipvs()?;
                Ok((conntrack, list_translated()?))
            });
            match told {
                Ok((conntrack, all)) => {
                    translations.end_list(list, &all, Clock::now_ns());
                    log::info!("conntrack tells of translated addresses: {} connections have such", all.len());
                    Some(Mutex::new(conntrack))
                }
                Err(error) => {
                    log::warn!("what NAT translates is counted under both addresses: {error:#}");
                    None
                }
            }
        });
        Arc::new(Nat {
            conntrack,
            translations: RwLock::new(translations),
            spread,
            resyncs: AtomicU64::new(0),
            missed: AtomicBool::new(false),
        })
    }

    /// To be called after records were read and before they are merged: the translations of all of them are known then.
    pub(super) fn refresh(&self, now_ns: u64) {
        let Some(conntrack) = &self.conntrack else { return };
        let mut conntrack = conntrack.lock().unwrap_or_else(PoisonError::into_inner);
        let mut news: Vec<Tracking> = Vec::new();
        let whole = conntrack.read(|tracking| news.push(tracking)).unwrap_or_else(|error| {
            log::debug!("{error:#}");
            false
        });
        if !news.is_empty() {
            let mut translations = self.write();
            news.iter().for_each(|tracking| translations.apply(tracking, now_ns));
        }
        if !whole {
            self.resyncs.fetch_add(1, Ordering::Relaxed);
            self.missed.store(true, Ordering::Relaxed);
        }
    }

    /// The addresses of this host.
    pub(super) fn own_addresses(&self, addresses: impl Iterator<Item = IpAddr>) {
        if self.conntrack.is_some() {
            self.write().own_addresses(addresses.map(|address| Endpoint::of(address, 0).address).collect());
        }
    }

    /// `list_at` is when the next list is due.
    fn look(&self, list_at: &mut Instant) -> Result<()> {
        let missed = self.missed.swap(false, Ordering::Relaxed);
        if missed {
            log::warn!("more connections were translated at once than the kernel could tell of: reading all anew");
        }
        let balanced = match &self.conntrack {
            Some(conntrack) => conntrack.lock().unwrap_or_else(PoisonError::into_inner).follow_ipvs()?,
            None => false,
        };
        if balanced {
            log::info!("IPVS balances here: following all connections, for it does not mark those it translates");
        }
        let now = Instant::now();
        let due = *list_at <= now;
        let mut translations = self.read();
        if missed || balanced || due && (translations.has_listed() || translations.has_missing()) {
            drop(translations);
            // Also if it fails.
            *list_at = now + LIST_AGAIN;
            let list = self.write().begin_list();
            let all = list_translated()?;
            self.write().end_list(list, &all, Clock::now_ns());
            translations = self.read();
            if !translations.has_missing() {
                *list_at = now + LIST_EVERY;
            }
        }
        drop(translations);
        if !self.read().is_empty() {
            self.write().expire(Clock::now_ns());
        }
        Ok(())
    }

    pub(super) fn counts(&self) -> NatCounts {
        let translations = self.read();
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

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Translations> {
        self.translations.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Translations> {
        self.translations.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the thread for what takes long. `None` if there is nothing to keep up.
pub(super) fn start_upkeep(nat: Arc<Nat>, deaths: &Deaths) -> Result<Option<Lasting<()>>> {
    if nat.conntrack.is_none() {
        return Ok(None);
    }
    let upkeep = deaths.watch("nm-conntrack", move |stopped| {
        let mut list_at = Instant::now() + LIST_EVERY;
        while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
            if let Err(error) = nat.look(&mut list_at) {
                log::warn!("{error:#}");
            }
        }
        Ok(())
    });
    upkeep.map(Some)
}
