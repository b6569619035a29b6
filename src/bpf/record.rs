//! Records as the programs write them, decoded.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::app::App;
use super::clock::Clock;
use super::skel::types::{nm_cause, nm_delta, nm_entry4, nm_entry6, nm_facts, nm_hook, nm_sample};

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
    /// As in configuration and output.
    pub fn name(self) -> &'static str {
        match self {
            Hook::Ingress => "ingress",
            Hook::Egress => "egress",
        }
    }
}

/// Why a record was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cause {
    /// Another flow needed its place in the cache.
    Displaced,
    /// It holds a RST or an ICMP error.
    Urgent,
    /// The sweep found it idle, new, or due for a report.
    #[default]
    Swept,
    /// The cache was in use when its packet came.
    Bypassed,
    /// No packet: an ICMP error quotes one that `source` sent to `destination`. Type and code are the error's; `v6` tells
    /// ICMP from ICMPv6.
    Quoted,
}

/// What a sample measured. "The sender" is that of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// From the SYN to the sender's SYN-ACK.
    HandshakeServer,
    /// From the SYN-ACK to the sender's ACK.
    HandshakeClient,
    /// From the sender's first SYN to the ACK that ends the handshake.
    Connect,
    /// From data of the other end to the sender's ACK.
    Rtt,
    /// The same, where nothing made the sender acknowledge at once: it may have held the ACK back for another segment (RFC 9293
    /// 3.8.6.3).
    RttLone,
    /// The same, where the ACK rides on data or a FIN, or covers what was sent at a time that is not known: it waited for that.
    RttWaited,
    /// From the last byte of the other end to the sender's first byte of an answer.
    Response,
    /// From an ICMP echo request to the sender's reply.
    Echo,
}

/// Bits of a sample that are its time, bpf/types.h.
const NANOSECONDS: u64 = (1 << 56) - 1;

impl Measure {
    fn decode(value: u64) -> Option<Measure> {
        Some(match nm_sample(u32::try_from(value).ok()?) {
            nm_sample::NM_HANDSHAKE_SERVER => Measure::HandshakeServer,
            nm_sample::NM_HANDSHAKE_CLIENT => Measure::HandshakeClient,
            nm_sample::NM_CONNECT => Measure::Connect,
            nm_sample::NM_RTT => Measure::Rtt,
            nm_sample::NM_RTT_LONE => Measure::RttLone,
            nm_sample::NM_RTT_WAITED => Measure::RttWaited,
            nm_sample::NM_RESPONSE => Measure::Response,
            nm_sample::NM_ECHO => Measure::Echo,
            _ => return None,
        })
    }
}

/// A time that was measured at one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// What was measured.
    pub measure: Measure,
    /// Nanoseconds.
    pub ns: u64,
}

/// What is rare, and so not in every record. Counters are of what the sender sent since its last record.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// TCP segments with bytes that were sent before.
    pub retransmits: u16,
    /// TCP segments that were overtaken by later ones.
    pub out_of_order: u16,
    /// ACKs that say the same as the one before (RFC 5681).
    pub duplicate_acks: u16,
    /// Segments that announce a window of 0.
    pub zero_windows: u16,
    /// Segments with RST.
    pub resets: u16,
    /// What the sender's payload speaks, told once.
    pub app: Option<App>,
    /// What it spoke after that, if it changed.
    pub app_next: Option<App>,
    /// TLS version by its minor number: 1 to 4 for 1.0 to 1.3; 0: not known.
    pub tls: u8,
    /// With DNS: the sender asks, or else answers.
    pub asks: Option<bool>,
    samples: [Option<Sample>; 4],
}

impl Facts {
    /// What was measured, in the order in which it was.
    pub fn samples(&self) -> impl Iterator<Item = Sample> {
        self.samples.iter().flatten().copied()
    }

    fn decode(bytes: &[u8]) -> Option<Facts> {
        let facts = plain::from_bytes::<nm_facts>(bytes).ok()?;
        let mut samples = [None; 4];
        for (slot, sample) in samples.iter_mut().zip(&facts.sample[..usize::from(facts.samples).min(4)]) {
            *slot = Some(Sample { measure: Measure::decode(sample >> 56)?, ns: sample & NANOSECONDS });
        }
        let app = App::decode(facts.app);
        let dns = app == Some(App::Dns);
        Some(Facts {
            retransmits: facts.retransmits,
            out_of_order: facts.out_of_order,
            duplicate_acks: facts.duplicate_acks,
            zero_windows: facts.zero_windows,
            resets: facts.resets,
            app,
            app_next: App::decode(facts.app_next),
            tls: if dns { 0 } else { facts.app_version },
            asks: (dns && facts.app_version != 0).then_some(facts.app_version == ASKS),
            samples,
        })
    }

