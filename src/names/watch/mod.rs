//! The watcher: follows the cluster's objects and publishes their names. A thread with a runtime of its own.

mod access;
mod connect;
mod failure;
mod follow;
mod keeper;
mod lines;
mod secrets;
mod source;
mod status;
mod wire;
mod words;

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::future::{join, join_all, select};
use tokio::sync::oneshot;

use super::store::Kind;
use super::{Cluster, Index, NamedNetwork, Names};
pub use access::{Reached, reach};
use connect::Credentials;
pub use connect::Enabled;
use failure::spread;
use keeper::Keeper;
use source::Source;
use status::StatusCell;
pub use status::{Denied, KindStatus, State, Status};

/// Of which pods names are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// All.
    #[default]
    Cluster,
    /// Those of this node. Of others the node is known where nodes have networks for their pods; which pods serve for a
    /// service is not known.
    Node,
}

impl Scope {
    /// What is read.
    pub fn kinds(self) -> &'static [Kind] {
        match self {
            Scope::Cluster => &Kind::ALL,
            Scope::Node => &[Kind::Nodes, Kind::Pods, Kind::Services],
        }
    }
}

/// What is to be watched, and how.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Whether there is a cluster.
    pub enabled: Enabled,
    /// Its kubeconfig.
    pub kubeconfig: Option<PathBuf>,
    /// Of which pods names are read.
    pub scope: Scope,
    /// This node, by its name in the cluster.
    pub node: String,
    /// Networks with a name.
    pub networks: Vec<NamedNetwork>,
    /// Reading begins within so long, at random: the agents of all nodes may be started at once.
    pub start_within: Duration,
}

/// The running watcher. It ends with the value.
pub struct Watcher {
    thread: Option<JoinHandle<()>>,
    /// Closed when it is to stop.
    stop: Option<oneshot::Sender<()>>,
    status: Arc<StatusCell>,
}

/// Names of a cluster if there is one, else of networks alone.
pub fn start(options: &Options) -> Result<(Arc<Names>, Option<Watcher>)> {
    let names = |cluster| Arc::new(Names::new(Index::new(&options.networks, cluster, &options.node)));
    let Some(credentials) = Credentials::find(options.enabled, options.kubeconfig.as_ref())? else {
        if options.enabled == Enabled::Auto {
            log::info!("no cluster: addresses have no names but those of names.cidrs");
        }
        return Ok((names(Cluster::Absent), None));
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("make the runtime of the names thread")?;
    let connected = credentials.read().and_then(|secrets| {
        let (server, client) = runtime.block_on(credentials.connect(&secrets))?;
        Ok((server, client, secrets))
    });
    let (server, client, secrets) = match connected {
        Ok(connected) => connected,
        Err(error) if options.enabled == Enabled::Auto && options.kubeconfig.is_none() => {
            log::warn!("no names of a cluster: {error:#}");
            return Ok((names(Cluster::Absent), None));
        }
        Err(error) => return Err(error),
    };
    log::info!("names: of the cluster at {server}, by {credentials}");
    let names = names(Cluster::Partial);
    let kinds = options.scope.kinds();
    let status = Arc::new(StatusCell::new(server, credentials.to_string(), kinds));
    let (stop, stopped) = oneshot::channel();
    let (options, shared) = (options.clone(), (Arc::clone(&names), Arc::clone(&status)));
    let thread = Builder::new().name("nm-names".to_owned()).spawn(move || {
        let source = Source::new(credentials, secrets, client, &options);
        let start = spread(options.start_within);
        let keeper = Keeper::new(&options, shared.0, shared.1);
        runtime.block_on(async {
            let follow = join_all(kinds.iter().map(|&kind| follow::follow(kind, &source, &keeper, start)));
            let work = pin!(join(follow, keeper.publish()));
            select(work, stopped).await;
        });
        // A connection that is being made is not waited for.
        runtime.shutdown_background();
    });
    let thread = thread.context("start the names thread")?;
    Ok((names, Some(Watcher { thread: Some(thread), stop: Some(stop), status })))
}

/// How a watcher fares, for as long as somebody wants to know.
#[derive(Clone, Debug)]
pub struct Progress(Arc<StatusCell>);

impl Progress {
    /// How it fares.
    pub fn read(&self) -> Status {
        self.0.read()
    }
}

impl Watcher {
    /// How it fares.
    pub fn progress(&self) -> Progress {
        Progress(Arc::clone(&self.status))
    }

    /// It ended by itself: it has panicked.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_some_and(JoinHandle::is_finished)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has said why, if it panicked.
            let _ = thread.join();
        }
    }
}
