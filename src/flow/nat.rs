//! Address translation: a connection that passes hooks under two sets of endpoints is one flow.

mod errors;
mod lookup;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use foldhash::{HashMap, HashMapExt};

pub use self::errors::Errors;
pub(super) use self::errors::is_error;
pub use self::lookup::Lookup;
use super::FlowKey;
use crate::bpf::{Endpoint, Record, Tracking, Translated};

/// The translated endpoints of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nat {
    /// The client as the server sees it, if that is another address or port.
    pub client: Option<Endpoint>,
    /// The server that answers, if it is not the one that the client dialled.
    pub server: Option<Endpoint>,
}

impl Nat {
    /// True if an endpoint is translated.
    pub(super) fn is_some(&self) -> bool {
        self.client.is_some() || self.server.is_some()
    }
}

/// Which flow a record belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The flow, by the endpoints that the client uses.
    pub key: FlowKey,
    /// Index of the end that sent, 0 or 1.
    pub sender: usize,
    /// What the kernel's connection tracking knows about it.
    pub tracked: Option<Tracked>,
    /// Use the key only if the table has this flow; otherwise use the record's own endpoints.
    pub only_if_known: bool,
}

/// What the kernel's connection tracking knows about a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// Index of the end that opened it, 0 or 1.
    pub client: usize,
    /// Its translated endpoints.
    pub nat: Nat,
    /// True if the record's packets were seen under translated addresses.
    pub translated: bool,
}

impl Identity {
    /// The identity by the record's own endpoints.
    pub fn of(record: &Record) -> Identity {
        let (key, sender) = FlowKey::of(record);
        Identity { key, sender, tracked: None, only_if_known: false }
    }
}

/// Records of a connection may arrive this long after the kernel has removed it.
const LINGER: Duration = Duration::from_secs(10);
/// Unused capacity, in entries, that is never released: growing and shrinking in turn costs more.
const ROOM: usize = 1024;

/// A change to the translations, for those who look connections up.
#[derive(Clone, Debug)]
pub enum News {
    /// Records of this connection may arrive.
    Begun(Arc<Translated>),
    /// No more records of this connection arrive.
    Over(Arc<Translated>),
}

#[derive(Debug)]
struct Entry {
    translated: Arc<Translated>,
    /// When the kernel removed it.
    ended_ns: Option<u64>,
    /// Number of the last list that contained it, or of the latest list when it began.
    listed: u64,
    /// One later list did not contain it.
    missing: bool,
    /// Known only from a list: the kernel may not report its end.
    by_list: bool,
}

/// The translations in force. Changes are reported as [`News`] to those who look connections up.
#[derive(Debug)]
pub struct Translations {
    most: usize,
    entries: HashMap<u64, Entry>,
    /// Entries by the endpoints that the client uses.
    index: HashMap<FlowKey, u64>,
    /// Entries that have ended, in that order.
    ended: VecDeque<u64>,
    next: u64,
    lists: u64,
    refused: u64,
}

/// Two endpoints as a flow's key, and the index of the first in it.
fn key_of(translated: &Translated, [client, server]: [Endpoint; 2]) -> (FlowKey, usize) {
    let (ends, at) = if client <= server { ([client, server], 0) } else { ([server, client], 1) };
    (FlowKey { ends, protocol: translated.protocol, v6: translated.v6 }, at)
}

/// The pairs of endpoints that packets of a connection may be seen under, client first. The kernel translates the
/// server's address before routing and the client's after it, so some packets have only one of the two translated (on
/// bridges, with br_netfilter).
fn names(translated: &Translated) -> [[Endpoint; 2]; 3] {
    let Translated { dialled, answered, .. } = translated;
    [*dialled, *answered, [dialled[0], answered[1]]]
}

impl Translations {
    /// An empty set that holds at most `most` translations.
    pub fn new(most: usize) -> Translations {
        let (entries, index, ended) = (HashMap::new(), HashMap::new(), VecDeque::new());
        Translations { most, entries, index, ended, next: 0, lists: 0, refused: 0 }
    }

    /// Number of translations.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True if some are known only from a list.
    pub fn has_listed(&self) -> bool {
        self.entries.values().any(|entry| entry.by_list && entry.ended_ns.is_none())
    }