    /// Of other origin than a program.
    pub fn of_samples(samples: &[Sample]) -> Facts {
        let mut facts = Facts::default();
        for (slot, sample) in facts.samples.iter_mut().zip(samples) {
            *slot = Some(*sample);
        }
        facts
    }
}

/// An address and a port, the port 0 for protocols without one. IPv4 addresses fill the first four bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// In network byte order.
    pub address: [u8; 16],
    /// In host byte order; for ICMP queries the identifier.
    pub port: u16,
}

impl Endpoint {
    /// Of an address of the standard library.
    pub fn of(ip: IpAddr, port: u16) -> Endpoint {
        let mut address = [0; 16];
        match ip {
            IpAddr::V4(ip) => address[..4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => address = ip.octets(),
        }
        Endpoint { address, port }
    }

    /// The address as the standard library has it; `v6` tells the family.
    pub fn ip(&self, v6: bool) -> IpAddr {
        let a = self.address;
        if v6 { Ipv6Addr::from(a).into() } else { Ipv4Addr::new(a[0], a[1], a[2], a[3]).into() }
    }
}

/// What sequence numbers tell of the sender of a TCP record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// Behind the highest number sent.
    pub end: Option<u32>,
    /// The furthest acknowledgement.
    pub ack: Option<u32>,
    /// The other end has sent since the sender sent its last data.
    pub heard: bool,
    /// Nothing was known by which to judge whether the first segment was sent before.
    pub unjudged: bool,
    /// The last data were no longer than an alert of TLS.
    pub short: bool,
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
    /// Where it was seen.
    pub ifindex: u32,
    /// Where it was seen.
    pub hook: Hook,
    /// It was inside a tunnel's packet that was seen there.
    pub inner: bool,
    /// Outer VLAN id; 0: none.
    pub vlan: u16,
    /// QinQ: the second tag's id; 0: none.
    pub inner_vlan: u16,
    /// Packets on the wire: segments of GSO and GRO packets count one by one.
    pub packets: u64,
    /// Their bytes from the link-layer header on.
    pub bytes: u64,
    /// First packet, CLOCK_MONOTONIC nanoseconds, to the resolution of a jiffy; in replay the capture's time.
    pub first_ns: u64,
    /// Last packet, likewise.
    pub last_ns: u64,
    /// OR of the TCP flags byte of all packets.
    pub tcp_flags: u8,
    /// A SYN without ACK was among them, or an INIT of SCTP: the sender opens.
    pub syn: bool,
    /// A SYN with ACK was among them, or an INIT ACK: the sender answers.
    pub syn_ack: bool,
    /// TCP.
    pub sequence: Sequence,
    /// UDP: nothing was seen of the other end before, where that was not forgotten.
    pub first: bool,
    /// A frame of it was sent to everybody.
    pub broadcast: bool,
    /// Of the latest packet.
    pub icmp_type: u8,
    /// Of the latest packet.
    pub icmp_code: u8,
    /// Why it was written.
    pub cause: Cause,
    /// What else is to be said.
    pub facts: Option<Facts>,
}

// SAFETY: repr(C) of integers only, without padding (asserted below): any bytes are a value.
unsafe impl plain::Plain for nm_entry4 {}
// SAFETY: as above.
unsafe impl plain::Plain for nm_entry6 {}
// SAFETY: as above.
unsafe impl plain::Plain for nm_facts {}

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
/// Bits of `nm_delta.state`, bpf/types.h.
const SYN: u8 = 1;
const SYN_ACK: u8 = 2;
const FIRST: u8 = 1;
const BROADCAST: u8 = 2;
const TRACKED: u8 = 0x10;
const ACKED: u8 = 0x20;
const HEARD: u8 = 0x40;
/// `nm_delta.cause`.
const UNJUDGED: u8 = 0x80;
const SHORT: u8 = 0x40;
/// `nm_facts.app_version` of DNS.
const ASKS: u8 = 1;
/// As NM_INNER, of a key's `hook`.
const INNER: u8 = 2;

// The layout that bpf/types.h promises; a record's size tells its family.
const _: () = assert!(size_of::<nm_delta>() == 40 && size_of::<nm_entry4>() == 64 && size_of::<nm_entry6>() == 88);
const _: () = assert!(size_of::<nm_facts>() == 64);

/// The largest record in a ring, its header included.
pub(super) const RING_RECORD_BYTES: usize = size_of::<nm_entry6>() + size_of::<nm_facts>() + 8;

