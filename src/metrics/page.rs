//! The pages of the metrics port.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use prometheus::TextEncoder;

use super::collector::AgentCollector;
use super::coverage::Covered;
use super::interfaces::Interface;
use super::own::Processing;
use super::series::Keys;
use super::sums::Sums;
use crate::bpf::{InterfaceBooks, Misses, RecordCounts, TimestampSource};
use crate::clients::Clients;
use crate::flow::Counts;
use crate::http::{Body, METRICS, Page, Pages, Purpose, Reply, TEXT};
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
    /// ICMP errors that found no flow, because too many waited for theirs.
    pub errors_lost: u64,
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
    /// Clients of the agent's servers, if it has any.
    fn clients(&self) -> Option<&Clients> {
        None
    }
    /// For `/healthz`: what is wrong, if something is. It waits for nobody.
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
pub const SERVER: Purpose = Purpose { name: "metrics", flag: "--metrics-addr", port: 9090, own_name_only: false };

/// A page is served again while it is younger, or younger than a quarter of what it took: whoever asks all the time gets the same.
const AGE: Duration = Duration::from_secs(1);

/// `/metrics`, `/healthz`, `/readyz`.
#[derive(Clone)]
pub struct MetricsPage(Arc<Metrics>);

struct Metrics {
    source: Arc<dyn Source>,
    collector: AgentCollector,
    /// Held while it is made: whoever waits shares it.
    latest: Mutex<Option<Latest>>,
}

struct Latest {
    made: Instant,
    took: Duration,
    body: Body,
}

impl Metrics {
    fn is_fresh(&self, latest: &Latest) -> bool {
        latest.made.elapsed() < self.source.page_age().max(AGE).max(latest.took / 4)
    }

    /// The latest, if it is fresh and nobody is just making another.
    fn fresh(&self) -> Option<Body> {
        let latest = match self.latest.try_lock() {
            Ok(latest) => latest,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        latest.as_ref().filter(|latest| self.is_fresh(latest)).map(|latest| latest.body.clone())
    }

    fn page(&self) -> Reply {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(latest) = latest.as_ref().filter(|latest| self.is_fresh(latest)) {
            return metrics(latest.body.clone());
        }
        let begun = Instant::now();
        match self.make() {
            Ok(text) => {
                let body = Body::from(text);
                *latest = Some(Latest { made: Instant::now(), took: begun.elapsed(), body: body.clone() });
                metrics(body)
            }
            Err(error) => text(500, format!("encode the metrics: {error}\n")),
        }
    }

    fn make(&self) -> prometheus::Result<Vec<u8>> {
        let mut text = TextEncoder::new().encode_to_string(&self.collector.collect())?.into_bytes();
        text.shrink_to_fit();
        Ok(text)
    }
}

impl MetricsPage {
    /// Pages over `source`.
    pub fn new(source: Arc<dyn Source>, series: Arc<super::SeriesIndex>, build: Build) -> MetricsPage {
        let collector = AgentCollector::new(Arc::clone(&source), series, build);
        MetricsPage(Arc::new(Metrics { source, collector, latest: Mutex::default() }))
    }

    /// What Prometheus reads; made anew once a second at most.
    pub fn metrics(&self) -> Reply {
        self.0.page()
    }

    /// The same, made now.
    pub fn make(&self) -> prometheus::Result<Vec<u8>> {
        self.0.make()
    }
}

fn metrics(body: Body) -> Reply {
    Reply { status: 200, content_type: METRICS, body }
}

fn text(status: u16, body: String) -> Reply {
    Reply { status, content_type: TEXT, body: body.into_bytes().into() }
}

impl Pages for MetricsPage {
    fn get(&self, path: &str, _query: &str) -> Option<Page> {
        let source = &self.0.source;
        let verdict = |trouble: Option<String>| match trouble {
            None => text(200, "ok\n".to_owned()),
            Some(trouble) => text(503, format!("{trouble}\n")),
        };
        let reply = match path {
            "/metrics" => match self.0.fresh() {
                Some(body) => metrics(body),
                None => {
                    let page = Arc::clone(&self.0);
                    return Some(Page::Soon(Box::new(move || page.page())));
                }
            },
            "/healthz" => verdict(source.unhealthy()),
            "/readyz" => verdict(source.unready()),
            "/" => text(200, "netmon: /metrics /healthz /readyz\n".to_owned()),
            _ => return None,
        };
        Some(reply.into())
    }
}
