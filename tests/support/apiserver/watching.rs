//! Watches: changes after a version, as they happen.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use futures_util::stream::unfold;
use http_body_util::{BodyExt, StreamBody};
use hyper::Response;
use hyper::body::{Bytes, Frame};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::serve::{Body, kind_of, selected, status_text};
use super::{Event, Fault, RESOURCES, Request, Shared, State, Streaming};

/// An open watch.
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
    /// All existing objects, before the changes.
    first: Option<String>,
    fault: Option<Fault>,
    ended: bool,
}

pub(super) fn watching(
    shared: &Arc<Shared>,
    plural: &'static str,
    query: &HashMap<String, String>,
    metadata: bool,
    fault: Option<Fault>,
) -> Response<Body> {
    let state = shared.state.lock().unwrap();
    let asked = Duration::from_secs(query["timeoutSeconds"].parse().unwrap());
    let node = selected(query);
    let asked_from: u64 = query["resourceVersion"].parse().unwrap();
    let first = (asked_from == 0).then(|| {
        let marked = kind_of(query) == Request::Stream && state.streaming == Streaming::Known;
        everything(&state, plural, node.as_ref(), metadata, marked)
    });
    let watching = Watching {
        woken: shared.wake.subscribe(),
        plural,
        node,
        metadata,
        version: if first.is_some() { state.version } else { asked_from },
        end: Instant::now() + state.watch_most.unwrap_or(asked).min(asked),
        bookmark_every: state.bookmark_every,
        bookmarks: query.get("allowWatchBookmarks").is_some_and(|allowed| allowed == "true"),
        first,
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

/// All existing objects as lines of a watch, followed by the end marker if `marked` is set.
fn everything(state: &State, plural: &str, node: Option<&String>, metadata: bool, marked: bool) -> String {
    let mut lines = String::new();
    let objects = state.resources[plural].objects.values();
    for object in objects.filter(|object| node.is_none_or(|node| *node == object.node)) {
        let text = if metadata { &object.metadata } else { &object.text };
        lines += &format!("{{\"type\":\"ADDED\",\"object\":{text}}}\n");
    }
    if marked {
        lines += &bookmark(plural, state.version, json!({ "k8s.io/initial-events-end": "true" }));
    }
    lines
}

fn bookmark(plural: &str, version: u64, annotations: Value) -> String {
    let (_, _, kind, api) = RESOURCES.iter().find(|resource| resource.0 == plural).unwrap();
    let metadata = json!({ "resourceVersion": version.to_string(), "annotations": annotations });
    let at = json!({ "metadata": metadata, "kind": kind, "apiVersion": api });
    format!("{{\"type\":\"BOOKMARK\",\"object\":{at}}}\n")
}

impl Watching {
    /// Returns lines as soon as there are some; `None` at the end.
    async fn frame(&mut self) -> Option<Result<String, std::io::Error>> {
        match self.fault.take() {
            Some(Fault::Cut) => {
                // The line that is cut off will be repeated: the version was not advanced.
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
                // More changes may come within a moment; a frame for each would be slow.
                Either::Left(_) => drop(timeout(Duration::from_millis(1), std::future::pending::<()>()).await),
                Either::Right(_) => {}
            }
        }
    }

    fn lines(&mut self) -> String {
        if let Some(first) = self.first.take() {
            return first;
        }
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

    /// `None` if something has happened in between.
    fn bookmark(&mut self) -> Option<String> {
        let state = self.shared.state.lock().unwrap();
        if state.resources[self.plural].log.back().is_some_and(|event| event.version > self.version) {
            return None;
        }
        self.version = state.version;
        Some(bookmark(self.plural, state.version, json!(null)))
    }
}

fn line(event: &Event, metadata: bool) -> String {
    let text = if metadata { &event.metadata } else { &event.text };
    format!("{{\"type\":\"{}\",\"object\":{text}}}\n", event.what)
}
