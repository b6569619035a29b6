//! Records as the programs write them, decoded.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::clock::Clock;
use super::facts::{Facts, Moment};
use super::skel::types::{nm_cause, nm_delta, nm_entry4, nm_entry6, nm_facts, nm_hook, nm_noted6, nm_number, nm_state};

/// The hook that saw a packet, named from the interface's point of view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Hook {
    /// The packet entered the host through the interface.
    #[default]
    Ingress,
    /// The packet left through it.
    Egress,
}

impl Hook {
    /// The name in configuration and output.
    pub fn name(self) -> &'static str {
        match self {
            Hook::Ingress => "ingress",
            Hook::Egress => "egress",
        }
    }

    pub(super) fn decode(value: u8) -> Option<Hook> {
        match nm_hook(value.into()) {
            nm_hook::NM_INGRESS => Some(Hook::Ingress),
            nm_hook::NM_EGRESS => Some(Hook::Egress),
            _ => None,
        }
    }
}

/// Why a record was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cause {
    /// Another flow needed its slot in the cache.
    Displaced,
    /// It holds a RST or an ICMP error.
    Urgent,
    /// The sweep found it idle, new, or due for a report.
    #[default]
    Swept,
    /// The cache was in use when its packet arrived.
    Bypassed,
    /// No packet: an ICMP error quotes one that `source` sent to `destination`. Type and code are those of the error, which is an
    /// ICMPv6 error if `v6` is set.
    Quoted,
}

/// An address and a port. The port is 0 in protocols without ports; an IPv4 address fills the first four bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// In network byte order.
    pub address: [u8; 16],
    /// In host byte order; for ICMP queries the identifier.
    pub port: u16,
}

impl Endpoint {
    /// An endpoint from an address of the standard library.
    pub fn of(ip: IpAddr, port: u16) -> Endpoint {
        let mut address = [0; 16];
        match ip {
            IpAddr::V4(ip) => address[..4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => address = ip.octets(),
        }
        Endpoint { address, port }
    }

    /// The address in the type of the standard library; `v6` gives the family.
    pub fn ip(&self, v6: bool) -> IpAddr {
        let a = self.address;
        if v6 { Ipv6Addr::from(a).into() } else { Ipv4Addr::new(a[0], a[1], a[2], a[3]).into() }
    }
}

/// What sequence numbers show about the sender of a TCP record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// One past the highest sequence number sent; `None`: not known.
    pub end: Option<u32>,
    /// The highest acknowledgement number sent; `None`: not known.
    pub ack: Option<u32>,
    /// The other end has sent since the sender sent its last data.
    pub heard: bool,
    /// Whether the first segment was a retransmission could not be judged.
    pub unjudged: bool,
    /// The latest data were no longer than a TLS alert.
    pub short: bool,
    /// When the latest FIN or RST was sent.
    pub closed: Option<Moment>,
}

/// What one hook saw of one direction of a flow since its last record.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// IPv6, not IPv4.
    pub v6: bool,
    /// Sender.
    pub source: Endpoint,
    /// Receiver.
    pub destination: Endpoint,
    /// IP protocol number.
    pub protocol: u8,
    /// Index of the interface that saw it.
    pub ifindex: u32,
    /// The hook that saw it.
    pub hook: Hook,
    /// It was inside a tunnel packet that was seen there.
    pub inner: bool,
    /// Outer VLAN id; 0: none.
    pub vlan: u16,
    /// QinQ: the second tag's id; 0: none.
    pub inner_vlan: u16,
    /// Packets on the wire: segments of GSO and GRO packets count one by one.
    pub packets: u64,
    /// Their bytes from the link-layer header on.
    pub bytes: u64,
    /// Time of the first packet: CLOCK_MONOTONIC nanoseconds with the resolution of a jiffy; in a replay the time of the capture.
    pub first_ns: u64,
    /// Time of the last packet, likewise.
    pub last_ns: u64,
    /// OR of the TCP flags byte of all packets.
    pub tcp_flags: u8,
    /// A SYN without ACK, or an INIT of SCTP, was among them: the sender opens the connection.
    pub syn: bool,
    /// A SYN with ACK, or an INIT ACK, was among them: the sender answers.
    pub syn_ack: bool,
    /// Sequence numbers, if the protocol is TCP.
    pub sequence: Sequence,
    /// UDP: the other end had not sent before, as far back as is remembered.
    pub first: bool,
    /// One of its frames was sent to the broadcast address; never set for TCP and SCTP.
    pub broadcast: bool,
    /// ICMP type of the latest packet.
    pub icmp_type: u8,
    /// ICMP code of the latest packet.
    pub icmp_code: u8,
    /// Why it was written.
    pub cause: Cause,
    /// Rare facts, if there are any.
    pub facts: Option<Facts>,
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
/// The flags in `nm_delta.cause`.
const FLAGS: u32 = nm_cause::NM_UNJUDGED.0 | nm_cause::NM_SHORT.0 | nm_cause::NM_STAMPED.0;
/// The bit in the `hook` of a key for packets inside a tunnel.
const INNER: u8 = nm_number::NM_INNER.0 as u8;

