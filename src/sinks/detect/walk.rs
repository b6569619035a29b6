//! The threshold random walk: whether the hosts that a source tries for the first time answer more often than not.
//!
//! Jung, Paxson, Berger, Balakrishnan: Fast Portscan Detection Using Sequential Hypothesis Testing, 2004. A first contact of a benign
//! source succeeds with probability 0.8, one of a scanner with 0.2. So a failure makes the scanner four times as likely, a success a
//! quarter as likely. It is one at a ratio of 0.99 / 0.01.

use std::net::IpAddr;

use super::tally::Attempt;

/// First contacts that are remembered; the walk goes over the latest.
const MOST: usize = 32;
/// After so long a contact weighs half.
const HALF_LIFE_NS: f64 = 86_400e9;

/// A first contact.
#[derive(Clone, Debug)]
enum Step {
    Success { host: Option<IpAddr>, at_ns: u64 },
    Failure(Box<Attempt>),
}

impl Step {
    fn host(&self) -> Option<IpAddr> {
        match self {
            Step::Success { host, .. } => *host,
            Step::Failure(attempt) => Some(attempt.target),
        }
    }

    /// What it adds to the logarithm of the ratio, to base 4.
    fn weight(&self, now_ns: u64) -> f64 {
        let aged = |at_ns: u64| 0.5f64.powf(now_ns.saturating_sub(at_ns) as f64 / HALF_LIFE_NS);
        match self {
            Step::Success { at_ns, .. } => -aged(*at_ns),
            Step::Failure(attempt) if attempt.is_persistent() => 0.0,
            Step::Failure(attempt) => aged(attempt.at_ns),
        }
    }
}

/// The latest first contacts of a source.
#[derive(Clone, Debug, Default)]
pub(super) struct Walk {
    steps: Vec<Step>,
    /// When to look again, if the ratio is reached.
    pub(super) due_ns: Option<u64>,
}

impl Walk {
    /// The walk of a source that already had so many successes.
    pub(super) fn after_successes(count: u32, at_ns: u64) -> Walk {
        let count = (count as usize).min(MOST / 2);
        Walk { steps: vec![Step::Success { host: None, at_ns }; count], due_ns: None }
    }

    fn push(&mut self, step: Step) {
        if self.steps.len() == MOST {
            self.steps.remove(0);
        }
        self.steps.push(step);
    }

    fn known(&mut self, host: IpAddr) -> Option<&mut Step> {
        self.steps.iter_mut().find(|step| step.host() == Some(host))
    }

    /// The host has answered.
    pub(super) fn succeeded(&mut self, host: IpAddr, at_ns: u64) {
        let success = Step::Success { host: Some(host), at_ns };
        match self.known(host) {
            Some(step @ Step::Failure(_)) => *step = success,
            Some(Step::Success { .. }) => {}
            None => self.push(success),
        }
    }

    /// The host has not answered. `first` is false if the source has tried the same port of the host lately, whether or not the walk
    /// still knows of it.
    pub(super) fn failed(&mut self, attempt: Attempt, first: bool) {
        match self.known(attempt.target) {
            // Only who asks for the same port again comes back: a scanner goes on to the next.
            Some(Step::Failure(known)) if known.port == attempt.port => known.returned(attempt.at_ns),
            None if first => self.push(Step::Failure(Box::new(attempt))),
            _ => {}
        }
    }

    /// The failures that count.
    pub(super) fn failures(&self) -> impl Iterator<Item = &Attempt> {
        self.steps.iter().filter_map(|step| match step {
            Step::Failure(attempt) if !attempt.is_persistent() => Some(&**attempt),
            _ => None,
        })
    }

    fn score(&self, now_ns: u64) -> f64 {
        self.steps.iter().map(|step| step.weight(now_ns)).sum()
    }

    /// True if it shows a scanner: it has tried at least so many hosts, and the ratio is reached.
    pub(super) fn is_over(&self, hosts: u32, now_ns: u64) -> bool {
        self.steps.len() >= hosts as usize && self.score(now_ns) >= (0.99f64 / 0.01).log(4.0)
    }

    /// True if forgetting it loses nothing.
    pub(super) fn is_idle(&self, now_ns: u64) -> bool {
        self.score(now_ns) < 0.5
    }

    /// Contacts that it holds in memory.
    pub(super) fn len(&self) -> usize {
        self.steps.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{S, ip, refused, silent};
    use super::*;

    fn failed(walk: &mut Walk, host: u32, at_ns: u64) {
        walk.failed(Attempt::of(&silent(ip(9), ip(host), 22, at_ns), "timeout"), true);
    }

    #[test]
    fn eight_hosts_that_mostly_fail_are_a_scan() {
        let mut walk = Walk::default();
        (1..8).for_each(|host| failed(&mut walk, host, S));
        assert!(!walk.is_over(8, S), "seven hosts");
        failed(&mut walk, 7, S);
        assert!(!walk.is_over(8, S), "a host counts once");
        failed(&mut walk, 8, S);
        assert!(walk.is_over(8, S));
        // 4^3 is less than 99, 4^4 is more.
        (11..=15).for_each(|host| walk.succeeded(ip(host), S));
        assert!(!walk.is_over(8, S));
        failed(&mut walk, 16, S);
        assert!(walk.is_over(8, S));
    }

    #[test]
    fn what_answers_later_or_is_asked_again_is_no_failure() {
        let mut walk = Walk::default();
        (1..=8).for_each(|host| failed(&mut walk, host, S));
        walk.succeeded(ip(1), 2 * S);
        (2..=4).for_each(|host| walk.failed(Attempt::of(&refused(ip(9), ip(host), 22, 9 * S), "refused"), false));
        assert!(walk.is_over(8, 9 * S), "once more after silence may be the same scan");
        (2..=4).for_each(|host| failed(&mut walk, host, 20 * S));
        assert!(!walk.is_over(8, 20 * S));
    }

    #[test]
    fn it_is_forgotten_in_days() {
        let (mut walk, day) = (Walk::default(), 86_400 * S);
        (1..=8).for_each(|host| failed(&mut walk, host, 0));
        assert!(walk.is_over(8, day) && !walk.is_over(8, 2 * day));
        assert!(!walk.is_idle(3 * day) && walk.is_idle(5 * day));
        assert!(!Walk::after_successes(3, 0).is_over(2, 0));
    }

    #[test]
    fn it_goes_over_the_latest_contacts() {
        let mut walk = Walk::after_successes(1000, 0);
        (0..1000).for_each(|host| walk.succeeded(ip(host), S));
        assert_eq!(walk.len(), MOST);
        (2000..2018).for_each(|host| failed(&mut walk, host, S));
        assert!(walk.is_over(8, S), "18 failures, 14 successes");
    }
}
