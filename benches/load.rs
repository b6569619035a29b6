//! The agent itself, in a namespace, when idle and with 1,000 connections a second.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netmon::bpf::ProgramTiming;

use crate::agent::{Agent, Start};
use crate::report::{Budget, Budget::AtMost, Report, Spread};
use crate::subject::COUNTED_WITHIN;
use crate::support::netns::{Netns, pair};
use crate::support::scrape::sum;

pub const RATE: u32 = 1000;
const REQUEST: &[u8] = b"how are you?";
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

pub fn run(report: &mut Report) -> Result<()> {
    let (a, b) = pair();
    let timing = ProgramTiming::start()?;
    let agent = start(&a, "va")?;
    let stretch = Duration::from_secs(if report.quick { 2 } else { 4 });
    let stretches = report.rounds(4);

    std::thread::sleep(Duration::from_secs(3)); // packets sent as the interfaces came up are reported and swept by then
    let resident = resident(&agent)?;
    let idle = watch(&agent, stretches, |_| {
        std::thread::sleep(stretch);
        Ok(())
    })?;
    let before = metric(&agent, "netmon_flows_total", "tcp")?;
    let listener = a.run(|| TcpListener::bind("10.9.0.1:0"))?;
    let connections = RATE * stretch.as_secs() as u32;
    let busy = watch(&agent, stretches, |_| connect(&listener, &b, connections))?;
    let opened = f64::from(connections) * stretches as f64;
    let start = Instant::now();
    let seen = loop {
        let seen = metric(&agent, "netmon_flows_total", "tcp")? - before;
        if seen >= opened || start.elapsed() > COUNTED_WITHIN {
            break seen;
        }
        std::thread::sleep(Duration::from_secs(1));
    };
    let lost = metric(&agent, "netmon_packets_lost_total", "")?;
    let p99 = metric(&agent, "netmon_processing_duration_seconds", "0.99")? * 1e9;
    drop(timing);
    agent.stop()?;
    ensure!(
        seen >= opened && lost == 0.0,
        "{opened} connections were opened, {seen} were seen to end, {lost} packets were lost"
    );

    report.table("The agent at work, one veth, default configuration", "% of one core");
    report.row("idle, agent", Spread::of(idle.agent), Budget::None, "");
    report.row("1,000 connections a second, agent", Spread::of(busy.agent.clone()), Budget::None, "");
    report.row("1,000 connections a second, programs", Spread::of(busy.programs.clone()), Budget::None, "");
    let both = busy.agent.iter().zip(&busy.programs).map(|(agent, programs)| agent + programs).collect();
    report.row("1,000 connections a second, both", Spread::of(both), AtMost(0.5), "");
    report.table("The agent at work", "MiB");
    report.row("resident, idle", Spread::one(resident / MIB), AtMost(20.0), "");
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

/// Opens connections at [`RATE`], each with a request and a response, and closes them. The client closes first, so that its port
/// is not reused at once and each connection is a flow of its own.
pub fn connect(listener: &TcpListener, client: &Netns, count: u32) -> Result<()> {
    let address = listener.local_addr()?;
    std::thread::scope(|scope| {
        let server = scope.spawn(|| -> Result<()> {
            for _ in 0..count {
                let (mut stream, _) = listener.accept()?;
                let mut request = [0; REQUEST.len()];
                stream.read_exact(&mut request)?;
                stream.write_all(&request)?;
                ensure!(stream.read(&mut request)? == 0, "the client should have closed first");
            }
            Ok(())
        });
        let made = client.run(|| -> Result<()> {
            let start = Instant::now();
            for i in 0..count {
                let due = start + Duration::from_secs(1) * i / RATE;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                let mut stream = TcpStream::connect(address)?;
                stream.write_all(REQUEST)?;
                stream.read_exact(&mut [0; REQUEST.len()])?;
            }
            Ok(())
        });
        made.context("connect")?;
        match server.join() {
            Ok(result) => result.context("serve"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
