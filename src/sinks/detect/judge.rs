//! Judges contacts. Pure: time is an argument, and what is known of the surroundings, too.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::answered::Answered;
use super::contact::{Contact, Failure, What};
use super::edges::{Edges, cleartext, is_external, mismatch};
use super::event::{Finding, who};
use super::floods::{Flood, Floods, Opened};
use super::kind::Kind;
use super::sources::Sources;
use super::tally::{Attempt, Subject};
use super::verdict::{Bench, between};
use super::walk::Walk;
use crate::config::Security;
use crate::flow::{Party, protocol_name};

const UDP: u8 = 17;
/// UDP ports that traceroute and its like use.
const TRACEROUTE: std::ops::RangeInclusive<u16> = 33_434..=33_689;
/// Most API servers that are remembered.
const API_SERVERS_MOST: usize = 16;

/// What a judge asks about the surroundings.
pub trait Around {
    /// True if the address is the host's own.
    fn is_own(&self, ip: IpAddr) -> bool;
    /// The name of this node.
    fn node(&self) -> &str;
    /// True if a pod had the address until a moment before `at_ns` of the flows' clock.
    fn has_lost_its_pod(&self, ip: IpAddr, at_ns: u64) -> bool;
}

/// Everything that is known of contacts so far.
pub struct Judge {
    security: Arc<Security>,
    sources: Sources,
    answered: Answered,
    floods: Floods,
    edges: Edges,
    /// Addresses that have answered as the cluster's API server, which calls pods and kubelets by itself.
    api_servers: HashSet<IpAddr>,
    /// Sources that are to be judged at this time.
    due: BTreeSet<(u64, IpAddr)>,
    now_ns: u64,
}

impl Judge {
    /// Knows nothing yet.
    pub fn new(security: Arc<Security>, now_ns: u64) -> Judge {
        Judge {
            security,
            sources: Sources::new(),
            answered: Answered::new(now_ns),
            floods: Floods::default(),
            edges: Edges::new(now_ns),
            api_servers: HashSet::new(),
            due: BTreeSet::new(),
            now_ns,
        }
    }

    /// Judges by another configuration from now on.
    pub fn set(&mut self, security: Arc<Security>) {
        self.security = security;
    }