/// Size in bytes of the largest record in a ring, including the ring's own header.
pub(super) const RING_RECORD_BYTES: usize = size_of::<nm_noted6>() + 8;

impl Record {
    /// Decodes a record of a flow over IPv4; `None` if it contains an unknown value.
    pub(super) fn of4(entry: &nm_entry4, facts: Option<&nm_facts>, clock: &Clock) -> Option<Record> {
        let key = &entry.key;
        let wide = |address: u32| {
            let mut wide = [0; 16];
            wide[..4].copy_from_slice(&address.to_ne_bytes());
            wide
        };
        let record = Record {
            v6: false,
            source: Endpoint { address: wide(key.saddr), port: u16::from_be(key.sport) },
            destination: Endpoint { address: wide(key.daddr), port: u16::from_be(key.dport) },
            protocol: key.protocol,
            ifindex: key.ifindex,
            hook: Hook::decode(key.hook & !INNER)?,
            inner: key.hook & INNER != 0,
            vlan: key.vlan,
            inner_vlan: key.inner_vlan,
            ..Record::of_delta(&entry.delta, facts, clock)?
        };
        Some(record.of_protocol(&entry.delta))
    }

    /// Decodes a record of a flow over IPv6; `None` if it contains an unknown value.
    pub(super) fn of6(entry: &nm_entry6, facts: Option<&nm_facts>, clock: &Clock) -> Option<Record> {
        let key = &entry.key;
        let record = Record {
            v6: true,
            source: Endpoint { address: key.saddr, port: u16::from_be(key.sport) },
            destination: Endpoint { address: key.daddr, port: u16::from_be(key.dport) },
            protocol: key.protocol,
            ifindex: key.ifindex,
            hook: Hook::decode(key.hook & !INNER)?,
            inner: key.hook & INNER != 0,
            vlan: key.vlan,
            inner_vlan: key.inner_vlan,
            ..Record::of_delta(&entry.delta, facts, clock)?
        };
        Some(record.of_protocol(&entry.delta))
    }

    /// Up to `packets` and `bytes` of its packets, which are known from elsewhere, and the rest.
    pub fn split(&self, packets: u64, bytes: u64) -> (Record, Record) {
        let (packets, bytes) = (packets.min(self.packets), bytes.min(self.bytes));
        let again = Record { packets, bytes, facts: None, ..self.clone() };
        (again, Record { packets: self.packets - packets, bytes: self.bytes - bytes, ..self.clone() })
    }

    /// Fills the fields whose bits depend on the protocol.
    fn of_protocol(mut self, delta: &nm_delta) -> Record {
        let has = |bit: nm_state| u32::from(delta.state) & bit.0 != 0;
        let beside = |flag: nm_cause| u32::from(delta.cause) & flag.0 != 0;
        if self.protocol != TCP || self.cause == Cause::Quoted {
            [self.icmp_code, self.icmp_type] = delta.icmp.to_le_bytes();
        }
        match self.protocol {
            TCP => {
                self.sequence = Sequence {
                    end: has(nm_state::NM_TRACKED).then_some(delta.seq_end),
                    ack: has(nm_state::NM_ACKED).then_some(delta.ack),
                    heard: has(nm_state::NM_HEARD),
                    unjudged: beside(nm_cause::NM_UNJUDGED),
                    short: beside(nm_cause::NM_SHORT),
                    closed: beside(nm_cause::NM_STAMPED)
                        .then(|| Moment::of(u32::from(delta.icmp) << 16 | u32::from(delta.probed), 32))
                        .flatten(),
                };
            }
            UDP => self.first = has(nm_state::NM_FIRST),
            _ => {}
        }
        // The same bits have another meaning in protocols without a handshake.
        if matches!(self.protocol, TCP | SCTP) {
            (self.syn, self.syn_ack) = (has(nm_state::NM_SYN), has(nm_state::NM_SYN_ACK));
        } else {
            self.broadcast = has(nm_state::NM_BROADCAST);
        }
        self
    }

    fn of_delta(delta: &nm_delta, facts: Option<&nm_facts>, clock: &Clock) -> Option<Record> {
        Some(Record {
            packets: delta.packets.into(),
            bytes: delta.bytes,
            first_ns: clock.nanoseconds(delta.first),
            last_ns: clock.nanoseconds(delta.last),
            tcp_flags: delta.tcp_flags,
            cause: match nm_cause(u32::from(delta.cause) & !FLAGS) {
                nm_cause::NM_DISPLACED => Cause::Displaced,
                nm_cause::NM_URGENT => Cause::Urgent,
                nm_cause::NM_SWEPT => Cause::Swept,
                nm_cause::NM_BYPASSED => Cause::Bypassed,
                nm_cause::NM_QUOTED => Cause::Quoted,
                _ => return None,
            },
            facts: match facts {
                Some(facts) => Some(Facts::decode(facts)?),
                None => None,
            },
            ..Record::default()
        })
    }
}
