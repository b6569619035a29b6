//! How many connections that are first seen midway get their application protocol. With many flows, entries displace each other before
//! the second payload, and looking at each first payload costs the most.

use std::collections::HashSet;

use anyhow::{Result, ensure};
use netmon::bpf::{Frame, Hook, Record};

use crate::report::{Budget, Budget::AtLeast, Report, Spread};
use crate::subject::{CHUNK, TIMESTAMPS, load_kernel, pin};
use crate::support::packet::{self, ACK, IPV4, TCP};
use crate::support::vary::{Order, Vary};

/// Bytes of payload in a full segment with timestamps.
const SEGMENT: usize = 1448;
/// Payloads of each flow, about: they are drawn at random.
const PAYLOADS: u32 = 8;

/// A payload in the middle of a connection: `start`, and filled up.
fn payload(start: &[u8]) -> Vec<u8> {
    let mut bytes = start.to_vec();
    bytes.resize(SEGMENT, b'.');
    bytes
}

pub fn run(report: &mut Report) -> Result<()> {
    pin()?;
    let kinds: [(&str, &[u8], Budget); 4] = [
        ("TLS records", b"\x17\x03\x03\x05\xa3", AtLeast(95.0)),
        (
            "HTTP responses",
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1380\r\n\r\n",
            AtLeast(95.0),
        ),
        ("Redis replies", b"*2\r\n$5\r\nhello\r\n$1419\r\n", Budget::None),
        ("text of no protocol", b"and so they went on", Budget::None),
    ];
    report.table("Connections seen from midway on that get a protocol, after 8 payloads", "%");
    for (name, start, budget) in kinds {
        for flows in [1000, 10_000, 100_000] {
            let tcp = packet::tcp(ACK, &TIMESTAMPS, &payload(start));
            let frame = packet::ethernet(&[], IPV4, &packet::ipv4(TCP, &[], 7, 0, &tcp));
            let share = recognised(&frame, flows)?;
            report.row(&format!("{name}, {flows} flows"), Spread::one(share), budget, "");
        }
    }
    Ok(())
}

fn recognised(frame: &[u8], flows: u32) -> Result<f64> {
    let mut kernel = load_kernel()?;
    let vary = Vary::load(&kernel.bpf.program(Hook::Ingress, true)?);
    vary.aim(1, Order::Data, flows);
    let (injector, mut seen, mut named) = (vary.injector(), HashSet::new(), HashSet::new());
    let mut note = |records: Vec<Record>| {
        for record in records {
            seen.insert(record.source.address);
            if record.facts.is_some_and(|facts| facts.app.is_some()) {
                named.insert(record.source.address);
            }
        }
    };
    for _ in 0..(PAYLOADS * flows).div_ceil(CHUNK) {
        injector.inject(frame, Frame::default(), CHUNK)?;
        note(kernel.drain());
    }
    note(kernel.flush());
    ensure!(!seen.is_empty(), "no flow was seen");
    Ok(100.0 * named.len() as f64 / seen.len() as f64)
}
