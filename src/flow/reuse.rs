//! When the same endpoints mean another flow.

use super::outcome::{Verdict, judge};
use super::{Flow, Identity};
use crate::bpf::Record;

/// Shorter than any jiffy.
const SAME_JIFFY_NS: u64 = 500_000;
/// As long as the longest, CONFIG_HZ=100.
const NEXT_JIFFY_NS: u64 = 10_000_000;

/// True if the ports are used again, or a flow that fell silent goes on. Each CPU and each hook has records of its own, which
/// come in any order: the one with the SYN may be the last of its connection, so the SYN must also be later than all that the
/// flow has had.
pub(super) fn begins_anew(flow: &Flow, identity: &Identity, record: &Record) -> bool {
    let fell_silent = flow.outcome.is_some() && judge(flow) == Verdict::Open;
    if fell_silent {
        return record.first_ns > flow.last_ns();
    }
    if !flow.is_over() || !(record.syn || record.syn_ack) {
        return false;
    }
    // An ICMP error does not make every sender give up: the same SYN comes again, or an answer after all.
    let repeated = record.facts.as_ref().is_some_and(|facts| facts.retransmits > 0);
    if flow.from_server().packets == 0 && (record.syn_ack || record.syn && repeated) {
        return false;
    }
    // The error that ended it is told at once, SYNs before it up to a sweep later.
    let last_ns = flow.last_ns().max(flow.details.as_ref().map_or(0, |details| details.icmp_error_ns));
    let sent = &flow.sent[identity.sender];
    // Time has the resolution of a jiffy. Within one, a second SYN at the same hook tells, unless it may be a repeated one; another
    // hook may see the same packet in the next. What is known of when jiffies start gets better, so that the same one may come
    // out a little earlier later on.
    if sent.ifindex != 0 && !sent.is_owner(identity, record) {
        return record.first_ns > last_ns + NEXT_JIFFY_NS;
    }
    let had_it = !repeated && (record.syn && sent.syn || record.syn_ack && sent.syn_ack);
    record.first_ns > last_ns || had_it && record.first_ns + SAME_JIFFY_NS > last_ns
}
