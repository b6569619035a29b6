//! What records tell of a flow besides its counters, kept by the tags of its directions.

use crate::bpf::{App, Facts, Measure};
use crate::flow::Flow;
use crate::output::{Line, Stats};

/// Of one direction: "the sender" is who sent its packets.
#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    retransmits: u64,
    app: Option<App>,
    tls: u8,
    /// SYN to the sender's SYN-ACK.
    handshake_server_ns: Option<u64>,
    /// SYN-ACK to the sender's ACK.
    handshake_client_ns: Option<u64>,
    /// Data of the other end to the sender's ACK.
    rtt: Times,
    /// Request of the other end to the sender's response.
    response: Times,
}

/// Times in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    count: u64,
    sum: u64,
    min: u64,
    max: u64,
    last: u64,
}

impl Times {
    fn add(&mut self, ns: u64) {
        self.min = if self.count == 0 { ns } else { self.min.min(ns) };
        self.max = self.max.max(ns);
        self.last = ns;
        self.sum += ns;
        self.count += 1;
    }

    fn stats(&self) -> Option<Stats> {
        let us = |ns: u64| ns as f64 / 1e3;
        (self.count > 0).then(|| Stats {
            count: self.count,
            min: us(self.min),
            mean: us(self.sum / self.count),
            max: us(self.max),
            last: us(self.last),
        })
    }
}

impl Measured {
    fn add(&mut self, facts: &Facts) {
        self.retransmits += u64::from(facts.retransmits);
        self.app = facts.app.or(self.app);
        self.tls = self.tls.max(facts.tls);
        for sample in facts.samples() {
            match sample.measure {
                Measure::HandshakeServer => self.handshake_server_ns = Some(sample.ns),
                Measure::HandshakeClient => self.handshake_client_ns = Some(sample.ns),
                Measure::Connect => {}
                Measure::Rtt | Measure::RttLone | Measure::Echo => self.rtt.add(sample.ns),
                Measure::Response => self.response.add(sample.ns),
            }
        }
    }
}

/// By tag; 0 is none.
#[derive(Debug, Default)]
pub(super) struct Store {
    all: Vec<Measured>,
    free: Vec<u32>,
}

impl Store {
    /// The tag of a direction: a new one, if it has none yet.
    pub(super) fn tag(&mut self, flow: &Flow, sender: usize) -> u32 {
        match flow.tags[sender] {
            0 => self.free.pop().unwrap_or_else(|| {
                self.all.push(Measured::default());
                self.all.len() as u32
            }),
            tag => tag,
        }
    }

    pub(super) fn add(&mut self, tag: u32, facts: &Facts) {
        if let Some(measured) = self.all.get_mut((tag as usize).wrapping_sub(1)) {
            measured.add(facts);
        }
    }

    /// Of a flow that is gone, by the order of its ends.
    pub(super) fn take(&mut self, flow: &Flow) -> [Measured; 2] {
        flow.tags.map(|tag| {
            let Some(measured) = self.all.get_mut((tag as usize).wrapping_sub(1)) else { return Measured::default() };
            self.free.push(tag);
            std::mem::take(measured)
        })
    }
}

/// Adds what was measured of the two ends.
pub(super) fn fill(line: &mut Line, flow: &Flow, measured: &[Measured; 2]) {
    let client = usize::from(flow.client & 1);
    let (client, server) = (&measured[client], &measured[1 - client]);
    let us = |ns: u64| ns as f64 / 1e3;
    line.app_protocol = server.app.or(client.app).map(App::name);
    line.tls_version = match server.tls.max(client.tls) {
        1 => Some("1.0"),
        2 => Some("1.1"),
        3 => Some("1.2"),
        4 => Some("1.3"),
        _ => None,
    };
    line.handshake_client_us = client.handshake_client_ns.map(us);
    line.handshake_server_us = server.handshake_server_ns.map(us);
    let mut rtt = client.rtt;
    if server.rtt.count > 0 {
        rtt.min = if rtt.count == 0 { server.rtt.min } else { rtt.min.min(server.rtt.min) };
        rtt.max = rtt.max.max(server.rtt.max);
        rtt.sum += server.rtt.sum;
        rtt.count += server.rtt.count;
        rtt.last = server.rtt.last;
    }
    line.rtt_us = rtt.stats();
    line.response_us = server.response.stats();
    if line.client_tcp_flags.is_some() {
        line.client_retransmits = Some(client.retransmits);
    }
    if line.server_tcp_flags.is_some() {
        line.server_retransmits = Some(server.retransmits);
    }
}
