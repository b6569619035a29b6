//! How far a flow has come.

use super::Flow;
use super::outcome::{FIN, RST, TCP, acknowledged, is_answered};

/// Of a TCP connection in the words of RFC 9293, of others whether they were answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// TCP: the client's SYN was not answered yet.
    SynSent,
    /// TCP: the SYN was answered, or crossed another one; the client's ACK has not come.
    SynReceived,
    /// TCP: data can flow both ways, or did when the connection was met.
    Established,
    /// TCP: one side has sent its FIN.
    HalfClosed,
    /// TCP: both sides have sent their FIN, or a RST came after one.
    Closed,
    /// TCP: a RST ended it before any FIN.
    Reset,
    /// Others: only one side has sent.
    Unanswered,
    /// Others: both sides have.
    Answered,
}

impl State {
    /// As in output.
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
    /// What the packets so far tell.
    pub fn state(&self) -> State {
        if self.key.protocol != TCP {
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
            State::Established // with the handshake complete, or before our time
        } else if server.packets == 0 {
            State::SynSent
        } else {
            State::SynReceived
        }
    }
}
