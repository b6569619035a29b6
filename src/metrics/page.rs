//! The pages of the metrics port.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::TextEncoder;

use super::collector::AgentCollector;
use super::coverage::Covered;
use super::interfaces::Interface;
use super::own::Processing;
use super::series::Keys;
use super::sums::Sums;
use crate::bpf::{InterfaceBooks, Misses, RecordCounts, TimestampSource};
use crate::flow::Counts;
use crate::http::{METRICS, Page, Pages, Purpose, Reply, TEXT};
use crate::names;

/// What the agent knows at the moment of a scrape.
#[derive(Debug)]
pub struct Snapshot {
    /// Sums of all workers.
    pub sums: Sums,
    /// Which series they are.
    pub keys: Keys,
    /// Flows in the tables.
    pub active: Counts,
    /// Connections that fell silent and were forgotten for others.
    pub forgotten: u64,
    /// The kernel's books by interface index.
    pub books: BTreeMap<u32, InterfaceBooks>,
    /// Records the programs wrote.
    pub records: RecordCounts,
    /// What the programs left out.
    pub misses: Misses,
    /// The clock that was asked for.
    pub timestamps: TimestampSource,
    /// Time for a record.
    pub processing: Processing,
    /// Interfaces of the host, by index.
    pub interfaces: BTreeMap<u32, Interface>,
    /// What part of their packets was seen, by index, for ingress and egress.
    pub coverage: BTreeMap<u32, [Covered; 2]>,
    /// How often somebody took the programs from a hook.
    pub hooks: HookCounts,
    /// Translations of addresses.
    pub nat: NatCounts,
    /// How the names of a cluster are read, if there is one.
    pub names: Option<names::Status>,
    /// Share of flows that is tracked.
    pub sampling_rate: f64,
    /// How often the configuration was read again.
    pub reloads: Reloads,
    /// What was done to stay within the limits.
    pub saved: Saved,
    /// Run-time statistics of the programs, where the kernel keeps them.
    pub programs: Vec<ProgramTime>,
}

/// Runs of a program and their time (`sysctl kernel.bpf_stats_enabled=1`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramTime {
    /// Name.
    pub name: String,
    /// Times it ran.
    pub runs: u64,
    /// Time it took in all.
    pub run_ns: u64,
}

/// Hooks that netmon's program was taken from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HookCounts {
    /// Times that one was found without.
    pub lost: u64,
    /// Times that it was put back at once.
    pub restored: u64,
}

/// How often the configuration was read again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reloads {
    /// And taken.
    pub taken: u64,
    /// And refused, for something was wrong with it.
    pub failed: u64,
}

/// What was done to stay within the limits of memory and CPU time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// Times that flows made room.
    pub shed: u64,
    /// Times that something was slowed down, or fewer flows were tracked.
    pub slowed: u64,
    /// Steps of the latter in force.
    pub cpu_level: u64,
}

/// Translations of addresses by NAT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NatCounts {
    /// Connections that have one.
    pub translations: u64,
    /// Those that found no room.
    pub refused: u64,
    /// Times that all had to be read anew, for more came at once than the kernel could tell of.
    pub resyncs: u64,
}

/// Where the pages come from.
pub trait Source: Send + Sync + 'static {
    /// For `/metrics`; `None` without workers.
    fn snapshot(&self) -> Option<Snapshot>;
    /// A page that is not older may be served again.
    fn page_age(&self) -> Duration {
        Duration::ZERO
    }
    /// For `/healthz`: what is wrong, if something is.
    fn unhealthy(&self) -> Option<String>;
    /// For `/readyz`: what is still missing, if something is.
    fn unready(&self) -> Option<String>;
}

/// What was built.
#[derive(Clone, Debug)]
pub struct Build {
    /// Of the package.
    pub version: &'static str,
    /// Short hash.
    pub commit: &'static str,
    /// Of the processor.
    pub arch: &'static str,
    /// Name of the node the agent runs on.
    pub node: String,
}

/// The server of these pages.
pub const SERVER: Purpose = Purpose { name: "metrics", flag: "--metrics-addr", port: 9090 };

/// `/metrics`, `/healthz`, `/readyz`.
pub struct MetricsPage {
    source: Arc<dyn Source>,
    collector: AgentCollector,
    latest: Mutex<Option<(Instant, Vec<u8>)>>,
}

impl MetricsPage {
    /// Pages over `source`.
    pub fn new(source: Arc<dyn Source>, series: Arc<super::SeriesIndex>, build: Build) -> MetricsPage {
        let collector = AgentCollector::new(Arc::clone(&source), series, build);
        MetricsPage { source, collector, latest: Mutex::default() }
    }
}

impl MetricsPage {
    /// What Prometheus reads.
    pub fn metrics(&self) -> Reply {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let age = self.source.page_age();
        let body = match &*latest {
            Some((made, body)) if made.elapsed() < age => body.clone(),
            _ => match TextEncoder::new().encode_to_string(&self.collector.collect()) {
                Ok(body) => {
                    let body = body.into_bytes();
                    *latest = (!age.is_zero()).then(|| (Instant::now(), body.clone()));
                    body
                }
                Err(error) => return text(500, format!("encode the metrics: {error}\n")),
            },
        };
        Reply { status: 200, content_type: METRICS, body }
    }
}

fn text(status: u16, body: String) -> Reply {
    Reply { status, content_type: TEXT, body: body.into_bytes() }
}

impl Pages for MetricsPage {
    fn get(&self, path: &str, _query: &str) -> Option<Page> {
        let verdict = |trouble: Option<String>| match trouble {
            None => text(200, "ok\n".to_owned()),
            Some(trouble) => text(503, format!("{trouble}\n")),
        };
        let reply = match path {
            "/metrics" => self.metrics(),
            "/healthz" => verdict(self.source.unhealthy()),
            "/readyz" => verdict(self.source.unready()),
            "/" => text(200, "netmon: /metrics /healthz /readyz\n".to_owned()),
            _ => return None,
        };
        Some(reply.into())
    }
}
