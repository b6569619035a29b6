//! What one source has tried without success, about one thing: the ports of a host, the hosts at a port.

use std::net::IpAddr;

use super::contact::{Contact, Service};

/// Whoever comes back after this long does so on purpose: scanners repeat what got no answer sooner.
const BACK_NS: u64 = 2_000_000_000;
/// Who comes back so often wants something of the target, which a scan does not.
const RETURNS: u8 = 2;

/// One try.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// When the flow began, in nanoseconds of the flows' clock.
    pub at_ns: u64,
    /// IP protocol number.
    pub protocol: u8,
    /// Who tried.
    pub source: IpAddr,
    /// The source's port; 0 if the protocol has none.
    pub source_port: u16,
    /// The target.
    pub target: IpAddr,
    /// The target's port; 0 if the protocol has none.
    pub port: u16,
    /// What came of it, as it is printed.
    pub outcome: &'static str,
    /// How often the source came back, and when it did last.
    returns: u8,
    returned_ns: u64,
    latest_ns: u64,
    /// Bytes of a dialogue on a logarithmic scale, see [`scaled`].
    size: u8,
}

impl Attempt {
    pub(super) fn of(contact: &Contact, outcome: &'static str) -> Attempt {
        Attempt {
            at_ns: contact.at_ns,
            protocol: contact.protocol,
            source: contact.source,
            source_port: contact.source_port,
            target: contact.target,
            port: contact.port,
            outcome,
            returns: 0,
            returned_ns: contact.at_ns,
            latest_ns: contact.at_ns,
            size: 0,
        }
    }

    /// With the size of a dialogue.
    pub(super) fn of_dialogue(contact: &Contact, bytes: u64) -> Attempt {
        Attempt { size: scaled(bytes), ..Attempt::of(contact, "dialogue") }
    }

    /// A source that returns to what failed is a client that waits for its server, or a health check. One refusal is an answer, which
    /// no scanner asks for again; after silence it may.
    pub(super) fn is_persistent(&self) -> bool {
        self.returns >= if self.outcome == "refused" { 1 } else { RETURNS }
    }

    /// The source tries it again.
    pub(super) fn returned(&mut self, at_ns: u64) {
        if at_ns >= self.returned_ns.saturating_add(BACK_NS) {
            self.returns = self.returns.saturating_add(1);
            self.returned_ns = at_ns;
        }
        self.latest_ns = self.latest_ns.max(at_ns);
    }
}

/// Steps of the scale to twice the bytes.
const STEPS: f64 = 8.0;
/// Dialogues are alike if their bytes differ by at most a fifth from those in the middle.
const ALIKE: u8 = 4;
/// Gaps between dialogues this long and longer can be those of a timer.
const TIMER_NS: u64 = 1_000_000_000;

/// The logarithm of a size, so that a byte holds it.
fn scaled(bytes: u64) -> u8 {
    ((bytes.max(1) as f64).log2() * STEPS).round().min(255.0) as u8
}

/// True if at least four fifths of the values, sorted, are within `reach` of each other, as that says of the least and the greatest.
fn mostly<T: Copy>(sorted: &[T], reach: impl Fn(T, T) -> bool) -> bool {
    let wanted = (sorted.len() * 4).div_ceil(5).max(1);
    sorted.windows(wanted).any(|some| reach(some[0], some[some.len() - 1]))
}

/// What is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    /// TCP ports of a host.
    Ports(IpAddr),
    /// Hosts at a TCP port.
    Hosts(u16),
    /// UDP ports of a host.
    UdpPorts(IpAddr),
    /// Hosts that are pinged.
    Pings,
    /// Ports of any hosts that got a segment as no connection has it.
    Stealth,
    /// Logins at a service of a host.
    Logins(IpAddr, Service),
}

/// The tries about one subject within the window.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    pub(super) subject: Subject,
    pub(super) attempts: Vec<Attempt>,
    /// When to look whether the source came back, if the threshold is reached.
    pub(super) due_ns: Option<u64>,
}

impl Tally {
    pub(super) fn new(subject: Subject) -> Tally {
        Tally { subject, attempts: Vec::new(), due_ns: None }
    }

    /// Adds a try, and drops those before the window. `distinct` says whether the same target and port counts once. Returns whether it
    /// is the first of its target and port.
    pub(super) fn add(&mut self, attempt: Attempt, window_ns: u64, distinct: bool) -> bool {
        self.expire(attempt.at_ns, window_ns);
        let same = |other: &&mut Attempt| (other.target, other.port) == (attempt.target, attempt.port);
        match self.attempts.iter_mut().find(|other| distinct && same(other)) {
            Some(known) => {
                known.returned(attempt.at_ns);
                false
            }
            None => {
                self.attempts.push(attempt);
                true
            }
        }
    }

