//! The sources that have failed somewhere, in bounded memory: one with evidence makes way only if all have some, and then one with
//! little of it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::tally::{Attempt, Subject, Tally};
use super::walk::Walk;
use crate::flow::Party;

/// Most sources at a time.
pub(super) const SOURCES_MOST: usize = 4096;
/// Most subjects of one sort, of one source: many ports of a host must not hide many hosts at a port.
const TALLIES_MOST: usize = 24;
/// Most tries that all sources together keep, about 100 bytes each.
pub(super) const ATTEMPTS_MOST: usize = 1 << 15;
/// Contacts that are evidence: one failure happens to everybody.
const EVIDENCE: usize = 2;

/// What is known of a source.
#[derive(Debug, Default)]
pub(super) struct Source {
    pub(super) tallies: Vec<Tally>,
    pub(super) walk: Walk,
    pub(super) party: Option<Arc<Party>>,
    /// When it was found to try many hosts.
    pub(super) named_ns: Option<u64>,
    /// Tries that it keeps.
    held: usize,
}

impl Source {
    /// Its tally about a subject. It begins in place of the one with the least evidence if there are too many of its sort.
    pub(super) fn tally(&mut self, subject: Subject) -> &mut Tally {
        let tallies = &mut self.tallies;
        let place = match tallies.iter().position(|tally| tally.subject == subject) {
            Some(place) => place,
            None => {
                let same = |tally: &Tally| std::mem::discriminant(&tally.subject) == std::mem::discriminant(&subject);
                if tallies.iter().filter(|tally| same(tally)).count() >= TALLIES_MOST {
                    // The first of those with the least is the oldest.
                    let least = (0..tallies.len()).filter(|&place| same(&tallies[place]));
                    least.min_by_key(|&place| tallies[place].attempts.len()).map(|place| tallies.remove(place));
                }
                tallies.push(Tally::new(subject));
                tallies.len() - 1
            }
        };
        &mut tallies[place]
    }

    fn attempts(&self) -> usize {
        self.tallies.iter().map(|tally| tally.attempts.len()).sum::<usize>() + self.walk.len()
    }

    fn has_evidence(&self) -> bool {
        self.tallies.iter().any(|tally| tally.attempts.len() >= EVIDENCE) || self.walk.len() >= EVIDENCE
    }

    /// Drops what is too old; false if nothing is left.
    fn expire(&mut self, now_ns: u64, window_ns: u64) -> bool {
        self.tallies.retain_mut(|tally| {
            tally.expire(now_ns, window_ns);
            !tally.attempts.is_empty()
        });
        !self.tallies.is_empty() || !self.walk.is_idle(now_ns)
    }
}

/// All of them.
pub(super) struct Sources {
    all: HashMap<IpAddr, Source, RandomState>,
    /// Those that came without evidence, the oldest first. Some may have got it since, or have gone.
    novices: VecDeque<IpAddr>,
    /// The half with less evidence, as of the last expiry: the least comes last. A crowd of forged sources with a few failures each
    /// must not keep out whoever comes after it.
    weak: Vec<IpAddr>,
    /// Tries of all sources.
    attempts: usize,
    expired_ns: u64,
    /// Times that a source found no room.
    pub(super) refused: u64,
}

/// Between two times that everything is looked through for what is too old.
const EXPIRE_NS: u64 = 5_000_000_000;

impl Sources {
    pub(super) fn new() -> Sources {
        Sources {
            all: HashMap::with_hasher(RandomState::default()),
            novices: VecDeque::new(),
            weak: Vec::new(),
            attempts: 0,
            expired_ns: 0,
            refused: 0,
        }
    }

    pub(super) fn known(&mut self, ip: IpAddr) -> Option<&mut Source> {
        self.all.get_mut(&ip)
    }

    /// Has `act` change a source, which begins with `walk` if it is new. `None`: there is no room.
    pub(super) fn with<T>(
        &mut self,
        ip: IpAddr,
        walk: impl FnOnce() -> Walk,
        act: impl FnOnce(&mut Source) -> T,
    ) -> Option<T> {
        let is_new = !self.all.contains_key(&ip);
        let full = self.attempts >= ATTEMPTS_MOST || is_new && self.all.len() >= SOURCES_MOST;
        if full && !self.make_room() {
            self.refused += 1;
            return None;
        }
        let source = match self.all.entry(ip) {
            Entry::Occupied(known) => known.into_mut(),
            // It may have made way for itself.
            Entry::Vacant(place) => {
                self.novices.push_back(ip);
                place.insert(Source { walk: walk(), ..Source::default() })
            }
        };
        let acted = act(source);
        let held = source.attempts();
        self.attempts = self.attempts + held - std::mem::replace(&mut source.held, held);
        Some(acted)
    }

    /// The oldest source without evidence leaves; if all have some, one of the weak. False if there is none.
    fn make_room(&mut self) -> bool {
        while let Some(ip) = self.novices.pop_front() {
            if self.all.get(&ip).is_some_and(|source| !source.has_evidence()) {
                self.remove(ip);
                return true;
            }
        }
        while let Some(ip) = self.weak.pop() {
            if self.all.contains_key(&ip) {
                self.remove(ip);
                return true;
            }
        }
        false
    }

    fn remove(&mut self, ip: IpAddr) {
        self.attempts -= self.all.remove(&ip).map_or(0, |source| source.held);
    }

