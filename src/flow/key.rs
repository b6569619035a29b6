//! The identity of a flow.

use std::hash::{Hash, Hasher};

use crate::bpf::{Endpoint, Record};

/// Both endpoints, the lower one first, and the protocol. Interface, hook and VLAN are not part of it: the same packets
/// seen elsewhere belong to the same flow, unless they are seen in another network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowKey {
    /// The two endpoints.
    pub ends: [Endpoint; 2],
    /// IP protocol number.
    pub protocol: u8,
    /// True for IPv6, false for IPv4.
    pub v6: bool,
}

impl FlowKey {
    /// The key of a record, and the index of the end that sent.
    pub fn of(record: &Record) -> (FlowKey, usize) {
        let (source, destination) = (record.source, record.destination);
        let (ends, sender) =
            if source <= destination { ([source, destination], 0) } else { ([destination, source], 1) };
        (FlowKey { ends, protocol: record.protocol, v6: record.v6 }, sender)
    }
}

/// Hashes five words. Byte arrays would be hashed with their lengths, piece by piece.
impl Hash for FlowKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [a, b] = self.ends;
        for address in [a.address, b.address] {
            let address = u128::from_ne_bytes(address);
            state.write_u64(address as u64);
            state.write_u64((address >> 64) as u64);
        }
        let [a, b] = [a.port, b.port].map(u64::from);
        state.write_u64(a << 48 | b << 32 | u64::from(self.protocol) << 1 | u64::from(self.v6));
    }
}

/// The protocol's name in output; its number if it has none here.
pub fn protocol_name(protocol: u8) -> std::borrow::Cow<'static, str> {
    match protocol {
        1 => "icmp".into(),
        6 => "tcp".into(),
        17 => "udp".into(),
        58 => "icmpv6".into(),
        132 => "sctp".into(),
        other => other.to_string().into(),
    }
}
