//! The HTTP side of the API server.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::net::TcpListener;
use std::pin::pin;
use std::sync::Arc;

use futures_util::future::select;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use super::watching::watching;
use super::{Asked, Fault, RESOURCES, Request, Shared, Streaming};

pub(super) type Body = UnsyncBoxBody<Bytes, std::io::Error>;
/// Maximum number of remembered requests.
const ASKED_MOST: usize = 50_000;

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

/// Serves a connection until either side closes it.
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

pub(super) fn status_text(code: u16, reason: &str, message: &str) -> String {
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
    let kind_of = kind_of(&query);
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
            let streaming = shared.state.lock().unwrap().streaming;
            match kind_of {
                Request::Stream if streaming == Streaming::Refused => Ok(refusal(
                    422,
                    "Invalid",
                    "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate \
                     is enabled",
                )),
                Request::List => Ok(list(&shared, plural, kind, version, &query, metadata, fault.clone())),
                _ => Ok(watching(&shared, plural, &query, metadata, fault.clone())),
            }
        }
    };
    let status = response.as_ref().map_or(0, |response| response.status().as_u16());
    note(&shared, &path, &query, [accept, token, program], status);
    response
}

fn note(shared: &Shared, path: &str, query: &HashMap<String, String>, headers: [String; 3], answered: u16) {
    let request = kind_of(query);
    let [accept, token, program] = headers;
    let resource = path.rsplit('/').next().unwrap_or("").to_owned();
    let mut state = shared.state.lock().unwrap();
    let at = std::time::Instant::now();
    state.asked.push_back(Asked { resource, request, query: query.clone(), at, accept, token, program, answered });
    if state.asked.len() > ASKED_MOST {
        state.asked.pop_front();
    }
}

pub(super) fn kind_of(query: &HashMap<String, String>) -> Request {
    let is = |name: &str| query.get(name).is_some_and(|value| value == "true" || value == "1");
    match (is("watch"), is("sendInitialEvents")) {
        (false, _) => Request::List,
        (true, false) => Request::Watch,
        (true, true) => {
            assert_eq!(query["resourceVersionMatch"], "NotOlderThan", "or the server refuses it");
            Request::Stream
        }
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

/// The node of `spec.nodeName=…`, the only selector that is supported.
pub(super) fn selected(query: &HashMap<String, String>) -> Option<String> {
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
        // A page may be requested again, in smaller pages.
        Some(token) => match state.pages.get(token) {
            Some(rest) => rest.clone(),
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
    let is_cached = query.get("resourceVersion").is_some_and(|version| version == "0");
    let limit = query.get("limit").filter(|_| !(is_cached && state.whole_from_cache));
    let limit = limit.map_or(usize::MAX, |limit| limit.parse().unwrap());
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
