//! Translated addresses: a connection that passes hooks under two sets of endpoints is one flow.

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

/// What the ends of a flow are called where its addresses are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nat {
    /// The client, if the server knows it by another address or port.
    pub client: Option<Endpoint>,
    /// The server that answers, if it is another than the client dialled.
    pub server: Option<Endpoint>,
}

impl Nat {
    /// Something is translated.
    pub(super) fn is_some(&self) -> bool {
        self.client.is_some() || self.server.is_some()
    }
}

/// Which flow a record belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The flow, by the endpoints that the client knows.
    pub key: FlowKey,
    /// The end that sent.
    pub sender: usize,
    /// What the kernel's connection tracking knows of it.
    pub tracked: Option<Tracked>,
    /// The flow must be there: else the record is of the one that it names itself.
    pub only_if_known: bool,
}

/// What the kernel's connection tracking knows of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// The end that opened it.
    pub client: usize,
    /// Its translation.
    pub nat: Nat,
    /// The record's packets were seen under the translated addresses.
    pub translated: bool,
}

impl Identity {
    /// As the record itself has it.
    pub fn of(record: &Record) -> Identity {
        let (key, sender) = FlowKey::of(record);
        Identity { key, sender, tracked: None, only_if_known: false }
    }
}

/// Records of a connection may come this long after the kernel forgot it.
const LINGER: Duration = Duration::from_secs(10);
/// So much may stay: growing and shrinking in turn costs more.
const ROOM: usize = 1024;

/// What has changed, for those who look connections up.
#[derive(Clone, Debug)]
pub enum News {
    /// Records of it may come.
    Begun(Arc<Translated>),
    /// No records of it come any more.
    Over(Arc<Translated>),
}

#[derive(Debug)]
struct Entry {
    translated: Arc<Translated>,
    /// When the kernel forgot it.
    ended_ns: Option<u64>,
    /// Number of the list that had it last, or that was the latest when it began.
    listed: u64,
    /// Later lists did not have it: one.
    missing: bool,
    /// Known by a list alone: its end may not be told.
    by_list: bool,
}

/// The translations in force. Whoever looks them up is told what changes.
#[derive(Debug)]
pub struct Translations {
    most: usize,
    entries: HashMap<u64, Entry>,
    /// Under the endpoints that the client knows.
    index: HashMap<FlowKey, u64>,
    /// In the order in which they ended.
    ended: VecDeque<u64>,
    next: u64,
    lists: u64,
    refused: u64,
}

/// Two endpoints as a flow's key, and which end of it the first is.
fn key_of(translated: &Translated, [client, server]: [Endpoint; 2]) -> (FlowKey, usize) {
    let (ends, at) = if client <= server { ([client, server], 0) } else { ([server, client], 1) };
    (FlowKey { ends, protocol: translated.protocol, v6: translated.v6 }, at)
}

/// The names that packets of a connection may be seen under, client first. The kernel translates the server's address before it
/// routes and the client's after that, so there are packets that have one of the two (on bridges, with br_netfilter).
fn names(translated: &Translated) -> [[Endpoint; 2]; 3] {
    let Translated { dialled, answered, .. } = translated;
    [*dialled, *answered, [dialled[0], answered[1]]]
}

impl Translations {
    /// None yet; at most so many.
    pub fn new(most: usize) -> Translations {
        let (entries, index, ended) = (HashMap::new(), HashMap::new(), VecDeque::new());
        Translations { most, entries, index, ended, next: 0, lists: 0, refused: 0 }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Some are known by a list alone.
    pub fn has_listed(&self) -> bool {
        self.entries.values().any(|entry| entry.by_list && entry.ended_ns.is_none())
    }

    /// The last list lacked some.
    pub fn has_missing(&self) -> bool {
        self.entries.values().any(|entry| entry.missing && entry.ended_ns.is_none())
    }

    /// Those that found no room.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Takes note of what the kernel tells.
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

    /// Drops those that ended some time ago.
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

    /// Lets go of the room that a burst has taken, where little of it is in use.
    fn give_back(&mut self) {
        let Translations { entries, index, ended, .. } = self;
        if entries.capacity() > 4 * entries.len() + ROOM {
            entries.shrink_to(2 * entries.len());
            index.shrink_to(2 * index.len());
            ended.shrink_to(2 * ended.len());
        }
    }

    /// From now on at most so many; those above it go on.
    pub fn bound(&mut self, most: usize) {
        self.most = most;
    }

    /// A list of all that are in force is about to be read; its number.
    pub fn begin_list(&mut self) -> u64 {
        self.lists += 1;
        self.lists
    }

    /// That list had `all`: what began before it, and was neither in it nor in the one before, has ended.
    pub fn end_list(&mut self, number: u64, all: &[Translated], now_ns: u64, news: &mut Vec<News>) {
        for translated in all {
            // What ended while the list was read must not come back.
            let there = self.find(translated).and_then(|id| self.entries.get(&id));
            if there.is_none_or(|entry| entry.ended_ns.is_none()) {
                self.begin(translated, true, news);
            }
        }
        // By number: another may be known under its endpoints by now, of which an end was missed.
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
