//! The configuration: raw arguments first, then one validated configuration that the rest of the program uses.

mod args;
mod chosen;
mod faults;
mod features;
mod file;
mod format;
mod idle;
mod keys;
mod labels;
mod programs;
mod security;
mod select;
mod settings;
mod value;
mod web;
mod yaml;

use std::path::PathBuf;
use std::time::Duration;

pub use args::{Args, Command};
pub use chosen::{ChosenLabel, ChosenLabels};
pub use features::{Buckets, Features, Precision};
pub use format::{Format, Layout};
pub use keys::Key;
pub use labels::{External, Label, Labels};
pub use security::{Security, Thresholds, Whom};
pub use select::{Choice, Selection};
pub use settings::{Origin, Settings, Sources};
pub use value::Given;
pub use web::{FileAt, TlsConfig, TlsVersion, WebConfig};

use crate::bpf::numbers::{CACHE_SLOT_BYTES, MOST_CACHE_SLOTS};
use crate::names::{Enabled, NamedNetwork, Scope};

/// Default path of the control socket.
pub const DEFAULT_SOCKET: &str = "/run/netmon/netmon.sock";

/// Address of the debug server if `debug` is set without an address.
pub const DEFAULT_DEBUG_SERVER: &str = "127.0.0.1:6060";

/// The configuration of an agent.
#[derive(Clone, Debug)]
pub struct Config {
    /// The interfaces to watch.
    pub interfaces: Selection,
    /// Share of flows that are tracked: above 0, at most 1.
    pub sampling_rate: f64,
    /// True to serve metrics and health.
    pub metrics_enabled: bool,
    /// Address of the metrics server: `:9090`, `127.0.0.1:9090`.
    pub metrics_addr: String,
    /// Path of the web configuration file, which protects the metrics server; `None`: anyone who reaches it may read.
    pub web_config: Option<PathBuf>,
    /// Address of the debug server; `None` for no server.
    pub debug_server: Option<String>,
    /// Path of the control socket; `None` for no socket.
    pub socket: Option<PathBuf>,
    /// Name of this node in labels.
    pub node_name: String,
    /// Log level.
    pub log_level: log::LevelFilter,
    /// Format of the log.
    pub log_format: LogFormat,
    /// Threads that read records from the kernel, each with a ring and a part of the flow table.
    pub workers: usize,
    /// Records that a ring holds, before `event_buffer_size` limits it.
    pub buffer_size: usize,
    /// Records that must be waiting before a worker is woken.
    pub batch_size: usize,
    /// Flow directions that the kernel's caches hold, all CPUs together; `None` for what fits the memory budget.
    pub flow_map_size: Option<usize>,
    /// Maximum number of records in all rings together; `None` for no limit.
    pub event_buffer_size: Option<usize>,
    /// Maximum number of flows in the table.
    pub max_flows: usize,
    /// A flow without packets for this long is over.
    pub flow_timeout: Duration,
    /// A flow older than this is closed, and its next packet starts a new flow; `None` for no limit.
    pub max_age: Option<Duration>,
    /// A SYN without an answer for this long has failed.
    pub connect_timeout: Duration,
    /// What is measured and recognised in connections besides counting packets.
    pub features: Features,
    /// What looks hostile.
    pub security: Security,
    /// Limit of resident memory, in bytes.
    pub memory_limit: Option<u64>,
    /// CPU limit in millicores.
    pub cpu_limit_milli: Option<u32>,
    /// Maximum number of series of the metrics whose labels come from packets.
    pub series_limit: usize,
    /// Labels that identify the ends of flows in these series.
    pub labels: Labels,
    /// How an address outside of the cluster is shown.
    pub external: External,
    /// Series that counted nothing for this long are removed.
    pub series_idle: Duration,
    /// Whether names are read from a Kubernetes cluster.
    pub kubernetes: Enabled,
    /// Path of the cluster's kubeconfig; `None` for the service account or `$KUBECONFIG`.
    pub kubeconfig: Option<PathBuf>,
    /// Which pods get names.
    pub scope: Scope,
    /// Labels of pods and namespaces that are labels of metrics, too.
    pub chosen: ChosenLabels,
    /// Names of networks outside of the cluster.
    pub networks: Vec<NamedNetwork>,
    /// True to watch pods without a link on the host in their own network namespaces.
    pub pod_namespaces: bool,
    /// True to join the two halves of connections that NAT translates, as the kernel's connection tracking reports
    /// them.
    pub nat: bool,
    /// Socket buffer for connection tracking events, in bytes. The kernel uses it only when many events are waiting.
    pub nat_queue_bytes: usize,
    /// True to attach with clsact even if the kernel has TCX.
    pub clsact: bool,
}

