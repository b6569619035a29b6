//! Connections whose addresses the kernel translates, as reported by its connection tracking (conntrack).

use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};
use netlink_packet_core::{DecodeError, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable, NlasIterator};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::SockFilter;

use super::netlink::{Changes, Family, dump};
use super::record::Endpoint;

/// A connection with translated addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translated {
    /// IP protocol number.
    pub protocol: u8,
    /// IPv6, not IPv4.
    pub v6: bool,
    /// Client and server as the client addressed them: source and destination of the first packet before translation.
    pub dialled: [Endpoint; 2],
    /// Client and server as the server sees them: destination and source of its answers before translation back.
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
/// NFNL_SUBSYS_CTNETLINK, and types of its messages; include/uapi/linux/netfilter/nfnetlink_conntrack.h
const SUBSYSTEM: u16 = 1 << 8;
const NEW: u16 = SUBSYSTEM;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
/// struct nfgenmsg.
const GENERIC_BYTES: usize = 4;
/// CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_STATUS
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const STATUS: u16 = 3;
/// CTA_TUPLE_IP, CTA_TUPLE_PROTO
const ADDRESSES: u16 = 1;
const PROTOCOL: u16 = 2;
/// CTA_IP_V4_SRC and so on.
const V4_SOURCE: u16 = 1;
const V4_DESTINATION: u16 = 2;
const V6_SOURCE: u16 = 3;
const V6_DESTINATION: u16 = 4;
/// CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT, CTA_PROTO_ICMP_ID, CTA_PROTO_ICMPV6_ID
const NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
const ICMP_ID: u16 = 4;
const ICMPV6_ID: u16 = 7;
/// IPS_SRC_NAT and IPS_DST_NAT, include/uapi/linux/netfilter/nf_conntrack_common.h
const TRANSLATED: u32 = 1 << 4 | 1 << 5;
/// Offset of the attributes, after struct nlmsghdr and struct nfgenmsg; offset of the value in an attribute.
const ATTRIBUTES_AT: u32 = 16 + 4;
const VALUE_AT: u32 = 4;

/// Passes only connections whose addresses are translated, so that the others, usually nearly all, cost neither wake-ups nor room.
fn filter() -> [SockFilter; 8] {
    let op = |code: u32, jt, jf, k| SockFilter::new(code as u16, jt, jf, k);
    [
        op(libc::BPF_LD | libc::BPF_IMM, 0, 0, ATTRIBUTES_AT),
        op(libc::BPF_LDX | libc::BPF_IMM, 0, 0, STATUS.into()),
        // The offset of that attribute, or 0.
        op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, (libc::SKF_AD_OFF + libc::SKF_AD_NLATTR) as u32),
        op(libc::BPF_MISC | libc::BPF_TAX, 0, 0, 0),
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_IND, 0, 0, VALUE_AT),
        op(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 1, TRANSLATED),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}

/// Whether IPVS is in use. It translates without setting a status bit of the connection: only the differing addresses show it.
fn ipvs_is_used() -> bool {
    let table = fs::read_to_string("/proc/thread-self/net/ip_vs").unwrap_or_default();
    table.lines().any(|line| ["TCP", "UDP", "SCTP", "FWM"].iter().any(|kind| line.starts_with(kind)))
}

/// Shows whether there is something to read, for threads other than the reader.
#[derive(Debug)]
pub struct ConntrackQueue(OwnedFd);

impl ConntrackQueue {
    /// True if nothing has arrived, and nothing was dropped, since everything was read.
    pub fn is_empty(&self) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0))
    }
}

/// Receives news of connections with translated addresses.
#[derive(Debug)]
pub struct Conntrack {
    changes: Changes<Connection>,
    filtered: bool,
}

impl Conntrack {
    /// Subscribes with a queue of `queue_bytes`.
    ///
    /// # Errors
    ///
    /// The kernel does not report connections, or the privilege is missing.
    pub fn new(queue_bytes: usize) -> Result<Conntrack> {
        let changes = Changes::of(&[GROUP_NEW, GROUP_DESTROY], &filter(), queue_bytes)
            .context("subscribe to news of connections")?;
        Ok(Conntrack { changes, filtered: true })
    }

    /// A handle to ask whether there is something to read.
    ///
    /// # Errors
    ///
    /// The process has no descriptor left.
    pub fn queue(&self) -> Result<ConntrackQueue> {
        self.changes.duplicate().map(ConntrackQueue)
    }

    /// Checks for IPVS. True if the host has begun to use it: from now on its connections are reported as well, and existing ones
    /// must be listed.
    ///
    /// # Errors
    ///
    /// The filter cannot be removed.
    pub fn follow_ipvs(&mut self) -> Result<bool> {
        if !self.filtered || !ipvs_is_used() {
            return Ok(false);
        }
        self.changes.let_all_pass()?;
        self.filtered = false;
        Ok(true)
    }

