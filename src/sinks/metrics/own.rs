//! Figures of the agent itself: how long a record takes, memory, CPU time, threads.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use procfs::process::Process;

use super::figures::{Families, Family, Figures};
use super::page::Reading;
use crate::{lock, logging};

/// Time a worker takes for a record, sampled. Quantiles are of the last one to two minutes.
#[derive(Clone, Debug)]
pub struct Processing {
    recent: Option<Histogram<u32>>,
    before: Option<Histogram<u32>>,
    turned_ns: u64,
    samples: u64,
    sum_ns: u64,
}

/// One record in so many is timed: reading the clock twice costs as much as a record. A prime: the first record of a batch
/// meets cold caches, and must not be sampled more often than others.
pub const SAMPLE: usize = 61;

const WINDOW_NS: u64 = 60_000_000_000;
const LONGEST_NS: u64 = 1_000_000_000;

fn histogram() -> Option<Histogram<u32>> {
    Histogram::new_with_bounds(1, LONGEST_NS, 2).ok()
}

impl Processing {
    /// No samples yet.
    pub fn new(now_ns: u64) -> Processing {
        Processing { recent: histogram(), before: histogram(), turned_ns: now_ns, samples: 0, sum_ns: 0 }
    }

    /// Adds a sample.
    pub fn record(&mut self, took: Duration) {
        let ns = took.as_nanos() as u64;
        if let Some(recent) = &mut self.recent {
            recent.saturating_record(ns);
        }
        self.samples += 1;
        self.sum_ns += ns;
    }

    /// Drops old samples.
    pub fn turn(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.turned_ns) > WINDOW_NS {
            self.turned_ns = now_ns;
            std::mem::swap(&mut self.recent, &mut self.before);
            if let Some(recent) = &mut self.recent {
                recent.reset();
            }
        }
    }

    /// Adds another worker's samples.
    pub fn add(&mut self, other: &Processing) {
        for (sum, more) in [(&mut self.recent, &other.recent), (&mut self.before, &other.before)] {
            if let (Some(sum), Some(more)) = (sum, more) {
                // Same bounds: cannot fail.
                let _ = sum.add(more);
            }
        }
        self.samples += other.samples;
        self.sum_ns += other.sum_ns;
    }

    /// Adds them to the page, as this summary.
    pub fn fill(&self, name: &'static str, families: &mut Families) {
        let quantiles = [0.5, 0.9, 0.99].map(|q| (q, self.quantile(q)));
        families.summary(name, self.samples, self.sum_ns as f64 / 1e9, &quantiles);
    }

    /// The value at quantile `q`, in seconds; NaN while there are no samples.
    pub fn quantile(&self, q: f64) -> f64 {
        let mut both = self.recent.clone();
        if let (Some(both), Some(before)) = (&mut both, &self.before) {
            let _ = both.add(before);
        }
        match both {
            Some(both) if !both.is_empty() => both.value_at_quantile(q) as f64 / 1e9,
            _ => f64::NAN,
        }
    }
}

/// Which netmon runs, and where.
#[derive(Clone, Debug)]
pub struct Build {
    /// Version of the package.
    pub version: &'static str,
    /// Short hash of the commit.
    pub commit: &'static str,
    /// Architecture it was built for.
    pub arch: &'static str,
    /// Name of the node the agent runs on.
    pub node: String,
}

/// Figures of the agent's own process.
#[derive(Debug)]
pub struct OwnProcess {
    build: Build,
    /// When CPU time was read last, and how much it was, in seconds.
    last: Mutex<(Instant, f64)>,
}

impl OwnProcess {
    /// The first CPU usage is that from now on.
    pub fn new(build: Build) -> OwnProcess {
        OwnProcess { build, last: Mutex::new((Instant::now(), cpu_seconds().unwrap_or(0.0))) }
    }

    /// Which netmon runs.
    pub fn build(&self) -> &Build {
        &self.build
    }

