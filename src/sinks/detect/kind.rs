//! What can look hostile.

use serde::{Serialize, Serializer};

use crate::config::{Security, Thresholds};

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Somebody should look at it.
    Warning,
    /// It does harm now.
    Critical,
}

impl Severity {
    /// From the least on.
    pub const ALL: [Severity; 3] = [Severity::Info, Severity::Warning, Severity::Critical];

    /// The name in output.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }
}

/// A kind of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Many ports of one host refused or did not answer.
    PortScan,
    /// Many hosts refused or did not answer at one port.
    AddressScan,
    /// Over hours, a source fails at far more hosts than it succeeds at.
    SlowScan,
    /// Segments as no connection has them: FIN, NULL, Xmas, SYN with FIN.
    StealthScan,
    /// Many UDP ports of one host are unreachable.
    UdpScan,
    /// Many hosts do not answer a ping.
    PingSweep,
    /// A server has more and more half-open connections.
    SynFlood,
    /// Many short dialogues with a login that resemble each other.
    BruteForce,
    /// A workload talks to another as it never did.
    NewEdge,
    /// A protocol without encryption leaves the cluster.
    Cleartext,
    /// A well-known port has another protocol than its own.
    ProtocolMismatch,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 11] = [
        Kind::PortScan,
        Kind::AddressScan,
        Kind::SlowScan,
        Kind::StealthScan,
        Kind::UdpScan,
        Kind::PingSweep,
        Kind::SynFlood,
        Kind::BruteForce,
        Kind::NewEdge,
        Kind::Cleartext,
        Kind::ProtocolMismatch,
    ];

    /// The name in labels and output.
    pub fn name(self) -> &'static str {
        match self {
            Kind::PortScan => "port_scan",
            Kind::AddressScan => "address_scan",
            Kind::SlowScan => "slow_scan",
            Kind::StealthScan => "stealth_scan",
            Kind::UdpScan => "udp_scan",
            Kind::PingSweep => "ping_sweep",
            Kind::SynFlood => "syn_flood",
            Kind::BruteForce => "brute_force",
            Kind::NewEdge => "new_edge",
            Kind::Cleartext => "cleartext",
            Kind::ProtocolMismatch => "protocol_mismatch",
        }
    }

    /// How much it matters.
    pub fn severity(self) -> Severity {
        match self {
            Kind::SynFlood => Severity::Critical,
            Kind::NewEdge | Kind::Cleartext | Kind::ProtocolMismatch => Severity::Info,
            _ => Severity::Warning,
        }
    }

    /// True for the kinds of `features.security_monitoring.detect_port_scans`; the others belong to `detect_suspicious_patterns`.
    pub fn is_scan(self) -> bool {
        self <= Kind::PingSweep
    }

    /// True if the configuration asks for it.
    pub fn is_wanted(self, security: &Security) -> bool {
        security.enabled && if self.is_scan() { security.port_scans } else { security.patterns }
    }

    /// What has to be reached for an event.
    pub(super) fn threshold(self, of: &Thresholds) -> u32 {
        match self {
            Kind::PortScan => of.port_scan,
            Kind::AddressScan => of.address_scan,
            Kind::SlowScan => of.slow_scan,
            Kind::StealthScan => of.stealth_scan,
            Kind::UdpScan => of.udp_scan,
            Kind::PingSweep => of.ping_sweep,
            Kind::SynFlood => of.syn_flood,
            Kind::BruteForce => of.brute_force,
            Kind::NewEdge | Kind::Cleartext | Kind::ProtocolMismatch => 1,
        }
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl Serialize for Severity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
