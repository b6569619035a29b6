//! The agent itself, in a namespace, when idle and with 1,000 connections a second.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use netmon::bpf::ProgramTiming;

use crate::agent::{Agent, Start};
use crate::report::{Budget, Budget::AtMost, Report, Spread};
use crate::subject::COUNTED_WITHIN;
use crate::support::netns::Netns;
use crate::support::scrape::sum;
use crate::traffic::{Place, RATE};

const MIB: f64 = 1048576.0;

/// An agent that watches `link` in a namespace, ready.
pub fn start<'a>(ns: &'a Netns, link: &str) -> Result<Agent<'a>> {
    let socket = std::env::temp_dir().join(format!("netmon-bench-{}.sock", std::process::id()));
    let program = Path::new(env!("CARGO_BIN_EXE_netmon"));
    Agent::start(ns, &Start { program, arguments: &[], link, socket: &socket, is_shielded: false })
}

/// The sum over the metric's series whose labels contain this text.
fn metric(agent: &Agent, name: &str, label: &str) -> Result<f64> {
    Ok(sum(&agent.get("/metrics")?, name, &[label]))
}

/// Seconds that the programs of the packet path took so far, without the sweep.
fn programs(agent: &Agent) -> Result<f64> {
    let of = |program| metric(agent, "netmon_ebpf_program_seconds_total", program);
    Ok(of("")? - of("nm_sweep")?)
}

/// Resident memory, in bytes.
fn resident(agent: &Agent) -> Result<f64> {
    let process = procfs::process::Process::new(agent.pid() as i32)?;
    Ok((process.stat()?.rss * procfs::page_size()) as f64)
}

/// CPU usage over a period, in percent of one CPU.
struct Share {
    agent: Vec<f64>,
    programs: Vec<f64>,
}

impl Share {
    fn both(&self) -> Spread {
        Spread::of(self.agent.iter().zip(&self.programs).map(|(agent, programs)| agent + programs).collect())
    }
}

pub fn run(report: &mut Report) -> Result<()> {
    let place = Place::new()?;
    let timing = ProgramTiming::start()?;
    let agent = start(&place.server, "va")?;
    let stretch = Duration::from_secs(if report.quick { 2 } else { 4 });
    let stretches = report.rounds(4);

    std::thread::sleep(Duration::from_secs(3)); // packets sent as the interfaces came up are reported and swept by then
    let resident = resident(&agent)?;
    let idle = watch(&agent, stretches, |_| {
        std::thread::sleep(stretch);
        Ok(())
    })?;
    let before = metric(&agent, "netmon_flows_total", "tcp")?;
    let busy = watch(&agent, stretches, |_| place.connect(stretch))?;
    let opened = f64::from(RATE) * stretch.as_secs_f64() * stretches as f64;
    let start = Instant::now();
    let seen = loop {
        let seen = metric(&agent, "netmon_flows_total", "tcp")? - before;
        if seen >= opened || start.elapsed() > COUNTED_WITHIN {
            break seen;
        }
        std::thread::sleep(Duration::from_secs(1));
    };
    let trickling = watch(&agent, stretches, |_| place.trickle(stretch))?;
    let lost = metric(&agent, "netmon_packets_lost_total", "")?;
    let p99 = metric(&agent, "netmon_processing_duration_seconds", "0.99")? * 1e9;
    drop(timing);
    agent.stop()?;
    ensure!(
        seen >= opened && lost == 0.0,
        "{opened} connections were opened, {seen} were seen to end, {lost} packets were lost"
    );

    report.table("The agent at work, one veth, default configuration", "% of one core");
    report.row("idle, agent", Spread::of(idle.agent), AtMost(0.05), "");
    report.row("1,000 connections a second, agent", Spread::of(busy.agent.clone()), Budget::None, "");
    report.row("1,000 connections a second, programs", Spread::of(busy.programs.clone()), Budget::None, "");
    report.row("1,000 connections a second, both", busy.both(), AtMost(0.45), "");
    report.row("10 k flows of 1 packet a second, agent", Spread::of(trickling.agent.clone()), Budget::None, "");
    report.row("10 k flows of 1 packet a second, programs", Spread::of(trickling.programs.clone()), Budget::None, "");
    report.row("10 k flows of 1 packet a second, both", trickling.both(), AtMost(0.6), "");
    report.table("The agent at work", "MiB");
    report.row("resident, idle", Spread::one(resident / MIB), AtMost(15.0), "");
    report.table("The agent at work: handling one record, 99th percentile", "ns");
    report.row("1,000 connections a second", Spread::one(p99), AtMost(5000.0), "");
    Ok(())
}

fn watch(agent: &Agent, stretches: usize, mut work: impl FnMut(usize) -> Result<()>) -> Result<Share> {
    let mut share = Share { agent: Vec::new(), programs: Vec::new() };
    for i in 0..stretches {
        // The scrapes are not part of the measurement.
        let before = programs(agent)?;
        let (cpu, start) = (agent.cpu_ns()?, Instant::now());
        work(i)?;
        let percent = 100.0 / start.elapsed().as_secs_f64();
        share.agent.push((agent.cpu_ns()? - cpu) / 1e9 * percent);
        share.programs.push((programs(agent)? - before) * percent);
    }
    Ok(share)
}