    /// Drops the tries that ended before the window.
    pub(super) fn expire(&mut self, now_ns: u64, window_ns: u64) {
        let since = now_ns.saturating_sub(window_ns);
        self.attempts.retain(|attempt| attempt.latest_ns >= since);
    }

    /// The tries that count: those of a source that did not come back.
    pub(super) fn counted(&self) -> u32 {
        self.attempts.iter().filter(|attempt| !attempt.is_persistent()).count() as u32
    }

    /// True if most of the dialogues are alike in size.
    pub(super) fn is_alike(&self) -> bool {
        let mut sizes: Vec<u8> = self.attempts.iter().map(|attempt| attempt.size).collect();
        sizes.sort_unstable();
        mostly(&sizes, |least, most| most - least <= ALIKE)
    }

    /// True if they come as regularly as only a timer makes them: health checks and exporters log in at fixed intervals.
    pub(super) fn is_clockwork(&self) -> bool {
        let mut times: Vec<u64> = self.attempts.iter().map(|attempt| attempt.at_ns).collect();
        times.sort_unstable();
        let mut gaps: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        gaps.sort_unstable();
        !gaps.is_empty() && mostly(&gaps, |least, most| least >= TIMER_NS && most - least <= least / 5)
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{S, ip, refused, silent};
    use super::*;

    const WINDOW: u64 = 300 * S;

    #[test]
    fn a_target_counts_once_and_not_at_all_if_the_source_returns() {
        let mut tally = Tally::new(Subject::Hosts(80));
        for host in 1..=5 {
            tally.add(Attempt::of(&silent(ip(9), ip(host), 80, S), "timeout"), WINDOW, true);
        }
        assert_eq!(tally.counted(), 5);
        // A second later: still the same try, as scanners repeat it.
        tally.add(Attempt::of(&silent(ip(9), ip(1), 80, 2 * S), "timeout"), WINDOW, true);
        tally.add(Attempt::of(&silent(ip(9), ip(1), 80, 4 * S), "timeout"), WINDOW, true);
        assert_eq!(tally.counted(), 5);
        tally.add(Attempt::of(&silent(ip(9), ip(1), 80, 6 * S), "timeout"), WINDOW, true);
        assert_eq!(tally.counted(), 4);
        // A refusal is an answer: whoever asks again is no scanner.
        tally.add(Attempt::of(&refused(ip(9), ip(7), 80, 6 * S), "refused"), WINDOW, true);
        tally.add(Attempt::of(&refused(ip(9), ip(7), 80, 8 * S), "refused"), WINDOW, true);
        assert_eq!(tally.counted(), 4);
        tally.expire(302 * S, WINDOW);
        assert_eq!(tally.attempts.len(), 2, "those that came back later");
    }

    #[test]
    fn dialogues_are_alike_within_a_fifth() {
        let tally = |sizes: &[u64]| {
            let mut tally = Tally::new(Subject::Logins(ip(1), Service::Ssh));
            for &bytes in sizes {
                tally.add(Attempt::of_dialogue(&silent(ip(9), ip(1), 22, S), bytes), WINDOW, false);
            }
            tally.is_alike()
        };
        assert!(tally(&[1000, 900, 1100, 1150, 950]));
        assert!(tally(&[1000, 900, 1100, 1150, 90_000]), "four of five");
        assert!(!tally(&[1000, 900, 1100, 9000, 90_000]));
        assert!(!tally(&[100, 200, 400, 800, 1600]));
    }

    #[test]
    fn a_timer_is_told_from_a_guesser() {
        let tally = |times: &mut dyn Iterator<Item = u64>| {
            let mut tally = Tally::new(Subject::Logins(ip(1), Service::Ftp));
            for at in times {
                tally.add(Attempt::of_dialogue(&silent(ip(9), ip(1), 21, at), 300), WINDOW, false);
            }
            tally.is_clockwork()
        };
        assert!(tally(&mut (0..30).map(|n| n * 2 * S + n % 3 * S / 10)), "every two seconds");
        assert!(!tally(&mut (0..30).map(|n| n * S / 10)), "ten a second");
        assert!(!tally(&mut (0..30).map(|n| n * n * S / 5)), "ever slower");
    }
}
