//! Reads all objects of a kind, then follows their changes, for ever.

use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::failure::{Backoff, Failure};
use super::keeper::Keeper;
use super::source::Source;
use super::wire::{self, Change};
use crate::names::store::Kind;

/// A server says each minute or so up to where nothing has happened. One that did so before, and has been silent for this long, is
/// no longer there.
const SILENT_MOST: Duration = Duration::from_secs(180);
/// What it takes to tell that a watch has ended by its time.
const GRACE: Duration = Duration::from_secs(15);
/// A watch that ends sooner, and has told nothing, has failed.
const SHORT: Duration = Duration::from_secs(1);

/// Until the agent stops.
pub(super) async fn follow(kind: Kind, source: &Source, keeper: &Keeper) {
    let mut backoff = Backoff::default();
    let mut version: Option<String> = None;
    loop {
        let result = match &mut version {
            Some(version) => watch(kind, source, keeper, version, &mut backoff).await,
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
            Failure::Denied(_) | Failure::Busy(..) => {}
        }
        sleep(backoff.next(&failure)).await;
    }
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
async fn watch(
    kind: Kind,
    source: &Source,
    keeper: &Keeper,
    version: &mut String,
    backoff: &mut Backoff,
) -> Result<(), Failure> {
    let mut watch = source.watch(kind, version).await?;
    let started = Instant::now();
    let mut patience = watch.time + GRACE;
    let mut told = false;
    keeper.heard(kind);
    loop {
        let line = timeout(patience, watch.lines.next());
        let silent = || Failure::Lost(format!("the API server has been silent for {} s", patience.as_secs()));
        let Some(line) = line.await.unwrap_or_else(|_| Err(silent()))? else { break };
        match wire::change(kind, line).map_err(|error| Failure::Nonsense(format!("{error:#}")))? {
            Change::Error(refusal) => return Err(Failure::of_refusal(refusal, None)),
            Change::Applied(object, new) => {
                keeper.apply(kind, std::slice::from_ref(&object));
                *version = new;
            }
            Change::Deleted(object, new) => {
                keeper.delete(kind, &object);
                *version = new;
            }
            Change::Bookmark(new) => {
                patience = patience.min(SILENT_MOST);
                keeper.heard(kind);
                *version = new;
            }
        }
        if version.is_empty() {
            return Err(Failure::Nonsense("a change without a version".to_owned()));
        }
        told = true;
        backoff.reset();
    }
    if !told && started.elapsed() < SHORT {
        return Err(Failure::Lost("the API server ended a watch at once".to_owned()));
    }
    Ok(())
}
