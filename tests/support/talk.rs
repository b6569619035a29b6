//! Plays both directions of a connection, packet by packet, at the times that the test sets.

use std::time::Duration;

use netmon::bpf::{Frame, Hook, Injector, Measure, ProgramOptions, Record, TimestampSource};

use super::kernel::{Kernel, small};
use super::packet::{IPV4, IPV6, ethernet, ipv4, ipv6};

/// The end that sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Client,
    Server,
}

/// What the programs report about one end, all records together.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub packets: u64,
    pub bytes: u64,
    pub retransmits: u16,
    pub out_of_order: u16,
    pub duplicate_acks: u16,
    pub zero_windows: u16,
    pub resets: u16,
    pub samples: Vec<(Measure, u64)>,
}

/// The program, loaded with the clock of a capture, and two ends that talk: ports 40000, which can change, and 80 or
/// 53.
pub struct Talk {
    pub kernel: Kernel,
    injector: Injector,
    v6: bool,
    window: u16,
    port: u16,
    latest: Vec<u8>,
    /// True if packets carry the NIC's timestamp.
    pub stamped: bool,
}

/// The time at which each test begins, in nanoseconds: late enough that no time is small by chance.
pub const EPOCH: u64 = 1_700_000_000_000_000_000;

impl Talk {
    pub fn new(v6: bool) -> Talk {
        Talk::with(
            v6,
            ProgramOptions { timestamps: TimestampSource::Capture, latency: Some(Duration::from_secs(1)), ..small() },
        )
    }

    pub fn with(v6: bool, options: ProgramOptions) -> Talk {
        let kernel = Kernel::load(options).unwrap();
        let injector = kernel.injector(Hook::Ingress, true);
        Talk { kernel, injector, v6, window: 1000, port: 40_000, latest: Vec::new(), stamped: false }
    }

    /// Sets the window that both ends announce.
    pub fn window(&mut self, window: u16) {
        self.window = window;
    }

    /// Gives the client the next port, which makes another connection.
    pub fn next_port(&mut self) {
        self.port += 1;
    }

    /// A segment `ns` nanoseconds after [`EPOCH`].
    pub fn tcp(&mut self, ns: u64, from: End, flags: u8, seq: u32, ack: u32, payload: &[u8]) {
        let mut segment = Vec::new();
        for port in if from == End::Client { [self.port, 80] } else { [80, self.port] } {
            segment.extend(port.to_be_bytes());
        }
        segment.extend(seq.to_be_bytes());
        segment.extend(ack.to_be_bytes());
        segment.extend([5 << 4, flags]);
        segment.extend(self.window.to_be_bytes());
        segment.extend([0; 4]);
        segment.extend(payload);
        self.ip(ns, from, 6, &segment);
    }

    /// A datagram to or from port 53.
    pub fn udp(&mut self, ns: u64, from: End, payload: &[u8]) {
        let mut datagram = Vec::new();
        for port in if from == End::Client { [self.port, 53] } else { [53, self.port] } {
            datagram.extend(port.to_be_bytes());
        }
        datagram.extend((8 + payload.len() as u16).to_be_bytes());
        datagram.extend([0, 0]);
        datagram.extend(payload);
        self.ip(ns, from, 17, &datagram);
    }

    /// An echo request or reply, with the client's port as its identifier.
    pub fn echo(&mut self, ns: u64, from: End, number: u16) {
        let kind = match (self.v6, from) {
            (false, End::Client) => 8,
            (false, End::Server) => 0,
            (true, End::Client) => 128,
            (true, End::Server) => 129,
        };
        let mut message = vec![kind, 0, 0, 0];
        message.extend(self.port.to_be_bytes());
        message.extend(number.to_be_bytes());
        message.extend([0xa5; 48]);
        self.ip(ns, from, if self.v6 { 58 } else { 1 }, &message);
    }

    /// An IP packet from either end.
    pub fn ip(&mut self, ns: u64, from: End, protocol: u8, payload: &[u8]) {
        let mut packet = if self.v6 {
            ethernet(&[], IPV6, &ipv6(protocol, payload))
        } else {
            ethernet(&[], IPV4, &ipv4(protocol, &[], 7, 0, payload))
        };
        if from == End::Server {
            let (at, length) = if self.v6 { (14 + 8, 16) } else { (14 + 12, 4) };
            packet[at..at + 2 * length].rotate_left(length);
        }
        self.frame(ns, &packet, 0);
        self.latest = packet;
    }

    /// The latest packet, from its Ethernet header on.
    pub fn latest(&self) -> &[u8] {
        &self.latest
    }

    /// A whole frame that had `wire` bytes on the wire; 0 for as many as it has here.
    pub fn frame(&mut self, ns: u64, packet: &[u8], wire: u32) {
        let at_ns = EPOCH + ns;
        self.kernel.bpf.clock().advance(at_ns);
        let hardware_ns = if self.stamped { at_ns } else { 0 };
        let frame = Frame { at_ns, hardware_ns, wire_bytes: wire, ..Frame::default() };
        self.injector.inject(packet, frame, 1).unwrap();
    }

    /// The handshake of most tests: SYN at 0, SYN-ACK after 10 ms, ACK after 4 more. Sequence numbers continue at 1001
    /// and 5001.
    pub fn open(&mut self) {
        self.tcp(0, End::Client, 0x02, 1000, 0, b"");
        self.tcp(10_000_000, End::Server, 0x12, 5000, 1001, b"");
        self.tcp(14_000_000, End::Client, 0x10, 1001, 5001, b"");
    }

    /// All records so far.
    pub fn records(&mut self) -> Vec<Record> {
        self.kernel.flush()
    }

    /// What was reported about the client and about the server.
    pub fn reports(&mut self) -> [Report; 2] {
        sum(&self.records())
    }
}

/// What records report about the client and about the server.
pub fn sum(records: &[Record]) -> [Report; 2] {
    let mut both = [Report::default(), Report::default()];
    for r in records {
        // The server's address ends in 2.
        let octet = if r.v6 { r.source.address[15] } else { r.source.address[3] };
        let report = &mut both[usize::from(octet == 2)];
        report.packets += r.packets;
        report.bytes += r.bytes;
        if let Some(facts) = &r.facts {
            report.retransmits += facts.retransmits;
            report.out_of_order += facts.out_of_order;
            report.duplicate_acks += facts.duplicate_acks;
            report.zero_windows += facts.zero_windows;
            report.resets += facts.resets;
            report.samples.extend(facts.samples().map(|s| (s.measure, s.ns)));
        }
    }
    both
}