    /// Reads it. What cannot be read stays 0.
    fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        let Ok(process) = Process::myself() else { return usage };
        if let Ok(stat) = process.stat() {
            usage.cpu_seconds = (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
            usage.resident_bytes = stat.rss * procfs::page_size();
            usage.virtual_bytes = stat.vsize;
            usage.threads = stat.num_threads;
            if let Ok(boot) = procfs::boot_time_secs() {
                usage.start_seconds = boot as f64 + stat.starttime as f64 / procfs::ticks_per_second() as f64;
            }
        }
        usage.open_fds = process.fd_count().unwrap_or(0);
        if let Ok(limits) = process.limits()
            && let procfs::process::LimitValue::Value(most) = limits.max_open_files.soft_limit
        {
            usage.max_fds = most;
        }
        let mut last = lock::ignoring_poison(&self.last);
        let elapsed = last.0.elapsed().as_secs_f64();
        if elapsed > 0.0 {
            usage.cpu_percent = 100.0 * (usage.cpu_seconds - last.1).max(0.0) / elapsed;
        }
        *last = (Instant::now(), usage.cpu_seconds);
        usage
    }
}

/// The process, from /proc.
#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    cpu_seconds: f64,
    /// CPU time since the last reading, in percent of one CPU.
    cpu_percent: f64,
    resident_bytes: u64,
    virtual_bytes: u64,
    threads: i64,
    open_fds: usize,
    max_fds: u64,
    start_seconds: f64,
}

impl Figures for OwnProcess {
    const FAMILIES: &'static [Family] = &[
        Family::gauge("netmon_build_info", "Version and node of the agent; always 1."),
        Family::counter(
            "netmon_log_lines_held_back_total",
            "Lines of the log that were left out, because too many came at once.",
        ),
        Family::gauge("netmon_memory_usage_bytes", "Resident memory of the agent."),
        Family::gauge(
            "netmon_cpu_usage_percentage",
            "CPU time of the agent since the last scrape, in percent of one CPU.",
        ),
        Family::gauge("netmon_threads_count", "Threads of the agent."),
        Family::counter("process_cpu_seconds_total", "User and system CPU time spent."),
        Family::gauge("process_start_time_seconds", "Start time of the process since the Unix epoch."),
        Family::gauge("process_resident_memory_bytes", "Resident memory size."),
        Family::gauge("process_virtual_memory_bytes", "Virtual memory size."),
        Family::gauge("process_open_fds", "Open file descriptors."),
        Family::gauge("process_max_fds", "Maximum number of open file descriptors."),
    ];

    fn collect(&self, _: &Reading, families: &mut Families) {
        let Build { version, commit, arch, node } = &self.build;
        let info = [("version", *version), ("commit", *commit), ("arch", *arch), ("node", node.as_str())];
        families.add("netmon_build_info", &info, 1.0);
        families.add("netmon_log_lines_held_back_total", &[], logging::held_back() as f64);
        let usage = self.usage();
        for (name, value) in [
            ("netmon_memory_usage_bytes", usage.resident_bytes as f64),
            ("netmon_cpu_usage_percentage", usage.cpu_percent),
            ("netmon_threads_count", usage.threads as f64),
            ("process_cpu_seconds_total", usage.cpu_seconds),
            ("process_start_time_seconds", usage.start_seconds),
            ("process_resident_memory_bytes", usage.resident_bytes as f64),
            ("process_virtual_memory_bytes", usage.virtual_bytes as f64),
            ("process_open_fds", usage.open_fds as f64),
            ("process_max_fds", usage.max_fds as f64),
        ] {
            families.add(name, &[], value);
        }
    }
}

/// Resident memory of this process.
pub fn resident_bytes() -> Option<u64> {
    Some(Process::myself().ok()?.statm().ok()?.resident * procfs::page_size())
}

fn cpu_seconds() -> Option<f64> {
    let stat = Process::myself().ok()?.stat().ok()?;
    Some((stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_forget_after_two_windows() {
        let mut processing = Processing::new(0);
        assert!(processing.quantile(0.5).is_nan());
        for _ in 0..100 {
            processing.record(Duration::from_nanos(200));
        }
        assert!((processing.quantile(0.99) - 200e-9).abs() < 5e-9);
        processing.turn(WINDOW_NS + 1);
        assert!(!processing.quantile(0.99).is_nan());
        processing.turn(2 * WINDOW_NS + 2);
        assert!(processing.quantile(0.99).is_nan());
        assert_eq!(processing.samples, 100);
    }

    #[test]
    fn this_process_uses_something() {
        let build = Build { version: "", commit: "", arch: "", node: String::new() };
        let usage = OwnProcess::new(build).usage();
        assert!(usage.resident_bytes > 0 && usage.threads > 0 && usage.open_fds > 2 && usage.start_seconds > 1e9);
    }
}
