//! What is asked of the API server.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Limited};
use hyper::header::{ACCEPT, RETRY_AFTER};
use hyper::{Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::timeout;

use super::connect::Credentials;
use super::failure::{Failure, spread};
use super::lines::Lines;
use super::wire::{self, Page};
use super::words::chain;
use super::{Options, Scope};
use crate::names::store::Kind;

/// Objects in a page of a list.
const PAGE: usize = 500;
/// For a page, or for the begin of a watch.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// A page of very large objects.
const PAGE_BYTES_MOST: usize = 512 << 20;
/// Of what refuses a request, more is not read.
const REFUSAL_BYTES_MOST: usize = 64 << 10;
/// A watch ends by itself after so long, and up to a minute more: not all agents come again at once.
const WATCH_TIME: Duration = Duration::from_secs(240);
const WATCH_SPREAD: Duration = Duration::from_secs(60);
/// Credentials are read again after a failure, but not more often.
const RENEW_EVERY: Duration = Duration::from_secs(1);

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
    client: RefCell<Client>,
    renewed: Cell<Instant>,
    /// Of pods.
    selector: String,
}

impl Source {
    pub(super) fn new(credentials: Credentials, client: Client, options: &Options) -> Source {
        let selector = match options.scope {
            Scope::Cluster => String::new(),
            Scope::Node => format!("&fieldSelector=spec.nodeName%3D{}", escaped(&options.node)),
        };
        Source { credentials, client: RefCell::new(client), renewed: Cell::new(Instant::now()), selector }
    }

    fn selector(&self, kind: Kind) -> &str {
        if kind == Kind::Pods { &self.selector } else { "" }
    }

    /// A page of all objects of a kind: the first one, or the one that the last page has named.
    pub(super) async fn page(&self, kind: Kind, next: Option<&str>) -> Result<Page, Failure> {
        let (path, metadata) = place(kind);
        let next = next.map(|next| format!("&continue={}", escaped(next))).unwrap_or_default();
        let path = format!("{path}?limit={PAGE}{}{next}", self.selector(kind));
        let answer = async {
            let body = self.get(&path, if metadata { METADATA_LIST } else { JSON }).await?.into_body();
            let body = Limited::new(body, PAGE_BYTES_MOST).collect().await;
            body.map_err(|error| Failure::Lost(format!("a list broke off: {}", chain(&*error))))
        };
        let body = within(answer, "list").await?.to_bytes();
        wire::page(kind, &body).map_err(|error| Failure::Nonsense(format!("{error:#}")))
    }

    /// The changes after this version.
    pub(super) async fn watch(&self, kind: Kind, version: &str) -> Result<Watch, Failure> {
        let (path, metadata) = place(kind);
        let time = WATCH_TIME + spread(WATCH_SPREAD);
        let path = format!(
            "{path}?watch=true&allowWatchBookmarks=true&timeoutSeconds={}&resourceVersion={}{}",
            time.as_secs(),
            escaped(version),
            self.selector(kind)
        );
        let response = within(self.get(&path, if metadata { METADATA } else { JSON }), "watch").await?;
        Ok(Watch { lines: Lines::new(response.into_body()), time })
    }

    /// Reads the credentials again: a token is replaced before it expires, a kubeconfig may be another.
    pub(super) async fn renew(&self) {
        if self.renewed.get().elapsed() < RENEW_EVERY {
            return;
        }
        self.renewed.set(Instant::now());
        match self.credentials.connect().await {
            Ok((_, client)) => drop(self.client.replace(client)),
            // What was read last may still do.
            Err(error) => log::debug!("names: {error:#}"),
        }
    }

    async fn get(&self, path: &str, accept: &str) -> Result<Response<Body>, Failure> {
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

async fn within<T>(answer: impl Future<Output = Result<T, Failure>>, what: &str) -> Result<T, Failure> {
    let late = || Failure::Lost(format!("no answer to a {what} within {} s", ANSWER_TIME.as_secs()));
    timeout(ANSWER_TIME, answer).await.unwrap_or_else(|_| Err(late()))
}
