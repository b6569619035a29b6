//! Memory use of a million flows, in a separate process, because memory freed by other measurements would hide it.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use netmon::config::Config;
use procfs::process::Process;

use crate::report::{Budget, Budget::AtMost, Report, Spread};
use crate::subject::{CHUNK, Subject, load, whole};
use crate::support::vary::Order;

/// The argument that starts the benchmark as that process.
pub const CHILD: &str = "memory-of-a-million-flows";

/// A little less than a million, because two shards never fill evenly.
const FLOWS: u32 = 990_000;

const MIB: f64 = 1048576.0;

pub fn run(report: &mut Report) -> Result<()> {
    let mut samples = [const { Vec::new() }; 3];
    for _ in 0..report.rounds(3) {
        let output = Command::new(std::env::current_exe()?).arg(CHILD).output().context("run the child")?;
        ensure!(output.status.success(), "the child failed: {}", String::from_utf8_lossy(&output.stderr));
        let numbers: Vec<f64> = String::from_utf8(output.stdout)?
            .split_whitespace()
            .map(|word| Ok(word.parse()?))
            .collect::<Result<_>>()?;
        ensure!(numbers.len() == samples.len(), "the child printed something unexpected");
        for (sample, number) in samples.iter_mut().zip(numbers) {
            sample.push(number);
        }
    }
    let [flows, before, after] = samples;
    let each = flows.iter().zip(before.iter().zip(&after)).map(|(flows, (before, after))| (after - before) / flows);
    report.table("Memory", "bytes");
    let note = format!("{:.0} flows", Spread::of(flows.clone()).median);
    report.row("a tracked flow, 1 M flows, 20 k series", Spread::of(each.collect()), AtMost(200.0), &note);
    report.table("Memory", "MiB");
    let rss = Spread::of(after).map(|bytes| bytes / MIB);
    report.row("resident with 1 M flows, all workers", rss, AtMost(180.0), "");
    let config = Config::default();
    let bpf = load(&config)?;
    let cpus = netmon::bpf::possible_cpus()? as f64;
    let kernel = bpf.kernel_bytes() as f64 / MIB;
    report.row("kernel: caches, counters, rings", Spread::one(kernel), AtMost(128.0), "");
    let rings = bpf.ring_bytes() as f64 / MIB;
    let budget = if cpus > 1.0 { AtMost(2.0) } else { Budget::None };
    report.row("kernel: the same per CPU, without rings", Spread::one((kernel - rings) / cpus), budget, "");
    Ok(())
}

/// Prints the number of flows, and resident bytes without and with them.
pub fn child() -> Result<()> {
    let mut subject = Subject::new(&Config::default())?;
    subject.aim(0, Order::InTurn, u32::MAX);
    // Touch the code and the rings first, so that they do not count.
    subject.run(CHUNK, CHUNK, || Ok(()))?;
    let before = resident()?;
    subject.run(whole(FLOWS, CHUNK), CHUNK, || Ok(()))?;
    println!("{} {before} {}", subject.flows(), resident()?);
    Ok(())
}

pub fn resident() -> Result<u64> {
    Ok(Process::myself()?.stat()?.rss * procfs::page_size())
}
