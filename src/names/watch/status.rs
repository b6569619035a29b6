//! The watcher's status, for commands, metrics and health checks.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::failure::Failure;
use crate::names::store::{Counts, Kind};

/// The watcher's status.
#[derive(Clone, Debug)]
pub struct Status {
    /// The API server's URL.
    pub server: String,
    /// Where the credentials come from.
    pub credentials: String,
    /// True once everything has been read.
    pub synced: bool,
    /// The longest time since the server last sent news of a kind, or that there are none.
    pub age: Duration,
    /// The kinds that are read, in order.
    pub kinds: Vec<KindStatus>,
    /// The latest failure and its time.
    pub last_error: Option<(SystemTime, String)>,
    /// What the credentials do not allow, if anything.
    pub denied: Option<Denied>,
}

/// Kinds that the credentials may not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// The source of the credentials that lack the right.
    pub credentials: String,
    /// The denied kinds.
    pub kinds: Vec<Kind>,
    /// The server's message.
    pub refusal: String,
}

impl Denied {
    /// How to fix it, in one line.
    pub const REMEDY: &'static str = "kubectl apply -f deploy/kubernetes/rbac.yaml lets the account netmon-agent list and watch \
        them (namespaces: the component namespace-labels); for another account, bind its ClusterRole to it, or set kubernetes.enabled to off";

    /// True if one of the kinds is required for names.
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

/// The status of one kind.
#[derive(Clone, Debug)]
pub struct KindStatus {
    /// Which.
    pub kind: Kind,
    /// Number of objects.
    pub objects: usize,
    /// State of reading and following them.
    pub state: State,
    /// Time since the server last sent anything about them.
    pub age: Duration,
    /// Number of failed requests and broken watches.
    pub errors: u64,
}

/// State of reading and following a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// All objects are being read.
    Reading,
    /// All objects have been read; the watch is starting.
    Read,
    /// Changes are followed.
    Watching,
    /// The last attempt failed; the known objects are kept.
    Failing,
    /// Reading them is not allowed.
    Denied,
}

impl State {
    /// The state's name in output.
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
    /// The server's message when it last denied access.
    refusal: String,
}

#[derive(Debug)]
struct Inner {
    synced: bool,
    kinds: Vec<Followed>,
    /// Denied kinds that the log has reported already.
    logged: Vec<Kind>,
    last_error: Option<(SystemTime, String)>,
}

/// The status, shared between the watcher, which writes it, and its readers.
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
            inner: Mutex::new(Inner { synced: false, kinds, logged: Vec::new(), last_error: None }),
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
            // A new attempt is not a success yet.
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
                // If the version is too old, the list is read again.
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
            // `log_denied` reports all denied kinds in one line.
            Failure::Denied(_) => log::debug!("names: {text}"),
            _ if is_new => log::warn!("names: {text}; keeping the names known so far"),
            _ => log::debug!("names: {text}"),
        }
        self.lock().last_error = Some((SystemTime::now(), text));
    }

    /// Logs the denied kinds if there are more than were logged before.
    pub(super) fn log_denied(&self) {
        let mut inner = self.lock();
        let denied = self.denied(&inner);
        let kinds = denied.as_ref().map_or(&[][..], |denied| &denied.kinds);
        let is_news = kinds.iter().any(|kind| !inner.logged.contains(kind));
        inner.logged = kinds.to_vec();
        let synced = inner.synced;
        drop(inner);
        let Some(denied) = denied.filter(|_| is_news) else { return };
        let follows = match (denied.is_serious(), synced) {
            (true, false) => "not ready until it may",
            (true, true) => "keeping the names known so far",
            (false, _) => {
                "Deployments are derived from the names of their ReplicaSets, and CronJobs are not identified"
            }
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
