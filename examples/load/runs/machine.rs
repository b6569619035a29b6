//! The machine that numbers were measured on.

use serde::Serialize;

/// What makes numbers of two machines differ.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Linux release.
    pub kernel: String,
    /// CPUs that this process may use.
    pub cpus: usize,
    /// Model of the first CPU, empty if /proc/cpuinfo has none.
    pub model: String,
    /// Physical memory, in bytes.
    pub memory_bytes: u64,
    /// Processes that ran or waited for a CPU, averaged over 1, 5 and 15 minutes.
    pub load_average: String,
}

impl Machine {
    /// This machine, now.
    pub fn here() -> Machine {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.map_or(String::new(), |rest| rest.trim_start_matches([' ', '\t', ':']).trim().to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        Machine {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            model: field(&read("/proc/cpuinfo"), "model name"),
            memory_bytes: memory.split(' ').next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) << 10,
            load_average: read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" "),
        }
    }
}
