//! What clients of all listeners may take up: places for connections, and memory. A client that keeps a place without using it
//! makes way for the next one, and what a client asks for beyond its bounds is refused to it, not taken from others.

mod budget;
mod client;
mod slots;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub use budget::{Budget, Share};
pub use client::{Client, GREETING, Phase};
pub use slots::{Close, ConnectionLimits, Slots};

/// Where a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// On this host: probes, the operator.
    Own,
    /// Elsewhere: an IPv4 address, or the network of 64 bits that an IPv6 host has to itself.
    Other(IpAddr),
}

impl Peer {
    /// A client elsewhere with this address.
    pub fn other(address: IpAddr) -> Peer {
        Peer::Other(match address.to_canonical() {
            IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() >> 64 << 64).into()),
            v4 => v4,
        })
    }
}

/// Why a client was turned away or refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// All places are in use.
    Full,
    /// Its address has as many connections as one may have.
    Address,
    /// It did not use its place, and another client needed it.
    MadeWay,
    /// Clients together hold all the memory that they may.
    Memory,
    /// It did not complete a TLS handshake.
    Handshake,
    /// It did not show who it is, and asked for what is not open to everybody.
    Credentials,
}

impl Reason {
    /// All of them.
    pub const ALL: [Reason; 6] =
        [Reason::Full, Reason::Address, Reason::MadeWay, Reason::Memory, Reason::Handshake, Reason::Credentials];

    /// The value of the label `reason`.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Full => "full",
            Reason::Address => "address",
            Reason::MadeWay => "made_way",
            Reason::Memory => "memory",
            Reason::Handshake => "handshake",
            Reason::Credentials => "credentials",
        }
    }
}

/// Clients of a listener that were turned away, by reason.
#[derive(Debug, Default)]
pub struct Turned([AtomicU64; Reason::ALL.len()]);

impl Turned {
    /// Counts one more.
    pub fn count(&self, reason: Reason) {
        self.0[reason as usize].fetch_add(1, Relaxed);
    }

    /// How many so far.
    pub fn of(&self, reason: Reason) -> u64 {
        self.0[reason as usize].load(Relaxed)
    }
}

/// The clients of all listeners: what they hold together, and how many were turned away by each listener.
#[derive(Debug, Default)]
pub struct Clients {
    /// The memory that they may hold.
    pub budget: std::sync::Arc<Budget>,
    /// By the metrics server.
    pub metrics: std::sync::Arc<Turned>,
    /// By the debug server.
    pub debug: std::sync::Arc<Turned>,
    /// By the control socket.
    pub control: std::sync::Arc<Turned>,
}

impl Clients {
    /// Clients that were turned away, by listener.
    pub fn turned(&self) -> [(&'static str, &Turned); 3] {
        [("metrics", &self.metrics), ("debug", &self.debug), ("control", &self.control)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_one_peer_whatever_its_addresses() {
        let peer = |text: &str| Peer::other(text.parse().unwrap());
        assert_eq!(peer("::ffff:10.0.0.1"), peer("10.0.0.1"));
        assert_ne!(peer("10.0.0.1"), peer("10.0.0.2"));
        assert_eq!(peer("2001:db8::1"), peer("2001:db8::ffff:1"));
        assert_ne!(peer("2001:db8::1"), peer("2001:db8:0:1::1"));
    }
}