    /// What found no room: sources, servers, edges.
    pub fn turned_away(&self) -> [(&'static str, u64); 3] {
        [("sources", self.sources.refused), ("servers", self.floods.refused), ("edges", self.edges.refused)]
    }

    /// Takes what a worker saw being opened.
    pub fn opened(&mut self, opened: Opened) {
        if Kind::SynFlood.is_wanted(&self.security) {
            self.floods.add(opened, self.security.thresholds.syn_flood);
        }
    }

    /// Takes a contact.
    pub fn contact(&mut self, contact: &Contact, around: &impl Around, found: &mut Vec<Finding>) {
        if self.is_ignored(contact.source, contact.source_party())
            || self.is_ignored(contact.target, contact.target_party())
        {
            return;
        }
        let wants = |kind: Kind| kind.is_wanted(&self.security);
        let own = around.is_own(contact.source);
        match contact.what {
            What::Answered => self.answered(contact, found),
            What::Failed(failure) if wants(Kind::PortScan) && !self.is_innocent(contact, own, around) => {
                self.failed(contact, failure, found);
            }
            What::Stealth(probe) if wants(Kind::StealthScan) => {
                let attempt = Attempt::of(contact, probe.name());
                self.count(contact, &[Subject::Stealth], attempt, found);
            }
            What::Dialogue(service, bytes) if wants(Kind::BruteForce) && !own => {
                let attempt = Attempt::of_dialogue(contact, bytes);
                self.count(contact, &[Subject::Logins(contact.target, service)], attempt, found);
            }
            What::Spoke(app, next) if wants(Kind::Cleartext) => {
                let (port, target) = (contact.port, || who(contact.target, contact.target_party()));
                let leaves = || {
                    is_external(contact.target, contact.target_party())
                        && (own || !is_external(contact.source, contact.source_party()))
                };
                if let Some(name) = cleartext(app, next, port).filter(|_| leaves()) {
                    let deed = format!("speaks {name} in the clear to {} at port {port}", target());
                    found.push(self.alone(Kind::Cleartext, contact, deed));
                }
                if let Some(usual) = mismatch(app, port) {
                    let deed = format!("speaks {} at port {port} of {}, which is for {usual}", app.name(), target());
                    found.push(self.alone(Kind::ProtocolMismatch, contact, deed));
                }
            }
            _ => {}
        }
    }

    fn is_ignored(&self, ip: IpAddr, party: Option<&Arc<Party>>) -> bool {
        self.security.ignore.iter().any(|whom| whom.is(ip, party.map(|party| &**party)))
    }

    fn answered(&mut self, contact: &Contact, found: &mut Vec<Finding>) {
        let &Contact { source, target, protocol, port, at_ns, .. } = contact;
        self.answered.note(source, target, protocol, port);
        if let Some(source) = self.sources.known(source) {
            source.walk.succeeded(target, at_ns);
        }
        let Some(party) = contact.target_party() else { return };
        let is_api = party.service.as_deref() == Some("kubernetes") && party.namespace.as_deref() == Some("default");
        if is_api && self.api_servers.len() < API_SERVERS_MOST {
            // Pods ask for the service's address, and the server calls back under its own.
            self.api_servers.insert(contact.behind.unwrap_or(target));
        }
        let learning_ns = self.security.learning.as_nanos() as u64;
        if Kind::NewEdge.is_wanted(&self.security) && self.edges.is_new(contact, self.now_ns, learning_ns) {
            let deed = format!(
                "talks to {} at port {port}/{} for the first time",
                who(target, Some(party)),
                protocol_name(protocol)
            );
            found.push(self.alone(Kind::NewEdge, contact, deed));
        }
    }

    /// True if a failure says nothing about the source.
    fn is_innocent(&self, contact: &Contact, own: bool, around: &impl Around) -> bool {
        let &Contact { source, target, protocol, port, at_ns, .. } = contact;
        let party = contact.target_party();
        // The kubelet probes the pods of its node; the API server calls whoever has registered with it.
        let here = |party: &Arc<Party>| party.node.as_deref().is_none_or(|node| node == around.node());
        let is_probe = own && party.is_some_and(|party| party.pod.is_some() && here(party));
        let calls_back = self.api_servers.contains(&source);
        // Clients try the endpoints of a service, one after the other if some are dead.
        let is_endpoint = party.is_some_and(|party| party.service.is_some());
        let is_traceroute = protocol == UDP && TRACEROUTE.contains(&port);
        // Whoever could be reached a while ago has failed; nobody scans for it.
        is_probe
            || calls_back
            || is_endpoint
            || is_traceroute
            || self.answered.has(target, protocol, port)
            || around.has_lost_its_pod(target, at_ns)
    }

    fn failed(&mut self, contact: &Contact, failure: Failure, found: &mut Vec<Finding>) {
        let subjects: &[Subject] = match contact.protocol {
            6 => &[Subject::Ports(contact.target), Subject::Hosts(contact.port)],
            UDP => &[Subject::UdpPorts(contact.target)],
            _ => &[Subject::Pings],
        };
        self.count(contact, subjects, Attempt::of(contact, failure.name()), found);
    }

    /// Counts the attempt in the tallies of these subjects, and judges them.
    fn count(&mut self, contact: &Contact, subjects: &[Subject], attempt: Attempt, found: &mut Vec<Finding>) {
        let &Contact { source: ip, protocol, port, at_ns, .. } = contact;
        let window_ns = self.security.window.as_nanos() as u64;
        let answered = &self.answered;
        let walk = || Walk::after_successes(answered.hosts(ip, protocol, port), at_ns);
        let bench = Bench { security: &self.security, answered, now_ns: self.now_ns };
        let due = self.sources.with(ip, walk, |source| {
            source.party = contact.source_party().cloned().or(source.party.take());
            let (mut due, mut first) = (Vec::new(), true);
            for &subject in subjects {
                let distinct = !matches!(subject, Subject::Logins(..));
                first &= source.tally(subject).add(attempt.clone(), window_ns, distinct);
                due.extend(bench.judge(ip, source, subject, contact.target_party(), found));
            }
            if matches!(contact.what, What::Failed(_)) {
                source.walk.failed(attempt, first);
                due.extend(bench.judge_walk(source));
            }
            due
        });
        self.due.extend(due.into_iter().flatten().map(|at_ns| (at_ns, ip)));
    }

    /// An event of a single contact.
    fn alone(&self, kind: Kind, contact: &Contact, deed: String) -> Finding {
        Finding {
            kind,
            source: Some(contact.source),
            source_party: contact.source_party().cloned(),
            target: Some(contact.target),
            port: (contact.port != 0).then_some(contact.port),
            target_party: contact.target_party().cloned(),
            count: 1,
            threshold: 1,
            window: Duration::ZERO,
            between_ns: Some([contact.at_ns; 2]),
            deed,
            evidence: vec![Attempt::of(contact, "answered")],
        }
    }

    /// To be called about once a second: forgets what is too old, and judges what had to wait.
    pub fn turn(&mut self, now_ns: u64, found: &mut Vec<Finding>) {
        self.now_ns = now_ns;
        self.answered.turn(now_ns);
        self.sources.turn(now_ns, self.security.window.as_nanos() as u64);
        let Judge { security, sources, answered, floods, due, .. } = self;
        let bench = Bench { security, answered, now_ns };
        while let Some(&(at_ns, ip)) = due.first().filter(|(at_ns, _)| *at_ns <= now_ns) {
            due.remove(&(at_ns, ip));
            if let Some(source) = sources.known(ip) {
                due.extend(bench.judge_settled(ip, source, found).map(|at_ns| (at_ns, ip)));
            }
        }
        let mut flooded = Vec::new();
        floods.turn(now_ns, security.thresholds.syn_flood, |flood| flooded.push(flood));
        let wanted = |flood: &Flood| {
            Kind::SynFlood.is_wanted(&self.security) && !self.is_ignored(flood.server.0, flood.party.as_ref())
        };
        found.extend(flooded.into_iter().filter(wanted).map(|flood| flood.finding(self.security.thresholds.syn_flood)));
    }
}

impl Flood {
    fn finding(self, threshold: u32) -> Finding {
        let Flood { server: (ip, port), party, half_open, some } = self;
        Finding {
            kind: Kind::SynFlood,
            source: None,
            source_party: None,
            target: Some(ip),
            port: Some(port),
            target_party: party,
            count: half_open,
            threshold,
            window: Duration::from_secs(5),
            between_ns: between(&some),
            deed: format!("gets {half_open} connections a second at port {port} that stay half open"),
            evidence: some,
        }
    }
}

#[cfg(test)]
mod tests;
