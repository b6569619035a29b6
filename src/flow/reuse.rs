//! When the ports of a flow belong to another one.

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
    let repeated = record.facts.as_ref().map_or(0, |facts| u64::from(facts.retransmits));
    // All of it was sent before: a SYN in it is no new one.
    let is_repeated = repeated > 0 && repeated >= record.packets;
    if !flow.is_over() || !(record.syn || record.syn_ack) || is_repeated {
        return false;
    }
    // The error that ended it is told at once, SYNs before it up to a sweep later.
    let last_ns = flow.last_ns().max(flow.details.as_ref().map_or(0, |details| details.icmp_error_ns));
    let sent = &flow.sent[sender];
    // Time has the resolution of a jiffy. Within one, a second SYN at the same hook tells, unless it may be a repeated one.
    let had_it = sent.ifindex == record.ifindex
        && sent.hook() == record.hook
        && repeated == 0
        && (record.syn && sent.syn || record.syn_ack && sent.syn_ack);
    record.first_ns > last_ns || had_it && record.first_ns == last_ns
}
