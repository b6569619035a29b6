//! What a running agent takes, live: redrawn in place on a terminal, otherwise a line for each sample.

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use indicatif::{BinaryBytes, HumanCount, MultiProgress, ProgressBar, ProgressStyle};

use super::runs::agent::cpu_ns;
use super::runs::samples::{Figures, Sample, Summary};
use crate::support::scrape::{PAGE_AGE, page};

const WAIT: Duration = Duration::from_secs(10);
const HEAD: &str = "  seconds    CPU %  programs %  memory MiB   packets/s   records/s     flows  lost since the start";
/// Threads that are shown, those that take most.
const THREADS: usize = 5;

#[derive(Args, Debug)]
pub struct Options {
    /// The agent's control socket; where it cannot be used, the metrics are read from --metrics
    #[arg(long, value_name = "PATH", default_value = "/run/netmon/netmon.sock")]
    pub socket: PathBuf,
    /// Where the agent serves its metrics
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9090")]
    pub metrics: String,
    /// Time between samples
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = humantime::parse_duration)]
    pub interval: Duration,
    /// Ends after this time [default: never]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub duration: Option<Duration>,
}

/// Shows samples until the time is over or `stop` is set: as lines to `out` if it is given, otherwise on the terminal.
///
/// # Errors
///
/// No agent answers, it stops answering, or the lines cannot be written.
pub fn run(options: &Options, stop: &AtomicBool, out: Option<&mut dyn Write>) -> Result<()> {
    ensure!(
        options.interval >= PAGE_AGE,
        "an interval of {:?}: the agent's metrics change once a second",
        options.interval
    );
    let source = Source::find(options)?;
    let mut view = View::new(&source, out)?;
    let start = Instant::now();
    let is_over = || stop.load(Ordering::Relaxed) || options.duration.is_some_and(|most| start.elapsed() >= most);
    let mut samples = Vec::new();
    let mut before = source.look()?;
    while !is_over() {
        while !is_over() && before.at.elapsed() < options.interval {
            std::thread::sleep(Duration::from_millis(50));
        }
        if before.at.elapsed() < PAGE_AGE {
            break;
        }
        let now = source.look()?;
        let seconds = (now.at - before.at).as_secs_f64();
        samples.push(Sample::between(&before.figures, &now.figures, seconds, (now.at - start).as_secs_f64()));
        view.show(&samples, &now, &busiest(&before, &now, seconds))?;
        before = now;
    }
    view.end(&samples)
}

/// Where the agent is asked.
enum Source {
    /// The control socket, and the agent's process.
    Socket(PathBuf, u32),
    Metrics(String),
}

/// An agent at a moment.
struct Look {
    at: Instant,
    figures: Figures,
    /// Name and CPU time, in nanoseconds, of each thread.
    threads: Vec<(String, f64)>,
}

impl Source {
    fn find(options: &Options) -> Result<Source> {
        let ask = || -> Result<u32> {
            let status = page(connected(&options.socket)?, "/v1/status")?;
            let status: serde_json::Value = serde_json::from_str(&status)?;
            Ok(u32::try_from(status["pid"].as_u64().context("a status without a process")?)?)
        };
        let refused = match ask() {
            Ok(pid) => return Ok(Source::Socket(options.socket.clone(), pid)),
            Err(error) => error,
        };
        let source = Source::Metrics(options.metrics.clone());
        match source.look() {
            Ok(_) => Ok(source),
            Err(error) => bail!(
                "no agent answers: {}: {refused:#}; {}: {error:#}: start netmon, or name its socket with --socket",
                options.socket.display(),
                options.metrics
            ),
        }
    }

    fn look(&self) -> Result<Look> {
        let (text, threads) = match self {
            Source::Socket(path, pid) => (page(connected(path)?, "/v1/metrics")?, threads(*pid)),
            Source::Metrics(address) => {
                let stream = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
                stream.set_read_timeout(Some(WAIT))?;
                (page(stream, "/metrics")?, Vec::new())
            }
        };
        let mut figures = Figures::read(&text);
        // What /proc has is finer than the metric.
        if let Source::Socket(_, pid) = self
            && let Ok(ns) = cpu_ns(*pid)
        {
            figures.cpu_s = ns / 1e9;
        }
        Ok(Look { at: Instant::now(), figures, threads })
    }
}

fn connected(socket: &PathBuf) -> Result<UnixStream> {
    let stream = UnixStream::connect(socket).context("connect")?;
    stream.set_read_timeout(Some(WAIT))?;
    Ok(stream)
}

/// The threads of a process; none where /proc hides them.
fn threads(pid: u32) -> Vec<(String, f64)> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let of = |path: PathBuf| -> Option<(String, f64)> {
        let name = std::fs::read_to_string(path.join("comm")).ok()?;
        let times = std::fs::read_to_string(path.join("schedstat")).ok()?;
        Some((name.trim().to_owned(), times.split(' ').next()?.parse().ok()?))
    };
    tasks.filter_map(|task| of(task.ok()?.path())).collect()
}

