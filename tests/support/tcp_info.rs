//! What a TCP socket reports as sent and received, independently of netmon.

use std::net::IpAddr;
use std::os::fd::AsRawFd;

use netmon::bpf::Tally;
use nix::libc;

use super::netns::Netns;

/// Ethernet header.
pub const ETH: u64 = 14;
/// TCP header with timestamps, as in each segment except SYNs.
const TCP_HEADER: u64 = 32;
/// Additional bytes in a SYN: MSS and window scale, padded. SACK is off, because its blocks would vary the header.
const SYN_MORE: u64 = 8;

/// Length of the IP header, in bytes.
pub fn ip_header(address: IpAddr) -> u64 {
    if address.is_ipv6() { 40 } else { 20 }
}

/// Sets up `ns` so that every segment of a TCP connection has the same header, with windows that overflow no queue on
/// the way.
pub fn plain_tcp(ns: &Netns) {
    ns.sh("cd /proc/sys/net/ipv4
           echo 0 >tcp_sack
           echo 1 >tcp_timestamps
           echo 4096 65536 65536 >tcp_rmem");
}

/// What one end of a connection has sent or received, according to TCP_INFO.
#[derive(Clone, Copy, Debug)]
pub struct TcpSent {
    /// Segments, counted individually in GSO packets.
    pub segments: u64,
    /// Payload. What was sent includes retransmitted bytes; what was received counts a FIN as one.
    pub bytes: u64,
}

impl TcpSent {
    pub fn of(socket: &impl AsRawFd) -> TcpSent {
        TcpReport::of(socket).sent
    }

    /// Adds segments that were sent before there was a socket that counts them.
    pub fn after(self, segments: u64) -> TcpSent {
        TcpSent { segments: self.segments + segments, ..self }
    }

    /// Packets and bytes on the wire.
    pub fn on_wire(&self, link_header: u64, address: IpAddr) -> Tally {
        let header = link_header + ip_header(address) + TCP_HEADER;
        Tally { packets: self.segments, bytes: self.segments * header + SYN_MORE + self.bytes }
    }
}

/// The state of one end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct TcpReport {
    pub sent: TcpSent,
    /// On the server, the SYN is among the segments.
    pub received: TcpSent,
    /// True if it is over: the last ACK has arrived, or a RST was sent or received.
    pub is_closed: bool,
    /// Segments that the other end has not acknowledged.
    pub unacknowledged: u32,
    /// Segments that were sent again, on the server also SYN-ACKs.
    pub retransmitted: u32,
}

impl TcpReport {
    pub fn of(socket: &impl AsRawFd) -> TcpReport {
        let info = tcp_info(socket);
        let short = |at: usize| u32::from_ne_bytes(info[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_ne_bytes(info[at..at + 8].try_into().unwrap());
        // tcpi_state; TCP_CLOSE is 7.
        let is_closed = info[0] == 7;
        // tcpi_segs_out and tcpi_bytes_sent, tcpi_segs_in and tcpi_bytes_received, tcpi_unacked, tcpi_total_retrans.
        let sent = TcpSent { segments: short(136).into(), bytes: long(200) };
        let received = TcpSent { segments: short(140).into(), bytes: long(128) };
        TcpReport { sent, received, is_closed, unacknowledged: short(24), retransmitted: short(100) }
    }
}

/// struct tcp_info, include/uapi/linux/tcp.h.
fn tcp_info(socket: &impl AsRawFd) -> [u8; 256] {
    let mut info = [0u8; 256];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the buffer and its length outlive the call.
    let result = unsafe {
        let (level, name) = (libc::IPPROTO_TCP, libc::TCP_INFO);
        libc::getsockopt(socket.as_raw_fd(), level, name, info.as_mut_ptr().cast(), &mut length)
    };
    assert!(result == 0 && length >= 208, "TCP_INFO of a kernel that counts bytes sent (4.19)");
    info
}
