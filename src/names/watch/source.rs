//! Requests to the API server.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
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
use super::failure::{Failure, jitter};
use super::lines::Lines;
use super::remedies::chain;
use super::secrets::Secrets;
use super::wire::{self, Page};
use super::{NamesOptions, Scope};
use crate::names::store::Kind;

/// Objects per page of a list; fewer if they are too large.
const PAGE: usize = 500;
/// Longest wait for a page, or for the beginning of a watch.
const RESPONSE_TIME: Duration = Duration::from_secs(60);
/// Most bytes of a response that is held as a whole. Only one is held at a time.
const PAGE_BYTES_MOST: usize = 32 << 20;
/// Most bytes read of a response that refuses a request.
const REFUSAL_BYTES_MOST: usize = 64 << 10;
/// Timeout of a watch, plus up to a minute at random so that not all agents reconnect at once.
const WATCH_TIME: Duration = Duration::from_secs(240);
const WATCH_SPREAD: Duration = Duration::from_secs(60);
/// Least time between two reads of the credentials after failures.
const RENEW_EVERY: Duration = Duration::from_secs(1);
/// Age at which credentials are read again before a request: a token is replaced minutes before it expires.
const RENEW_AFTER: Duration = Duration::from_secs(60);

/// The API path of a kind's objects, and whether their metadata is sufficient.
pub(super) fn resource_path(kind: Kind) -> (&'static str, bool) {
    match kind {
        Kind::Pods => ("/api/v1/pods", false),
        Kind::Services => ("/api/v1/services", false),
        Kind::Nodes => ("/api/v1/nodes", false),
        Kind::EndpointSlices => ("/apis/discovery.k8s.io/v1/endpointslices", false),
        Kind::ReplicaSets => ("/apis/apps/v1/replicasets", true),
        Kind::Jobs => ("/apis/batch/v1/jobs", true),
        Kind::Namespaces => ("/api/v1/namespaces", true),
    }
}

const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const JSON: &str = "application/json";

fn escaped(text: &str) -> impl std::fmt::Display + '_ {
    utf8_percent_encode(text, NON_ALPHANUMERIC)
}

/// A running watch and its timeout.
pub(super) struct Watch {
    pub(super) lines: Lines,
    pub(super) time: Duration,
    /// Keys of the labels that are read.
    pub(super) labels: Arc<[String]>,
}

pub(super) struct Source {
    credentials: Credentials,
    secrets: RefCell<Secrets>,
    client: RefCell<Client>,
    renewed: Cell<Instant>,
    /// Field selector for pods.
    selector: String,
    labels: Arc<[String]>,
    /// False once the server has turned out not to support watches that begin with the current state.
    streams: Cell<bool>,
    /// Objects per page, by `Kind as usize`.
    limits: [Cell<usize>; 7],
    /// Held while a response is read as a whole.
    turn: Mutex<()>,
}

impl Source {
    pub(super) fn new(credentials: Credentials, secrets: Secrets, client: Client, options: &NamesOptions) -> Source {
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
            labels: options.labels.clone().into(),
            streams: Cell::new(true),
            limits: std::array::from_fn(|_| Cell::new(PAGE)),
            turn: Mutex::default(),
        }
    }

    fn selector(&self, kind: Kind) -> &str {
        if kind == Kind::Pods { &self.selector } else { "" }
    }

    /// Whether the server is believed to support watches that begin with the current state.
    pub(super) fn streams(&self) -> bool {
        self.streams.get()
    }

    /// Records that the server does not support such watches.
    pub(super) fn disable_streaming(&self, why: &str) {
        if self.streams.replace(false) {
            log::info!("names: the API server does not stream lists ({why}): reading its watch cache in pages");
        }
    }

    /// Reads a page of all objects of a kind: the first one, or the one that the previous page refers to (`next`).
    ///
    /// The first page comes from the server's watch cache, so that the agents of all nodes do not query etcd. The server may ignore
    /// the limit and return all objects at once. If that is too large, they are read from etcd, in pages as small as necessary.
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
                    log::debug!("names: {}: {text}: using pages of {}", kind.name(), limit.get());
                }
                other => return other,
            }
        }
    }

    async fn page_of(&self, kind: Kind, limit: usize, from: &str) -> Result<Page, Failure> {
        let (path, metadata) = resource_path(kind);
        let path = format!("{path}?limit={limit}{}{from}", self.selector(kind));
        let response = within(self.get(&path, if metadata { METADATA_LIST } else { JSON }), "list").await?;
        let _turn = self.turn.lock().await;
        let body = within(whole(response.into_body()), "list").await?;
        wire::page(kind, &body, &self.labels).map_err(|error| Failure::Malformed(format!("{error:#}")))
    }

    /// Starts a watch that sends all objects of a kind and then their changes.
    pub(super) async fn stream(&self, kind: Kind) -> Result<Watch, Failure> {
        // The state may be as old as the server's cache; later changes follow it.
        self.watch_from(kind, "0&sendInitialEvents=true&resourceVersionMatch=NotOlderThan").await
    }

    /// Starts a watch for the changes after this version.
    pub(super) async fn watch(&self, kind: Kind, version: &str) -> Result<Watch, Failure> {
        self.watch_from(kind, &escaped(version).to_string()).await
    }

    async fn watch_from(&self, kind: Kind, version: &str) -> Result<Watch, Failure> {
        let (path, metadata) = resource_path(kind);
        let time = WATCH_TIME + jitter(WATCH_SPREAD);
        let seconds = time.as_secs();
        let path = format!(
            "{path}?watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={version}{}",
            self.selector(kind)
        );
        let response = within(self.get(&path, if metadata { METADATA } else { JSON }), "watch").await?;
        Ok(Watch { lines: Lines::new(response.into_body()), time, labels: Arc::clone(&self.labels) })
    }

    /// Reads the credentials again after a failure, because the token or the kubeconfig may have been replaced.
    pub(super) async fn renew(&self) {
        if self.renewed.get().elapsed() >= RENEW_EVERY {
            self.read_credentials(|_| true).await;
        }
    }

    /// Reads the credentials and, if `wanted` says so, creates a new client. If that fails, the previous client stays in use.
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
        let request = request.map_err(|error| Failure::Malformed(format!("request {path}: {error}")))?;
        let client = self.client.borrow().clone();
        let response = client.send(request).await.map_err(|error| Failure::Lost(chain(&error)))?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let code = response.status().as_u16();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let body = Limited::new(response.into_body(), REFUSAL_BYTES_MOST).collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        Err(Failure::of_response(code, &body, retry_after))
    }
}

/// Reads a whole body of at most [`PAGE_BYTES_MOST`] bytes.
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
    let late = || Failure::Lost(format!("no response to a {what} within {} s", RESPONSE_TIME.as_secs()));
    timeout(RESPONSE_TIME, answer).await.unwrap_or_else(|_| Err(late()))
}
