//! The ends of a flow as the table keeps them. Addresses of IPv4 take four bytes here, not sixteen as in a key: of a
//! million flows that is the difference of many megabytes.

use super::FlowKey;
use crate::bpf::Endpoint;

/// Both ends, in the order of the flow's key.
#[derive(Clone, Debug)]
pub(super) enum Ends {
    V4 {
        addresses: [[u8; 4]; 2],
        ports: [u16; 2],
    },
    /// Apart, so that flows over IPv4 need not have the room for it.
    V6(Box<[Endpoint; 2]>),
}

fn narrow(address: [u8; 16]) -> [u8; 4] {
    let [a, b, c, d, ..] = address;
    [a, b, c, d]
}

impl Ends {
    /// Those of a key.
    pub(super) fn of(key: &FlowKey) -> Ends {
        let ends = &key.ends;
        if key.v6 {
            return Ends::V6(Box::new(*ends));
        }
        Ends::V4 { addresses: ends.map(|end| narrow(end.address)), ports: ends.map(|end| end.port) }
    }

    pub(super) fn are_v6(&self) -> bool {
        matches!(self, Ends::V6(_))
    }

    /// True if they are those of the key.
    #[inline]
    pub(super) fn are_of(&self, key: &FlowKey) -> bool {
        match self {
            Ends::V4 { addresses, ports } => {
                !key.v6 && (0..2).all(|i| addresses[i] == narrow(key.ends[i].address) && ports[i] == key.ends[i].port)
            }
            Ends::V6(ends) => key.v6 && **ends == key.ends,
        }
    }

    /// The first or the second.
    #[inline]
    pub(super) fn at(&self, end: usize) -> Endpoint {
        match self {
            Ends::V4 { addresses, ports } => Endpoint::of(addresses[end].into(), ports[end]),
            Ends::V6(ends) => ends[end],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_those_of_their_key_and_of_no_other() {
        let end = |ip: &str, port| Endpoint::of(ip.parse().unwrap(), port);
        let key = |a, b, v6| FlowKey { ends: [a, b], protocol: 6, v6 };
        let keys = [
            key(end("10.0.0.1", 1), end("10.0.0.2", 80), false),
            key(end("10.0.0.1", 2), end("10.0.0.2", 80), false),
            key(end("10.0.0.1", 1), end("10.0.1.2", 80), false),
            key(end("a00:1::", 1), end("a00:2::", 80), true), // the bytes of the first
            key(end("a00:1::", 1), end("a00:2::1", 80), true),
        ];
        for (i, key) in keys.iter().enumerate() {
            let ends = Ends::of(key);
            assert_eq!(([ends.at(0), ends.at(1)], ends.are_v6()), (key.ends, key.v6));
            for (j, other) in keys.iter().enumerate() {
                assert_eq!(ends.are_of(other), i == j, "{key:?} {other:?}");
            }
        }
    }
}