const ENTRY4: usize = size_of::<nm_entry4>();
const ENTRY6: usize = size_of::<nm_entry6>();
const ENTRY4_FACTS: usize = ENTRY4 + size_of::<nm_facts>();
const ENTRY6_FACTS: usize = ENTRY6 + size_of::<nm_facts>();

impl Record {
    /// Decodes what came out of a ring; `None` if it is no record.
    pub(super) fn decode(bytes: &[u8], clock: &Clock) -> Option<Record> {
        let (v6, facts) = match bytes.len() {
            ENTRY4 => (false, None),
            ENTRY6 => (true, None),
            ENTRY4_FACTS => (false, Some(Facts::decode(&bytes[ENTRY4..])?)),
            ENTRY6_FACTS => (true, Some(Facts::decode(&bytes[ENTRY6..])?)),
            _ => return None,
        };
        Some(if v6 {
            let entry = plain::from_bytes::<nm_entry6>(bytes).ok()?;
            let key = &entry.key;
            Record {
                v6,
                source: Endpoint { address: key.saddr, port: u16::from_be(key.sport) },
                destination: Endpoint { address: key.daddr, port: u16::from_be(key.dport) },
                protocol: key.protocol,
                ifindex: key.ifindex,
                hook: hook(key.hook & !INNER)?,
                inner: key.hook & INNER != 0,
                vlan: key.vlan,
                inner_vlan: key.inner_vlan,
                facts,
                ..Record::of_delta(&entry.delta, clock)?
            }
            .of_protocol(&entry.delta)
        } else {
            let entry = plain::from_bytes::<nm_entry4>(bytes).ok()?;
            let key = &entry.key;
            let wide = |address: u32| {
                let mut wide = [0; 16];
                wide[..4].copy_from_slice(&address.to_ne_bytes());
                wide
            };
            Record {
                v6,
                source: Endpoint { address: wide(key.saddr), port: u16::from_be(key.sport) },
                destination: Endpoint { address: wide(key.daddr), port: u16::from_be(key.dport) },
                protocol: key.protocol,
                ifindex: key.ifindex,
                hook: hook(key.hook & !INNER)?,
                inner: key.hook & INNER != 0,
                vlan: key.vlan,
                inner_vlan: key.inner_vlan,
                facts,
                ..Record::of_delta(&entry.delta, clock)?
            }
            .of_protocol(&entry.delta)
        })
    }

    /// What has another meaning in each protocol.
    fn of_protocol(mut self, delta: &nm_delta) -> Record {
        let has = |bit| delta.state & bit != 0;
        if self.protocol != TCP || self.cause == Cause::Quoted {
            [self.icmp_code, self.icmp_type] = delta.icmp.to_le_bytes();
        }
        match self.protocol {
            TCP => {
                self.sequence = Sequence {
                    end: has(TRACKED).then_some(delta.seq_end),
                    ack: has(ACKED).then_some(delta.ack),
                    heard: has(HEARD),
                    unjudged: delta.cause & UNJUDGED != 0,
                    short: delta.cause & SHORT != 0,
                };
                (self.syn, self.syn_ack) = (has(SYN), has(SYN_ACK));
            }
            SCTP => (self.syn, self.syn_ack) = (has(SYN), has(SYN_ACK)),
            UDP => (self.first, self.broadcast) = (has(FIRST), has(BROADCAST)),
            _ => self.broadcast = has(BROADCAST),
        }
        self
    }

    fn of_delta(delta: &nm_delta, clock: &Clock) -> Option<Record> {
        Some(Record {
            packets: delta.packets.into(),
            bytes: delta.bytes,
            first_ns: clock.nanoseconds(delta.first),
            last_ns: clock.nanoseconds(delta.last),
            tcp_flags: delta.tcp_flags,
            cause: match nm_cause((delta.cause & !(UNJUDGED | SHORT)).into()) {
                nm_cause::NM_DISPLACED => Cause::Displaced,
                nm_cause::NM_URGENT => Cause::Urgent,
                nm_cause::NM_SWEPT => Cause::Swept,
                nm_cause::NM_BYPASSED => Cause::Bypassed,
                nm_cause::NM_QUOTED => Cause::Quoted,
                _ => return None,
            },
            ..Record::default()
        })
    }
}

fn hook(value: u8) -> Option<Hook> {
    match nm_hook(value.into()) {
        nm_hook::NM_INGRESS => Some(Hook::Ingress),
        nm_hook::NM_EGRESS => Some(Hook::Egress),
        _ => None,
    }
}
