//! A run: a load between two namespaces, with an agent at the servers' end of the link; what was sent, by the account of sockets and
//! interface, and what the agent saw of it.
//!
//! `part` and `ports` say what is sent, `lab` is where, `client`, `server` and `dns` send it, `ledger` keeps the account. `agent` is
//! the program under load, `samples` what it takes, `compare` what it saw. `print`, `report` and `plot` show that to people, and
//! [`Run`] is its JSON.

pub mod agent;
mod client;
pub mod compare;
mod dns;
mod lab;
mod ledger;
pub mod machine;
pub mod part;
mod plot;
mod ports;
pub mod print;
pub mod report;
pub mod samples;
mod server;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow, ensure};
use indicatif::ProgressBar;
use netmon::bpf::ProgramTiming;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;
use tokio::sync::{Semaphore, oneshot};

use crate::support::net::Counters;
use crate::support::scrape::PAGE_AGE;
use agent::{Agent, Start};
use client::Clients;
use compare::{LinkSeen, PartSeen, Seen};
use lab::Lab;
use ledger::{Ledger, Truth};
use machine::Machine;
use part::{Part, Plan};
use ports::Ports;
use samples::{Figures, Sample, Summary};

/// Bytes of a request, of an answer to it, and of a report about media.
const REQUEST: usize = 64;
const ANSWER: usize = 256;
const REPORT: usize = 60;
/// Longer than anything takes, even on a slow and busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// The agent is given up if it counts nothing more for this long.
const SETTLES_WITHIN: Duration = Duration::from_secs(20);
/// Connections that are open at a time, at most.
const OPEN: u64 = 4096;

/// What to run, and how to show that it runs.
pub struct Setup {
    /// The netmon program.
    pub program: PathBuf,
    /// Further arguments for it.
    pub arguments: Vec<String>,
    /// `netmon-cli`, to talk to it.
    pub cli: PathBuf,
    /// Ends the load early once it is set.
    pub stop: Arc<AtomicBool>,
    /// Counts the connections that have begun.
    pub bar: ProgressBar,
}

/// A finished run: what its JSON file has. Fields are added, never changed or removed, as long as `format` stays the same.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// 1.
    pub format: u32,
    /// What `netmon --version` prints.
    pub netmon: String,
    /// RFC 3339.
    pub started: String,
    /// The machine, as it was before the run.
    pub machine: Machine,
    /// Connections that were to be made.
    pub connections: u64,
    /// Time over which they were to be spread, in seconds.
    pub duration_s: f64,
    /// Time that it took, in seconds.
    pub took_s: f64,
    /// True if the agent agrees with sockets and interface.
    pub agrees: bool,
    /// Where it does not, in words.
    pub differences: Vec<String>,
    /// The parts of the load.
    pub parts: Vec<PartSeen>,
    /// The interface that the agent watched.
    pub link: LinkSeen,
    /// What the agent took while the load ran.
    pub agent: Taken,
    /// The same over time.
    pub samples: Vec<Sample>,
}

/// What the agent took.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Taken {
    /// CPU time of the agent, in percent of one CPU.
    pub cpu_percent: Summary,
    /// The same for its BPF programs.
    pub programs_percent: Summary,
    /// Resident memory, in bytes.
    pub resident_bytes: Summary,
    /// Records merged a second.
    pub records_per_s: Summary,
    /// Packets seen a second.
    pub packets_per_s: Summary,
    /// Flows in the table.
    pub flows: Summary,
    /// Records lost in all.
    pub records_lost: u64,
    /// Flows evicted in all because the table was full.
    pub flows_evicted: u64,
    /// Times in all that were not measured because the table of connections in the kernel was full.
    pub unmeasured: u64,
    /// Lines that the metrics took of their budget at the end.
    pub series: u64,
}

