//! What a run of the programs costs when little else passes: between two packets, the sender and the receiver have driven them out
//! of the processor's caches. The kernel's statistics of the programs alone, without an agent, on a veth; and of an empty program
//! on its twin, which carries the same traffic in turn.

use std::time::Duration;

use anyhow::{Context, Result};
use netmon::bpf::{Attachments, ProgramTiming, list_links, possible_cpus};
use netmon::config::Config;

use crate::report::{Budget, Budget::AtMost, Report, Spread};
use crate::support::kernel::Kernel;
use crate::support::vary::Vary;
use crate::traffic::Place;

/// Runs, and their time in nanoseconds.
type Ran = [u64; 2];

pub fn run(report: &mut Report) -> Result<()> {
    let (ours, twin) = (Place::new()?, Place::new()?);
    let _timing = ProgramTiming::start()?;
    let mut kernel = Kernel::load(Config::default().program_options(possible_cpus()?))?;
    let mut attachments = kernel.bpf.attachments();
    ours.server.enter_for(|| attach(&mut attachments))?;
    let empty = Vary::try_open()?;
    twin.server.enter_for(|| empty.attach_empty("va"));

    let time = Duration::from_secs(if report.quick { 2 } else { 4 });
    let rounds = report.rounds(5);
    type Traffic = fn(&Place, Duration) -> Result<()>;
    let mixes: [(&str, Traffic); 2] =
        [("1,000 connections a second", Place::connect), ("10 k flows of 1 packet a second", Place::trickle)];
    report.table("A run with cold caches, programs without an agent, all in", "ns");
    for (name, traffic) in mixes {
        let (mut full, mut none) = (Vec::new(), Vec::new());
        for round in 0..=rounds {
            let before = [ran(&kernel), empty.empty_ran()];
            traffic(&ours, time)?;
            traffic(&twin, time)?;
            let after = [ran(&kernel), empty.empty_ran()];
            kernel.flush();
            // The first round fills the caches.
            if round > 0 {
                full.push(each(before[0], after[0]));
                none.push(each(before[1], after[1]));
            }
        }
        report.row(name, Spread::of(full), AtMost(300.0), "");
        report.row(&format!("{name}, an empty program"), Spread::of(none), Budget::None, "");
    }
    Ok(())
}

fn each(before: Ran, after: Ran) -> f64 {
    (after[1] - before[1]) as f64 / (after[0] - before[0]) as f64
}

fn attach(attachments: &mut Attachments) -> Result<()> {
    let links = list_links()?;
    let link = links.iter().find(|link| link.name == "va").context("there is no va")?;
    attachments.attach(link, false)?.context("va has gone")?;
    Ok(())
}

fn ran(kernel: &Kernel) -> Ran {
    let infos = kernel.bpf.programs().infos();
    [infos.iter().map(|info| info.runs).sum(), infos.iter().map(|info| info.run_ns).sum()]
}
