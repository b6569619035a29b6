//! Who opened a flow, and which way that was.

use std::cmp::Ordering;
use std::sync::Arc;

use foldhash::HashSet;

use super::outcome::{ICMP, ICMPV6, TCP};
use super::{CLIENT_IS_KNOWN, Direction, Flow, FlowKey, Identity};
use crate::bpf::{App, Facts, Hook, Measure, Record};

/// Interfaces, by index, that face a workload: what enters the host there has left a pod.
pub type Facing = Arc<HashSet<u32>>;

/// The client, if that is certain: because the kernel's connection tracking knows, or the record proves it by a SYN, a handshake
/// that was measured, an echo, a packet for a tunnel's port.
pub(super) fn evidence(identity: &Identity, record: &Record) -> Option<usize> {
    if let Some(tracked) = identity.tracked {
        return Some(tracked.client);
    }
    let sender = identity.sender;
    let other = 1 - sender;
    match record.protocol {
        TCP if record.syn => return Some(sender), // and answered too, if both opened at once
        TCP if record.syn_ack => return Some(other),
        ICMP if record.icmp_type == 8 => return Some(sender),
        ICMP if record.icmp_type == 0 => return Some(other),
        ICMPV6 if record.icmp_type == 128 => return Some(sender),
        ICMPV6 if record.icmp_type == 129 => return Some(other),
        _ => {}
    }
    // Its source port is a hash, which may be the lower one (RFC 7348 5, RFC 8926 3.3).
    if record.facts.iter().any(|facts| matches!(facts.app, Some(App::Vxlan | App::Geneve))) {
        return Some(sender);
    }
    record.facts.iter().flat_map(Facts::samples).find_map(|sample| match sample.measure {
        Measure::HandshakeServer => Some(other),
        Measure::HandshakeClient | Measure::Connect => Some(sender),
        _ => None,
    })
}

/// Without evidence the end with the higher port, else who spoke first.
pub(super) fn guess(key: &FlowKey, sender: usize) -> usize {
    match key.ends[0].port.cmp(&key.ends[1].port) {
        Ordering::Less => 1,
        Ordering::Greater => 0,
        Ordering::Equal => sender,
    }
}

/// The hook names the direction of the packet, the client's packets that of the flow. Of a workload's interface we see the
/// outer end: what comes in there goes out for the workload.
pub(super) fn direction_of(facing: &Facing, client: usize, sender: usize, record: &Record) -> Direction {
    let leaves = (record.hook == Hook::Egress) != facing.contains(&record.ifindex);
    if leaves == (client == sender) { Direction::Egress } else { Direction::Ingress }
}

/// The client is a workload of this node: its packets enter the host here, or packets for it leave. That decides the direction,
/// whatever the server's end looked like.
pub(super) fn opened_by_workload(facing: &Facing, client: usize, sender: usize, record: &Record) -> bool {
    (record.hook == Hook::Ingress) == (client == sender) && facing.contains(&record.ifindex)
}

fn opens(record: &Record) -> bool {
    record.protocol == TCP && record.syn
}

/// The client by this record, if it is another than was thought: a guess gives way to evidence, and a guess by who spoke
/// first to an earlier packet.
pub(super) fn corrected(flow: &Flow, identity: &Identity, record: &Record) -> Option<usize> {
    let client = match evidence(identity, record) {
        // Both ends sent a SYN: the earlier one opened.
        Some(_) if flow.has(CLIENT_IS_KNOWN) && !(opens(record) && record.first_ns < flow.first_ns) => return None,
        Some(client) => client,
        None => {
            let tie = flow.key.ends[0].port == flow.key.ends[1].port;
            if flow.has(CLIENT_IS_KNOWN) || !tie || record.first_ns >= flow.first_ns {
                return None;
            }
            identity.sender
        }
    };
    (usize::from(flow.client) != client).then_some(client)
}
