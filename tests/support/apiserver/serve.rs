//! The server's side of HTTP.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::net::TcpListener;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use futures_util::stream::unfold;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;

use super::{Asked, Event, Fault, RESOURCES, Request, Shared, State};

type Body = UnsyncBoxBody<Bytes, std::io::Error>;
/// Requests that are remembered.
const ASKED_MOST: usize = 10_000;

pub(super) fn run(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    stopped: oneshot::Receiver<()>,
) {
    listener.set_nonblocking(true).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let accept = async {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let shared = Arc::clone(&shared);
            if shared.state.lock().unwrap().down {
                continue;
            }
            let tls = tls.clone();
            tokio::spawn(async move {
                match tls {
                    None => converse(stream, shared).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            converse(stream, shared).await;
                        }
                    }
                }
            });
        }
    };
    runtime.block_on(async {
        select(pin!(accept), stopped).await;
    });
}

/// Until either side has had enough.
async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>) {
    let epoch = shared.state.lock().unwrap().epoch;
    let answering = Arc::clone(&shared);
    let service = service_fn(move |request| answer(Arc::clone(&answering), request));
    let connection = pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    let mut woken = shared.wake.subscribe();
    let closed = pin!(async { while shared.state.lock().unwrap().epoch == epoch && woken.changed().await.is_ok() {} });
    select(connection, closed).await;
}

fn full(status: u16, kind: &str, body: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(body.into()).map_err(|never: Infallible| match never {}).boxed_unsync();
    Response::builder().status(status).header(header::CONTENT_TYPE, kind).body(body).unwrap()
}

fn refusal(status: u16, reason: &str, message: &str) -> Response<Body> {
    full(status, "application/json", status_text(status, reason, message))
}

fn status_text(code: u16, reason: &str, message: &str) -> String {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason,
        "code": code,
    });
    status.to_string()
}

/// An error closes the connection.
async fn answer(shared: Arc<Shared>, request: hyper::Request<Incoming>) -> Result<Response<Body>, std::io::Error> {
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
    let token = header(header::AUTHORIZATION).trim_start_matches("Bearer ").trim().to_owned();
    let accept = header(header::ACCEPT);
    let program = header(header::USER_AGENT);
    let path = request.uri().path().to_owned();
    let query = parse(request.uri().query().unwrap_or(""));
    if !shared.state.lock().unwrap().tokens.contains(&token) {
        note(&shared, &path, &query, [accept, token, program], 401);
        return Ok(refusal(401, "Unauthorized", "Unauthorized"));
    }
    if path.ends_with("/selfsubjectaccessreviews") {
        let body = request.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes();
        return Ok(review(&shared, &body));
    }
    let Some((plural, _, kind, version)) =
        RESOURCES.iter().find(|(plural, group, ..)| path == format!("{group}/{plural}"))
    else {
        return Ok(full(404, "text/plain", "404 page not found\n"));
    };
    let is_watch = query.get("watch").is_some_and(|watch| watch == "true" || watch == "1");
    let kind_of = if is_watch { Request::Watch } else { Request::List };
    let fault = {
        let mut state = shared.state.lock().unwrap();
        let place = state.faults.iter().position(|fault| fault.0 == *plural && fault.1 == kind_of);
        place.map(|place| state.faults.remove(place).2)
    };
    let metadata = accept.contains("as=PartialObjectMetadata");
    let response = match &fault {
        Some(Fault::Drop) => Err(std::io::Error::other("dropped")),
        Some(Fault::Status(code, retry_after, body)) => {
            let mut response = full(*code, "text/plain; charset=utf-8", body.clone());
            if let Some(seconds) = retry_after {
                response.headers_mut().insert(header::RETRY_AFTER, (*seconds).into());
            }
            Ok(response)
        }
        Some(Fault::Garbage) => Ok(full(200, "application/json", "{\"type\":\"ADDED\",\"object\":{]}\n")),
        _ if shared.state.lock().unwrap().denied.contains(*plural) => Ok(refusal(
            403,
            "Forbidden",
            &format!("{plural} is forbidden: User \"test\" cannot list resource \"{plural}\""),
        )),
        _ => {
            if let Some(Fault::Slow(time)) = &fault {
                sleep(*time).await;
            }
            if is_watch {
                Ok(watching(&shared, plural, &query, metadata, fault.clone()))
            } else {
                Ok(list(&shared, plural, kind, version, &query, metadata, fault.clone()))
            }
        }
    };
    let status = response.as_ref().map_or(0, |response| response.status().as_u16());
    note(&shared, &path, &query, [accept, token, program], status);
    response
}

