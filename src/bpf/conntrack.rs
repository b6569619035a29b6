//! Connections whose addresses the kernel translates, as its connection tracking (conntrack) tells of them.

use std::net::IpAddr;

use anyhow::{Context, Result};
use netlink_packet_core::Nla;
use netlink_packet_netfilter::conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Status, Tuple};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use nix::libc;
use socket2::SockFilter;

use super::netlink::{Changes, dump};
use super::record::Endpoint;

/// A connection with translated addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translated {
    /// IP protocol number.
    pub protocol: u8,
    /// IPv6, not IPv4.
    pub v6: bool,
    /// Client and server as the client dialled: source and destination of the first packet before it was translated.
    pub dialled: [Endpoint; 2],
    /// Client and server as the server sees them: destination and source of its answers before they are translated back.
    pub answered: [Endpoint; 2],
}

/// What happens to a connection with translated addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// Its first packet has passed.
    Begun(Translated),
    /// The kernel has forgotten it.
    Ended(Translated),
}

/// include/uapi/linux/netfilter/nfnetlink_compat.h
const GROUP_NEW: u32 = 1;
const GROUP_DESTROY: u32 = 3;
/// CTA_STATUS, include/uapi/linux/netfilter/nfnetlink_conntrack.h
const STATUS: u32 = 3;
/// CTA_PROTO_ICMP_ID and CTA_PROTO_ICMPV6_ID
const ICMP_ID: u16 = 4;
const ICMPV6_ID: u16 = 7;
/// struct nlmsghdr and struct nfgenmsg; the payload of an attribute.
const ATTRIBUTES_AT: u32 = 16 + 4;
const VALUE_AT: u32 = 4;

/// Lets only connections pass whose addresses are translated: the others, mostly all, cost no wake-up and no room.
fn filter() -> [SockFilter; 8] {
    let op = |code: u32, jt, jf, k| SockFilter::new(code as u16, jt, jf, k);
    let translated = (Status::SrcNat | Status::DstNat).bits();
    [
        op(libc::BPF_LD | libc::BPF_IMM, 0, 0, ATTRIBUTES_AT),
        op(libc::BPF_LDX | libc::BPF_IMM, 0, 0, STATUS),
        // The offset of that attribute, or 0.
        op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, (libc::SKF_AD_OFF + libc::SKF_AD_NLATTR) as u32),
        op(libc::BPF_MISC | libc::BPF_TAX, 0, 0, 0),
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_IND, 0, 0, VALUE_AT),
        op(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 1, translated),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}

/// Tells of connections with translated addresses.
#[derive(Debug)]
pub struct Conntrack {
    changes: Changes<NetfilterMessage>,
}

impl Conntrack {
    /// From now on, of as many at a time as fit into `queue_bytes`. An error means that this kernel does not tell.
    pub fn new(queue_bytes: usize) -> Result<Conntrack> {
        let changes = Changes::of(&[GROUP_NEW, GROUP_DESTROY], &filter(), queue_bytes)
            .context("ask to be told of connections")?;
        Ok(Conntrack { changes })
    }

    /// Gives what has happened since the last call to `take`; does not wait. False if more happened than the kernel could tell.
    ///
    /// The kernel tells of a connection before its first packet leaves under its new addresses: whoever asks after a packet was
    /// seen knows its translation.
    pub fn read(&mut self, mut take: impl FnMut(Tracking)) -> Result<bool> {
        self.changes.read(|message| {
            if let NetfilterMessageInner::Conntrack(message) = message.inner {
                let tracking = match &message {
                    ConntrackMessage::New(attributes) => translated(attributes).map(Tracking::Begun),
                    ConntrackMessage::Delete(attributes) => translated(attributes).map(Tracking::Ended),
                    _ => None,
                };
                tracking.into_iter().for_each(&mut take);
            }
        })
    }
}

/// Gives each connection that is translated at present to `take`.
pub fn list_translated(mut take: impl FnMut(Translated)) -> Result<()> {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0);
    let request = NetfilterMessage::new(header, ConntrackMessage::Get(Vec::new()));
    dump(request, |message| {
        if let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = message.inner {
            translated(&attributes).into_iter().for_each(&mut take);
        }
    })
    .context("list the connections that the kernel tracks")
}

/// `None` if nothing is translated, or what is is nothing that flows are told apart by.
fn translated(attributes: &[ConntrackAttribute]) -> Option<Translated> {
    let (mut original, mut reply, mut status) = (None, None, Status::empty());
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(tuple) => original = Ends::of(tuple),
            ConntrackAttribute::CtaTupleReply(tuple) => reply = Ends::of(tuple),
            ConntrackAttribute::CtaStatus(bits) => status = *bits,
            _ => {}
        }
    }
    let (original, reply) = (original?, reply?);
    let dialled = [original.source, original.destination];
    let answered = [reply.destination, reply.source];
    let differs = status.intersects(Status::SrcNat | Status::DstNat) && dialled != answered;
    (differs && original.v6 == reply.v6).then_some(Translated {
        protocol: original.protocol,
        v6: original.v6,
        dialled,
        answered,
    })
}

/// One direction's addresses.
struct Ends {
    protocol: u8,
    v6: bool,
    source: Endpoint,
    destination: Endpoint,
}

impl Ends {
    fn of(tuple: &[Tuple]) -> Option<Ends> {
        let (mut source, mut destination, mut protocol) = (None, None, None);
        let mut ports = [0; 2];
        for part in tuple {
            match part {
                Tuple::Ip(addresses) => {
                    for address in addresses {
                        match address {
                            IPTuple::SourceAddress(ip) => source = Some(*ip),
                            IPTuple::DestinationAddress(ip) => destination = Some(*ip),
                            _ => {}
                        }
                    }
                }
                Tuple::Proto(parts) => {
                    for part in parts {
                        match part {
                            ProtoTuple::Protocol(number) => protocol = Some(u8::from(*number)),
                            ProtoTuple::SourcePort(port) => ports[0] = *port,
                            ProtoTuple::DestinationPort(port) => ports[1] = *port,
                            // An echo's identifier stands for both ports, as in records.
                            ProtoTuple::Other(other) if [ICMP_ID, ICMPV6_ID].contains(&other.kind()) => {
                                let mut id = [0; 2];
                                if other.value_len() == id.len() {
                                    other.emit_value(&mut id);
                                    ports = [u16::from_be_bytes(id); 2];
                                }
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        let (source, destination) = (source?, destination?);
        Some(Ends {
            protocol: protocol?,
            v6: source.is_ipv6(),
            source: endpoint(source, ports[0]),
            destination: endpoint(destination, ports[1]),
        })
    }
}

fn endpoint(ip: IpAddr, port: u16) -> Endpoint {
    let mut address = [0; 16];
    match ip {
        IpAddr::V4(ip) => address[..4].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => address = ip.octets(),
    }
    Endpoint { address, port }
}
