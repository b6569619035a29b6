//! When a source is found to be a scanner, and what is said of it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::answered::Answered;
use super::event::{Finding, who};
use super::kind::Kind;
use super::sources::{Source, evidence};
use super::tally::{Attempt, Subject, Tally};
use super::walk::Walk;
use crate::config::Security;
use crate::flow::Party;

/// What hosts a source fails at is judged so much later: a health check has come back by then.
const SETTLE_NS: u64 = 65_000_000_000;
/// The same for a slow scan, which is in no hurry.
const SETTLE_SLOWLY_NS: u64 = 120_000_000_000;
/// For so long a scan of many hosts explains what its source fails at.
const NAMED_NS: u64 = 3_600_000_000_000;

/// What a tally is judged by.
pub(super) struct Bench<'a> {
    pub(super) security: &'a Security,
    pub(super) answered: &'a Answered,
    pub(super) now_ns: u64,
}

impl Bench<'_> {
    /// Judges a tally of the source. Returns when it has to be judged again, if that is later.
    pub(super) fn judge(
        &self,
        ip: IpAddr,
        source: &mut Source,
        subject: Subject,
        target: Option<&Arc<Party>>,
        found: &mut Vec<Finding>,
    ) -> Option<u64> {
        let Source { tallies, party, named_ns, .. } = source;
        let tally = tallies.iter_mut().find(|tally| tally.subject == subject)?;
        let kind = subject.kind();
        let threshold = kind.threshold(&self.security.thresholds);
        let count = tally.counted();
        if count < threshold || !self.is_guilty(ip, tally, count) {
            if matches!(subject, Subject::Logins(..)) && count >= threshold {
                tally.attempts.remove(0);
            }
            return None;
        }
        let settled = tally.due_ns.is_some_and(|due_ns| due_ns <= self.now_ns);
        if subject.has_to_settle() && !settled && count < threshold.saturating_mul(2) {
            // Judged again once, when it has settled.
            if tally.due_ns.is_none() {
                tally.due_ns = Some(self.now_ns + SETTLE_NS);
                return tally.due_ns;
            }
            return None;
        }
        found.push(self.finding(ip, party.as_ref(), tally, count, target));
        tally.due_ns = None;
        tally.attempts.clear();
        if subject.has_to_settle() {
            *named_ns = Some(self.now_ns);
        }
        None
    }

    /// Judges the walk of the source. Returns when it has to be judged again, if it shows a scan.
    pub(super) fn judge_walk(&self, source: &mut Source) -> Option<u64> {
        let is_over = source.walk.is_over(self.security.thresholds.slow_scan, self.now_ns);
        if !is_over || source.walk.due_ns.is_some() {
            return None;
        }
        source.walk.due_ns = Some(self.now_ns + SETTLE_SLOWLY_NS);
        source.walk.due_ns
    }

    /// Judges what of the source had to settle. Returns when to come back, if something still has to.
    pub(super) fn judge_settled(&self, ip: IpAddr, source: &mut Source, found: &mut Vec<Finding>) -> Option<u64> {
        let window_ns = self.security.window.as_nanos() as u64;
        let is_due = |tally: &&mut Tally| tally.due_ns.is_some_and(|due_ns| due_ns <= self.now_ns);
        let mut subjects = Vec::new();
        for tally in source.tallies.iter_mut().filter(is_due) {
            tally.expire(self.now_ns, window_ns);
            subjects.push(tally.subject);
        }
        for subject in subjects {
            self.judge(ip, source, subject, None, found);
            source.tally(subject).due_ns = None;
        }
        if source.walk.due_ns.is_some_and(|due_ns| due_ns <= self.now_ns) {
            source.walk.due_ns = None;
            if source.walk.is_over(self.security.thresholds.slow_scan, self.now_ns) {
                // What has a name already is no slow scan besides.
                let named = source.named_ns.is_some_and(|at_ns| self.now_ns.saturating_sub(at_ns) < NAMED_NS);
                found.extend((!named).then(|| self.slow_scan(ip, source)));
                source.walk = Walk::default();
            }
        }
        let waiting = source.tallies.iter().filter_map(|tally| tally.due_ns).chain(source.walk.due_ns);
        waiting.min()
    }

    /// What else has to hold: the source fails more than it succeeds, logins are alike.
    fn is_guilty(&self, ip: IpAddr, tally: &Tally, count: u32) -> bool {
        let protocol = tally.attempts.first().map_or(0, |attempt| attempt.protocol);
        match tally.subject {
            Subject::Ports(target) | Subject::UdpPorts(target) => count > self.answered.ports(ip, target, protocol),
            Subject::Hosts(port) => count > self.answered.hosts(ip, protocol, port),
            Subject::Pings => count > self.answered.hosts(ip, protocol, 0),
            Subject::Stealth => true,
            Subject::Logins(..) => tally.is_alike() && !tally.is_clockwork(),
        }
    }

    fn finding(
        &self,
        ip: IpAddr,
        party: Option<&Arc<Party>>,
        tally: &Tally,
        count: u32,
        target_party: Option<&Arc<Party>>,
    ) -> Finding {
        let guilty = || tally.attempts.iter().filter(|attempt| !attempt.is_persistent());
        let only = |value: fn(&Attempt) -> IpAddr| {
            let first = guilty().next().map(value)?;
            guilty().all(|attempt| value(attempt) == first).then_some(first)
        };
        let kind = tally.subject.kind();
        let (target, port) = match tally.subject {
            Subject::Ports(target) | Subject::UdpPorts(target) => (Some(target), None),
            Subject::Hosts(port) => (None, Some(port)),
            Subject::Pings => (None, None),
            Subject::Stealth => (only(|attempt| attempt.target), None),
            Subject::Logins(target, _) => (Some(target), tally.attempts.first().map(|attempt| attempt.port)),
        };
        let target_party = target_party.filter(|_| target.is_some()).cloned();
        let between = between(guilty());
        let time = shown_span(between);
        let host = target.map_or_else(|| "several hosts".to_owned(), |target| who(target, target_party.as_ref()));
        let deed = match tally.subject {
            Subject::Ports(_) => format!("tried {count} ports of {host} that refused or did not answer, {time}"),
            Subject::UdpPorts(_) => format!("tried {count} UDP ports of {host} that are unreachable, {time}"),
            Subject::Hosts(port) => {
                format!("tried port {port} of {count} hosts that refused or did not answer, {time}")
            }
            Subject::Pings => format!("pinged {count} hosts that did not answer, {time}"),
            Subject::Stealth => {
                let mut probes: Vec<&str> = guilty().map(|attempt| attempt.outcome).collect();
                probes.sort_unstable();
                probes.dedup();
                let probes = probes.join(", ");
                format!("sent segments that belong to no connection ({probes}) to {count} ports of {host}, {time}")
            }
            Subject::Logins(_, service) => {
                format!("held {count} short dialogues of much the same size with {} of {host}, {time}", service.name())
            }
        };
        Finding {
            kind,
            source: Some(ip),
            source_party: party.cloned(),
            target,
            port,
            target_party,
            count,
            threshold: kind.threshold(&self.security.thresholds),
            window: self.security.window,
            between_ns: between,
            deed,
            evidence: evidence(guilty()),
        }
    }

    fn slow_scan(&self, ip: IpAddr, source: &Source) -> Finding {
        let between = between(source.walk.failures());
        let count = source.walk.failures().count() as u32;
        let tried = source.walk.len() as u32;
        let deed = format!(
            "tried {tried} hosts for the first time, of which {count} refused or did not answer, {}",
            shown_span(between)
        );
        Finding {
            kind: Kind::SlowScan,
            source: Some(ip),
            source_party: source.party.clone(),
            target: None,
            port: None,
            target_party: None,
            count: tried,
            threshold: self.security.thresholds.slow_scan,
            window: Duration::from_secs(86_400),
            between_ns: between,
            deed,
            evidence: evidence(source.walk.failures()),
        }
    }
}

impl Subject {
    fn kind(self) -> Kind {
        match self {
            Subject::Ports(_) => Kind::PortScan,
            Subject::Hosts(_) => Kind::AddressScan,
            Subject::UdpPorts(_) => Kind::UdpScan,
            Subject::Pings => Kind::PingSweep,
            Subject::Stealth => Kind::StealthScan,
            Subject::Logins(..) => Kind::BruteForce,
        }
    }

    /// True if health checks look the same at first.
    fn has_to_settle(self) -> bool {
        matches!(self, Subject::Hosts(_) | Subject::Pings)
    }
}

/// When the first and the last of them began.
pub(super) fn between<'a>(attempts: impl IntoIterator<Item = &'a Attempt>) -> Option<[u64; 2]> {
    attempts.into_iter().map(|attempt| attempt.at_ns).fold(None, |between, at_ns| match between {
        None => Some([at_ns; 2]),
        Some([first, last]) => Some([first.min(at_ns), last.max(at_ns)]),
    })
}

fn shown_span(between: Option<[u64; 2]>) -> String {
    let [first, last] = between.unwrap_or_default();
    let seconds = (last - first).div_ceil(1_000_000_000).max(1);
    format!("within {}", humantime::format_duration(Duration::from_secs(seconds)))
}
