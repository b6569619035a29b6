//! What is asked of the API server.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Limited};
use hyper::header::{ACCEPT, RETRY_AFTER};
use hyper::{Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::connect::Credentials;
use super::failure::{Failure, spread};
use super::lines::Lines;
use super::secrets::Secrets;
use super::wire::{self, Page};
use super::words::chain;
use super::{Options, Scope};
use crate::names::store::Kind;

/// Objects in a page of a list; fewer where they are too large.
const PAGE: usize = 500;
/// For a page, or for the begin of a watch.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// Of an answer that is held as a whole, one at a time.
const PAGE_BYTES_MOST: usize = 32 << 20;
/// Of what refuses a request, more is not read.
const REFUSAL_BYTES_MOST: usize = 64 << 10;
/// A watch ends by itself after so long, and up to a minute more: not all agents come again at once.
const WATCH_TIME: Duration = Duration::from_secs(240);
const WATCH_SPREAD: Duration = Duration::from_secs(60);
/// Credentials are read again after a failure, but not more often.
const RENEW_EVERY: Duration = Duration::from_secs(1);
/// And before a request if it is so long ago: a token is replaced minutes before its end.
const RENEW_AFTER: Duration = Duration::from_secs(60);

/// Where a kind's objects are, and whether their metadata will do.
pub(super) fn place(kind: Kind) -> (&'static str, bool) {
    match kind {
        Kind::Pods => ("/api/v1/pods", false),
        Kind::Services => ("/api/v1/services", false),
        Kind::Nodes => ("/api/v1/nodes", false),
        Kind::EndpointSlices => ("/apis/discovery.k8s.io/v1/endpointslices", false),
        Kind::ReplicaSets => ("/apis/apps/v1/replicasets", true),
        Kind::Jobs => ("/apis/batch/v1/jobs", true),
    }
}

const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const JSON: &str = "application/json";

fn escaped(text: &str) -> impl std::fmt::Display + '_ {
    utf8_percent_encode(text, NON_ALPHANUMERIC)
}

/// A watch that goes on, and how long it may.
pub(super) struct Watch {
    pub(super) lines: Lines,
    pub(super) time: Duration,
}

pub(super) struct Source {
    credentials: Credentials,
    secrets: RefCell<Secrets>,
    client: RefCell<Client>,
    renewed: Cell<Instant>,
    /// Of pods.
    selector: String,
    /// The server has watches that begin with all there is, as far as is known.
    streams: Cell<bool>,
    /// Of the kinds, by `Kind as usize`: objects in a page.
    limits: [Cell<usize>; 6],
    /// Held while an answer is taken as a whole.
    turn: Mutex<()>,
}

impl Source {
    pub(super) fn new(credentials: Credentials, secrets: Secrets, client: Client, options: &Options) -> Source {
        let selector = match options.scope {
            Scope::Cluster => String::new(),
            Scope::Node => format!("&fieldSelector=spec.nodeName%3D{}", escaped(&options.node)),
        };
        Source {
            credentials,
            secrets: RefCell::new(secrets),
            client: RefCell::new(client),
            renewed: Cell::new(Instant::now()),
            selector,
            streams: Cell::new(true),
            limits: std::array::from_fn(|_| Cell::new(PAGE)),
            turn: Mutex::default(),
        }
    }

    fn selector(&self, kind: Kind) -> &str {
        if kind == Kind::Pods { &self.selector } else { "" }
    }

    /// Whether the server has watches that begin with all there is.
    pub(super) fn streams(&self) -> bool {
        self.streams.get()
    }

    /// It has none.
    pub(super) fn streams_not(&self, why: &str) {
        if self.streams.replace(false) {
            log::info!("names: the API server streams no lists ({why}): its watch cache is read in pages");
        }
    }

    /// A page of all objects of a kind: the first one, or the one that the last page has named.
    ///
    /// The first is what the server's watch cache has, so that etcd is not asked by the agents of all nodes; such a page may have
    /// all there is, whatever limit is asked for. If that is too much, they come from etcd, in pages as small as need be.
    pub(super) async fn page(&self, kind: Kind, next: Option<&str>) -> Result<Page, Failure> {
        let limit = &self.limits[kind as usize];
        loop {
            let from = match next {
                Some(next) => format!("&continue={}", escaped(next)),
                None if limit.get() == PAGE => "&resourceVersion=0".to_owned(),
                None => String::new(),
            };
            match self.page_of(kind, limit.get(), &from).await {
                Err(Failure::TooLarge(text)) if limit.get() > 1 => {
                    limit.set(limit.get() / 2);
                    log::debug!("names: {}: {text}: pages of {} from now on", kind.name(), limit.get());
                }
                other => return other,
            }
        }
    }