impl Default for Config {
    /// The configuration without any setting.
    fn default() -> Config {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Config {
            interfaces: Selection::default(),
            sampling_rate: 1.0,
            metrics_enabled: true,
            metrics_addr: ":9090".to_owned(),
            web_config: None,
            debug_server: None,
            socket: Some(PathBuf::from(DEFAULT_SOCKET)),
            node_name: host_name(),
            log_level: log::LevelFilter::Info,
            log_format: LogFormat::Text,
            workers: cores.min(4),
            buffer_size: 10_000,
            batch_size: 1_000,
            flow_map_size: None,
            event_buffer_size: None,
            max_flows: 1_000_000,
            flow_timeout: Duration::from_secs(300),
            max_age: None,
            connect_timeout: Duration::from_secs(30),
            features: Features::default(),
            security: Security::default(),
            memory_limit: None,
            cpu_limit_milli: None,
            series_limit: 20_000,
            labels: Labels::default(),
            external: External::default(),
            series_idle: Duration::from_secs(900),
            kubernetes: Enabled::default(),
            kubeconfig: None,
            scope: Scope::default(),
            chosen: ChosenLabels::default(),
            networks: Vec::new(),
            pod_namespaces: false,
            nat: true,
            nat_queue_bytes: 16 << 20,
            clsact: false,
        }
    }
}

/// Format of the log's lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people.
    #[default]
    Text,
    /// A JSON object on each line.
    Json,
}

/// Kernel memory that the caches of all CPUs may take together, in bytes.
const CACHE_BUDGET_BYTES: u64 = 112 << 20;
/// A slot of the IPv4 cache plus its share of the IPv6 cache: half a slot.
const SLOT_BYTES: u64 = CACHE_SLOT_BYTES[0] + CACHE_SLOT_BYTES[1] / 2;
/// A larger cache writes fewer records, but each new flow is slower: the processor's own cache holds less of it.
const SLOTS_MOST: u32 = 32 * 1024;
const SLOTS_LEAST: u32 = 256;

impl Config {
    /// Slots of each CPU's cache: the configured number, else as many as are useful and fit the budget.
    pub fn cache_slots(&self, possible_cpus: usize) -> u32 {
        let cpus = possible_cpus.max(1);
        if let Some(all) = self.flow_map_size {
            // An IPv6 cache has a quarter as many slots.
            let each = (all / cpus).saturating_mul(4) / 5;
            return u32::try_from(each).unwrap_or(u32::MAX).clamp(SLOTS_LEAST, MOST_CACHE_SLOTS);
        }
        let fit = CACHE_BUDGET_BYTES / (cpus as u64 * SLOT_BYTES);
        let fit = u32::try_from(fit).unwrap_or(SLOTS_MOST).clamp(SLOTS_LEAST, SLOTS_MOST);
        1 << fit.ilog2()
    }

    /// This configuration with those values of `wanted` that a running agent accepts.
    pub fn with_live(&self, wanted: &Config) -> Config {
        let wanted = wanted.clone();
        Config {
            interfaces: wanted.interfaces,
            sampling_rate: wanted.sampling_rate,
            batch_size: wanted.batch_size,
            max_flows: wanted.max_flows,
            flow_timeout: wanted.flow_timeout,
            max_age: wanted.max_age,
            connect_timeout: wanted.connect_timeout,
            features: Features { timestamps: self.features.timestamps, ..wanted.features },
            security: wanted.security,
            labels: wanted.labels,
            external: wanted.external,
            series_idle: wanted.series_idle,
            memory_limit: wanted.memory_limit,
            cpu_limit_milli: wanted.cpu_limit_milli,
            log_level: wanted.log_level,
            ..self.clone()
        }
    }

    /// Number of records that a ring holds.
    pub fn ring_records(&self) -> usize {
        let share = self.event_buffer_size.map_or(usize::MAX, |all| all / self.workers.max(1));
        self.buffer_size.min(share).max(1)
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_fit_the_memory_budget() {
        let config = Config::default();
        assert_eq!(config.cache_slots(2), 32768);
        assert_eq!(config.cache_slots(64), 16384);
        assert_eq!(config.cache_slots(128), 8192);
        for cpus in [1, 2, 4, 8, 64, 96, 128, 256, 512, 1024] {
            assert!(
                u64::from(config.cache_slots(cpus)) * SLOT_BYTES * cpus as u64 <= CACHE_BUDGET_BYTES,
                "{cpus} CPUs"
            );
        }
        let asked = |size| Config { flow_map_size: Some(size), ..config.clone() };
        assert_eq!(asked(100_000).cache_slots(4), 20_000);
        assert_eq!((asked(256).cache_slots(64), asked(100_000_000).cache_slots(1)), (256, 256 * 1024));
    }

    #[test]
    fn rings_share_the_event_buffer() {
        let config =
            |buffer_size, event_buffer_size| Config { workers: 4, buffer_size, event_buffer_size, ..Config::default() };
        assert_eq!(config(10_000, None).ring_records(), 10_000);
        assert_eq!(config(10_000, Some(100_000)).ring_records(), 10_000);
        assert_eq!(config(10_000, Some(8_000)).ring_records(), 2_000);
    }
}
