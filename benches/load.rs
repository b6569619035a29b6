//! The agent itself, in a namespace, when idle and with 1,000 connections a second.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use netmon::bpf::ProgramTiming;

use crate::report::{Budget, Budget::AtMost, Report, Spread};
use crate::subject::COUNTED_WITHIN;
use crate::support::netns::{Netns, pair};

const RATE: u32 = 1000;
const REQUEST: &[u8] = b"how are you?";
const PORT: u16 = 9090;
const MIB: f64 = 1048576.0;

/// The netmon program, running.
pub struct Agent<'a> {
    child: Child,
    ns: &'a Netns,
}

impl<'a> Agent<'a> {
    /// Starts an agent that watches `link` in a namespace; returns once it is ready.
    pub fn start(ns: &'a Netns, link: &str) -> Result<Agent<'a>> {
        let mut command = ns.command(env!("CARGO_BIN_EXE_netmon"));
        command.args(["--interface", link, "--metrics-addr", &format!("127.0.0.1:{PORT}"), "--log-level", "warn"]);
        let child = command.stdin(Stdio::null()).spawn().context("start netmon")?;
        let mut agent = Agent { child, ns };
        let start = Instant::now();
        while agent.get("/readyz").is_err() {
            if let Some(status) = agent.child.try_wait()? {
                bail!("netmon ended: {status}");
            }
            ensure!(start.elapsed() < Duration::from_secs(20), "netmon did not become ready");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(agent)
    }

    fn get(&self, path: &str) -> Result<String> {
        self.ns.run(|| {
            let mut stream = TcpStream::connect(("127.0.0.1", PORT))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n")?;
            let mut lines = BufReader::new(stream);
            let mut status = String::new();
            lines.read_line(&mut status)?;
            ensure!(status.contains(" 200 "), "{path}: {}", status.trim());
            let mut body = String::new();
            lines.read_to_string(&mut body)?;
            Ok(body)
        })
    }

    /// The sum over the metric's series whose labels contain this text.
    fn metric(&self, name: &str, label: &str) -> Result<f64> {
        let page = self.get("/metrics")?;
        let lines = page
            .lines()
            .filter(|l| l.strip_prefix(name).is_some_and(|l| l.starts_with([' ', '{'])) && l.contains(label));
        lines.map(|l| Ok(l.rsplit(' ').next().unwrap_or_default().parse::<f64>()?)).sum()
    }

    /// CPU time of all threads of the agent, in nanoseconds. `ip netns exec` execs the program, so the process is the same.
    fn cpu_ns(&self) -> Result<f64> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id()))?;
        tasks
            .map(|task| {
                let times = std::fs::read_to_string(task?.path().join("schedstat"))?;
                Ok(times.split(' ').next().unwrap_or_default().parse::<f64>()?)
            })
            .sum()
    }

    fn resident(&self) -> Result<f64> {
        let process = procfs::process::Process::new(self.child.id() as i32)?;
        Ok((process.stat()?.rss * procfs::page_size()) as f64)
    }

    /// Sends SIGTERM and waits for the exit.
    pub fn stop(mut self) -> Result<()> {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id() as i32), nix::sys::signal::SIGTERM)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "netmon ended: {status}");
        Ok(())
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        // After `stop` the process has already exited.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU usage over a period, in percent of one CPU.
struct Share {
    agent: Vec<f64>,
    programs: Vec<f64>,
}

pub fn run(report: &mut Report) -> Result<()> {
    let (a, b) = pair();
    let timing = ProgramTiming::start()?;
    let agent = Agent::start(&a, "va")?;
    let stretch = Duration::from_secs(if report.quick { 2 } else { 4 });
    let stretches = report.rounds(4);

    std::thread::sleep(Duration::from_secs(3)); // packets sent as the interfaces came up are reported and swept by then
    let resident = agent.resident()?;
    let idle = watch(&agent, stretches, |_| {
        std::thread::sleep(stretch);
        Ok(())
    })?;
    let before = agent.metric("netmon_flows_total", "tcp")?;
    let listener = a.run(|| TcpListener::bind("10.9.0.1:0"))?;
    let connections = RATE * stretch.as_secs() as u32;
    let busy = watch(&agent, stretches, |_| connect(&listener, &b, connections))?;
    let opened = f64::from(connections) * stretches as f64;
    let start = Instant::now();
    let seen = loop {
        let seen = agent.metric("netmon_flows_total", "tcp")? - before;
        if seen >= opened || start.elapsed() > COUNTED_WITHIN {
            break seen;
        }
        std::thread::sleep(Duration::from_secs(1));
    };
    let lost = agent.metric("netmon_packets_lost_total", "")?;
    let p99 = agent.metric("netmon_processing_duration_seconds", "0.99")? * 1e9;
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
        let programs = agent.metric("netmon_ebpf_program_seconds_total", "gress")?;
        let (cpu, start) = (agent.cpu_ns()?, Instant::now());
        work(i)?;
        let percent = 100.0 / start.elapsed().as_secs_f64();
        share.agent.push((agent.cpu_ns()? - cpu) / 1e9 * percent);
        let programs = agent.metric("netmon_ebpf_program_seconds_total", "gress")? - programs;
        share.programs.push(programs * percent);
    }
    Ok(share)
}

/// Opens connections at [`RATE`], each with a request and a response, and closes them. The client closes first, so that its port
/// is not reused at once and each connection is a flow of its own.
fn connect(listener: &TcpListener, client: &Netns, count: u32) -> Result<()> {
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
