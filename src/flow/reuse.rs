//! Decides when the same endpoints belong to another flow.

use super::outcome::{TCP, Verdict, acknowledged, judge};
use super::{Flow, Identity};
use crate::bpf::Record;

/// Shorter than any jiffy, in nanoseconds.
const SAME_JIFFY_NS: u64 = 500_000;
/// The longest jiffy, at CONFIG_HZ=100, in nanoseconds.
const NEXT_JIFFY_NS: u64 = 10_000_000;

/// True if the record's SYN or SYN-ACK was sent before: because the program saw it twice, or by its sequence number,
/// which the flow remembers for longer.
fn is_repeated(flow: &Flow, identity: &Identity, record: &Record) -> bool {
    let seen_twice = record.facts.as_ref().is_some_and(|facts| facts.retransmits > 0);
    seen_twice || flow.sent[identity.sender].has_sent(record)
}

/// True if the ports are used again, or a flow that fell silent continues. Each CPU and each hook has records of its
/// own, which arrive in any order: the record with the SYN may be the last of its connection, so the SYN must also be
/// later than everything that the flow has had.
pub(super) fn starts_new_flow(flow: &Flow, identity: &Identity, record: &Record) -> bool {
    let fell_silent = flow.outcome.is_some() && judge(flow) == Verdict::Open;
    if fell_silent {
        return record.first_ns > flow.last_ns();
    }
    if record.protocol != TCP || !(record.syn || record.syn_ack) {
        return false;
    }
    let repeated = is_repeated(flow, identity, record);
    if !flow.is_over() && (repeated || !opens_another(flow, identity, record)) {
        return false;
    }
    // A sender does not give up because of its own RST, which answers what the other end sends for a forgotten
    // connection of these ports (RFC 5961 4).
    let same_attempt = record.syn && repeated || record.syn_ack && answers(flow, identity, record);
    if flow.outcome.is_none() && same_attempt && !acknowledged(flow.from_client()) {
        return false;
    }
    // An ICMP error does not make every sender give up: the same SYN may be repeated, or an answer may come after all.
    if flow.is_over() && flow.from_server().packets == 0 && (record.syn_ack || record.syn && repeated) {
        return false;
    }
    // The error that ended it is reported at once, SYNs before it up to a sweep later.
    let last_ns = flow.last_ns().max(flow.details.as_ref().map_or(0, |details| details.icmp_error_ns));
    let sent = &flow.sent[identity.sender];
    // Time has the resolution of a jiffy. Within one, a second SYN at the same hook proves a new connection, unless it
    // may be a repeated one; another hook may see the same packet in the next jiffy. The estimate of when jiffies start
    // improves with time, so that the same jiffy may get a slightly earlier time later on.
    if sent.ifindex != 0 && !sent.is_owner(identity, record) || !flow.is_over() {
        return record.first_ns > last_ns + NEXT_JIFFY_NS;
    }
    let had_it = !repeated && (record.syn && sent.syn() || record.syn_ack && sent.syn_ack());
    record.first_ns > last_ns || had_it && record.first_ns + SAME_JIFFY_NS > last_ns
}

/// More than any end acknowledges between two records, and less than the usual distance of two random sequence numbers.
const FAR: u32 = 1 << 26;

/// True if the record's SYN-ACK is the server's answer to the flow's SYN.
fn answers(flow: &Flow, identity: &Identity, record: &Record) -> bool {
    let answered = record.sequence.ack.zip(flow.from_client().end());
    usize::from(flow.client) != identity.sender && answered.is_some_and(|(ack, end)| ack.wrapping_sub(end) <= FAR)
}

/// For a flow that is open, and whose close nobody saw: its ends may be gone. A SYN with another sequence number opens
/// another connection; so does the answer to a SYN that was not reported yet.
fn opens_another(flow: &Flow, identity: &Identity, record: &Record) -> bool {
    let client = flow.from_client();
    let established = !client.syn() || acknowledged(client);
    let by_client = usize::from(flow.client) == identity.sender;
    let another = flow.sent[identity.sender].end().is_some() && record.sequence.end.is_some();
    match (record.syn, established) {
        (true, true) => true,
        // The other end may open at the same time (RFC 9293 3.5).
        (true, false) => another && by_client,
        (false, true) => another && !by_client,
        (false, false) => {
            let known = record.sequence.ack.is_some() && client.end().is_some();
            !by_client && known && !answers(flow, identity, record)
        }
    }
}
