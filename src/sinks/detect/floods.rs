//! Servers whose half-open connections pile up, whoever opens them: the sources of a flood are forged.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::sources::EVIDENCE_MOST;
use super::tally::Attempt;
use crate::bpf::numbers::MOST_RINGS;
use crate::flow::Party;

/// So many seconds in a row.
const SECONDS: usize = 5;
/// The share of connections that get no further, at the least.
const NEVER: f64 = 0.9;
/// The share of connections that the server answers, at the least.
const ANSWERED: f64 = 0.01;
/// A second is judged so much later, when its records have come and its handshakes are complete.
const SETTLED: u64 = 3;
/// Most servers at a time.
const VICTIMS_MOST: usize = 1024;
/// A server that fewer connections a second are opened to needs no evidence.
const EVIDENCE_FROM: u32 = 64;

/// Connections that were opened to a server in one second.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The server and its port.
    pub server: (IpAddr, u16),
    /// Seconds of the flows' clock.
    pub second: u64,
    /// Connections that were opened.
    pub opened: u32,
    /// Those of them that the server has answered.
    pub answered: u32,
    /// Those of them whose handshake was completed, or that were refused.
    pub completed: u32,
    /// Some of them.
    pub some: Vec<Attempt>,
    /// Who the server is, if that is known.
    pub party: Option<Arc<Party>>,
}

/// Connections that one worker sees being opened, until they are handed on.
#[derive(Debug, Default)]
pub(super) struct Opening {
    seconds: HashMap<(IpAddr, u16, u64), Opened, RandomState>,
}

impl Opening {
    fn second(&mut self, server: (IpAddr, u16), at_ns: u64) -> &mut Opened {
        let second = at_ns / 1_000_000_000;
        self.seconds.entry((server.0, server.1, second)).or_insert_with(|| Opened {
            server,
            second,
            opened: 0,
            answered: 0,
            completed: 0,
            some: Vec::new(),
            party: None,
        })
    }

    /// A connection is opened. `evidence` is asked for only if there are many.
    pub(super) fn opened(
        &mut self,
        server: (IpAddr, u16),
        at_ns: u64,
        evidence: impl FnOnce() -> (Attempt, Option<Arc<Party>>),
    ) {
        let second = self.second(server, at_ns);
        second.opened = second.opened.saturating_add(1);
        if second.opened >= EVIDENCE_FROM && second.some.len() < EVIDENCE_MOST {
            let (attempt, party) = evidence();
            second.some.push(attempt);
            second.party = party;
        }
    }

    /// The server has answered with SYN-ACK.
    pub(super) fn answered(&mut self, server: (IpAddr, u16), at_ns: u64) {
        let second = self.second(server, at_ns);
        second.answered = second.answered.saturating_add(1);
    }

    /// A handshake is complete, or the server has refused it.
    pub(super) fn completed(&mut self, server: (IpAddr, u16), at_ns: u64) {
        let second = self.second(server, at_ns);
        second.completed = second.completed.saturating_add(1);
    }

    /// True if they have to be handed on before they get too many.
    pub(super) fn is_full(&self) -> bool {
        self.seconds.len() >= VICTIMS_MOST
    }

    /// True if nothing was opened.
    pub(super) fn is_empty(&self) -> bool {
        self.seconds.is_empty()
    }

    /// Hands them on.
    pub(super) fn take(&mut self) -> Vec<Opened> {
        self.seconds.drain().map(|(_, second)| second).collect()
    }
}

/// A server in the last seconds.
#[derive(Debug, Default)]
struct Victim {
    /// Not judged yet, the oldest first.
    waiting: VecDeque<Opened>,
    /// Seconds in a row, up to this one, in which too many stayed half open.
    row: usize,
    judged: u64,
}

/// A flood.
#[derive(Debug)]
pub(super) struct Flood {
    pub(super) server: (IpAddr, u16),
    pub(super) party: Option<Arc<Party>>,
    /// The least of half-open connections that a second had.
    pub(super) half_open: u32,
    pub(super) some: Vec<Attempt>,
}

/// Judges servers by what the workers saw being opened.
#[derive(Debug, Default)]
pub(super) struct Floods {
    victims: HashMap<(IpAddr, u16), Victim, RandomState>,
    /// Servers that found no room.
    pub(super) refused: u64,
}

