//! Reads all objects of a kind, then follows their changes, for ever: by one watch that begins with all there is where the server
//! has such, else by a list and a watch.

use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::failure::{Backoff, Failure};
use super::keeper::Keeper;
use super::source::{Source, Watch};
use super::wire::{self, Change};
use crate::names::store::Kind;

/// A server says each minute or so up to where nothing has happened. One that did so before, and has been silent for this long, is
/// no longer there.
const SILENT_MOST: Duration = Duration::from_secs(180);
/// What it takes to tell that a watch has ended by its time.
const GRACE: Duration = Duration::from_secs(15);
/// A watch that ends sooner, and has told nothing, has failed.
const SHORT: Duration = Duration::from_secs(1);
/// A watch that is to begin with all there is, and has told neither more of it nor its end for so long, is one of a server that
/// knows no such watches.
const PAUSE_MOST: Duration = Duration::from_secs(15);

/// Until the agent stops.
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
            Failure::Gone(_) | Failure::Nonsense(_) => version = None,
            Failure::Unauthorized(_) | Failure::Lost(_) => source.renew().await,
            Failure::Denied(_) | Failure::Busy(..) | Failure::Unknown(_) | Failure::TooLarge(_) => {}
        }
        sleep(backoff.next(&failure)).await;
    }
}

/// Reads all objects and follows their changes; `version` is set once all were read. It is not where the server cannot do that,
/// and is not to be asked again.
async fn stream(
    kind: Kind,
    source: &Source,
    keeper: &Keeper,
    version: &mut Option<String>,
    backoff: &mut Backoff,
) -> Result<(), Failure> {
    let mut watch = match source.stream(kind).await {
        Err(Failure::Unknown(text)) => {
            source.streams_not(&text);
            return Ok(());
        }
        other => other?,
    };
    keeper.begin(kind);
    loop {
        let Ok(line) = timeout(PAUSE_MOST, watch.lines.next()).await else {
            source.streams_not("it does not tell the end of all there is");
            return Ok(());
        };
        let cut_off = || Failure::Lost("the API server ended a watch before it had told all there is".to_owned());
        match wire::change(kind, line?.ok_or_else(cut_off)?).map_err(nonsense)? {
            Change::Error(refusal) => return Err(Failure::of_refusal(refusal, None)),
            Change::Applied(object, _) => keeper.apply(kind, std::slice::from_ref(&object)),
            Change::Deleted(object, _) => keeper.delete(kind, &object),
            Change::Bookmark(_, false) => {
                source.streams_not("it goes on without telling the end of all there is");
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

fn nonsense(error: anyhow::Error) -> Failure {
    Failure::Nonsense(format!("{error:#}"))
}

fn unversioned() -> Failure {
    Failure::Nonsense("a change without a version".to_owned())
}

/// The version of what was read.
async fn read(kind: Kind, source: &Source, keeper: &Keeper) -> Result<String, Failure> {
    keeper.begin(kind);
    let mut page = source.page(kind, None).await?;
    loop {
        keeper.apply(kind, &page.objects);
        let Some(next) = page.next else { break };
        page = source.page(kind, Some(&next)).await?;
    }
    if page.version.is_empty() {
        return Err(Failure::Nonsense("a list without a version".to_owned()));
    }
    keeper.finish(kind);
    Ok(page.version)
}

/// Until the watch ends by its time.
async fn changes(
    kind: Kind,
    mut watch: Watch,
    keeper: &Keeper,
    version: &mut String,
    backoff: &mut Backoff,
) -> Result<(), Failure> {
    let started = Instant::now();
    let mut patience = watch.time + GRACE;
    let mut told = false;
    keeper.heard(kind);
    loop {
        let line = timeout(patience, watch.lines.next());
        let silent = || Failure::Lost(format!("the API server has been silent for {} s", patience.as_secs()));
        let Some(line) = line.await.unwrap_or_else(|_| Err(silent()))? else { break };
        match wire::change(kind, line).map_err(nonsense)? {
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
        told = true;
        backoff.reset();
    }
    if !told && started.elapsed() < SHORT {
        return Err(Failure::Lost("the API server ended a watch at once".to_owned()));
    }
    Ok(())
}
