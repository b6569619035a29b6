//! When the same endpoints mean another flow.

use super::Flow;
use super::outcome::{Verdict, judge};
use crate::bpf::Record;

/// True if the ports are used again, or a flow that fell silent goes on. Each CPU and each hook has records of its own, which
/// come in any order: the one with the SYN may be the last of its connection, so the SYN must also be later than all that the
/// flow has had.
pub(super) fn begins_anew(flow: &Flow, sender: usize, record: &Record) -> bool {
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
    let sent = &flow.sent[sender];
    // Time has the resolution of a jiffy. Within one, a second SYN at the same hook tells, unless it may be a repeated one.
    let had_it = !repeated && sent.is_owner(record) && (record.syn && sent.syn || record.syn_ack && sent.syn_ack);
    record.first_ns > last_ns || had_it && record.first_ns == last_ns
}
