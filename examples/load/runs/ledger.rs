//! What was sent and what arrived, by the sockets' own account.

use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use netmon::bpf::Tally;

use crate::support::tcp_info::{ETH, TcpReport, TcpSent, ip_header};

/// UDP header.
const UDP_HEADER: u64 = 8;
/// A RST from nobody: its TCP header has no options.
const BARE_TCP_HEADER: u64 = 20;

/// One direction of a part's packets. What is on the way between the ends is seen by the agent: at least what arrived, at most what
/// was sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Way {
    /// By the sending sockets.
    pub sent: Tally,
    /// By the receiving sockets.
    pub arrived: Tally,
}

/// The account of a part.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    /// Connections that went as they were meant to, by their clients.
    pub made: u64,
    /// TCP connections whose end the server has seen.
    pub served: u64,
    /// Connections that went otherwise.
    pub astray: u64,
    /// What happened to the first of these.
    pub first_error: Option<String>,
    /// TCP segments that either end sent again.
    pub retransmitted: u64,
    /// From clients to servers.
    pub to_server: Way,
    /// From servers to clients.
    pub to_client: Way,
}

/// The account of a part while it is kept.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Truth>);

fn on_wire(sent: TcpSent) -> Tally {
    sent.on_wire(ETH, Ipv4Addr::UNSPECIFIED.into())
}

/// What arrived; a FIN is no payload.
fn received(report: &TcpReport, fins: u64) -> Tally {
    let TcpSent { segments, bytes } = report.received;
    on_wire(TcpSent { segments, bytes: bytes - fins })
}

impl Ledger {
    /// The account so far.
    pub fn truth(&self) -> MutexGuard<'_, Truth> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that went as it was meant to.
    pub fn made(&self) {
        self.truth().made += 1;
    }

    /// A connection that went otherwise.
    pub fn astray(&self, error: &anyhow::Error) {
        let mut truth = self.truth();
        truth.astray += 1;
        truth.first_error.get_or_insert_with(|| format!("{error:#}"));
    }

    /// The client's end of a TCP connection, once it is over, with the FINs that it has received and the RSTs that it sends yet.
    pub fn tcp_client(&self, report: &TcpReport, fins: u64, resets: u64) {
        let mut truth = self.truth();
        truth.to_server.sent += on_wire(report.sent.after(resets));
        truth.to_client.arrived += received(report, fins);
        truth.retransmitted += u64::from(report.retransmitted);
    }

    /// The server's end of one, in the same way. Its SYN-ACK was sent before there was a socket.
    pub fn tcp_server(&self, report: &TcpReport, fins: u64, resets: u64) {
        let mut truth = self.truth();
        truth.to_client.sent += on_wire(report.sent.after(1 + resets));
        truth.to_server.arrived += received(report, fins);
        truth.retransmitted += u64::from(report.retransmitted);
        truth.served += 1;
    }

    /// The client's end of a connection that nobody accepted: SYNs, and the RSTs that answered them.
    pub fn tcp_unaccepted(&self, report: &TcpReport) {
        let syns = report.sent.segments;
        let header = ETH + ip_header(Ipv4Addr::UNSPECIFIED.into());
        // Each SYN has the options that `on_wire` adds once.
        let one = on_wire(TcpSent { segments: 1, bytes: 0 });
        let asked = Tally { packets: syns, bytes: syns * one.bytes };
        let resets = report.received.segments;
        let refused = Tally { packets: resets, bytes: resets * (header + BARE_TCP_HEADER) };
        let mut truth = self.truth();
        let Truth { to_server, to_client, .. } = &mut *truth;
        for (way, tally) in [(to_server, asked), (to_client, refused)] {
            way.sent += tally;
            way.arrived += tally;
        }
    }

    /// A datagram with this many bytes of payload.
    pub fn udp(&self, what: impl FnOnce(&mut Truth) -> &mut Tally, payload: usize) {
        let bytes = ETH + ip_header(Ipv4Addr::UNSPECIFIED.into()) + UDP_HEADER + payload as u64;
        *what(&mut self.truth()) += Tally { packets: 1, bytes };
    }
}
