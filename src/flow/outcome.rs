//! How flows end.

use super::quotes::ErrorKind;
use super::{Flow, Sent};
use crate::bpf::App;
use crate::bpf::numbers::ALERT_BYTES;

/// Whether a flow did what it was opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// It did, as far as packets tell.
    Ok,
    /// It did not.
    Failed,
}

impl Status {
    /// As in labels and output.
    pub fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Failed => "failed",
        }
    }
}

/// Why a flow failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The server answered the SYN with RST, or the datagram with "port unreachable".
    Refused,
    /// The server did not answer, or the client never completed the handshake.
    Timeout,
    /// A RST of the client cut it off before either side had closed: its opening, a request without its answer, bytes that were
    /// not acknowledged.
    ResetByClient,
    /// The same, of the server.
    ResetByServer,
    /// An ICMP error says that its packets do not arrive.
    Unreachable,
}

impl Reason {
    /// As in output, where `reset_by` says by whom.
    pub fn name(self) -> &'static str {
        match self {
            Reason::ResetByClient | Reason::ResetByServer => "reset",
            other => other.label(),
        }
    }

    /// As in labels of metrics.
    pub fn label(self) -> &'static str {
        match self {
            Reason::Refused => "refused",
            Reason::Timeout => "timeout",
            Reason::ResetByClient => "reset_client",
            Reason::ResetByServer => "reset_server",
            Reason::Unreachable => "unreachable",
        }
    }
}

/// The end of a flow: `Ok`, or why it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Nothing went wrong.
    Ok,
    /// Something did.
    Failed(Reason),
}

impl Outcome {
    /// `ok` or `failed`.
    pub fn status(self) -> Status {
        match self {
            Outcome::Ok => Status::Ok,
            Outcome::Failed(_) => Status::Failed,
        }
    }

    /// Why it failed.
    pub fn reason(self) -> Option<Reason> {
        match self {
            Outcome::Ok => None,
            Outcome::Failed(reason) => Some(reason),
        }
    }
}

pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;
pub(super) const SCTP: u8 = 132;
pub(super) const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// What the packets so far tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The flow may go on.
    Open,
    /// It is over, and this is how, unless the other direction's record, still on its way, tells otherwise.
    Over(Outcome),
}

/// A segment of the handshake's third kind or later: who sends it has seen an answer, even if we have not.
pub(super) fn acknowledged(client: &Sent) -> bool {
    client.tcp_flags & ACK != 0
}

/// Both ends have sent.
pub(super) fn is_answered(flow: &Flow) -> bool {
    flow.sent.iter().all(|sent| sent.packets > 0)
}

/// The client's SYN was seen, and nothing that proves the handshake complete: neither its ACK nor, where the client's packets take
/// another way, a server that goes on.
fn is_opening(flow: &Flow) -> bool {
    let (client, server) = (flow.from_client(), flow.from_server());
    client.syn() && !acknowledged(client) && (server.tcp_flags & !RST == 0 || server.tcp_flags & !RST == SYN | ACK)
}

/// Somebody waits for what has not come: the end of a handshake, an answer to a DNS query or an echo request. Others may speak to
/// nobody; and who asks a group is answered under the addresses of its members, if at all.
pub(super) fn is_waiting(flow: &Flow) -> bool {
    let (client, server) = (flow.from_client(), flow.from_server());
    if flow.key.protocol == TCP {
        return is_opening(flow);
    }
    if server.packets > 0 || flow.is_to_a_group() {
        return false;
    }
    match flow.key.protocol {
        UDP => flow.app == Some(App::Dns),
        ICMP => client.icmp()[0] == 8,
        ICMPV6 => client.icmp()[0] == 128,
        _ => false,
    }
}

/// Times that a sender waits before it sends a SYN again double (RFC 6298 5.5), and come a little late.
const BACKOFF_NS: u64 = 3_000_000_000;
/// No longer, in Linux (TCP_RTO_MAX).
const BACKOFF_MOST_NS: u64 = 135_000_000_000;