/// Names of the threads that took most CPU time, and how much, in percent of one core.
fn busiest(before: &Look, now: &Look, seconds: f64) -> String {
    let sum = |look: &Look, name: &str| look.threads.iter().filter(|(of, _)| of == name).map(|(_, ns)| ns).sum::<f64>();
    let mut names: Vec<&String> = now.threads.iter().map(|(name, _)| name).collect();
    names.sort();
    names.dedup();
    let mut shares: Vec<(&String, f64)> =
        names.into_iter().map(|name| (name, (sum(now, name) - sum(before, name)) / seconds / 1e7)).collect();
    shares.sort_by(|a, b| b.1.total_cmp(&a.1));
    let shares = shares.iter().take(THREADS).map(|(name, share)| format!("{name} {share:.2} %"));
    shares.collect::<Vec<_>>().join(", ")
}

/// Where samples are shown.
enum View<'o> {
    /// A line for each figure, which changes.
    Panel(Vec<ProgressBar>),
    /// A line for each sample.
    Lines(&'o mut dyn Write),
}

fn lost(samples: &[Sample]) -> String {
    let sum = |of: fn(&Sample) -> f64| HumanCount(samples.iter().map(of).sum::<f64>() as u64);
    format!("{} packets, {} records", sum(|sample| sample.packets_lost), sum(|sample| sample.records_lost))
}

fn whole(value: f64) -> String {
    HumanCount(value.round() as u64).to_string()
}

impl<'o> View<'o> {
    fn new(source: &Source, out: Option<&'o mut dyn Write>) -> Result<View<'o>> {
        let who = match source {
            Source::Socket(path, pid) => format!("netmon, process {pid}, at {}", path.display()),
            Source::Metrics(address) => format!("netmon at http://{address}/metrics"),
        };
        if let Some(out) = out {
            writeln!(out, "{who}\n{HEAD}")?;
            return Ok(View::Lines(out));
        }
        let all = MultiProgress::new();
        all.println(who)?;
        let line = |name: &str| -> Result<ProgressBar> {
            let bar = all.add(ProgressBar::no_length());
            bar.set_style(ProgressStyle::with_template("{prefix:<9} {wide_msg}")?);
            bar.set_prefix(name.to_owned());
            bar.tick();
            Ok(bar)
        };
        let names = ["CPU", "programs", "memory", "packets", "records", "flows", "lost", "threads"];
        Ok(View::Panel(names.into_iter().map(line).collect::<Result<_>>()?))
    }

    fn show(&mut self, samples: &[Sample], now: &Look, busiest: &str) -> Result<()> {
        let Some(last) = samples.last() else { return Ok(()) };
        let programs = last.programs_percent.map(|share| format!("{share:.2}"));
        let bars = match self {
            View::Lines(out) => {
                writeln!(
                    out,
                    "{:>9.1} {:>8.2} {:>11} {:>11.1} {:>11} {:>11} {:>9}  {}",
                    last.at_s,
                    last.cpu_percent,
                    programs.as_deref().unwrap_or("-"),
                    last.resident_bytes / 1048576.0,
                    whole(last.packets_per_s),
                    whole(last.records_per_s),
                    whole(last.flows),
                    lost(samples)
                )?;
                return Ok(());
            }
            View::Panel(bars) => bars,
        };
        let of = |value: String, figure: fn(&Sample) -> f64, say: fn(f64) -> String| {
            let Summary { mean, max } = Summary::of(samples, figure);
            format!("{value:<22} mean {:<12} maximum {}", say(mean), say(max))
        };
        let percent = |value| format!("{value:.2} %");
        let bytes = |value| BinaryBytes(value as u64).to_string();
        let texts = [
            of(format!("{:.2} % of one core", last.cpu_percent), |sample| sample.cpu_percent, percent),
            match last.programs_percent {
                None => "not measured: sysctl kernel.bpf_stats_enabled=1 turns it on".to_owned(),
                Some(share) => {
                    of(format!("{share:.2} %"), |sample| sample.programs_percent.unwrap_or_default(), percent)
                }
            },
            of(bytes(last.resident_bytes), |sample| sample.resident_bytes, bytes),
            of(format!("{}/s", whole(last.packets_per_s)), |sample| sample.packets_per_s, whole),
            of(format!("{}/s", whole(last.records_per_s)), |sample| sample.records_per_s, whole),
            of(whole(last.flows), |sample| sample.flows, whole),
            format!("{} since the start; {} flows evicted", lost(samples), whole(now.figures.evicted)),
            if busiest.is_empty() { "shown only over the control socket".to_owned() } else { busiest.to_owned() },
        ];
        for (bar, text) in bars.iter().zip(texts) {
            bar.set_message(text);
        }
        Ok(())
    }

    /// Leaves the last state on the terminal.
    fn end(&mut self, samples: &[Sample]) -> Result<()> {
        match self {
            View::Panel(bars) => bars.iter().for_each(ProgressBar::abandon),
            View::Lines(out) => {
                let of = |figure: fn(&Sample) -> f64| Summary::of(samples, figure);
                let (cpu, memory) = (of(|sample| sample.cpu_percent), of(|sample| sample.resident_bytes));
                writeln!(
                    out,
                    "mean: {:.2} % of one core, {}; maximum: {:.2} %, {}; lost: {}",
                    cpu.mean,
                    BinaryBytes(memory.mean as u64),
                    cpu.max,
                    BinaryBytes(memory.max as u64),
                    lost(samples)
                )?;
            }
        }
        Ok(())
    }
}
