//! Parses the API server's responses: pages of lists, and lines of watches.

mod trimmed;

use anyhow::{Context, Result};
use serde::{Deserialize, Deserializer};

use crate::names::store::{Kind, Object};
use trimmed::{Labelled, WireNamespace, WireNode, WireOwned, WirePod, WireService, WireSlice};

/// A page of a list.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) objects: Vec<Object>,
    /// The version from which a watch continues after the list.
    pub(super) version: String,
    /// Token that requests the next page, if there is one.
    pub(super) next: Option<String>,
}

/// A line of a watch.
#[derive(Debug)]
pub(super) enum Change {
    /// An object was added or modified.
    Applied(Object, String),
    /// An object was deleted.
    Deleted(Object, String),
    /// A bookmark: nothing else has happened up to this version. True: the current state has been sent completely.
    Bookmark(String, bool),
    /// The server ends the watch with an error.
    Error(Refusal),
}

/// The API's `Status` object.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Refusal {
    pub(super) code: u16,
    pub(super) reason: String,
    pub(super) message: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) details: Details,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Details {
    pub(super) retry_after_seconds: u64,
}

/// A page, with the values of these labels of its objects.
pub(super) fn page(kind: Kind, text: &[u8], labels: &[String]) -> Result<Page> {
    let mut page = match kind {
        Kind::Pods => page_of::<WirePod>(text, WirePod::object),
        Kind::Services => page_of::<WireService>(text, WireService::object),
        Kind::EndpointSlices => page_of::<WireSlice>(text, WireSlice::object),
        Kind::Nodes => page_of::<WireNode>(text, WireNode::object),
        Kind::ReplicaSets => page_of::<WireOwned>(text, WireOwned::replica_set),
        Kind::Jobs => page_of::<WireOwned>(text, WireOwned::job),
        Kind::Namespaces => page_of::<WireNamespace>(text, WireNamespace::object),
    }?;
    if has_labels(kind, labels) {
        let list: List<Labelled> = serde_json::from_slice(text).context("read the labels of a list")?;
        let each = page.objects.iter_mut().zip(list.items);
        each.for_each(|(object, labelled)| object.set_labels(labelled.values(labels)));
    }
    Ok(page)
}

/// A line of a watch, with the values of these labels of its object.
pub(super) fn change(kind: Kind, line: &[u8], labels: &[String]) -> Result<Change> {
    let mut change = match kind {
        Kind::Pods => change_of::<WirePod>(line, WirePod::object),
        Kind::Services => change_of::<WireService>(line, WireService::object),
        Kind::EndpointSlices => change_of::<WireSlice>(line, WireSlice::object),
        Kind::Nodes => change_of::<WireNode>(line, WireNode::object),
        Kind::ReplicaSets => change_of::<WireOwned>(line, WireOwned::replica_set),
        Kind::Jobs => change_of::<WireOwned>(line, WireOwned::job),
        Kind::Namespaces => change_of::<WireNamespace>(line, WireNamespace::object),
    }?;
    if let Change::Applied(object, _) | Change::Deleted(object, _) = &mut change
        && has_labels(kind, labels)
    {
        let event: Event<Labelled> = serde_json::from_slice(line).context("read the labels of a line of a watch")?;
        object.set_labels(event.object.values(labels));
    }
    Ok(change)
}

/// Labels with any key are read apart from what always is, so that they cost nothing if none is chosen.
fn has_labels(kind: Kind, labels: &[String]) -> bool {
    !labels.is_empty() && matches!(kind, Kind::Pods | Kind::Namespaces)
}

fn page_of<T: for<'a> Deserialize<'a>>(text: &[u8], object: fn(T) -> Object) -> Result<Page> {
    let list: List<T> = serde_json::from_slice(text).context("read a list")?;
    let next = Some(list.metadata.next).filter(|next| !next.is_empty());
    let objects = list.items.into_iter().map(object).collect();
    Ok(Page { objects, version: list.metadata.resource_version, next })
}

fn change_of<T: HasVersion + for<'a> Deserialize<'a>>(line: &[u8], object: fn(T) -> Object) -> Result<Change> {
    let mut event: Event<T> = match serde_json::from_slice(line) {
        Ok(event) => event,
        Err(error) => match serde_json::from_slice::<Event<Refusal>>(line) {
            Ok(event) if event.event_type == EventType::Error => return Ok(Change::Error(event.object)),
            _ => return Err(error).context("read a line of a watch"),
        },
    };
    let (version, is_whole) = (event.object.version(), event.object.is_whole());
    Ok(match event.event_type {
        EventType::Added | EventType::Modified => Change::Applied(object(event.object), version),
        EventType::Deleted => Change::Deleted(object(event.object), version),
        EventType::Bookmark => Change::Bookmark(version, is_whole),
        EventType::Error => {
            let event: Event<Refusal> = serde_json::from_slice(line).context("read the error of a watch")?;
            Change::Error(event.object)
        }
    })
}

#[derive(Deserialize)]
#[serde(bound = "T: for<'a> Deserialize<'a>")]
struct List<T> {
    metadata: ListMeta,
    #[serde(deserialize_with = "or_default", default = "Vec::new")]
    items: Vec<T>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ListMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    next: String,
}

#[derive(Deserialize)]
struct Event<T> {
    #[serde(rename = "type")]
    event_type: EventType,
    object: T,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum EventType {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

trait HasVersion {
    fn version(&mut self) -> String;
    /// True for the bookmark that follows the state at the beginning of the watch.
    fn is_whole(&self) -> bool;
}

/// Go encodes an empty list as `null`.
fn or_default<'a, D: Deserializer<'a>, T: Default + Deserialize<'a>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
