//! What the agent says of itself: how long a record takes, memory, CPU, threads.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use procfs::process::Process;

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

    /// Lets old samples go.
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

    /// Samples since the start.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Their sum.
    pub fn sum_seconds(&self) -> f64 {
        self.sum_ns as f64 / 1e9
    }

    /// In seconds; not a number while there are no samples.
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

/// The process, from /proc.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    pub(super) cpu_seconds: f64,
    /// Of one CPU, since the last reading.
    pub(super) cpu_percent: f64,
    pub(super) resident_bytes: u64,
    pub(super) virtual_bytes: u64,
    pub(super) threads: i64,
    pub(super) open_fds: usize,
    pub(super) max_fds: u64,
    pub(super) start_seconds: f64,
}

/// Reads [`Usage`].
#[derive(Debug)]
pub(super) struct UsageReader {
    last: Mutex<(Instant, f64)>,
}

impl UsageReader {
    pub(super) fn new() -> UsageReader {
        UsageReader { last: Mutex::new((Instant::now(), cpu_seconds().unwrap_or(0.0))) }
    }

    /// What cannot be read stays 0.
    pub(super) fn read(&self) -> Usage {
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
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = last.0.elapsed().as_secs_f64();
        if elapsed > 0.0 {
            usage.cpu_percent = 100.0 * (usage.cpu_seconds - last.1).max(0.0) / elapsed;
        }
        *last = (Instant::now(), usage.cpu_seconds);
        usage
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
        assert_eq!(processing.samples(), 100);
    }

    #[test]
    fn this_process_uses_something() {
        let usage = UsageReader::new().read();
        assert!(usage.resident_bytes > 0 && usage.threads > 0 && usage.open_fds > 2 && usage.start_seconds > 1e9);
    }
}