/// How long to wait for what has not come: until nobody can still be trying.
pub(super) fn patience(flow: &Flow, connect_timeout_ns: u64) -> u64 {
    let tried_ns = flow.last_ns().saturating_sub(flow.first_ns);
    if flow.key.protocol != TCP || tried_ns == 0 {
        return connect_timeout_ns;
    }
    connect_timeout_ns.max((tried_ns + tried_ns / 8 + BACKOFF_NS).min(BACKOFF_MOST_NS))
}

/// What an ICMP error says of a flow that has no answer. To one that has, errors are soft (RFC 5461).
fn judge_error(flow: &Flow) -> Option<Reason> {
    let (icmp_type, icmp_code) = flow.details.as_ref()?.icmp_error?;
    if flow.from_server().packets > 0 || flow.key.protocol == TCP && !is_waiting(flow) {
        return None;
    }
    match ErrorKind::of(flow.key.v6, icmp_type, icmp_code) {
        ErrorKind::PortUnreachable => Some(Reason::Refused),
        kind if kind.is_soft() => None,
        _ => Some(Reason::Unreachable),
    }
}

/// A RST ended it before either end had closed. That is a failure if it cut something off.
fn judge_reset(flow: &Flow) -> Outcome {
    let (client, server) = (flow.from_client(), flow.from_server());
    let reset = Outcome::Failed(if flow.reset_by() == Some(0) { Reason::ResetByClient } else { Reason::ResetByServer });
    if client.syn() && !acknowledged(client) {
        // Another CPU may have seen the SYN-ACK: that nothing came before the RST shows when all records have come.
        return match (server.tcp_flags & RST != 0, server.tcp_flags & !(RST | ACK)) {
            (true, 0) => Outcome::Failed(Reason::Refused),
            _ if server.packets == 0 => Outcome::Failed(Reason::Timeout), // the client gave up
            _ => reset,
        };
    }
    let (asks, answers) = (usize::from(flow.client & 1), usize::from(!flow.client & 1));
    let spare = |end| if flow.said_goodbye(end) { ALERT_BYTES } else { 0 };
    let waits = client.waits() && !flow.said_goodbye(asks);
    let unacknowledged = client.is_unacknowledged(server, spare(asks));
    let cut_off = server.is_unacknowledged(client, spare(answers))
        || if reset == Outcome::Failed(Reason::ResetByClient) {
            // Who sends a last word and goes waits for nothing: it is on its way before the RST. Who has waited knows that it arrived, or
            // has sent it again.
            let retransmitted = flow.details.as_ref().is_some_and(|d| d.troubles[asks].retransmits > 0);
            waits && (!unacknowledged || retransmitted)
        } else {
            waits || unacknowledged
        };
    if cut_off { reset } else { Outcome::Ok }
}

/// What the records so far tell. Those of the two directions arrive in any order: a RST is told at once, the SYN or FIN before it up
/// to a sweep later.
pub(super) fn judge(flow: &Flow) -> Verdict {
    let (client, server) = (flow.from_client(), flow.from_server());
    let either = client.tcp_flags | server.tcp_flags;
    if flow.key.protocol != TCP || (either & RST == 0 && client.tcp_flags & server.tcp_flags & FIN == 0) {
        // The answer, too, may be on its way.
        return judge_error(flow).map_or(Verdict::Open, |reason| Verdict::Over(Outcome::Failed(reason)));
    }
    // Who resets what somebody has closed wants no more: nothing is cut off.
    Verdict::Over(if either & FIN != 0 { Outcome::Ok } else { judge_reset(flow) })
}

/// The outcome of a flow of which nothing more comes.
pub(super) fn conclude(flow: &Flow) -> Outcome {
    match (flow.before(), judge(flow)) {
        // What comes late of a connection that is over does not change how it ended.
        (Some(before), _) if before.over => before.outcome,
        (_, Verdict::Over(outcome)) => outcome,
        (_, Verdict::Open) if is_waiting(flow) => Outcome::Failed(Reason::Timeout),
        (_, Verdict::Open) => Outcome::Ok,
    }
}
