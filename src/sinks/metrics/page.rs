//! The pages of the metrics port.

use std::sync::{Arc, Mutex, TryLockError};
use std::time::{Duration, Instant};

use super::figures::FigureList;
use super::own::Processing;
use super::series::Keys;
use super::sums::Sums;
use crate::flow::Counts;
use crate::http::{Body, METRICS, Page, Pages, Purpose, Reply, TEXT};
use crate::lock;

/// What the workers hold at one moment: read once for a page, so that its numbers add up.
#[derive(Debug)]
pub struct Reading {
    /// Sums of all workers.
    pub sums: Sums,
    /// Which series they are.
    pub keys: Keys,
    /// Flows in the tables.
    pub active: Counts,
    /// Connections that fell silent and were forgotten to make room for others.
    pub forgotten: u64,
    /// ICMP errors that found no flow, because too many waited for theirs.
    pub errors_lost: u64,
    /// How long workers take for a record.
    pub processing: Processing,
}

impl Reading {
    /// These sums, and tables without a flow.
    pub fn new(sums: Sums, keys: Keys) -> Reading {
        let (active, processing) = (Counts::default(), Processing::new(0));
        Reading { sums, keys, active, forgotten: 0, errors_lost: 0, processing }
    }
}

/// Where the pages come from.
pub trait Source: Send + Sync + 'static {
    /// What the workers hold, for `/metrics`; `None` without workers: the page is empty then.
    fn read(&self) -> Option<Reading>;
    /// A page that is not older than this may be served again.
    fn page_age(&self) -> Duration {
        Duration::ZERO
    }
    /// For `/healthz`: what is wrong, if something is. It waits for no worker.
    fn unhealthy(&self) -> Option<String>;
    /// For `/readyz`: what is still missing, if something is.
    fn unready(&self) -> Option<String>;
}

/// The server of these pages.
pub const SERVER: Purpose = Purpose { name: "metrics", flag: "--metrics-addr", port: 9090, own_name_only: false };

/// A page is served again until it is this old, or as old as a quarter of the time it took to make: clients in a loop get the same one.
const AGE: Duration = Duration::from_secs(1);

/// `/metrics`, `/healthz`, `/readyz`.
#[derive(Clone)]
pub struct MetricsPage(Arc<Metrics>);

type Collect = Box<dyn Fn(&Reading) -> Vec<u8> + Send + Sync>;

struct Metrics {
    source: Arc<dyn Source>,
    collect: Collect,
    /// Held while the next page is made: whoever waits shares it.
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

    /// The latest page, if it is fresh and no other is being made.
    fn fresh(&self) -> Option<Body> {
        let latest = match self.latest.try_lock() {
            Ok(latest) => latest,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        latest.as_ref().filter(|latest| self.is_fresh(latest)).map(|latest| latest.body.clone())
    }

    fn page(&self) -> Reply {
        let mut latest = lock::ignoring_poison(&self.latest);
        if let Some(latest) = latest.as_ref().filter(|latest| self.is_fresh(latest)) {
            return metrics(latest.body.clone());
        }
        let begun = Instant::now();
        let body = Body::from(self.make());
        *latest = Some(Latest { made: Instant::now(), took: begun.elapsed(), body: body.clone() });
        metrics(body)
    }

    fn make(&self) -> Vec<u8> {
        self.source.read().map(|reading| (self.collect)(&reading)).unwrap_or_default()
    }
}

impl MetricsPage {
    /// Pages over `source`, with the figures of those in the list.
    pub fn new<S: Source>(source: Arc<S>, figures: FigureList<S>) -> MetricsPage {
        let all = Arc::clone(&source);
        let collect = Box::new(move |reading: &Reading| figures.collect(&all, reading));
        MetricsPage(Arc::new(Metrics { source, collect, latest: Mutex::default() }))
    }

    /// What Prometheus reads; made again once a second at most.
    pub fn metrics(&self) -> Reply {
        self.0.page()
    }

    /// The same, made now.
    pub fn make(&self) -> Vec<u8> {
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
    /// The kubelet asks for the agent's health, and has neither a password nor a certificate.
    fn is_open(&self, path: &str) -> bool {
        matches!(path, "/healthz" | "/readyz")
    }

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