    async fn page_of(&self, kind: Kind, limit: usize, from: &str) -> Result<Page, Failure> {
        let (path, metadata) = place(kind);
        let path = format!("{path}?limit={limit}{}{from}", self.selector(kind));
        let response = within(self.get(&path, if metadata { METADATA_LIST } else { JSON }), "list").await?;
        let _turn = self.turn.lock().await;
        let body = within(whole(response.into_body()), "list").await?;
        wire::page(kind, &body).map_err(|error| Failure::Nonsense(format!("{error:#}")))
    }

    /// All objects of a kind, and then their changes.
    pub(super) async fn stream(&self, kind: Kind) -> Result<Watch, Failure> {
        // As old as the server's cache: what happened since then comes too.
        self.watch_from(kind, "0&sendInitialEvents=true&resourceVersionMatch=NotOlderThan").await
    }

    /// The changes after this version.
    pub(super) async fn watch(&self, kind: Kind, version: &str) -> Result<Watch, Failure> {
        self.watch_from(kind, &escaped(version).to_string()).await
    }

    async fn watch_from(&self, kind: Kind, version: &str) -> Result<Watch, Failure> {
        let (path, metadata) = place(kind);
        let time = WATCH_TIME + spread(WATCH_SPREAD);
        let seconds = time.as_secs();
        let path = format!(
            "{path}?watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={version}{}",
            self.selector(kind)
        );
        let response = within(self.get(&path, if metadata { METADATA } else { JSON }), "watch").await?;
        Ok(Watch { lines: Lines::new(response.into_body()), time })
    }

    /// After a failure: a token may be another by now, a kubeconfig too.
    pub(super) async fn renew(&self) {
        if self.renewed.get().elapsed() >= RENEW_EVERY {
            self.read_credentials(|_| true).await;
        }
    }

    /// Makes another client if the credentials, as they are now, ask for one. What was read last may still do.
    async fn read_credentials(&self, wanted: impl Fn(&Secrets) -> bool) {
        self.renewed.set(Instant::now());
        let renewed = async {
            let secrets = self.credentials.read()?;
            if wanted(&secrets) {
                let (_, client) = self.credentials.connect(&secrets).await?;
                self.client.replace(client);
                self.secrets.replace(secrets);
            }
            anyhow::Ok(())
        };
        if let Err(error) = renewed.await {
            log::debug!("names: {error:#}");
        }
    }

    async fn get(&self, path: &str, accept: &str) -> Result<Response<Body>, Failure> {
        if self.renewed.get().elapsed() >= RENEW_AFTER {
            self.read_credentials(|secrets| *secrets != *self.secrets.borrow()).await;
        }
        let request = Request::get(path).header(ACCEPT, accept).body(Body::empty());
        let request = request.map_err(|error| Failure::Nonsense(format!("ask for {path}: {error}")))?;
        let client = self.client.borrow().clone();
        let response = client.send(request).await.map_err(|error| Failure::Lost(chain(&error)))?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let code = response.status().as_u16();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let body = Limited::new(response.into_body(), REFUSAL_BYTES_MOST).collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        Err(Failure::of_answer(code, &body, retry_after))
    }
}

/// A body that is not larger than there is room for.
async fn whole(mut body: Body) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::Lost(format!("a list broke off: {}", chain(&error))))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > PAGE_BYTES_MOST {
            return Err(Failure::TooLarge(format!("a list of more than {} MiB", PAGE_BYTES_MOST >> 20)));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

async fn within<T>(answer: impl Future<Output = Result<T, Failure>>, what: &str) -> Result<T, Failure> {
    let late = || Failure::Lost(format!("no answer to a {what} within {} s", ANSWER_TIME.as_secs()));
    timeout(ANSWER_TIME, answer).await.unwrap_or_else(|_| Err(late()))
}