/// Waits until a condition of a socket is met.
async fn until(awaited: &str, met: impl Fn() -> bool) -> Result<()> {
    let start = Instant::now();
    while !met() {
        ensure!(start.elapsed() < PATIENCE, "waited in vain for {awaited}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// Makes the load and compares.
///
/// # Errors
///
/// The load cannot be made, or the agent fails. That they disagree is no error.
pub fn run(plan: &Plan, setup: &Setup) -> Result<Run> {
    netmon::bpf::check_host()?;
    let ledgers: Vec<Arc<Ledger>> = plan.parts.iter().map(|_| Arc::default()).collect();
    let begun = Arc::new(AtomicU64::new(0));
    let clients = clients(plan, &ledgers, &begun, setup)?;
    let machine = Machine::here();
    let netmon = version(&setup.program)?;
    setup.bar.set_message("setting up");
    let lab = Lab::new(plan.parts);
    let before = lab.counters();
    let timing = ProgramTiming::start()?;
    let socket = std::env::temp_dir().join(format!("netmon-{}.sock", lab.servers.name));
    let Setup { program, arguments, .. } = setup;
    let how = Start { program, arguments, link: lab::LINK, socket: &socket, is_shielded: true };
    let agent = Agent::start(&lab.servers, &how)?;
    let servers = Servers::start(&lab, plan.parts, &ledgers)?;

    setup.bar.set_message("connections");
    let started = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let load = lab.clients.run(|| send(clients, plan.duration));
    let mut watch = Watch::start(&agent)?;
    let start = Instant::now();
    let every = (plan.duration / 60).max(PAGE_AGE);
    while !load.is_finished() {
        setup.bar.set_position(begun.load(Ordering::Relaxed));
        watch.sample(every)?;
        std::thread::sleep(Duration::from_millis(20));
    }
    load.join().map_err(|_| anyhow!("the clients panicked"))??;
    let took_s = start.elapsed().as_secs_f64();
    setup.bar.set_position(begun.load(Ordering::Relaxed));
    watch.sample(PAGE_AGE)?;
    servers.finish(&ledgers)?;

    setup.bar.set_message("waiting for the agent to count");
    let counters = lab.counters().since(before);
    let truths: Vec<Truth> = ledgers.iter().map(|ledger| ledger.truth().clone()).collect();
    end_silent_flows(&setup.cli, &socket)?;
    let (seen, page) = settled(&agent, plan.parts, &truths, &counters)?;
    let samples = watch.samples;
    agent.stop()?;
    drop(timing);
    let differences = seen.differences();
    Ok(Run {
        format: 1,
        netmon,
        started,
        machine,
        connections: plan.connections,
        duration_s: plan.duration.as_secs_f64(),
        took_s,
        agrees: differences.is_empty(),
        differences,
        parts: seen.parts,
        link: seen.link,
        agent: Taken::of(&samples, &Figures::read(&page)),
        samples,
    })
}

fn version(program: &Path) -> Result<String> {
    let output = Command::new(program).arg("--version").output();
    let output = output.with_context(|| format!("run {}: make build makes it", program.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn clients(plan: &Plan, ledgers: &[Arc<Ledger>], begun: &Arc<AtomicU64>, setup: &Setup) -> Result<Vec<Arc<Clients>>> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    // Each connection has a socket at either end.
    let room = Arc::new(Semaphore::new((hard / 3).min(OPEN) as usize));
    let parts = plan.parts.iter().zip(plan.counts()).zip(ledgers).enumerate();
    let clients = parts.map(|(place, ((part, connections), ledger))| {
        Ok(Arc::new(Clients {
            part,
            server: lab::server(place, part),
            connections,
            ports: Ports::new(connections, plan.duration)?,
            ledger: Arc::clone(ledger),
            begun: Arc::clone(begun),
            room: Arc::clone(&room),
            stop: Arc::clone(&setup.stop),
        }))
    });
    clients.collect()
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Starts the clients on a thread in the calling thread's namespace.
fn send(clients: Vec<Arc<Clients>>, duration: Duration) -> JoinHandle<Result<()>> {
    std::thread::spawn(move || {
        runtime()?.block_on(async {
            let start = tokio::time::Instant::now();
            let running: Vec<_> = clients.into_iter().map(|part| tokio::spawn(part.run(start, duration))).collect();
            for part in running {
                part.await??;
            }
            Ok(())
        })
    })
}

/// The servers of all parts, on a thread of their namespace.
struct Servers {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Result<()>>,
    parts: &'static [Part],
}

impl Servers {
    fn start(lab: &Lab, parts: &'static [Part], ledgers: &[Arc<Ledger>]) -> Result<Servers> {
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let ledgers = ledgers.to_vec();
        let serve = move || -> Result<()> {
            runtime()?.block_on(async {
                for (place, (part, ledger)) in parts.iter().zip(ledgers).enumerate() {
                    server::start(part, lab::server(place, part), ledger)?;
                }
                let _ = ready.send(());
                let _ = stopped.await;
                Ok(())
            })
        };
        let thread = lab.servers.run(|| std::thread::spawn(serve));
        match is_ready.recv() {
            Ok(()) => Ok(Servers { stop, thread, parts }),
            Err(_) => Err(thread.join().map_or_else(
                |_| anyhow!("the servers panicked"),
                |ended| ended.err().unwrap_or_else(|| anyhow!("the servers ended")),
            )),
        }
    }

    /// Ends them once each connection that its client has closed is closed here too.
    fn finish(self, ledgers: &[Arc<Ledger>]) -> Result<()> {
        let is_served = |(part, ledger): (&Part, &Arc<Ledger>)| {
            let truth = ledger.truth();
            let is_accepted = part.protocol == "tcp" && !matches!(part.talk, part::Talk::Refused | part::Talk::Silent);
            !is_accepted || truth.served + truth.astray >= truth.made
        };
        let start = Instant::now();
        while !self.parts.iter().zip(ledgers).all(is_served) && start.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.stop.send(());
        self.thread.join().map_err(|_| anyhow!("the servers panicked"))?
    }
}

/// Samples of the agent while the load runs.
struct Watch<'a> {
    agent: &'a Agent<'a>,
    start: Instant,
    before: (Instant, Figures),
    samples: Vec<Sample>,
}

impl<'a> Watch<'a> {
    fn start(agent: &'a Agent<'a>) -> Result<Watch<'a>> {
        let before = figures(agent)?;
        Ok(Watch { agent, start: before.0, before, samples: Vec::new() })
    }

    /// Takes a sample if the last one is so long ago.
    fn sample(&mut self, after: Duration) -> Result<()> {
        let (at, before) = self.before;
        if at.elapsed() < after {
            return Ok(());
        }
        let now = figures(self.agent)?;
        let (seconds, at_s) = ((now.0 - at).as_secs_f64(), (now.0 - self.start).as_secs_f64());
        self.samples.push(Sample::between(&before, &now.1, seconds, at_s));
        self.before = now;
        Ok(())
    }
}

/// The agent's figures, with its CPU time from /proc, which is finer; and when it had answered, from when on the page is served
/// again for a while.
fn figures(agent: &Agent) -> Result<(Instant, Figures)> {
    let page = agent.get("/metrics")?;
    let cpu_s = agent.cpu_ns()? / 1e9;
    Ok((Instant::now(), Figures { cpu_s, ..Figures::read(&page) }))
}

/// Flows without an end of their own count once they have been silent for `flow.flow_timeout`, 300 seconds. All are silent by now.
fn end_silent_flows(cli: &Path, socket: &Path) -> Result<()> {
    for key in ["flow.flow_timeout", "flow.connect_timeout"] {
        let mut command = Command::new(cli);
        command.arg("--socket").arg(socket).args(["config", "set", &format!("{key}=1s")]);
        let output = command.output().with_context(|| format!("run {}: make build makes it", cli.display()))?;
        ensure!(output.status.success(), "set {key}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Waits until the agent agrees, or counts nothing more; returns the page that says so.
fn settled(agent: &Agent, parts: &'static [Part], truths: &[Truth], counters: &Counters) -> Result<(Seen, String)> {
    let (mut last, mut since) = (None, Instant::now());
    loop {
        let page = agent.get("/metrics")?;
        let seen = Seen::new(parts, truths, counters, &page);
        let progress = Some(seen.progress());
        if progress != last {
            (last, since) = (progress, Instant::now());
        }
        if seen.differences().is_empty() || since.elapsed() > SETTLES_WITHIN {
            return Ok((seen, page));
        }
        std::thread::sleep(PAGE_AGE);
    }
}

impl Taken {
    fn of(samples: &[Sample], end: &Figures) -> Taken {
        let of = |figure: fn(&Sample) -> f64| Summary::of(samples, figure);
        Taken {
            cpu_percent: of(|sample| sample.cpu_percent),
            programs_percent: of(|sample| sample.programs_percent.unwrap_or_default()),
            resident_bytes: of(|sample| sample.resident_bytes),
            records_per_s: of(|sample| sample.records_per_s),
            packets_per_s: of(|sample| sample.packets_per_s),
            flows: of(|sample| sample.flows),
            records_lost: end.records_lost as u64,
            flows_evicted: end.evicted as u64,
            unmeasured: end.unmeasured as u64,
            series: end.series as u64,
        }
    }
}
