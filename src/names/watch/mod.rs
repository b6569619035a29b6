//! The watcher: follows the cluster's objects and publishes their names, in a thread with its own runtime.

mod access;
mod connect;
mod failure;
mod follow;
mod keeper;
mod lines;
mod remedies;
mod secrets;
mod source;
mod status;
mod wire;

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::future::{join, join_all, select};
use tokio::sync::oneshot;

use super::store::Kind;
use super::{Cluster, Index, NamedNetwork, Names};
use crate::threads::{Thread, Threads};
pub use access::{Reached, reach};
use connect::Credentials;
pub use connect::Enabled;
use failure::jitter;
use keeper::Keeper;
use source::Source;
use status::StatusCell;
pub use status::{Denied, KindStatus, State, Status};

/// The pods whose names are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// All pods of the cluster.
    #[default]
    Cluster,
    /// Pods of this node. For pods of other nodes, only the node is known, if nodes have pod CIDRs; the endpoints of services are
    /// not known.
    Node,
}

impl Scope {
    fn has(self, kind: Kind) -> bool {
        match self {
            Scope::Cluster => true,
            Scope::Node => matches!(kind, Kind::Nodes | Kind::Pods | Kind::Services | Kind::Namespaces),
        }
    }
}

/// NamesOptions of the watcher.
#[derive(Clone, Debug, Default)]
pub struct NamesOptions {
    /// Whether to look for a cluster.
    pub enabled: Enabled,
    /// The kubeconfig to use, if one is given.
    pub kubeconfig: Option<PathBuf>,
    /// The pods whose names are read.
    pub scope: Scope,
    /// Name of this node in the cluster.
    pub node: String,
    /// Named networks outside of the cluster.
    pub networks: Vec<NamedNetwork>,
    /// Keys of the labels that are read of pods and namespaces.
    pub labels: Vec<String>,
    /// Reading begins after a random delay of at most this, because the agents of all nodes may be started at once.
    pub start_within: Duration,
}

impl NamesOptions {
    /// The kinds of objects that are read.
    pub fn kinds(&self) -> Vec<Kind> {
        let is_read = |kind: &Kind| self.scope.has(*kind) && (*kind != Kind::Namespaces || !self.labels.is_empty());
        Kind::ALL.into_iter().filter(is_read).collect()
    }
}

/// The running watcher. Dropping it stops the watcher.
pub struct Watcher {
    thread: Option<Thread<()>>,
    /// Dropped to stop the thread.
    stop: Option<oneshot::Sender<()>>,
    status: Arc<StatusCell>,
}

/// Starts the watcher if there is a cluster; otherwise only networks have names.
///
/// # Errors
/// If a cluster is required or a kubeconfig is given, and the credentials are missing or cannot be used; or if the thread cannot be
/// started.
pub fn start(options: &NamesOptions, threads: &Threads) -> Result<(Arc<Names>, Option<Watcher>)> {
    let names = |cluster| Arc::new(Names::new(Index::new(&options.networks, cluster, &options.node)));
    let Some(credentials) = Credentials::find(options.enabled, options.kubeconfig.as_ref())? else {
        if options.enabled == Enabled::Auto {
            log::info!("no cluster: addresses have no names except those of names.cidrs");
        }
        return Ok((names(Cluster::Absent), None));
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("create the runtime of the names thread")?;
    let connected = credentials.read().and_then(|secrets| {
        let (server, client) = runtime.block_on(credentials.connect(&secrets))?;
        Ok((server, client, secrets))
    });
    let (server, client, secrets) = match connected {
        Ok(connected) => connected,
        Err(error) if options.enabled == Enabled::Auto && options.kubeconfig.is_none() => {
            log::warn!("no names from a cluster: {error:#}");
            return Ok((names(Cluster::Absent), None));
        }
        Err(error) => return Err(error),
    };
    log::info!("names: reading the cluster at {server} with {credentials}");
    let names = names(Cluster::Partial);
    let kinds = options.kinds();
    let status = Arc::new(StatusCell::new(server, credentials.to_string(), &kinds));
    let (stop, stopped) = oneshot::channel();
    let (options, shared) = (options.clone(), (Arc::clone(&names), Arc::clone(&status)));
    let thread = threads.start("nm-names", move |_| {
        let source = Source::new(credentials, secrets, client, &options);
        let start = jitter(options.start_within);
        let keeper = Keeper::new(&options, shared.0, shared.1);
        runtime.block_on(async {
            let follow = join_all(kinds.iter().map(|&kind| follow::follow(kind, &source, &keeper, start)));
            let work = pin!(join(follow, keeper.publish()));
            select(work, stopped).await;
        });
        // Do not wait for a connection that is being established.
        runtime.shutdown_background();
        Ok(())
    })?;
    Ok((names, Some(Watcher { thread: Some(thread), stop: Some(stop), status })))
}

/// Access to a watcher's status, which may outlive the watcher.
#[derive(Clone, Debug)]
pub struct Progress(Arc<StatusCell>);

impl Progress {
    /// Returns the current status.
    pub fn read(&self) -> Status {
        self.0.read()
    }
}

impl Watcher {
    /// Returns access to the watcher's status.
    pub fn progress(&self) -> Progress {
        Progress(Arc::clone(&self.status))
    }

    /// Stops the watcher and waits for its thread.
    ///
    /// # Errors
    /// If the thread panicked.
    pub fn stop(mut self) -> Result<()> {
        drop(self.stop.take());
        self.thread.take().map_or(Ok(()), Thread::stop)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // Before the thread is joined, which the drop of its handle does.
        drop(self.stop.take());
    }
}
