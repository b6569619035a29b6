//! Writes captures by hand: who sent what, and when, to the nanosecond.

use std::path::Path;

use serde_json::Value;

use super::{Scratch, replay};
use crate::support::packet::{ACK, ICMP, IPV4, TCP, UDP, ethernet, ipv4};

/// A time on a day in 2024, in nanoseconds, that is not round.
pub const START: u64 = 1_718_000_000_987_654_321;
pub const MS: u64 = 1_000_000;
pub const S: u64 = 1_000_000_000;

/// Packets between 10.0.0.1, the client, and 10.0.0.2, with times in nanoseconds after the start.
#[derive(Default)]
pub struct Written(Vec<(u64, Vec<u8>)>);

/// The state of a TCP connection at both ends.
pub struct Connection {
    pub port: u16,
    /// Next sequence numbers of client and server.
    pub next: [u32; 2],
}

impl Connection {
    pub fn new(port: u16) -> Connection {
        // Sequence numbers that wrap soon.
        Connection { port, next: [u32::MAX - 20, 7] }
    }
}

/// The senders.
pub const CLIENT: usize = 0;
pub const SERVER: usize = 1;

impl Written {
    pub fn packet(&mut self, at: u64, sender: usize, protocol: u8, payload: &[u8]) {
        let mut packet = ethernet(&[], IPV4, &ipv4(protocol, &[], 0, 0, payload));
        if sender == SERVER {
            let (client, server) = ([10, 0, 0, 1], [10, 0, 0, 2]);
            packet[26..30].copy_from_slice(&server);
            packet[30..34].copy_from_slice(&client);
        }
        self.0.push((START + at, packet));
    }

    pub fn udp(&mut self, at: u64, sender: usize, port: u16, bytes: usize) {
        let ports = if sender == CLIENT { [port, 53] } else { [53, port] };
        let length = (8 + bytes) as u16;
        let header = [ports[0], ports[1], length, 0].map(u16::to_be_bytes).concat();
        self.packet(at, sender, UDP, &[header, vec![0; bytes]].concat());
    }

    /// An echo request of the client, or its reply.
    pub fn echo(&mut self, at: u64, sender: usize, id: u16, sequence: u16) {
        let kind = if sender == CLIENT { 8 } else { 0 };
        let ids = [id, sequence].map(u16::to_be_bytes).concat();
        self.packet(at, sender, ICMP, &[&[kind, 0, 0, 0][..], &ids, &[0; 56]].concat());
    }

    /// A segment with this sequence number, as for a retransmission.
    pub fn again(&mut self, at: u64, sender: usize, c: &Connection, sequence: u32, flags: u8, bytes: usize) {
        let ports = if sender == CLIENT { [c.port, 80] } else { [80, c.port] };
        let acknowledged = if flags & ACK == 0 { 0 } else { c.next[1 - sender] };
        let numbers = [sequence, acknowledged].map(u32::to_be_bytes).concat();
        let rest = [0x50, flags, 0xff, 0xff, 0, 0, 0, 0];
        let header = [&ports.map(u16::to_be_bytes).concat()[..], &numbers, &rest].concat();
        self.packet(at, sender, TCP, &[header, vec![0; bytes]].concat());
    }

    /// The next segment; SYN and FIN count as one byte each.
    pub fn tcp(&mut self, at: u64, sender: usize, c: &mut Connection, flags: u8, bytes: usize) {
        self.again(at, sender, c, c.next[sender], flags, bytes);
        let counted = bytes as u32 + u32::from(flags & 1) + u32::from(flags >> 1 & 1);
        c.next[sender] = c.next[sender].wrapping_add(counted);
    }

    /// A SYN at `at`, a SYN-ACK after `server` nanoseconds, an ACK after `client` more.
    pub fn handshake(&mut self, at: u64, c: &mut Connection, server: u64, client: u64) {
        self.tcp(at, CLIENT, c, 2, 0);
        self.tcp(at + server, SERVER, c, 2 | ACK, 0);
        self.tcp(at + server + client, CLIENT, c, ACK, 0);
    }

    /// The FINs of both sides and the last ACK, a millisecond apart.
    pub fn close(&mut self, at: u64, c: &mut Connection) {
        self.tcp(at, CLIENT, c, 1 | ACK, 0);
        self.tcp(at + MS, SERVER, c, 1 | ACK, 0);
        self.tcp(at + 2 * MS, CLIENT, c, ACK, 0);
    }

    /// The same packets, each wrapped by `wrap`.
    pub fn each(&self, wrap: impl Fn(&[u8]) -> Vec<u8>) -> Written {
        Written(self.0.iter().map(|(at, packet)| (*at, wrap(packet))).collect())
    }

    /// A pcap file in the order in which packets were added.
    pub fn file(&self) -> Scratch {
        self.file_of_first(usize::MAX)
    }

    /// A pcap file with only the first `bytes` of each packet.
    pub fn file_of_first(&self, bytes: usize) -> Scratch {
        let mut file = [0xa1b2_3c4du32, 0x0004_0002, 0, 0, 65535, 1].map(u32::to_le_bytes).concat();
        for (at, packet) in &self.0 {
            let there = &packet[..packet.len().min(bytes)];
            let lengths = [there.len() as u32, packet.len() as u32];
            file.extend([(at / S) as u32, (at % S) as u32, lengths[0], lengths[1]].map(u32::to_le_bytes).concat());
            file.extend(there);
        }
        Scratch::holding("written.pcap", &file)
    }

    pub fn replay(&self) -> Vec<Value> {
        let file = self.file();
        replay(Path::new(&file.0))
    }
}
