//! Where names come from, and how reading them fares.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use crate::config::Config;
use crate::control::{NamesKind, NamesState};
use crate::names::{self, Names, Options, Progress, Watcher};
use crate::threads::Threads;

/// What all agents of a cluster ask for at their start is spread over this.
const START_WITHIN: Duration = Duration::from_secs(5);

/// Names, and the thread that reads them from a cluster if there is one. It ends with the value.
#[derive(Default)]
pub(super) struct NamesSource {
    /// `None`: nobody has a name.
    names: Option<Arc<Names>>,
    watcher: Option<Watcher>,
}

impl NamesSource {
    pub(super) fn start(config: &Config, threads: &Threads) -> Result<NamesSource> {
        let options = Options {
            enabled: config.kubernetes,
            kubeconfig: config.kubeconfig.clone(),
            scope: config.scope,
            node: config.node_name.clone(),
            networks: config.networks.clone(),
            start_within: START_WITHIN,
        };
        let (names, watcher) = names::start(&options, threads)?;
        let names = (watcher.is_some() || !config.networks.is_empty()).then_some(names);
        Ok(NamesSource { names, watcher })
    }

    /// Who is who; `None` if nobody has a name.
    pub(super) fn names(&self) -> Option<Arc<Names>> {
        self.names.clone()
    }

    /// How it fares, if there is a cluster.
    pub(super) fn progress(&self) -> Option<Progress> {
        self.watcher.as_ref().map(Watcher::progress)
    }

    /// Ends the thread, if there is one.
    pub(super) fn stop(self) -> Result<()> {
        self.watcher.map_or(Ok(()), Watcher::stop)
    }
}

/// For the control socket.
pub(super) fn state(progress: &Progress) -> NamesState {
    let status = progress.read();
    let seconds = |age: Duration| age.as_millis() as f64 / 1000.0;
    let (last_error_at, last_error) =
        status.last_error.map(|(at, text)| (humantime::format_rfc3339_seconds(at).to_string(), text)).unzip();
    NamesState {
        server: status.server,
        credentials: status.credentials,
        synced: status.synced,
        age_s: seconds(status.age),
        last_error,
        last_error_at,
        kinds: status
            .kinds
            .iter()
            .map(|kind| NamesKind {
                kind: kind.kind.name(),
                status: kind.state.name(),
                objects: kind.objects,
                age_s: seconds(kind.age),
                errors: kind.errors,
            })
            .collect(),
    }
}
