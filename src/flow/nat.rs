//! Translated addresses: a connection that passes hooks under two sets of endpoints is one flow.

mod errors;

use std::collections::VecDeque;
use std::time::Duration;

use foldhash::{HashMap, HashMapExt, HashSet};

use self::errors::Errors;
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

#[derive(Debug)]
struct Entry {
    translated: Translated,
    /// When the kernel forgot it.
    ended_ns: Option<u64>,
    /// Number of the list that had it last, or that was the latest when it began.
    listed: u64,
    /// Later lists did not have it: one.
    missing: bool,
    /// Known by a list alone: its end may not be told.
    by_list: bool,
}

/// The translations in force.
#[derive(Debug)]
pub struct Translations {
    most: usize,
    entries: HashMap<u64, Entry>,
    /// Under all keys of each.
    index: HashMap<FlowKey, u64>,
    /// In the order in which they ended.
    ended: VecDeque<u64>,
    next: u64,
    lists: u64,
    refused: u64,
    errors: Errors,
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
        Translations { most, entries, index, ended, next: 0, lists: 0, refused: 0, errors: Errors::new() }
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
    pub fn apply(&mut self, tracking: &Tracking, now_ns: u64) {
        match tracking {
            Tracking::Begun(translated) => self.begin(translated, false),
            Tracking::Ended(translated) => self.end(translated, now_ns),
        }
    }

    fn begin(&mut self, translated: &Translated, by_list: bool) {
        let lists = self.lists;
        if let Some((_, entry)) = self.find(translated)
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
        self.errors.add(translated);
        self.entries.insert(
            self.next,
            Entry { translated: *translated, ended_ns: None, listed: lists, missing: false, by_list },
        );
        for ends in names(translated) {
            // An earlier one that had this key goes on under its other key, for as long as records of it may come.
            self.index.insert(key_of(translated, ends).0, self.next);
        }
    }

    fn end(&mut self, translated: &Translated, now_ns: u64) {
        if let Some((id, entry)) = self.find(translated)
            && entry.ended_ns.is_none()
        {
            entry.ended_ns = Some(now_ns);
            self.ended.push_back(id);
        }
    }

    /// Drops those that ended some time ago.
    pub fn expire(&mut self, now_ns: u64) {
        let until = now_ns.saturating_sub(LINGER.as_nanos() as u64);
        while let Some(&id) = self.ended.front() {
            if self.entries.get(&id).and_then(|entry| entry.ended_ns).is_some_and(|ended| ended > until) {
                return;
            }
            self.ended.pop_front();
            self.remove(id);
        }
    }

    /// A list of all that are in force is about to be read; its number.
    pub fn begin_list(&mut self) -> u64 {
        self.lists += 1;
        self.lists
    }

    /// That list had `all`: what began before it, and was neither in it nor in the one before, has ended.
    pub fn end_list(&mut self, number: u64, all: &[Translated], now_ns: u64) {
        for translated in all {
            // What ended while the list was read must not come back.
            if self.find(translated).is_none_or(|(_, entry)| entry.ended_ns.is_none()) {
                self.begin(translated, true);
            }
        }
        let mut stale = Vec::new();
        for entry in self.entries.values_mut().filter(|entry| entry.listed < number && entry.ended_ns.is_none()) {
            if std::mem::replace(&mut entry.missing, true) {
                stale.push(entry.translated);
            }
        }
        stale.iter().for_each(|translated| self.end(translated, now_ns));
    }

    fn find(&mut self, translated: &Translated) -> Option<(u64, &mut Entry)> {
        let id = *self.index.get(&key_of(translated, translated.dialled).0)?;
        let entry = self.entries.get_mut(&id).filter(|entry| entry.translated == *translated)?;
        Some((id, entry))
    }

    fn remove(&mut self, id: u64) {
        let Some(entry) = self.entries.remove(&id) else { return };
        self.errors.remove(&entry.translated);
        for ends in names(&entry.translated) {
            let (key, _) = key_of(&entry.translated, ends);
            if self.index.get(&key) == Some(&id) {
                self.index.remove(&key);
            }
        }
    }

    /// The addresses of this host.
    pub fn own_addresses(&mut self, addresses: HashSet<[u8; 16]>) {
        self.errors.own(addresses);
    }

    /// Whose record it is, if its endpoints are translated.
    pub fn identify(&self, record: &Record) -> Option<Identity> {
        self.of_connection(record).or_else(|| self.errors.identify(record))
    }

    fn of_connection(&self, record: &Record) -> Option<Identity> {
        let (seen, sender) = FlowKey::of(record);
        let entry = self.entries.get(self.index.get(&seen)?)?;
        let translated = &entry.translated;
        let (key, client) = key_of(translated, translated.dialled);
        let mut names = names(translated).into_iter().map(|ends| key_of(translated, ends));
        let (_, seen_client) = names.find(|(name, _)| *name == seen)?;
        let sender = if sender == seen_client { client } else { 1 - client };
        let [dialled, answered] = [translated.dialled, translated.answered];
        let other = |end: usize| (dialled[end] != answered[end]).then_some(answered[end]);
        let nat = Nat { client: other(0), server: other(1) };
        let tracked = Some(Tracked { client, nat, translated: seen != key });
        Some(Identity { key, sender, tracked, only_if_known: false })
    }
}

#[cfg(test)]
mod tests;
