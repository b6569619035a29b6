//! The state of a flow.

use super::Flow;
use super::outcome::{FIN, RST, TCP, acknowledged, is_answered};

/// The state of a flow: for TCP in the terms of RFC 9293, for other protocols whether it was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// TCP: the client's SYN has not been answered yet.
    SynSent,
    /// TCP: the SYN was answered, or crossed another one; the client's ACK is missing.
    SynReceived,
    /// TCP: data can flow both ways, or did when netmon first saw the connection.
    Established,
    /// TCP: one side has sent its FIN.
    HalfClosed,
    /// TCP: both sides have sent their FIN, or a RST came after one.
    Closed,
    /// TCP: a RST ended it before any FIN.
    Reset,
    /// Other protocols: only one side has sent.
    Unanswered,
    /// Other protocols: both sides have sent.
    Answered,
}

impl State {
    /// The name in output.
    pub fn name(self) -> &'static str {
        match self {
            State::SynSent => "syn_sent",
            State::SynReceived => "syn_received",
            State::Established => "established",
            State::HalfClosed => "half_closed",
            State::Closed => "closed",
            State::Reset => "reset",
            State::Unanswered => "unanswered",
            State::Answered => "answered",
        }
    }
}

impl Flow {
    /// The state according to the packets so far.
    pub fn state(&self) -> State {
        if self.protocol != TCP {
            return if is_answered(self) { State::Answered } else { State::Unanswered };
        }
        let (client, server) = (self.from_client(), self.from_server());
        let either = client.tcp_flags | server.tcp_flags;
        if client.tcp_flags & server.tcp_flags & FIN != 0 {
            State::Closed
        } else if either & RST != 0 {
            if either & FIN != 0 { State::Closed } else { State::Reset }
        } else if either & FIN != 0 {
            State::HalfClosed
        } else if !client.syn() || acknowledged(client) {
            State::Established // the handshake is complete, or was before netmon started
        } else if server.packets == 0 {
            State::SynSent
        } else {
            State::SynReceived
        }
    }
}
