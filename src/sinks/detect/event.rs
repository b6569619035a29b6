//! Events, as the judge finds them and as they are shown.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;

use super::kind::{Kind, Severity};
use super::tally::Attempt;
use crate::flow::{Party, protocol_name};
use crate::line::Ends;

/// What the judge has found.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What it is.
    pub kind: Kind,
    /// Who does it; `None` if nobody in particular.
    pub source: Option<IpAddr>,
    /// Its names, if they are known.
    pub source_party: Option<Arc<Party>>,
    /// To whom; `None` if to several hosts.
    pub target: Option<IpAddr>,
    /// At which port; `None` if at several, or at none.
    pub port: Option<u16>,
    /// The names of the target, if they are known.
    pub target_party: Option<Arc<Party>>,
    /// How much of it there was.
    pub count: u32,
    /// How much makes it an event.
    pub threshold: u32,
    /// The time in which the threshold had to be reached.
    pub window: Duration,
    /// When the first and the last of it began, in nanoseconds of the flows' clock.
    pub between_ns: Option<[u64; 2]>,
    /// What happened, as a sentence without its subject.
    pub deed: String,
    /// Some of the flows that show it, the oldest first.
    pub evidence: Vec<Attempt>,
}

/// An event as it is shown. The names of the fields are an interface: programs read them.
#[derive(Clone, Debug, Serialize)]
pub struct SecurityEvent {
    /// Its number since the agent started.
    pub id: u64,
    /// When it was found, RFC 3339.
    pub time: String,
    /// What it is.
    pub kind: Kind,
    /// How much it matters.
    pub severity: Severity,
    /// A sentence that says who did what.
    pub message: String,
    /// Who did it; null for a flood, whose sources are forged.
    pub source_ip: Option<IpAddr>,
    /// To whom; null if to several hosts.
    pub target_ip: Option<IpAddr>,
    /// At which port; null if at several or none.
    pub target_port: Option<u16>,
    /// How much of it there was.
    pub count: u32,
    /// How much makes it an event.
    pub threshold: u32,
    /// Seconds in which the threshold had to be reached.
    pub window_s: f64,
    /// When its first and last flow began, RFC 3339.
    pub first: Option<String>,
    #[expect(missing_docs, reason = "see first")]
    pub last: Option<String>,
    /// The names of the source.
    pub source: Option<Ends>,
    /// The names of the target.
    pub target: Option<Ends>,
    /// Some of the flows that show it.
    pub flows: Vec<EventFlow>,
}

/// A flow that is evidence.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct EventFlow {
    /// RFC 3339.
    pub start: String,
    pub protocol: String,
    pub client_ip: IpAddr,
    pub client_port: u16,
    pub server_ip: IpAddr,
    pub server_port: u16,
    /// `refused`, `timeout` or `unreachable`; else what it was: `fin`, `null`, `xmas`, `syn_fin`, `half_open`, `dialogue`, `answered`.
    pub outcome: &'static str,
}

/// A name, and the address if it is not the name.
pub(super) fn who(ip: IpAddr, party: Option<&Arc<Party>>) -> String {
    let name = party.and_then(|party| Ends(Arc::clone(party)).host());
    name.map_or_else(|| ip.to_string(), |name| format!("{name} ({ip})"))
}

fn rfc3339(unix_ns: u64) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_nanos(unix_ns)).to_string()
}

impl Finding {
    /// What happened, in a sentence.
    fn sentence(&self) -> String {
        match (self.source, self.target) {
            (Some(source), _) => format!("{} {}", who(source, self.source_party.as_ref()), self.deed),
            (None, Some(target)) => format!("{} {}", who(target, self.target_party.as_ref()), self.deed),
            (None, None) => self.deed.clone(),
        }
    }

    /// The event with this number, found at `now_ns` of the flows' clock, which `offset_ns` takes to the time since 1970.
    pub(super) fn shown(&self, id: u64, now_ns: u64, offset_ns: i64) -> SecurityEvent {
        let at = |ns: u64| rfc3339(ns.saturating_add_signed(offset_ns));
        let flow = |attempt: &Attempt| EventFlow {
            start: at(attempt.at_ns),
            protocol: protocol_name(attempt.protocol).into_owned(),
            client_ip: attempt.source,
            client_port: attempt.source_port,
            server_ip: attempt.target,
            server_port: attempt.port,
            outcome: attempt.outcome,
        };
        SecurityEvent {
            id,
            time: at(now_ns),
            kind: self.kind,
            severity: self.kind.severity(),
            message: self.sentence(),
            source_ip: self.source,
            target_ip: self.target,
            target_port: self.port,
            count: self.count,
            threshold: self.threshold,
            window_s: self.window.as_secs_f64(),
            first: self.between_ns.map(|[first, _]| at(first)),
            last: self.between_ns.map(|[_, last]| at(last)),
            source: self.source_party.clone().map(Ends),
            target: self.target_party.clone().map(Ends),
            flows: self.evidence.iter().map(flow).collect(),
        }
    }
}
