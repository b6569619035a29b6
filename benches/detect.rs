//! The cost of detection: what it adds to an event of a flow, and what the judge takes for a contact. The records are made here.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use crossbeam_channel::bounded;
use netmon::bpf::{Endpoint, Hook, Record};
use netmon::config::Security;
use netmon::flow::{Flow, FlowEvent, Observing, Quiet, Sink, Table, TableLimits};
use netmon::sinks::detect::{Detection, Spotter, SpotterMarks};

use crate::report::{Budget, Budget::AtMost, Report, Spread};
use crate::subject::{cpu_ns, pin};

/// DESIGN's budget for an event in this sink.
const EVENT_NS: f64 = 30.0;
const SECOND: u64 = 1_000_000_000;
/// Records between two ticks of a worker.
const BATCH: usize = 256;

const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;
const FIN: u8 = 1;

/// What a flow consists of: for each record, whether the client sends it, and its flags.
struct Mix {
    name: &'static str,
    records: &'static [(bool, u8)],
    /// How many clients there are.
    clients: u32,
    /// How many flows there are; later records belong to the same ones again.
    flows: u32,
}

const DATA: &[(bool, u8)] = &[(true, ACK | PSH), (false, ACK | PSH)];

const MIXES: [Mix; 5] = [
    Mix { name: "data of 10,000 known flows", records: DATA, clients: 64, flows: 10_000 },
    Mix { name: "flows first seen midway", records: DATA, clients: 64, flows: u32::MAX },
    Mix {
        name: "connections",
        records: &[(true, SYN | ACK), (false, SYN | ACK), (true, ACK | PSH | FIN), (false, ACK | PSH | FIN)],
        clients: 64,
        flows: u32::MAX,
    },
    Mix {
        name: "a scan: every connection refused",
        records: &[(true, SYN), (false, RST | ACK)],
        clients: 1,
        flows: u32::MAX,
    },
    Mix {
        name: "a flood: every source another, half open",
        records: &[(true, SYN), (false, SYN | ACK)],
        clients: u32::MAX,
        flows: u32::MAX,
    },
];

/// Counts events, and hands them on to the spotter.
struct Counting {
    events: u64,
    spotter: Spotter,
}

impl Sink for Counting {
    type Mark = SpotterMarks;

    #[inline]
    fn handle(&mut self, event: FlowEvent<'_>, flow: &Flow, mark: &mut SpotterMarks) {
        self.events += 1;
        self.spotter.handle(event, flow, mark);
    }
}

fn record(mix: &Mix, flow: u32, step: (bool, u8), at_ns: u64) -> Record {
    let (from_client, flags) = step;
    let flow = flow % mix.flows;
    let client =
        Endpoint::of(Ipv4Addr::from_bits(0x0a00_0000 + flow % mix.clients).into(), 10_000 + (flow % 50_000) as u16);
    // A scan asks for another port each time.
    let port = if mix.clients == 1 { flow as u16 } else { 80 + (flow % 4) as u16 };
    let server = Endpoint::of(Ipv4Addr::new(10, 200, (flow % 16) as u8, 1).into(), port);
    let (source, destination) = if from_client { (client, server) } else { (server, client) };
    Record {
        source,
        destination,
        protocol: 6,
        ifindex: 1,
        hook: if from_client { Hook::Ingress } else { Hook::Egress },
        packets: 4,
        bytes: 2000,
        first_ns: at_ns,
        last_ns: at_ns,
        tcp_flags: flags,
        syn: from_client && flags & SYN != 0,
        syn_ack: !from_client && flags & SYN != 0,
        ..Record::default()
    }
}

/// CPU time of the worker for a record and of the judge for a flow, and events a record.
fn round(mix: &Mix, enabled: bool, flows: u32) -> Result<[f64; 3]> {
    let detection = Arc::new(Detection::new(&Security { enabled, ..Security::default() }, "n1"));
    let (stop, stopped) = bounded::<()>(0);
    let judge = Arc::clone(&detection);
    let (began, begun) = bounded(1);
    let judging = enabled.then(|| {
        std::thread::spawn(move || {
            let start = cpu_ns();
            let _ = began.send(());
            judge.run(None, &stopped);
            cpu_ns() - start
        })
    });
    if enabled {
        begun.recv()?;
        // It looks from a moment after that on.
        while !detection.is_on() {
            std::thread::yield_now();
        }
    }
    let hour = Duration::from_secs(3600);
    let limits = TableLimits { max_flows: 2_000_000, flow_timeout: hour, connect_timeout: hour, max_age: None };
    let mut table = Table::new(limits, 0);
    let mut sink = Counting { events: 0, spotter: Spotter::new(Arc::clone(&detection)) };
    let (mut took, mut count) = (0.0, 0u64);
    let mut batch = Vec::with_capacity(BATCH);
    let all: Vec<u32> = (0..flows).collect();
    for some in all.chunks(BATCH / mix.records.len()) {
        batch.clear();
        // 100,000 flows a second.
        let at_ns = SECOND + u64::from(some[0]) * 10_000;
        batch.extend(some.iter().flat_map(|flow| mix.records.iter().map(|step| record(mix, *flow, *step, at_ns))));
        count += batch.len() as u64;
        let start = cpu_ns();
        let mut observing = Observing { directory: &mut Quiet, sinks: &mut sink };
        batch.iter().for_each(|record| table.merge(record, &mut observing));
        table.expire(at_ns, &mut observing);
        sink.spotter.tick(at_ns);
        took += cpu_ns() - start;
    }
    drop(stop);
    let judged = judging.map_or(Ok(0.0), |thread| thread.join().map_err(|_| anyhow!("the judge panicked")))?;
    Ok([took / count as f64, judged / f64::from(flows), sink.events as f64 / count as f64])
}

pub fn run(report: &mut Report) -> Result<()> {
    pin()?;
    let flows = if report.quick { 200_000 } else { 1_000_000 };
    let mut rows = Vec::new();
    for mix in &MIXES {
        let [mut off, mut added, mut judged] = [(); 3].map(|()| Vec::new());
        for _ in 0..report.rounds(5) {
            let [without, _, events] = round(mix, false, flows)?;
            let [with, judge, _] = round(mix, true, flows)?;
            off.push(without);
            added.push((with - without) / events);
            judged.push(judge);
        }
        rows.push((mix.name, off, added, judged));
    }
    report.table("Detection: what an event of a flow costs more", "ns");
    for (name, _, added, _) in &rows {
        report.row(name, Spread::of(added.clone()), AtMost(EVENT_NS), "");
    }
    report.table("Detection: the judge, on its own thread, for a flow", "ns");
    for (name, _, _, judged) in &rows {
        report.row(name, Spread::of(judged.clone()), Budget::None, "");
    }
    report.table("The same flows without detection, for a record", "ns");
    for (name, off, _, _) in rows {
        report.row(name, Spread::of(off), Budget::None, "");
    }
    Ok(())
}
