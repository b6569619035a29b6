//! What a flow shows that a detector may want: one contact of a source with a target.

use std::net::IpAddr;
use std::sync::Arc;

use crate::bpf::App;
use crate::flow::{Flow, Parties, Party};

/// A contact.
#[derive(Clone, Debug)]
pub struct Contact {
    /// When the flow began, in nanoseconds of the flows' clock.
    pub at_ns: u64,
    /// IP protocol number.
    pub protocol: u8,
    /// Who made the contact.
    pub source: IpAddr,
    /// Its port.
    pub source_port: u16,
    /// With whom.
    pub target: IpAddr,
    /// The target's port; 0 if the protocol has none.
    pub port: u16,
    /// The address that answers for it, if the target's is translated.
    pub behind: Option<IpAddr>,
    /// What came of it.
    pub what: What,
    /// The names of both, in the order of the flow's key.
    pub parties: Option<Arc<Parties>>,
    /// The source's place in that order.
    pub source_end: u8,
}

/// What came of a contact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The target answered.
    Answered,
    /// The target refused, or did not answer: the reason.
    Failed(Failure),
    /// A segment as no connection has it.
    Stealth(Probe),
    /// A short dialogue with this service: the bytes of payload that the target sent.
    Dialogue(Service, u64),
    /// The ends speak this, and have changed to the second.
    Spoke(App, Option<App>),
}

/// Why a target was not reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It said no.
    Refused,
    /// It said nothing.
    Timeout,
    /// Somebody between said that it cannot be reached.
    Unreachable,
}

impl Failure {
    /// The name in output, as that of an outcome.
    pub fn name(self) -> &'static str {
        match self {
            Failure::Refused => "refused",
            Failure::Timeout => "timeout",
            Failure::Unreachable => "unreachable",
        }
    }
}

/// A segment by which scanners find out about a port without opening a connection (RFC 9293 3.10.7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// FIN alone.
    Fin,
    /// No flag at all.
    Null,
    /// FIN with PSH and URG.
    Xmas,
    /// SYN with FIN.
    SynFin,
}

impl Probe {
    /// The probe with these flags, if it is one. Every segment but the first of a connection has ACK, or is a RST.
    pub(super) fn of(flags: u8) -> Option<Probe> {
        const FIN: u8 = 1;
        const SYN: u8 = 2;
        const PROOF: u8 = 4 | 16;
        match (flags & PROOF, flags & SYN, flags & FIN) {
            (0, SYN, FIN) => Some(Probe::SynFin),
            (0, 0, FIN) if flags & !FIN != 0 => Some(Probe::Xmas),
            (0, 0, FIN) => Some(Probe::Fin),
            (0, 0, 0) if flags == 0 => Some(Probe::Null),
            _ => None,
        }
    }

    /// The name in output.
    pub fn name(self) -> &'static str {
        match self {
            Probe::Fin => "fin",
            Probe::Null => "null",
            Probe::Xmas => "xmas",
            Probe::SynFin => "syn_fin",
        }
    }
}

/// A service that asks who somebody is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Service {
    Ssh,
    Ftp,
    Telnet,
    Smtp,
    Rdp,
    Mysql,
    Postgres,
    Mongodb,
    Mssql,
    Oracle,
}

impl Service {
    /// The service that a flow belongs to, by what its ends speak, otherwise by the server's port.
    pub(super) fn of(app: Option<App>, port: u16) -> Option<Service> {
        Some(match (app, port) {
            // FTP greets like SMTP.
            (_, 21) => Service::Ftp,
            (Some(App::Ssh), _) | (None, 22) => Service::Ssh,
            (Some(App::Smtp), _) | (None, 25 | 587) | (None | Some(App::Tls), 465) => Service::Smtp,
            (Some(App::Mysql), _) | (None, 3306) => Service::Mysql,
            (Some(App::Postgres), _) | (None, 5432) => Service::Postgres,
            (Some(App::Mongodb), _) | (None, 27017) => Service::Mongodb,
            (None, 23) => Service::Telnet,
            // It is in TLS after its first messages.
            (None | Some(App::Tls), 3389) => Service::Rdp,
            (None, 1433) => Service::Mssql,
            (None, 1521) => Service::Oracle,
            _ => return None,
        })
    }

