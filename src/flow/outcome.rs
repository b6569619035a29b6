//! How flows end: success, or the reason for a failure.

use super::quotes::ErrorKind;
use super::{Flow, Sent};
use crate::bpf::App;
use crate::bpf::numbers::ALERT_BYTES;

/// Whether a flow did what it was opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// It did, as far as its packets show.
    Ok,
    /// It did not.
    Failed,
}

impl Status {
    /// The name in labels and output.
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
    /// The client's RST cut it off before either side had closed: during its opening, before the answer to a request,
    /// or with bytes that were not acknowledged.
    ResetByClient,
    /// The same for the server's RST.
    ResetByServer,
    /// An ICMP error reports that its packets do not arrive.
    Unreachable,
}

impl Reason {
    /// The name in output, where `reset_by` says which end.
    pub fn name(self) -> &'static str {
        match self {
            Reason::ResetByClient | Reason::ResetByServer => "reset",
            other => other.label(),
        }
    }

    /// The value of the metrics' label.
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
    /// It did not fail.
    Ok,
    /// It failed, and why.
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

    /// Why it failed; `None` if it did not.
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

/// What the packets so far show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The flow may go on.
    Open,
    /// It is over with this outcome, unless the other direction's record, still on its way, shows otherwise.
    Over(Outcome),
}

/// True if the client sent the handshake's third segment or a later one: it has seen an answer, even if netmon has not.
pub(super) fn acknowledged(client: &Sent) -> bool {
    client.tcp_flags & ACK != 0
}

/// True if both ends have sent.
pub(super) fn is_answered(flow: &Flow) -> bool {
    flow.sent.iter().all(|sent| sent.packets > 0)
}

/// True if the client's SYN was seen, and nothing that proves the handshake complete: neither its ACK nor, if the
/// client's packets take another path, a server that continues.
fn is_opening(flow: &Flow) -> bool {
    let (client, server) = (flow.from_client(), flow.from_server());
    client.syn() && !acknowledged(client) && (server.tcp_flags & !RST == 0 || server.tcp_flags & !RST == SYN | ACK)
}

/// True if an end still waits: for the end of a handshake, or for the answer to a DNS query or an echo request. Other
/// datagrams may need no answer; and members of a group answer under their own addresses, if at all.
pub(super) fn is_waiting(flow: &Flow) -> bool {
    let (client, server) = (flow.from_client(), flow.from_server());
    if flow.protocol == TCP {
        return is_opening(flow);
    }
    if server.packets > 0 || flow.is_to_a_group() {
        return false;
    }
    match flow.protocol {
        UDP => flow.app == Some(App::Dns),
        ICMP => client.icmp()[0] == 8,
        ICMPV6 => client.icmp()[0] == 128,
        _ => false,
    }
}

/// A sender doubles its wait before each repeated SYN (RFC 6298 5.5); this allows for a SYN that is a little late.
const BACKOFF_NS: u64 = 3_000_000_000;
/// The longest wait in Linux (TCP_RTO_MAX), and some more.
const BACKOFF_MOST_NS: u64 = 135_000_000_000;

/// How long to wait for an answer, in nanoseconds: until no sender can still be trying.
pub(super) fn patience(flow: &Flow, connect_timeout_ns: u64) -> u64 {
    let tried_ns = flow.last_ns().saturating_sub(flow.first_ns);
    if flow.protocol != TCP || tried_ns == 0 {
        return connect_timeout_ns;
    }
    connect_timeout_ns.max((tried_ns + tried_ns / 8 + BACKOFF_NS).min(BACKOFF_MOST_NS))
}

/// The failure that an ICMP error reports for a flow without an answer. For a flow that was answered, errors are soft
/// (RFC 5461).
fn judge_error(flow: &Flow) -> Option<Reason> {
    let (icmp_type, icmp_code) = flow.details.as_ref()?.icmp_error?;
    if flow.from_server().packets > 0 || flow.protocol == TCP && !is_waiting(flow) {
        return None;
    }
    match ErrorKind::of(flow.v6(), icmp_type, icmp_code) {
        ErrorKind::PortUnreachable => Some(Reason::Refused),
        kind if kind.is_soft() => None,
        _ => Some(Reason::Unreachable),
    }
}

/// Judges a flow that a RST ended before either end had closed. That is a failure if it cut something off.
fn judge_reset(flow: &Flow) -> Outcome {
    let (client, server) = (flow.from_client(), flow.from_server());
    let reset = Outcome::Failed(if flow.reset_by() == Some(0) { Reason::ResetByClient } else { Reason::ResetByServer });
    if client.syn() && !acknowledged(client) {
        // Another CPU may have seen the SYN-ACK: only when all records have arrived is it certain that nothing came
        // before the RST.
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
            // A client that sends a last message and leaves waits for nothing: the message is still unacknowledged when
            // the RST comes. A client that has waited knows that it arrived, or has sent it again.
            let retransmitted = flow.details.as_ref().is_some_and(|d| d.troubles[asks].retransmits > 0);
            waits && (!unacknowledged || retransmitted)
        } else {
            waits || unacknowledged
        };
    if cut_off { reset } else { Outcome::Ok }
}

/// Judges by the records so far. Those of the two directions arrive in any order: a RST is reported at once, the SYN or
/// FIN before it up to a sweep later.
pub(super) fn judge(flow: &Flow) -> Verdict {
    let (client, server) = (flow.from_client(), flow.from_server());
    let either = client.tcp_flags | server.tcp_flags;
    if flow.protocol != TCP || (either & RST == 0 && client.tcp_flags & server.tcp_flags & FIN == 0) {
        // An answer may still be on its way.
        return judge_error(flow).map_or(Verdict::Open, |reason| Verdict::Over(Outcome::Failed(reason)));
    }
    // A RST after a FIN cuts nothing off: that end wants no more data.
    Verdict::Over(if either & FIN != 0 { Outcome::Ok } else { judge_reset(flow) })
}

/// The outcome of a flow that gets no more records.
pub(super) fn conclude(flow: &Flow) -> Outcome {
    match (flow.before(), judge(flow)) {
        // Late packets of a connection that is over do not change its outcome.
        (Some(before), _) if before.over => before.outcome,
        (_, Verdict::Over(outcome)) => outcome,
        (_, Verdict::Open) if is_waiting(flow) => Outcome::Failed(Reason::Timeout),
        (_, Verdict::Open) => Outcome::Ok,
    }
}
