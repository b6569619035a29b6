//! How long a new interface stays unwatched: from its RTM_NEWLINK message until netmon is attached to both of its hooks; and how
//! long a start and a stop take where there are many. This is wall clock time, because it is spent waiting for the kernel and for
//! a CPU.

use std::fmt::Write;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use crossbeam_channel::{Sender, bounded};
use netmon::agent;
use netmon::agent::InterfaceStatus;
use netmon::bpf::{LinkMonitor, Wait, Wakeup};
use netmon::config::Config;
use nix::time::{ClockId, clock_gettime};

use crate::report::{Budget, Budget::AtMost, Report, Spread};
use crate::support::netns::Netns;
use crate::support::sh;

const MOST: Duration = Duration::from_secs(10);
const MANY: usize = 1000;
/// Within this time, the agent has checked each interface for what others have done to it.
const CHECKED: Duration = Duration::from_secs(10);

/// An agent on a thread of this process, watching every interface of a namespace.
struct Agent {
    handle: agent::Handle,
    stop: Sender<()>,
    thread: JoinHandle<Result<agent::Report>>,
}

impl Agent {
    fn start(node: &Netns) -> Result<Agent> {
        let (stop, stopped) = bounded(1);
        let (ready, is_ready) = bounded(1);
        let config = Config { metrics_addr: "127.0.0.1:0".to_owned(), ..Config::default() };
        let run = move || agent::run(&config, &stopped, move |handle| drop(ready.send(handle)));
        let thread = node.run(|| std::thread::spawn(run));
        Ok(Agent { handle: is_ready.recv().context("the agent did not start")?, stop, thread })
    }

    fn watched(&self) -> Vec<String> {
        let interfaces = self.handle.interfaces().into_values();
        let is = |status: &InterfaceStatus| matches!(status, InterfaceStatus::Watched(_));
        interfaces.filter(|interface| is(&interface.status)).map(|interface| interface.name.clone()).collect()
    }

    fn stop(self) -> Result<()> {
        drop(self.stop);
        match self.thread.join() {
            Ok(result) => result.map(drop),
            Err(_) => bail!("the agent panicked"),
        }
    }
}

pub fn run(report: &mut Report) -> Result<()> {
    let (node, pods) = (Netns::new("node"), Netns::new("pods"));
    report.table("New interface: RTM_NEWLINK to attached", "ms");
    for there in [0, 200] {
        for i in 0..there {
            sh(&format!("ip -n {} link add old{i} type veth peer name old{i} netns {}", node.name, pods.name));
        }
        let times = measure(&node, &pods, if report.quick { 20 } else { 100 })?;
        let what = |name: &str| format!("{name}, next to {there} others");
        report.row(&what("all"), Spread::of(times.clone()), Budget::None, &format!("{} interfaces", times.len()));
        let mut sorted = times;
        sorted.sort_by(f64::total_cmp);
        let p99 = sorted.get((sorted.len() * 99).div_ceil(100) - 1).copied().context("no times")?;
        report.row(&what("p99"), Spread::one(p99), AtMost(100.0), "");
    }
    many(report)
}

/// CPU time of this process, which the agent is a thread of, in nanoseconds.
fn process_ns() -> Result<f64> {
    Ok(Duration::from(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?).as_nanos() as f64)
}

/// Starts, does nothing and stops next to many interfaces.
fn many(report: &mut Report) -> Result<()> {
    let node = Netns::new("node");
    let mut links = String::new();
    for i in 0..MANY / 2 {
        writeln!(links, "link add m{i} type veth peer name n{i}")?;
    }
    node.sh(&format!("ip -batch - <<END\n{links}END"));
    let (mut ready, mut idle, mut stopped) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..report.rounds(3) {
        let start = Instant::now();
        let agent = Agent::start(&node)?;
        ready.push(start.elapsed().as_secs_f64());
        ensure!(agent.watched().len() >= MANY, "{} of {MANY} interfaces are watched", agent.watched().len());
        // Packets that the interfaces have sent as they came up are reported by then.
        std::thread::sleep(Duration::from_secs(3));
        let (cpu, start) = (process_ns()?, Instant::now());
        std::thread::sleep(CHECKED);
        idle.push((process_ns()? - cpu) / start.elapsed().as_nanos() as f64 * 100.0);
        let stop = Instant::now();
        agent.stop()?;
        stopped.push(stop.elapsed().as_secs_f64());
    }
    report.table(&format!("{MANY} interfaces"), "s");
    report.row("from start to ready", Spread::of(ready), AtMost(3.0), "");
    report.row("from the signal to the end", Spread::of(stopped), AtMost(3.0), "");
    report.table(&format!("{MANY} interfaces without packets, the agent"), "% of one core");
    report.row("idle", Spread::of(idle), Budget::None, "");
    Ok(())
}

/// The time in milliseconds for each of `count` interfaces.
fn measure(node: &Netns, pods: &Netns, count: usize) -> Result<Vec<f64>> {
    let agent = Agent::start(node)?;
    // Another subscriber to the same events: netmon could have seen an interface as soon as this one does.
    let mut monitor = node.run(LinkMonitor::new)?;
    let wakeup = Wakeup::new()?;
    let mut times = Vec::new();
    for i in 0..count {
        let name = format!("new{i}");
        let command = format!("ip -n {} link add {name} type veth peer name {name} netns {}", node.name, pods.name);
        let made = std::thread::spawn(move || sh(&command));
        let start = Instant::now();
        while !monitor.links().values().any(|link| link.name == name) {
            if monitor.wait(MOST, &wakeup)? == Wait::Ended || start.elapsed() > MOST {
                bail!("no RTM_NEWLINK message for {name}");
            }
        }
        let announced = Instant::now();
        while !agent.watched().contains(&name) {
            if announced.elapsed() > MOST {
                bail!("{name} was not watched within {MOST:?}");
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        times.push(announced.elapsed().as_secs_f64() * 1e3);
        drop(made.join());
        sh(&format!("ip -n {} link del {name}", node.name));
    }
    agent.stop()?;
    Ok(times)
}
