//! What an agent takes, and how busy it is, over time.

use serde::Serialize;

use crate::support::scrape::sum;

/// Counters of an agent at a moment, from its page of metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// CPU time of the agent, in seconds.
    pub cpu_s: f64,
    /// Run time of its BPF programs, in seconds; nothing if the kernel does not measure it.
    pub programs_s: Option<f64>,
    /// Resident memory, in bytes.
    pub resident_bytes: f64,
    /// Records that workers have merged.
    pub records: f64,
    /// Packets seen at all hooks.
    pub packets: f64,
    /// Their bytes on the wire.
    pub bytes: f64,
    /// Packets whose record was lost.
    pub packets_lost: f64,
    /// Records that were lost.
    pub records_lost: f64,
    /// Flows in the table.
    pub flows: f64,
    /// Flows evicted because the table was full.
    pub evicted: f64,
    /// Times that were not measured because the table of connections in the kernel was full.
    pub unmeasured: f64,
    /// Lines that the metrics take of their budget.
    pub series: f64,
}

impl Figures {
    /// Reads a page of metrics.
    pub fn read(page: &str) -> Figures {
        let of = |name: &str| sum(page, name, &[]);
        let programs = "netmon_ebpf_program_seconds_total";
        Figures {
            cpu_s: of("process_cpu_seconds_total"),
            programs_s: page.lines().any(|line| line.starts_with(programs)).then(|| of(programs)),
            resident_bytes: of("process_resident_memory_bytes"),
            records: of("netmon_ebpf_events_processed_total"),
            packets: of("netmon_packets_seen_total"),
            bytes: of("netmon_bytes_seen_total"),
            packets_lost: of("netmon_packets_lost_total"),
            records_lost: of("netmon_ebpf_events_dropped_total"),
            flows: of("netmon_flows_active"),
            evicted: of("netmon_flows_evicted_total"),
            unmeasured: sum(page, "netmon_latency_samples_missed_total", &["collision"]),
            series: of("netmon_series"),
        }
    }
}

/// An agent over a stretch of time.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sample {
    /// End of the stretch, in seconds since the first one began.
    pub at_s: f64,
    /// CPU time of the agent, in percent of one CPU.
    pub cpu_percent: f64,
    /// The same for its BPF programs; nothing if the kernel does not measure it.
    pub programs_percent: Option<f64>,
    /// Resident memory at the end, in bytes.
    pub resident_bytes: f64,
    /// Records merged a second.
    pub records_per_s: f64,
    /// Packets seen a second.
    pub packets_per_s: f64,
    /// Bytes seen a second.
    pub bytes_per_s: f64,
    /// Packets lost in this time.
    pub packets_lost: f64,
    /// Records lost in this time.
    pub records_lost: f64,
    /// Flows in the table at the end.
    pub flows: f64,
}

impl Sample {
    /// What happened from `before` to `after` in `seconds`, which ended at `at_s`.
    pub fn between(before: &Figures, after: &Figures, seconds: f64, at_s: f64) -> Sample {
        let rate = |of: fn(&Figures) -> f64| (of(after) - of(before)) / seconds;
        Sample {
            at_s,
            cpu_percent: rate(|figures| figures.cpu_s) * 100.0,
            programs_percent: before.programs_s.zip(after.programs_s).map(|(from, to)| (to - from) / seconds * 100.0),
            resident_bytes: after.resident_bytes,
            records_per_s: rate(|figures| figures.records),
            packets_per_s: rate(|figures| figures.packets),
            bytes_per_s: rate(|figures| figures.bytes),
            packets_lost: after.packets_lost - before.packets_lost,
            records_lost: after.records_lost - before.records_lost,
            flows: after.flows,
        }
    }
}

/// Mean and maximum over the samples of a run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Summary {
    /// Over all samples, each as long as the others.
    pub mean: f64,
    /// Of one sample.
    pub max: f64,
}

impl Summary {
    /// Of one figure; zero without samples.
    pub fn of(samples: &[Sample], figure: impl Fn(&Sample) -> f64) -> Summary {
        let sum: f64 = samples.iter().map(&figure).sum();
        Summary { mean: sum / samples.len().max(1) as f64, max: samples.iter().map(figure).fold(0.0, f64::max) }
    }
}