fn note(shared: &Shared, path: &str, query: &HashMap<String, String>, headers: [String; 3], answered: u16) {
    let request = if query.contains_key("watch") { Request::Watch } else { Request::List };
    let [accept, token, program] = headers;
    let resource = path.rsplit('/').next().unwrap_or("").to_owned();
    let mut state = shared.state.lock().unwrap();
    state.asked.push_back(Asked { resource, request, query: query.clone(), accept, token, program, answered });
    if state.asked.len() > ASKED_MOST {
        state.asked.pop_front();
    }
}

fn parse(query: &str) -> HashMap<String, String> {
    let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decode(name), decode(value))).collect()
}

fn review(shared: &Shared, body: &[u8]) -> Response<Body> {
    let mut review: Value = serde_json::from_slice(body).unwrap();
    let resource = review["spec"]["resourceAttributes"]["resource"].as_str().unwrap_or("").to_owned();
    let allowed = !shared.state.lock().unwrap().denied.contains(&resource);
    review["status"] = json!({ "allowed": allowed, "reason": if allowed { "" } else { "no rule allows it" } });
    full(201, "application/json", review.to_string())
}

/// `spec.nodeName=…`, the only selector that is known.
fn selected(query: &HashMap<String, String>) -> Option<String> {
    let selector = query.get("fieldSelector")?;
    Some(selector.strip_prefix("spec.nodeName=").unwrap_or_else(|| panic!("selector {selector}")).to_owned())
}

fn list(
    shared: &Shared,
    plural: &'static str,
    kind: &str,
    api: &str,
    query: &HashMap<String, String>,
    metadata: bool,
    fault: Option<Fault>,
) -> Response<Body> {
    let mut state = shared.state.lock().unwrap();
    let (version, mut rest) = match query.get("continue") {
        Some(token) => match state.pages.remove(token) {
            Some(rest) => rest,
            None => return refusal(410, "Expired", "The provided continue parameter is too old"),
        },
        None => {
            let node = selected(query);
            let objects = state.resources[plural].objects.values();
            let objects = objects.filter(|object| node.as_ref().is_none_or(|node| *node == object.node));
            let text = |object: &super::Object| Arc::clone(if metadata { &object.metadata } else { &object.text });
            (state.version, objects.map(text).collect::<VecDeque<_>>())
        }
    };
    let limit = query.get("limit").map_or(usize::MAX, |limit| limit.parse().unwrap());
    let page: Vec<Arc<str>> = rest.drain(..limit.min(rest.len())).collect();
    let mut about = json!({ "resourceVersion": version.to_string() });
    if !rest.is_empty() {
        let token = format!("{plural}/{version}/{}+==", rest.len());
        about["remainingItemCount"] = json!(rest.len());
        about["continue"] = json!(token);
        state.pages.insert(token, (version, rest));
    }
    let (kind, api) = if metadata { ("PartialObjectMetadata", "meta.k8s.io/v1") } else { (kind, api) };
    let items: Vec<&str> = page.iter().map(|text| &**text).collect();
    let items = if items.is_empty() { "null".to_owned() } else { format!("[{}]", items.join(",")) };
    let mut text =
        format!("{{\"kind\":\"{kind}List\",\"apiVersion\":\"{api}\",\"metadata\":{about},\"items\":{items}}}");
    if let Some(Fault::Cut) = fault {
        text.truncate(text.len() / 2);
        let frames = [Ok(Frame::data(Bytes::from(text))), Err(std::io::Error::other("cut"))];
        let body = StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
        return Response::new(body);
    }
    full(200, "application/json", text)
}

/// A watch that goes on.
struct Watching {
    shared: Arc<Shared>,
    woken: watch::Receiver<u64>,
    plural: &'static str,
    node: Option<String>,
    metadata: bool,
    version: u64,
    end: Instant,
    bookmark_every: Duration,
    bookmarks: bool,
    fault: Option<Fault>,
    ended: bool,
}

