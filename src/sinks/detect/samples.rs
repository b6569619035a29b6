//! Contacts for tests.

use std::net::{IpAddr, Ipv4Addr};

use super::contact::{Contact, Failure, What};

/// A second.
pub(super) const S: u64 = 1_000_000_000;

/// 10.0.0.0 plus this number.
pub(super) fn ip(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a00_0000 + number).into()
}

pub(super) fn contact(source: IpAddr, target: IpAddr, port: u16, at_ns: u64, what: What) -> Contact {
    Contact {
        at_ns,
        protocol: 6,
        source,
        source_port: 40_000,
        target,
        port,
        behind: None,
        what,
        parties: None,
        source_end: 0,
    }
}

pub(super) fn refused(source: IpAddr, target: IpAddr, port: u16, at_ns: u64) -> Contact {
    contact(source, target, port, at_ns, What::Failed(Failure::Refused))
}

pub(super) fn silent(source: IpAddr, target: IpAddr, port: u16, at_ns: u64) -> Contact {
    contact(source, target, port, at_ns, What::Failed(Failure::Timeout))
}

pub(super) fn answered(source: IpAddr, target: IpAddr, port: u16, at_ns: u64) -> Contact {
    contact(source, target, port, at_ns, What::Answered)
}
