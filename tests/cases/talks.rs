//! Conversations over UDP as captures, and the flows that a replay makes of them.

use serde_json::Value;

use crate::replay::written::{CLIENT, MS, S, Written};
use crate::support::packet::UDP;

pub fn by_port(flows: &[Value], port: u16) -> &Value {
    flows.iter().find(|f| f["client_port"] == port || f["server_port"] == port).unwrap()
}

/// Replays datagrams between a client's port and a server's port, a millisecond apart; returns the flow.
pub fn said(ports: [u16; 2], datagrams: &[(usize, Vec<u8>)]) -> Value {
    let mut capture = Written::default();
    write(&mut capture, 0, ports, datagrams);
    let mut flows = capture.replay();
    assert_eq!(flows.len(), 1, "{flows:#?}");
    flows.remove(0)
}

fn write(capture: &mut Written, start: u64, ports: [u16; 2], datagrams: &[(usize, Vec<u8>)]) {
    for (n, (sender, bytes)) in datagrams.iter().enumerate() {
        let [from, to] = if *sender == CLIENT { ports } else { [ports[1], ports[0]] };
        let header = [from, to, 8 + bytes.len() as u16, 0].map(u16::to_be_bytes).concat();
        capture.packet(start + n as u64 * MS, *sender, UDP, &[header, bytes.clone()].concat());
    }
}

/// Many conversations in one capture, one after the other, each with a client's port of its own: loading the programs
/// for a replay takes longer than all these packets.
#[derive(Default)]
pub struct Talks {
    capture: Written,
    /// The expected protocol of each, and its name.
    expected: Vec<(Value, String)>,
}

impl Talks {
    const FIRST: u16 = 50_000;

    pub fn add(&mut self, server: u16, datagrams: &[(usize, Vec<u8>)], app: impl Into<Value>, name: String) {
        let n = self.expected.len();
        write(&mut self.capture, n as u64 * S, [Talks::FIRST + n as u16, server], datagrams);
        self.expected.push((app.into(), name));
    }

    pub fn check(self) {
        let flows = self.capture.replay();
        assert_eq!(flows.len(), self.expected.len(), "{flows:#?}");
        for (port, (app, name)) in (Talks::FIRST..).zip(&self.expected) {
            assert_eq!(&by_port(&flows, port)["app_protocol"], app, "{name}");
        }
    }
}
