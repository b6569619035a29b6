//! How flows end.

use super::Flow;

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
    /// The server answered the SYN with RST.
    Refused,
    /// The server did not answer.
    Timeout,
    /// A RST ended it before both sides had closed.
    Reset,
}

impl Reason {
    /// As in labels and output.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Refused => "refused",
            Reason::Timeout => "timeout",
            Reason::Reset => "reset",
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

pub(super) const TCP: u8 = 6;
const FIN: u8 = 0x01;
const RST: u8 = 0x04;

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

/// Records of the two directions arrive in any order: a RST is told at once, the SYN or FIN before it up to a sweep later.
pub(super) fn judge(flow: &Flow) -> Verdict {
    if flow.key.protocol != TCP {
        return Verdict::Open;
    }
    let (client, server) = (flow.from_client(), flow.from_server());
    if client.tcp_flags & server.tcp_flags & FIN != 0 {
        return Verdict::Certain(Outcome::Ok); // a RST after both have closed changes nothing
    }
    if (client.tcp_flags | server.tcp_flags) & RST == 0 {
        return Verdict::Open;
    }
    // What the server sent before its RST came with it.
    if client.syn && server.tcp_flags & RST != 0 && !server.syn_ack {
        return Verdict::Certain(Outcome::Failed(Reason::Refused));
    }
    Verdict::Likely(Outcome::Failed(Reason::Reset))
}

/// The outcome of a flow of which nothing more comes.
pub(super) fn conclude(flow: &Flow) -> Outcome {
    if let Verdict::Likely(outcome) | Verdict::Certain(outcome) = judge(flow) {
        outcome
    } else if flow.key.protocol == TCP && flow.from_client().syn && flow.from_server().packets == 0 {
        Outcome::Failed(Reason::Timeout)
    } else {
        Outcome::Ok
    }
}

/// A TCP connection whose SYN nobody has answered.
pub(super) fn is_embryonic(flow: &Flow) -> bool {
    flow.key.protocol == TCP && flow.outcome.is_none() && flow.from_client().syn && flow.from_server().packets == 0
}
