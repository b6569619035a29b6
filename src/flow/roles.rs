//! Who opened a flow, and in which direction.

use std::net::IpAddr;
use std::sync::Arc;

use foldhash::HashSet;

use super::outcome::{ICMP, ICMPV6, SCTP, TCP, UDP};
use super::{CLIENT_IS_KNOWN, CLIENT_WAS_FIRST, Direction, Flow, FlowKey, Identity};
use crate::bpf::{App, Endpoint, Facts, Hook, Measure, Record};

/// Indices of interfaces that face a workload: what enters the host there has left a pod.
pub type Facing = Arc<HashSet<u32>>;

/// True for a multicast or broadcast address, which cannot open a flow.
pub(super) fn is_group(end: &Endpoint, v6: bool) -> bool {
    match end.ip(v6) {
        IpAddr::V4(ip) => ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_multicast(),
    }
}

/// Index of the client, if that is certain: because the kernel's connection tracking knows it, because only the sender
/// can be the client, or because the record proves it with a SYN or INIT, a handshake that was measured, a question or
/// its answer (DNS, echo), or a packet to a tunnel's port.
pub(super) fn evidence(identity: &Identity, record: &Record) -> Option<usize> {
    if let Some(tracked) = identity.tracked {
        return Some(tracked.client);
    }
    let sender = identity.sender;
    let other = 1 - sender;
    match record.protocol {
        _ if record.broadcast || is_group(&record.destination, record.v6) => return Some(sender),
        TCP | SCTP if record.syn => return Some(sender), // and answered too, if both opened at once
        TCP | SCTP if record.syn_ack => return Some(other),
        ICMP if record.icmp_type == 8 => return Some(sender),
        ICMP if record.icmp_type == 0 => return Some(other),
        ICMPV6 if record.icmp_type == 128 => return Some(sender),
        ICMPV6 if record.icmp_type == 129 => return Some(other),
        _ => {}
    }
    // A tunnel's source port is a hash, which may be the lower port (RFC 7348 5, RFC 8926 3.3).
    if record.facts.iter().any(|facts| matches!(facts.app, Some(App::Vxlan | App::Geneve))) {
        return Some(sender);
    }
    if let Some(asks) = record.facts.as_ref().and_then(|facts| facts.asks) {
        return Some(if asks { sender } else { other });
    }
    record.facts.iter().flat_map(Facts::samples).find_map(|sample| match sample.measure {
        Measure::HandshakeServer => Some(other),
        Measure::HandshakeClient | Measure::Connect => Some(sender),
        _ => None,
    })
}

/// Linux assigns ports from here on to clients (net.ipv4.ip_local_port_range); RFC 6335 starts at 49152.
const EPHEMERAL: u16 = 32768;
/// Ports below this belong to services (RFC 6335 6: system ports).
const SYSTEM: u16 = 1024;

/// The end with a client's port, if only one of the two has one.
fn with_a_clients_port(key: &FlowKey) -> Option<usize> {
    let [a, b] = [0, 1].map(|end| key.ends[end].port);
    let differ = |is: fn(u16) -> bool| (is(a) != is(b)).then(|| usize::from(is(b)));
    differ(|port| port >= EPHEMERAL).or_else(|| differ(|port| port >= SYSTEM))
}

/// Guesses the client by the ports of a TCP connection that was first seen after its start: who spoke first there means
/// nothing. `None` if the ports do not show it either.
fn by_ports(key: &FlowKey) -> Option<usize> {
    if key.protocol == TCP { with_a_clients_port(key) } else { None }
}

/// The client without evidence: the end with a client's port in a TCP connection that was first seen after its start,
/// else who spoke first.
pub(super) fn guess(key: &FlowKey, sender: usize) -> usize {
    by_ports(key).unwrap_or(sender)
}

/// Shorter than any jiffy, in nanoseconds. The estimate of when jiffies start improves with time, so that the same
/// jiffy may get a slightly earlier time.
const SAME_JIFFY_NS: u64 = 500_000;

/// True if the sender spoke before the end that was taken for the first. If both spoke within a jiffy, the program
/// knows the order.
fn spoke_first(flow: &Flow, record: &Record) -> bool {
    if record.first {
        record.first_ns < flow.first_ns + SAME_JIFFY_NS
    } else if flow.has(CLIENT_WAS_FIRST) {
        record.first_ns + SAME_JIFFY_NS < flow.first_ns
    } else {
        record.first_ns < flow.first_ns
    }
}

/// True if the other end's first datagram came in the same jiffy as the sender's, and the program had no room to
/// remember their order.
fn order_is_unknown(flow: &Flow, sender: usize, record: &Record) -> bool {
    let is_known = record.protocol != UDP || record.first || flow.has(CLIENT_WAS_FIRST);
    !is_known && sender != usize::from(flow.client) && record.first_ns.abs_diff(flow.first_ns) < SAME_JIFFY_NS
}

/// The hook gives the direction of the packet, the client's packets that of the flow. At a workload's interface netmon
/// sees the outer end: packets that come in there leave the workload.
pub(super) fn direction_of(facing: &Facing, client: usize, sender: usize, record: &Record) -> Direction {
    let leaves = (record.hook == Hook::Egress) != facing.contains(&record.ifindex);
    if leaves == (client == sender) { Direction::Egress } else { Direction::Ingress }
}

/// True if the client is a workload of this node: its packets enter the host here, or packets to it leave here. That
/// decides the direction, whatever the hook at the server's end showed.
pub(super) fn opened_by_workload(facing: &Facing, client: usize, sender: usize, record: &Record) -> bool {
    (record.hook == Hook::Ingress) == (client == sender) && facing.contains(&record.ifindex)
}

fn opens(record: &Record) -> bool {
    record.protocol == TCP && record.syn
}

/// The client according to this record, if that is another end than was assumed: evidence replaces a guess, an earlier
/// packet replaces a guess by who spoke first, and ports decide if it is not known who did.
pub(super) fn corrected(flow: &Flow, evidence: Option<usize>, sender: usize, record: &Record) -> Option<usize> {
    let client = match evidence {
        // Both ends sent a SYN: the earlier one opened.
        _ if flow.has(CLIENT_IS_KNOWN) && !(opens(record) && record.first_ns < flow.first_ns) => return None,
        Some(client) => client,
        None if by_ports(&flow.key()).is_some() => return None,
        None => {
            let by_ports = order_is_unknown(flow, sender, record).then(|| with_a_clients_port(&flow.key())).flatten();
            by_ports.or_else(|| spoke_first(flow, record).then_some(sender))?
        }
    };
    (usize::from(flow.client) != client).then_some(client)
}