    /// Drops what is too old, and counts again what is left.
    pub(super) fn turn(&mut self, now_ns: u64, window_ns: u64) {
        if now_ns.saturating_sub(self.expired_ns) < EXPIRE_NS {
            return;
        }
        self.expired_ns = now_ns;
        self.all.retain(|_, source| source.expire(now_ns, window_ns));
        let all = &self.all;
        self.novices.retain(|ip| all.get(ip).is_some_and(|source| !source.has_evidence()));
        self.attempts = 0;
        for source in self.all.values_mut() {
            source.held = source.attempts();
            self.attempts += source.held;
        }
        let mut all: Vec<(usize, IpAddr)> = self.all.iter().map(|(&ip, source)| (source.held, ip)).collect();
        all.sort_unstable();
        all.truncate(all.len() / 2);
        self.weak = all.into_iter().rev().map(|(_, ip)| ip).collect();
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }
}

/// At most so many tries are the evidence of an event.
pub(super) const EVIDENCE_MOST: usize = 8;

/// The first of them, by time.
pub(super) fn evidence<'a>(attempts: impl IntoIterator<Item = &'a Attempt>) -> Vec<Attempt> {
    let mut attempts: Vec<&Attempt> = attempts.into_iter().collect();
    attempts.sort_by_key(|attempt| attempt.at_ns);
    attempts.into_iter().take(EVIDENCE_MOST).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::super::samples::{S, ip, silent};
    use super::*;

    fn fail(sources: &mut Sources, source: u32, port: u16, at_ns: u64) -> bool {
        let contact = silent(ip(source), ip(1), port, at_ns);
        let add = |source: &mut Source| {
            source.tally(Subject::Ports(ip(1))).add(Attempt::of(&contact, "timeout"), 300 * S, true);
        };
        sources.with(ip(source), Walk::default, add).is_some()
    }

    #[test]
    fn evidence_stays_when_a_flood_comes() {
        let mut sources = Sources::new();
        for port in 1..10 {
            fail(&mut sources, 7, port, S);
        }
        for source in 0..100_000 {
            assert!(fail(&mut sources, 1000 + source, 80, S), "{source}");
            if source % 1000 == 0 {
                sources.turn(S, 300 * S);
            }
        }
        assert_eq!(sources.len(), SOURCES_MOST);
        assert_eq!(sources.known(ip(7)).unwrap().tallies[0].counted(), 9);
        assert!(sources.novices.len() <= SOURCES_MOST);
        assert_eq!(sources.refused, 0);
    }

    #[test]
    fn if_all_have_evidence_the_weak_half_makes_way() {
        let (mut sources, most) = (Sources::new(), SOURCES_MOST as u32);
        for source in 0..most {
            // Every other one is strong.
            for port in 0..if source % 2 == 0 { 7 } else { 3 } {
                fail(&mut sources, source + 10, port, S);
            }
        }
        sources.turn(9 * S, 300 * S);
        let mut entered = 0;
        for source in 0..most {
            // Two ports each, so that none of them makes way for the next.
            entered +=
                u32::from(fail(&mut sources, source + 10_000, 1, S) && fail(&mut sources, source + 10_000, 2, S));
        }
        assert_eq!((entered, sources.len(), sources.refused), (most / 2, SOURCES_MOST, u64::from(most / 2)));
        let strong = |source: &u32| sources.all.contains_key(&ip(source + 10));
        assert_eq!((0..most).filter(strong).collect::<Vec<_>>(), (0..most).step_by(2).collect::<Vec<_>>());
        // A window later all are gone.
        sources.turn(600 * S, 300 * S);
        assert_eq!(sources.len(), 0);
    }

    #[test]
    fn one_source_takes_no_more_than_its_share() {
        let mut sources = Sources::new();
        let mut add = |subject, host, port, at_ns| {
            let attempt = Attempt::of(&silent(ip(9), ip(host), port, at_ns), "timeout");
            let act = |source: &mut Source| {
                source.tally(subject).add(attempt, 300 * S, true);
                (source.tally(subject).counted(), source.tallies.len())
            };
            sources.with(ip(9), Walk::default, act).unwrap()
        };
        // Two ports of a host, then one of each of many: the first stays.
        add(Subject::Ports(ip(1)), 1, 1, S);
        add(Subject::Ports(ip(1)), 1, 2, S);
        for host in 2..1000 {
            add(Subject::Ports(ip(host)), host, 1, S);
        }
        assert_eq!(add(Subject::Ports(ip(1)), 1, 3, S), (3, TALLIES_MOST));
        assert_eq!(add(Subject::Ports(ip(2)), 2, 2, S), (1, TALLIES_MOST), "it had made way");
        // Another sort has a share of its own.
        assert_eq!(add(Subject::Hosts(22), 1, 22, S), (1, TALLIES_MOST + 1));
    }

    #[test]
    fn a_source_that_makes_way_for_itself_begins_again() {
        let mut sources = Sources::new();
        // All attempts that there may be, by sources with evidence; the weakest is the first to go.
        for source in 0..ATTEMPTS_MOST as u32 / 8 {
            for port in 0..if source == 0 { 2 } else { 8 } {
                fail(&mut sources, source + 10, port, S);
            }
        }
        for port in 100..106 {
            fail(&mut sources, 11, port, S);
        }
        assert!(sources.attempts >= ATTEMPTS_MOST);
        sources.turn(9 * S, 300 * S);
        assert!(fail(&mut sources, 10, 9, S));
        assert_eq!(sources.known(ip(10)).unwrap().tallies[0].counted(), 1);
        assert!(sources.novices.contains(&ip(10)), "so that it can make way for others");
    }
}