fn watching(
    shared: &Arc<Shared>,
    plural: &'static str,
    query: &HashMap<String, String>,
    metadata: bool,
    fault: Option<Fault>,
) -> Response<Body> {
    let state = shared.state.lock().unwrap();
    let asked = Duration::from_secs(query["timeoutSeconds"].parse().unwrap());
    let watching = Watching {
        woken: shared.wake.subscribe(),
        plural,
        node: selected(query),
        metadata,
        version: query["resourceVersion"].parse().unwrap(),
        end: Instant::now() + state.watch_most.unwrap_or(asked).min(asked),
        bookmark_every: state.bookmark_every,
        bookmarks: query.get("allowWatchBookmarks").is_some_and(|allowed| allowed == "true"),
        fault,
        ended: false,
        shared: Arc::clone(shared),
    };
    let frames = unfold(watching, |mut watching| async {
        if watching.ended {
            return None;
        }
        let frame = watching.frame().await?.map(|text| Frame::data(Bytes::from(text)));
        Some((frame, watching))
    });
    Response::new(StreamBody::new(frames).boxed_unsync())
}

impl Watching {
    /// Lines, as soon as there are some; `None` at the end.
    async fn frame(&mut self) -> Option<Result<String, std::io::Error>> {
        match self.fault.take() {
            Some(Fault::Cut) => {
                // What is cut off comes again: the version was not taken.
                let lines = self.wait_for_lines().await.unwrap_or_default();
                self.fault = Some(Fault::Drop);
                return Some(Ok(lines[..lines.len() / 2].to_owned()));
            }
            Some(Fault::Drop) => return Some(Err(std::io::Error::other("cut"))),
            Some(Fault::Error(code, reason)) => {
                self.ended = true;
                let status = status_text(code, &reason, "something went wrong");
                return Some(Ok(format!("{{\"type\":\"ERROR\",\"object\":{status}}}\n")));
            }
            _ => {}
        }
        self.wait_for_lines().await.map(Ok)
    }

    async fn wait_for_lines(&mut self) -> Option<String> {
        let mut bookmark = Instant::now() + self.bookmark_every;
        loop {
            self.woken.mark_unchanged();
            let lines = self.lines();
            if !lines.is_empty() {
                return Some(lines);
            }
            let now = Instant::now();
            if now >= self.end {
                return None;
            }
            if now >= bookmark && self.bookmarks {
                match self.bookmark() {
                    Some(bookmark) => return Some(bookmark),
                    None => continue,
                }
            }
            bookmark = bookmark.max(now);
            match select(pin!(self.woken.changed()), pin!(sleep_until(bookmark.min(self.end)))).await {
                Either::Left((Err(_), _)) => return None,
                // More may come within the moment; a line for each would be slow.
                Either::Left(_) => drop(timeout(Duration::from_millis(1), std::future::pending::<()>()).await),
                Either::Right(_) => {}
            }
        }
    }

    fn lines(&mut self) -> String {
        let state: &State = &self.shared.state.lock().unwrap();
        let resource = &state.resources[self.plural];
        if self.version < resource.compacted {
            self.ended = true;
            let status = status_text(410, "Expired", &format!("too old resource version: {}", self.version));
            return format!("{{\"type\":\"ERROR\",\"object\":{status}}}\n");
        }
        let first = resource.log.partition_point(|event| event.version <= self.version);
        let mut lines = String::new();
        for event in resource.log.range(first..) {
            if self.node.as_ref().is_none_or(|node| *node == event.node) {
                lines += &line(event, self.metadata);
            }
            self.version = event.version;
        }
        lines
    }

    /// None where something has happened in between.
    fn bookmark(&mut self) -> Option<String> {
        let state = self.shared.state.lock().unwrap();
        if state.resources[self.plural].log.back().is_some_and(|event| event.version > self.version) {
            return None;
        }
        let (_, _, kind, api) = RESOURCES.iter().find(|resource| resource.0 == self.plural).unwrap();
        let at =
            json!({ "metadata": { "resourceVersion": state.version.to_string() }, "kind": kind, "apiVersion": api });
        self.version = state.version;
        Some(format!("{{\"type\":\"BOOKMARK\",\"object\":{at}}}\n"))
    }
}

fn line(event: &Event, metadata: bool) -> String {
    let text = if metadata { &event.metadata } else { &event.text };
    format!("{{\"type\":\"{}\",\"object\":{text}}}\n", event.what)
}
