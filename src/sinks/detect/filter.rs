//! Which events somebody wants to see.

use super::event::SecurityEvent;
use super::kind::{Kind, Severity};
use crate::config::Whom;

/// Events pass if they are all of this.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// One of these kinds; empty: any.
    pub kinds: Vec<Kind>,
    /// At least this severe.
    pub severity: Option<Severity>,
    /// Of this source.
    pub source: Option<Whom>,
    /// Against this target.
    pub target: Option<Whom>,
}

impl EventFilter {
    /// True if the event passes.
    pub fn matches(&self, event: &SecurityEvent) -> bool {
        let is = |whom: &Whom, ip: Option<_>, party: &Option<crate::line::Ends>| {
            ip.is_some_and(|ip| whom.is(ip, party.as_ref().map(|ends| &*ends.0)))
        };
        (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && self.severity.is_none_or(|least| event.severity >= least)
            && self.source.as_ref().is_none_or(|whom| is(whom, event.source_ip, &event.source))
            && self.target.as_ref().is_none_or(|whom| is(whom, event.target_ip, &event.target))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::event::Finding;
    use super::super::samples::{S, ip};
    use super::*;

    #[test]
    fn events_pass_if_everything_holds() {
        let finding = Finding {
            kind: Kind::AddressScan,
            source: Some(ip(1)),
            source_party: None,
            target: None,
            port: Some(22),
            target_party: None,
            count: 25,
            threshold: 25,
            window: Duration::from_secs(300),
            between_ns: None,
            deed: String::new(),
            evidence: Vec::new(),
        };
        let event = finding.shown(1, S, 0);
        let passes = |kinds: &[Kind], severity, source: &str, target: &str| {
            let whom = |text: &str| (!text.is_empty()).then(|| Whom::parse(text).unwrap());
            let filter = EventFilter { kinds: kinds.to_vec(), severity, source: whom(source), target: whom(target) };
            filter.matches(&event)
        };
        assert!(passes(&[], None, "", ""));
        assert!(passes(&[Kind::PortScan, Kind::AddressScan], Some(Severity::Warning), "10.0.0.0/24", ""));
        assert!(!passes(&[Kind::PortScan], None, "", ""));
        assert!(!passes(&[], Some(Severity::Critical), "", ""));
        assert!(!passes(&[], None, "10.0.0.2", ""));
        assert!(!passes(&[], None, "shop/web", ""), "it has no name");
        assert!(!passes(&[], None, "", "10.0.0.0/8"), "it has no single target");
    }
}