impl Floods {
    /// Adds what a worker saw. `threshold` is that of half-open connections a second.
    pub(super) fn add(&mut self, opened: Opened, threshold: u32) {
        if !self.victims.contains_key(&opened.server) {
            // Servers whose share of no worker could be a flood need no place.
            if opened.opened < threshold / MOST_RINGS as u32 {
                return;
            }
            if self.victims.len() >= VICTIMS_MOST {
                self.refused += 1;
                return;
            }
        }
        let Victim { waiting, judged, .. } = self.victims.entry(opened.server).or_default();
        if opened.second <= *judged {
            return; // handshakes that took too long
        }
        match waiting.binary_search_by_key(&opened.second, |other| other.second) {
            Ok(place) => {
                let known = &mut waiting[place];
                known.opened = known.opened.saturating_add(opened.opened);
                known.answered = known.answered.saturating_add(opened.answered);
                known.completed = known.completed.saturating_add(opened.completed);
                let room = EVIDENCE_MOST - known.some.len();
                known.some.extend(opened.some.into_iter().take(room));
                known.party = known.party.take().or(opened.party);
            }
            Err(place) => waiting.insert(place, opened),
        }
    }

    /// Judges the seconds that are over. `threshold` is that of half-open connections a second.
    pub(super) fn turn(&mut self, now_ns: u64, threshold: u32, mut found: impl FnMut(Flood)) {
        let settled = (now_ns / 1_000_000_000).saturating_sub(SETTLED);
        self.victims.retain(|_, victim| {
            while victim.waiting.front().is_some_and(|first| first.second <= settled) {
                let Some(second) = victim.waiting.pop_front() else { break };
                let half_open = second.opened.saturating_sub(second.completed);
                // Whoever answers nobody is down, and has no half-open connections.
                let answers = f64::from(second.answered) >= ANSWERED * f64::from(second.opened);
                let never = f64::from(half_open) >= NEVER * f64::from(second.opened);
                let many = half_open >= threshold && never && answers;
                let follows = victim.judged + 1 == second.second;
                victim.row = if many { usize::from(follows) * victim.row + 1 } else { 0 };
                victim.judged = second.second;
                if victim.row == SECONDS {
                    victim.row = 0;
                    found(Flood { server: second.server, party: second.party, half_open, some: second.some });
                }
            }
            !victim.waiting.is_empty() || victim.judged + SETTLED >= settled
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{S, ip, silent};
    use super::*;

    /// Connections opened and completed in each second: when a flood is found.
    fn judge(seconds: &[(u32, u32)], threshold: u32, answers: u32) -> Vec<u64> {
        let (mut floods, mut found) = (Floods::default(), Vec::new());
        let server = (ip(1), 80);
        for (second, &(opened, completed)) in (100..).zip(seconds) {
            // Two workers, each with a half.
            for half in 0..2 {
                let mut opening = Opening::default();
                let share = |all: u32| all / 2 + half * (all % 2);
                for port in 0..share(opened) {
                    let contact = silent(ip(50_000 + port), ip(1), 80, second * S);
                    opening.opened(server, second * S + 1, || (Attempt::of(&contact, "half_open"), None));
                    if port % 2 < answers {
                        opening.answered(server, second * S + 1);
                    }
                }
                (0..share(completed)).for_each(|_| opening.completed(server, second * S + 1));
                opening.take().into_iter().for_each(|opened| floods.add(opened, threshold));
            }
            floods.turn(second * S, threshold, |flood| {
                assert_eq!((flood.server, flood.some.len()), (server, 8));
                found.push(second);
            });
        }
        found
    }

    #[test]
    fn five_seconds_in_a_row_are_a_flood() {
        let quiet = (0, 0);
        let of = |many: usize, amount: (u32, u32)| {
            let mut seconds = vec![amount; many];
            seconds.extend([quiet; 4]);
            judge(&seconds, 500, 1)
        };
        assert_eq!(of(5, (500, 0)), [107], "when its fifth second has settled");
        assert_eq!(of(4, (500, 0)), [] as [u64; 0]);
        assert_eq!(of(9, (499, 0)), [] as [u64; 0]);
        assert_eq!(of(12, (500, 0)).len(), 2, "again and again, as long as it lasts");
        assert_eq!(of(5, (5555, 555)).len(), 1);
        assert_eq!(of(5, (5555, 556)).len(), 0, "more than a tenth get further");
        assert_eq!(judge(&[(500, 0); 9], 500, 0), [] as [u64; 0], "a server that is down");
    }

    #[test]
    fn a_pause_begins_again() {
        let mut seconds = vec![(500, 0); 4];
        seconds.push((499, 0));
        seconds.extend([(500, 0); 4]);
        seconds.extend([(1, 0); 4]);
        assert_eq!(judge(&seconds, 500, 1), [] as [u64; 0]);
    }

    #[test]
    fn many_servers_take_bounded_memory() {
        let mut floods = Floods::default();
        for server in 0..100_000 {
            let server = (ip(server), 80);
            for opened in [1, 100] {
                floods.add(
                    Opened { server, second: 9, opened, answered: 1, completed: 0, some: Vec::new(), party: None },
                    500,
                );
            }
        }
        assert_eq!((floods.victims.len(), floods.refused), (VICTIMS_MOST, 100_000 - VICTIMS_MOST as u64));
        floods.turn(20 * S, 500, |_| panic!("no flood"));
        assert!(floods.victims.is_empty());
    }
}