    /// Gives what has happened since the last call to `take`; does not wait. False if more happened than the queue could hold.
    ///
    /// The kernel reports a connection before its first packet leaves with translated addresses, so a read after a packet was seen
    /// includes its translation.
    ///
    /// # Errors
    ///
    /// The socket cannot be read, or the kernel reports an error.
    pub fn read(&mut self, mut take: impl FnMut(Tracking)) -> Result<bool> {
        self.changes.read(|connection| {
            if let Some(translated) = connection.translated {
                take(if connection.ended { Tracking::Ended(translated) } else { Tracking::Begun(translated) });
            }
        })
    }
}

/// Every connection that is currently translated.
///
/// # Errors
///
/// The kernel does not list connections, or the list changed too often while it was read.
pub fn list_translated() -> Result<Vec<Translated>> {
    let all = Connection { ended: false, translated: None };
    dump(all, |connection| connection.translated).context("list the connections that the kernel tracks")
}

/// A message about a connection, decoded only as far as it identifies flows, because there may be tens of thousands a second.
#[derive(Debug)]
struct Connection {
    ended: bool,
    /// `None` if nothing is translated, or nothing that identifies flows.
    translated: Option<Translated>,
}

impl Family for Connection {
    const PROTOCOL: isize = NETLINK_NETFILTER;
}

/// As a request, it asks for all connections.
impl NetlinkSerializable for Connection {
    fn message_type(&self) -> u16 {
        GET
    }

    fn buffer_len(&self) -> usize {
        GENERIC_BYTES
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.fill(0);
    }
}

impl NetlinkDeserializable for Connection {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Connection, DecodeError> {
        let translated = match header.message_type {
            NEW | DELETE => translated(payload.get(GENERIC_BYTES..).unwrap_or_default())?,
            _ => None,
        };
        Ok(Connection { ended: header.message_type == DELETE, translated })
    }
}

fn translated(attributes: &[u8]) -> Result<Option<Translated>, DecodeError> {
    let (mut original, mut reply) = (None, None);
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        match attribute.kind() {
            ORIGINAL => original = Ends::of(attribute.value())?,
            REPLY => reply = Ends::of(attribute.value())?,
            _ => {}
        }
    }
    let (Some(original), Some(reply)) = (original, reply) else { return Ok(None) };
    let dialled = [original.source, original.destination];
    let answered = [reply.destination, reply.source];
    let differs = dialled != answered && original.v6 == reply.v6;
    let Ends { protocol, v6, .. } = original;
    Ok(differs.then_some(Translated { protocol, v6, dialled, answered }))
}

/// The addresses of one direction.
struct Ends {
    protocol: u8,
    v6: bool,
    source: Endpoint,
    destination: Endpoint,
}

impl Ends {
    fn of(tuple: &[u8]) -> Result<Option<Ends>, DecodeError> {
        let (mut source, mut destination, mut protocol, mut v6) = (None, None, None, false);
        let mut ports = [0; 2];
        for part in NlasIterator::new(tuple) {
            let part = part?;
            for field in NlasIterator::new(part.value()) {
                let field = field?;
                let port = || field.value().first_chunk().copied().map_or(0, u16::from_be_bytes);
                match (part.kind(), field.kind()) {
                    (ADDRESSES, V4_SOURCE | V6_SOURCE) => source = address(field.value()),
                    (ADDRESSES, V4_DESTINATION | V6_DESTINATION) => destination = address(field.value()),
                    (PROTOCOL, NUMBER) => protocol = field.value().first().copied(),
                    (PROTOCOL, SOURCE_PORT) => ports[0] = port(),
                    (PROTOCOL, DESTINATION_PORT) => ports[1] = port(),
                    // The identifier of an echo takes the place of both ports, as in records.
                    (PROTOCOL, ICMP_ID | ICMPV6_ID) => ports = [port(); 2],
                    _ => {}
                }
                v6 |= part.kind() == ADDRESSES && matches!(field.kind(), V6_SOURCE | V6_DESTINATION);
            }
        }
        let (Some(source), Some(destination), Some(protocol)) = (source, destination, protocol) else {
            return Ok(None);
        };
        let [source, destination] =
            [(source, ports[0]), (destination, ports[1])].map(|(address, port)| Endpoint { address, port });
        Ok(Some(Ends { protocol, v6, source, destination }))
    }
}

/// An address from four or sixteen bytes.
fn address(bytes: &[u8]) -> Option<[u8; 16]> {
    let mut address = [0; 16];
    address.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(address)
}
