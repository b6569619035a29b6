//! How flows end.

use super::quotes::ErrorKind;
use super::{Flow, Sent};
use crate::bpf::App;

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
    /// The server did not answer.
    Timeout,
    /// A RST ended it before either side had closed.
    Reset,
    /// An ICMP error says that its packets do not arrive.
    Unreachable,
}

impl Reason {
    /// As in labels and output.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Refused => "refused",
            Reason::Timeout => "timeout",
            Reason::Reset => "reset",
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
pub(super) const FIN: u8 = 0x01;
pub(super) const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// What the packets so far tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The flow may go on.
    Open,
    /// It is over, and this is how, unless the other direction's record, still on its way, tells otherwise.
    Likely(Outcome),
    /// It is over, whatever comes.
    Certain(Outcome),
}

/// A segment of the handshake's third kind or later: who sends it has seen an answer, even if we have not.
pub(super) fn acknowledged(client: &Sent) -> bool {
    client.tcp_flags & ACK != 0
}

/// Both ends have sent.
pub(super) fn is_answered(flow: &Flow) -> bool {
    flow.sent.iter().all(|sent| sent.packets > 0)
}

/// Somebody waits for an answer that has not come: to a SYN, a DNS query, an echo request. Others may speak to nobody.
pub(super) fn is_waiting(flow: &Flow) -> bool {
    let (client, server) = (flow.from_client(), flow.from_server());
    if server.packets > 0 {
        return false;
    }
    match flow.key.protocol {
        TCP => client.syn && !acknowledged(client),
        UDP => flow.app == Some(App::Dns),
        ICMP => client.icmp_type == 8,
        ICMPV6 => client.icmp_type == 128,
        _ => false,
    }
}

/// What an ICMP error says of a flow that has no answer. To one that has, errors are soft (RFC 5461).
fn judge_error(flow: &Flow) -> Option<Reason> {
    let (icmp_type, icmp_code) = flow.details.as_ref()?.icmp_error?;
    if flow.from_server().packets > 0 || flow.key.protocol == TCP && !is_waiting(flow) {
        return None;
    }
    match ErrorKind::of(flow.key.v6, icmp_type, icmp_code) {
        ErrorKind::PortUnreachable => Some(Reason::Refused),
        ErrorKind::TooBig => None,
        _ => Some(Reason::Unreachable),
    }
}

/// Records of the two directions arrive in any order: a RST is told at once, the SYN or FIN before it up to a sweep later.
pub(super) fn judge(flow: &Flow) -> Verdict {
    // The answer, too, may be on its way.
    let error = judge_error(flow).map_or(Verdict::Open, |reason| Verdict::Likely(Outcome::Failed(reason)));
    if flow.key.protocol != TCP {
        return error;
    }
    let (client, server) = (flow.from_client(), flow.from_server());
    let either = client.tcp_flags | server.tcp_flags;
    if client.tcp_flags & server.tcp_flags & FIN != 0 {
        return Verdict::Certain(Outcome::Ok); // a RST after both have closed changes nothing
    }
    if either & RST == 0 {
        return error;
    }
    if either & FIN != 0 {
        return Verdict::Certain(Outcome::Ok); // cut short by who wants no more, but somebody had closed
    }
    // Another CPU may have seen the SYN-ACK: that nothing came before the RST shows when all records have come.
    let refused = client.syn && !acknowledged(client) && server.tcp_flags & !(RST | ACK) == 0;
    let reason = if refused && server.tcp_flags & RST != 0 { Reason::Refused } else { Reason::Reset };
    Verdict::Likely(Outcome::Failed(reason))
}

/// The outcome of a flow of which nothing more comes.
pub(super) fn conclude(flow: &Flow) -> Outcome {
    match judge(flow) {
        Verdict::Likely(outcome) | Verdict::Certain(outcome) => outcome,
        Verdict::Open if is_waiting(flow) => Outcome::Failed(Reason::Timeout),
        Verdict::Open => Outcome::Ok,
    }
}
