//! The cost of merging records alone, by one worker and by several at once: more workers must not make each record dearer. The records
//! are made here, so neither programs nor rings are part of the measurement.

use std::net::Ipv4Addr;
use std::sync::{Arc, Barrier};

use anyhow::{Result, anyhow};
use netmon::bpf::{Endpoint, Hook, Record, Spread as Rings};
use netmon::config::Config;
use netmon::pipeline::Pipeline;
use netmon::pipeline::worker::Consumer;
use netmon::sinks::metrics::{Identification, SeriesIndex};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::report::{Budget, Report, Spread};
use crate::subject::{cpu_ns, load};

/// Records that a worker takes at a time.
const BATCH: usize = 256;
/// Numbers of workers that are compared.
const WORKERS: [usize; 3] = [1, 2, 4];

/// What each worker costs for a record, in nanoseconds, by number of workers.
#[derive(Default)]
struct Samples {
    new: [Vec<f64>; WORKERS.len()],
    known: [Vec<f64>; WORKERS.len()],
}

fn record(flow: u32, at_ns: u64) -> Record {
    let endpoint = |address: u32, port| Endpoint::of(Ipv4Addr::from_bits(address).into(), port);
    Record {
        source: endpoint(0x0a00_0000 | flow >> 12, 20_000 + (flow & 0xfff) as u16),
        destination: endpoint(0x0afe_0001, 80),
        protocol: 6,
        ifindex: 1,
        hook: Hook::Ingress,
        packets: 1,
        bytes: 60,
        first_ns: at_ns,
        last_ns: at_ns,
        tcp_flags: 0x10,
        ..Record::default()
    }
}

/// CPU time that `worker` takes for a record of each of these flows.
fn merge(worker: &mut impl Consumer, flows: &[u32], at_ns: u64) -> f64 {
    let mut took = 0.0;
    let mut records = Vec::with_capacity(BATCH);
    for flows in flows.chunks(BATCH) {
        records.clear();
        records.extend(flows.iter().map(|flow| record(*flow, at_ns)));
        let start = cpu_ns();
        worker.records(&records);
        worker.tick(at_ns);
        took += cpu_ns() - start;
    }
    took / flows.len() as f64
}

/// One round: a table of so many flows is filled and then hit, in an order that no cache can follow.
fn round(config: &Config, rings: Rings, workers: usize, flows: u32) -> Result<[f64; 2]> {
    let index = SeriesIndex::new(config.series_limit, config.features.buckets.clone(), Identification::default());
    let pipeline = Pipeline::new(config, rings, workers, Arc::new(index), None);
    let start = Barrier::new(workers);
    let of_worker = |number: usize| {
        let mut worker = pipeline.worker(number);
        let its = |flow: &u32| {
            let Record { source, destination, .. } = record(*flow, 0);
            rings.ring(&[source, destination], false) == number
        };
        let mut flows: Vec<u32> = (0..flows).filter(its).collect();
        let mut random = SmallRng::seed_from_u64(number as u64);
        start.wait();
        let new = merge(&mut worker, &flows, 1_000_000_000 + random.random_range(0..1000));
        // What is new counts as known once it is a few seconds old.
        worker.tick(9_000_000_000);
        flows.shuffle(&mut random);
        start.wait();
        [new, merge(&mut worker, &flows, 10_000_000_000)]
    };
    let costs: Vec<[f64; 2]> = std::thread::scope(|scope| {
        let of_worker = &of_worker;
        let threads: Vec<_> = (0..workers).map(|number| scope.spawn(move || of_worker(number))).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a worker panicked"))).collect::<Result<_>>()
    })?;
    Ok([0, 1].map(|step| costs.iter().map(|cost| cost[step]).sum::<f64>() / workers as f64))
}

pub fn run(report: &mut Report) -> Result<()> {
    // The conntrack of this host has nothing to do with these records.
    let config = Config { nat: false, max_flows: 2_000_000, ..Config::default() };
    let rings = WORKERS
        .map(|workers| load(&Config { workers, ..config.clone() }).map(|bpf| bpf.spread()))
        .into_iter()
        .collect::<Result<Vec<Rings>>>()?;
    for flows in [100_000, if report.quick { 500_000 } else { 1_000_000 }] {
        let mut samples = Samples::default();
        for _ in 0..report.rounds(5) {
            for (i, workers) in WORKERS.into_iter().enumerate() {
                let [new, known] = round(&config, rings[i], workers, flows)?;
                samples.new[i].push(new);
                samples.known[i].push(known);
            }
        }
        report.table(&format!("Merging a record, {flows} flows, each worker on a thread"), "ns");
        for (what, samples) in [("known flow", samples.known), ("new flow", samples.new)] {
            for (workers, samples) in WORKERS.iter().zip(samples) {
                report.row(&format!("{what}, {workers} workers"), Spread::of(samples), Budget::None, "");
            }
        }
    }
    Ok(())
}