    /// True if the last list lacked some.
    pub fn has_missing(&self) -> bool {
        self.entries.values().any(|entry| entry.missing && entry.ended_ns.is_none())
    }

    /// Number of translations that found no room.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Applies an event of the kernel's connection tracking.
    pub fn apply(&mut self, tracking: &Tracking, now_ns: u64, news: &mut Vec<News>) {
        match tracking {
            Tracking::Begun(translated) => self.begin(translated, false, news),
            Tracking::Ended(translated) => {
                if let Some(id) = self.find(translated) {
                    self.end(id, now_ns);
                }
            }
        }
    }

    fn begin(&mut self, translated: &Translated, by_list: bool, news: &mut Vec<News>) {
        let lists = self.lists;
        if let Some(entry) = self.find(translated).and_then(|id| self.entries.get_mut(&id))
            && entry.ended_ns.is_none()
        {
            (entry.listed, entry.missing) = (lists, false);
            return;
        }
        if self.entries.len() >= self.most {
            self.refused += 1;
            return;
        }
        self.next += 1;
        let translated = Arc::new(*translated);
        news.push(News::Begun(Arc::clone(&translated)));
        self.index.insert(key_of(&translated, translated.dialled).0, self.next);
        let entry = Entry { translated, ended_ns: None, listed: lists, missing: false, by_list };
        self.entries.insert(self.next, entry);
    }

    fn end(&mut self, id: u64, now_ns: u64) {
        if let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.ended_ns.is_none()) {
            entry.ended_ns = Some(now_ns);
            self.ended.push_back(id);
        }
    }

    /// Drops translations that ended more than [`LINGER`] ago.
    pub fn expire(&mut self, now_ns: u64, news: &mut Vec<News>) {
        let until = now_ns.saturating_sub(LINGER.as_nanos() as u64);
        while let Some(&id) = self.ended.front() {
            if self.entries.get(&id).and_then(|entry| entry.ended_ns).is_some_and(|ended| ended > until) {
                break;
            }
            self.ended.pop_front();
            self.remove(id, news);
        }
        self.give_back();
    }

    /// Releases memory that a burst has taken, if little of it is in use.
    fn give_back(&mut self) {
        let Translations { entries, index, ended, .. } = self;
        if entries.capacity() > 4 * entries.len() + ROOM {
            entries.shrink_to(2 * entries.len());
            index.shrink_to(2 * index.len());
            ended.shrink_to(2 * ended.len());
        }
    }

    /// Sets the maximum number; translations above it stay until they end.
    pub fn bound(&mut self, most: usize) {
        self.most = most;
    }

    /// Call this before a list of all translations in force is read. Returns the list's number.
    pub fn begin_list(&mut self) -> u64 {
        self.lists += 1;
        self.lists
    }

    /// The list with this `number` contained `all`: a translation that began before it, and was in neither this list
    /// nor the one before, has ended.
    pub fn end_list(&mut self, number: u64, all: &[Translated], now_ns: u64, news: &mut Vec<News>) {
        for translated in all {
            // A translation that ended while the list was read must not come back.
            let there = self.find(translated).and_then(|id| self.entries.get(&id));
            if there.is_none_or(|entry| entry.ended_ns.is_none()) {
                self.begin(translated, true, news);
            }
        }
        // By id, not by endpoints: if an end was missed, another connection may have the same endpoints by now.
        let mut stale = Vec::new();
        for (id, entry) in
            self.entries.iter_mut().filter(|(_, entry)| entry.listed < number && entry.ended_ns.is_none())
        {
            if std::mem::replace(&mut entry.missing, true) {
                stale.push(*id);
            }
        }
        stale.into_iter().for_each(|id| self.end(id, now_ns));
    }

    fn find(&self, translated: &Translated) -> Option<u64> {
        let id = *self.index.get(&key_of(translated, translated.dialled).0)?;
        self.entries.get(&id).is_some_and(|entry| *entry.translated == *translated).then_some(id)
    }

    fn remove(&mut self, id: u64, news: &mut Vec<News>) {
        let Some(Entry { translated, .. }) = self.entries.remove(&id) else { return };
        let key = key_of(&translated, translated.dialled).0;
        if self.index.get(&key) == Some(&id) {
            self.index.remove(&key);
        }
        news.push(News::Over(translated));
    }
}

#[cfg(test)]
mod tests;
