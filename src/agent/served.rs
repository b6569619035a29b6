//! The agent as its servers show it: to Prometheus, to the operator, and to programs that embed it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::board::{Board, Interface};
use super::limits::Throttle;
use super::reload::Reload;
use super::report::Report;
use crate::clients::Clients;
use crate::config::{Config, Given, Key, Settings};
use crate::flow::Flow;
use crate::http::Guard;
use crate::names::{Denied, Progress};
use crate::pipeline::Pipeline;
use crate::sinks::metrics::{OwnProcess, Reading, Source};
use crate::threads::Threads;

/// All owners of the agent's state, to be read. Only the servers have all of them.
pub(super) struct Served {
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) board: Arc<Board>,
    pub(super) reload: Arc<Reload>,
    pub(super) throttle: Arc<Throttle>,
    pub(super) clients: Clients,
    /// What protects the metrics, if anything does.
    pub(super) guard: Option<Arc<Guard>>,
    /// How the names of a cluster are read, if there is one.
    pub(super) names: Option<Progress>,
    pub(super) process: OwnProcess,
    pub(super) threads: Threads,
}

impl Served {
    /// The books as they stand.
    pub(super) fn report(&self) -> Report {
        report(&self.pipeline, &self.board)
    }
}

/// The books as they stand.
pub(super) fn report(pipeline: &Pipeline, board: &Board) -> Report {
    let accounted = pipeline.sums().map(|sums| sums.interfaces().clone()).unwrap_or_default();
    Report::new(board.books().interfaces(), accounted, board.books().records())
}

impl Source for Served {
    fn read(&self) -> Option<Reading> {
        self.pipeline.read()
    }

    fn page_age(&self) -> Duration {
        self.throttle.page_age()
    }

    fn unhealthy(&self) -> Option<String> {
        self.threads.death().or_else(|| self.pipeline.unhealthy())
    }

    fn unready(&self) -> Option<String> {
        if !self.board.watches() {
            return Some("no interface is watched yet".to_owned());
        }
        // After the first time, the last known names are used, however old.
        let names = self.names.as_ref().map(Progress::read).filter(|status| !status.synced)?;
        if let Some(denied) = names.denied.filter(Denied::is_serious) {
            return Some(format!("{denied}. {}", Denied::REMEDY));
        }
        let error = names.last_error.map_or(String::new(), |(_, text)| format!(": {text}"));
        Some(format!("the names of the cluster are not all read yet{error}"))
    }
}

/// A view of a running agent.
#[derive(Clone)]
pub struct Handle {
    served: Arc<Served>,
    metrics_addr: Option<SocketAddr>,
}

impl Handle {
    pub(super) fn new(served: Arc<Served>, metrics_addr: Option<SocketAddr>) -> Handle {
        Handle { served, metrics_addr }
    }

    /// Where the metrics are served, if they are.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics_addr
    }

    /// The list of the agent's threads.
    pub fn threads(&self) -> &Threads {
        &self.served.threads
    }

    /// The books as they stand; what is in caches and rings is missing.
    pub fn report(&self) -> Report {
        self.served.report()
    }

    /// Reads the configuration again, and takes what can be taken while running.
    ///
    /// # Errors
    ///
    /// Something is wrong with the configuration, and it stays as it was; or it is not in force everywhere.
    pub fn reload(&self) -> Result<()> {
        self.served.reload.reload()
    }

    /// Gives a key of the configuration another value, for as long as the agent runs.
    ///
    /// # Errors
    ///
    /// The key takes a restart, or the value is wrong.
    pub fn set(&self, key: &'static Key, given: Option<Given>) -> Result<()> {
        self.served.reload.set(key, given)
    }

    /// The configuration as it was read last.
    pub fn settings(&self) -> Settings {
        self.served.reload.settings()
    }

    /// The configuration in force.
    pub fn running(&self) -> Config {
        self.served.reload.in_force().get()
    }

    /// The interfaces of the host, by index.
    pub fn interfaces(&self) -> BTreeMap<u32, Interface> {
        self.served.board.interfaces()
    }

    /// Copies of all flows in the tables.
    pub fn flows(&self) -> Vec<Flow> {
        self.served.pipeline.flows()
    }
}
