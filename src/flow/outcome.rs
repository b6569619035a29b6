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

/// The outcome that the packets so far tell; `None` while the flow may go on.
pub(super) fn judge(flow: &Flow) -> Option<Outcome> {
    if flow.key.protocol != TCP {
        return None;
    }
    let (client, server) = (flow.from_client(), flow.from_server());
    if client.tcp_flags & server.tcp_flags & FIN != 0 {
        Some(Outcome::Ok) // a RST after both have closed changes nothing
    } else if (client.tcp_flags | server.tcp_flags) & RST != 0 {
        let answered = server.syn_ack || server.tcp_flags & RST == 0;
        Some(Outcome::Failed(if client.syn && !answered { Reason::Refused } else { Reason::Reset }))
    } else {
        None
    }
}

/// The outcome of a flow that fell silent.
pub(super) fn judge_silent(flow: &Flow) -> Outcome {
    if flow.key.protocol == TCP && flow.from_client().syn && flow.from_server().packets == 0 {
        Outcome::Failed(Reason::Timeout)
    } else {
        Outcome::Ok
    }
}

/// A TCP connection whose SYN nobody has answered.
pub(super) fn is_embryonic(flow: &Flow) -> bool {
    flow.key.protocol == TCP && flow.outcome.is_none() && flow.from_client().syn && flow.from_server().packets == 0
}