    /// Bytes of payload that the server sends at the most while somebody fails to log in. Measured with OpenSSH 9.2 (2,240 to 3,280 for
    /// one to six tries; 3,550 for the shortest success), PostgreSQL 15 (225; 454) and MariaDB 10.11 (137 to 189; 134, see
    /// [`Service::most_answers`]).
    pub(super) fn most_bytes(self) -> u64 {
        match self {
            Service::Ssh => 3400,
            Service::Mysql => 620,
            Service::Postgres => 340,
            // Keys are exchanged first, or greetings are long.
            Service::Rdp | Service::Smtp => 8 << 10,
            _ => 2 << 10,
        }
    }

    /// Answers of the server to a client that fails. At MySQL, a client that gets in asks at least once more.
    pub(super) fn most_answers(self) -> u32 {
        if self == Service::Mysql { 1 } else { u32::MAX }
    }

    /// The name in output.
    pub fn name(self) -> &'static str {
        match self {
            Service::Ssh => "ssh",
            Service::Ftp => "ftp",
            Service::Telnet => "telnet",
            Service::Smtp => "smtp",
            Service::Rdp => "rdp",
            Service::Mysql => "mysql",
            Service::Postgres => "postgres",
            Service::Mongodb => "mongodb",
            Service::Mssql => "mssql",
            Service::Oracle => "oracle",
        }
    }
}

impl Contact {
    /// The contact of `source_end` with the other end of the flow.
    pub(super) fn of(flow: &Flow, source_end: usize, what: What) -> Contact {
        let (source, target) = (flow.endpoint(source_end), flow.endpoint(1 - source_end));
        let v6 = flow.v6();
        // What is in a port's place in ICMP is an identifier.
        let port = |port| if crate::line::WITH_PORTS.contains(&flow.protocol) { port } else { 0 };
        Contact {
            at_ns: flow.first_ns,
            protocol: flow.protocol,
            source: source.ip(v6),
            source_port: port(source.port),
            target: target.ip(v6),
            port: port(target.port),
            behind: flow.nat().and_then(|nat| nat.server).map(|server| server.ip(v6)),
            what,
            parties: flow.parties.clone(),
            source_end: source_end as u8,
        }
    }

    fn party(&self, end: u8) -> Option<&Arc<Party>> {
        self.parties.as_ref()?.get(usize::from(end & 1))?.as_ref()
    }

    /// Who the source is, if that is known.
    pub fn source_party(&self) -> Option<&Arc<Party>> {
        self.party(self.source_end)
    }

    /// Who the target is, if that is known.
    pub fn target_party(&self) -> Option<&Arc<Party>> {
        self.party(1 - (self.source_end & 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_segments_that_no_connection_has() {
        let names = [0, 1, 0x29, 3, 0x0b].map(|flags| Probe::of(flags).map(Probe::name));
        assert_eq!(names, [Some("null"), Some("fin"), Some("xmas"), Some("syn_fin"), Some("syn_fin")]);
        // SYN, SYN-ACK, ACK, FIN-ACK, RST, RST-ACK, PSH-ACK, SYN with ECN, URG without anything else.
        for flags in [2, 0x12, 0x10, 0x11, 4, 0x14, 0x18, 0xc2, 0x20] {
            assert_eq!(Probe::of(flags), None, "{flags:#x}");
        }
    }

    #[test]
    fn services_are_known_by_what_they_speak_or_by_port() {
        for (app, port, service) in [
            (Some(App::Ssh), 2222, Some(Service::Ssh)),
            (None, 22, Some(Service::Ssh)),
            (Some(App::Http), 22, None),
            (Some(App::Smtp), 21, Some(Service::Ftp)),
            (None, 21, Some(Service::Ftp)),
            (Some(App::Tls), 3389, Some(Service::Rdp)),
            (Some(App::Tls), 443, None),
            (None, 80, None),
        ] {
            assert_eq!(Service::of(app, port), service, "{app:?} at {port}");
        }
    }
}
