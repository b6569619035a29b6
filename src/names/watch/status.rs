//! How the watcher fares, for those who ask.

use std::fmt;
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
    /// What the credentials do not allow, if anything, and what helps.
    pub denied: Option<Denied>,
}

/// What may not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// Who may not: where the credentials come from.
    pub credentials: String,
    /// Which.
    pub kinds: Vec<Kind>,
    /// What the server said.
    pub refusal: String,
}

impl Denied {
    /// What helps, in a line.
    pub const REMEDY: &'static str = "kubectl apply -f deploy/kubernetes/rbac.yaml lets the account netmon-agent list and watch \
        them; bind its ClusterRole to another account, or set kubernetes.enabled to off";

    /// Something that names cannot do without is among it.
    pub fn is_serious(&self) -> bool {
        self.kinds.iter().any(|kind| !kind.is_optional())
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<&str> = self.kinds.iter().map(|kind| kind.name()).collect();
        write!(f, "{} may not read {}: {}", self.credentials, kinds.join(", "), self.refusal)
    }
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
    /// What the server said when it denied this last.
    refusal: String,
}

#[derive(Debug)]
struct Inner {
    synced: bool,
    kinds: Vec<Followed>,
    /// Of what may not be read, what the log says already.
    told: Vec<Kind>,
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
        let followed = |&kind: &Kind| Followed {
            kind,
            objects: 0,
            state: State::Reading,
            heard,
            errors: 0,
            refusal: String::new(),
        };
        let kinds = kinds.iter().map(followed).collect();
        StatusCell {
            server,
            credentials,
            inner: Mutex::new(Inner { synced: false, kinds, told: Vec::new(), last_error: None }),
        }
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
                Failure::Denied(refusal) => {
                    followed.refusal.clone_from(refusal);
                    State::Denied
                }
                _ => State::Failing,
            };
            is_new = followed.state != state;
            followed.state = state;
        });
        match failure {
            // All that is denied is told at once, in a line.
            Failure::Denied(_) => log::debug!("names: {text}"),
            _ if is_new => log::warn!("names: {text}; what is known stays"),
            _ => log::debug!("names: {text}"),
        }
        self.lock().last_error = Some((SystemTime::now(), text));
    }

    /// Says in the log what may not be read, if that is more than it said before.
    pub(super) fn tell_denied(&self) {
        let mut inner = self.lock();
        let denied = self.denied(&inner);
        let kinds = denied.as_ref().map_or(&[][..], |denied| &denied.kinds);
        let is_news = kinds.iter().any(|kind| !inner.told.contains(kind));
        inner.told = kinds.to_vec();
        let synced = inner.synced;
        drop(inner);
        let Some(denied) = denied.filter(|_| is_news) else { return };
        let follows = match (denied.is_serious(), synced) {
            (true, false) => "not ready until it may",
            (true, true) => "what is known stays",
            (false, _) => "Deployments are told by the names of their ReplicaSets, and CronJobs are not told",
        };
        log::warn!("names: {denied}; {follows}. {}", Denied::REMEDY);
    }

    fn denied(&self, inner: &Inner) -> Option<Denied> {
        let denied = || inner.kinds.iter().filter(|followed| followed.state == State::Denied);
        let first = denied().find(|followed| !followed.kind.is_optional()).or_else(|| denied().next())?;
        let (credentials, refusal) = (self.credentials.clone(), first.refusal.clone());
        Some(Denied { credentials, refusal, kinds: denied().map(|followed| followed.kind).collect() })
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
            denied: self.denied(&inner),
        }
    }
}
