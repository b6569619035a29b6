//! Reads all objects of a kind and then follows their changes until the agent stops: with one watch that begins with the current
//! state if the server supports that, otherwise with a list followed by a watch.

use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::failure::{Backoff, Failure};
use super::keeper::Keeper;
use super::source::{Source, Watch};
use super::wire::{self, Change};
use crate::names::store::Kind;

/// A server sends a bookmark about once a minute. One that has done so before and has been silent for this long is considered gone.
const SILENT_MOST: Duration = Duration::from_secs(180);
/// Time allowed beyond a watch's timeout for its end to arrive.
const GRACE: Duration = Duration::from_secs(15);
/// A watch that ends sooner than this without any event counts as failed.
const SHORT: Duration = Duration::from_secs(1);
/// If a watch that should begin with the current state reports neither more of it nor its end for this long, the server does not
/// support such watches.
const PAUSE_MOST: Duration = Duration::from_secs(15);

/// Follows one kind until the agent stops. `start`: wait before the first request.
pub(super) async fn follow(kind: Kind, source: &Source, keeper: &Keeper, start: Duration) {
    sleep(start).await;
    let mut backoff = Backoff::default();
    let mut version: Option<String> = None;
    loop {
        let result = match &mut version {
            Some(version) => match source.watch(kind, version).await {
                Ok(watch) => changes(kind, watch, keeper, version, &mut backoff).await,
                Err(failure) => Err(failure),
            },
            None if source.streams() => stream(kind, source, keeper, &mut version, &mut backoff).await,
            None => read(kind, source, keeper).await.map(|read| {
                version = Some(read);
                backoff.reset();
            }),
        };
        let Err(failure) = result else { continue };
        keeper.failed(kind, &failure);
        match &failure {
            Failure::Gone(_) | Failure::Malformed(_) => version = None,
            Failure::Unauthorized(_) | Failure::Lost(_) => source.renew().await,
            Failure::Denied(_) | Failure::Busy(..) | Failure::Unknown(_) | Failure::TooLarge(_) => {}
        }
        sleep(backoff.next(&failure)).await;
    }
}

/// Reads all objects and follows their changes; sets `version` once all have been read. If the server does not support that,
/// `version` is not set and the method is not tried again.
async fn stream(
    kind: Kind,
    source: &Source,
    keeper: &Keeper,
    version: &mut Option<String>,
    backoff: &mut Backoff,
) -> Result<(), Failure> {
    let mut watch = match source.stream(kind).await {
        Err(Failure::Unknown(text)) => {
            source.disable_streaming(&text);
            return Ok(());
        }
        other => other?,
    };
    keeper.begin(kind);
    loop {
        let Ok(line) = timeout(PAUSE_MOST, watch.lines.next()).await else {
            source.disable_streaming("it does not mark the end of the current state");
            return Ok(());
        };
        let cut_off = || Failure::Lost("the API server ended a watch before it had sent the current state".to_owned());
        match wire::change(kind, line?.ok_or_else(cut_off)?, &watch.labels).map_err(malformed)? {
            Change::Error(refusal) => return Err(Failure::of_refusal(refusal, None)),
            Change::Applied(object, _) => keeper.apply(kind, std::slice::from_ref(&object)),
            Change::Deleted(object, _) => keeper.delete(kind, &object),
            Change::Bookmark(_, false) => {
                source.disable_streaming("it continues without marking the end of the current state");
                return Ok(());
            }
            Change::Bookmark(at, true) if at.is_empty() => return Err(unversioned()),
            Change::Bookmark(at, true) => {
                keeper.finish(kind);
                backoff.reset();
                return changes(kind, watch, keeper, version.insert(at), backoff).await;
            }
        }
    }
}

fn malformed(error: anyhow::Error) -> Failure {
    Failure::Malformed(format!("{error:#}"))
}

fn unversioned() -> Failure {
    Failure::Malformed("a change without a version".to_owned())
}

/// Reads all objects page by page, and returns the version of the list.
async fn read(kind: Kind, source: &Source, keeper: &Keeper) -> Result<String, Failure> {
    keeper.begin(kind);
    let mut page = source.page(kind, None).await?;
    loop {
        keeper.apply(kind, &page.objects);
        let Some(next) = page.next else { break };
        page = source.page(kind, Some(&next)).await?;
    }
    if page.version.is_empty() {
        return Err(Failure::Malformed("a list without a version".to_owned()));
    }
    keeper.finish(kind);
    Ok(page.version)
}

/// Applies the changes of a watch until it reaches its timeout.
async fn changes(
    kind: Kind,
    mut watch: Watch,
    keeper: &Keeper,
    version: &mut String,
    backoff: &mut Backoff,
) -> Result<(), Failure> {
    let started = Instant::now();
    let mut patience = watch.time + GRACE;
    let mut received = false;
    keeper.heard(kind);
    loop {
        let line = timeout(patience, watch.lines.next());
        let silent = || Failure::Lost(format!("the API server has been silent for {} s", patience.as_secs()));
        let Some(line) = line.await.unwrap_or_else(|_| Err(silent()))? else { break };
        match wire::change(kind, line, &watch.labels).map_err(malformed)? {
            Change::Error(refusal) => return Err(Failure::of_refusal(refusal, None)),
            Change::Applied(object, new) => {
                keeper.apply(kind, std::slice::from_ref(&object));
                *version = new;
            }
            Change::Deleted(object, new) => {
                keeper.delete(kind, &object);
                *version = new;
            }
            Change::Bookmark(new, _) => {
                patience = patience.min(SILENT_MOST);
                keeper.heard(kind);
                *version = new;
            }
        }
        if version.is_empty() {
            return Err(unversioned());
        }
        received = true;
        backoff.reset();
    }
    if !received && started.elapsed() < SHORT {
        return Err(Failure::Lost("the API server ended a watch at once".to_owned()));
    }
    Ok(())
}
