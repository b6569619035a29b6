//! How the watcher fares, for those who ask.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::failure::Failure;
use crate::names::store::{Counts, Kind};

/// How the watcher fares.
#[derive(Clone, Debug)]
pub struct Status {
    /// The API server's URL.
    pub server: String,
    /// Where the credentials come from.
    pub credentials: String,
    /// All was read once.
    pub synced: bool,
    /// The longest time for which no news came of a kind, nor that there are none.
    pub age: Duration,
    /// What is read, in the order in which it is.
    pub kinds: Vec<KindStatus>,
    /// The latest failure, and when it was.
    pub last_error: Option<(SystemTime, String)>,
}

/// How it fares with objects of a kind.
#[derive(Clone, Debug)]
pub struct KindStatus {
    /// Which.
    pub kind: Kind,
    /// Their number.
    pub objects: usize,
    /// What becomes of them.
    pub state: State,
    /// Time since the server was heard about them.
    pub age: Duration,
    /// Requests that failed, and watches that broke off.
    pub errors: u64,
}

/// What becomes of the objects of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// All of them are being read.
    Reading,
    /// They were; the watch begins.
    Read,
    /// Their changes are followed.
    Watching,
    /// The last try failed; what was known stays.
    Failing,
    /// They may not be read.
    Denied,
}

impl State {
    /// In output.
    pub fn name(self) -> &'static str {
        match self {
            State::Reading => "reading",
            State::Read | State::Watching => "watching",
            State::Failing => "failing",
            State::Denied => "denied",
        }
    }
}

#[derive(Debug)]
struct Followed {
    kind: Kind,
    objects: usize,
    state: State,
    heard: Instant,
    errors: u64,
}

#[derive(Debug)]
struct Inner {
    synced: bool,
    kinds: Vec<Followed>,
    last_error: Option<(SystemTime, String)>,
}

/// Where the watcher writes it.
#[derive(Debug)]
pub(super) struct StatusCell {
    server: String,
    credentials: String,
    inner: Mutex<Inner>,
}

impl StatusCell {
    pub(super) fn new(server: String, credentials: String, kinds: &[Kind]) -> StatusCell {
        let heard = Instant::now();
        let followed = |&kind: &Kind| Followed { kind, objects: 0, state: State::Reading, heard, errors: 0 };
        let kinds = kinds.iter().map(followed).collect();
        StatusCell { server, credentials, inner: Mutex::new(Inner { synced: false, kinds, last_error: None }) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, kind: Kind, change: impl FnOnce(&mut Followed)) {
        if let Some(followed) = self.lock().kinds.iter_mut().find(|followed| followed.kind == kind) {
            change(followed);
        }
    }

    pub(super) fn is_synced(&self) -> bool {
        self.lock().synced
    }

    pub(super) fn set(&self, kind: Kind, state: State) {
        let mut came_back = false;
        self.of(kind, |followed| {
            let failed = matches!(followed.state, State::Failing | State::Denied);
            came_back = failed && state == State::Watching;
            // To try again is no success yet.
            if !failed || came_back {
                followed.state = state;
            }
        });
        if came_back {
            log::info!("names: {} are followed again", kind.name());
        }
    }

    pub(super) fn heard(&self, kind: Kind) {
        self.of(kind, |followed| followed.heard = Instant::now());
    }

    pub(super) fn failed(&self, kind: Kind, failure: &Failure) {
        let text = format!("{}: {failure}", kind.name());
        let mut is_new = false;
        self.of(kind, |followed| {
            followed.errors += 1;
            let state = match failure {
                // What is too old is read anew.
                Failure::Gone(_) => return,
                Failure::Denied(_) => State::Denied,
                _ => State::Failing,
            };
            is_new = followed.state != state;
            followed.state = state;
        });
        match failure {
            Failure::Denied(_) if is_new => log::warn!(
                "names: {text}; names lack what these tell until the account may get, list and watch them \
                 (deploy/kubernetes/rbac.yaml)"
            ),
            _ if is_new => log::warn!("names: {text}; what is known stays"),
            _ => log::debug!("names: {text}"),
        }
        self.lock().last_error = Some((SystemTime::now(), text));
    }

    pub(super) fn published(&self, counts: Counts, synced: bool) {
        let mut inner = self.lock();
        inner.synced |= synced;
        for followed in &mut inner.kinds {
            followed.objects = counts.iter().find(|(kind, _)| *kind == followed.kind).map_or(0, |(_, count)| *count);
        }
    }

    pub(super) fn read(&self) -> Status {
        let inner = self.lock();
        let kind = |followed: &Followed| KindStatus {
            kind: followed.kind,
            objects: followed.objects,
            state: followed.state,
            age: followed.heard.elapsed(),
            errors: followed.errors,
        };
        let kinds: Vec<KindStatus> = inner.kinds.iter().map(kind).collect();
        let followed = kinds.iter().filter(|kind| kind.state != State::Denied);
        Status {
            server: self.server.clone(),
            credentials: self.credentials.clone(),
            synced: inner.synced,
            age: followed.map(|kind| kind.age).max().unwrap_or_default(),
            kinds,
            last_error: inner.last_error.clone(),
        }
    }
}
