//! Where names come from, and the state of reading them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use crate::config::Config;
use crate::control::{NamesKind, NamesState};
use crate::names::{self, Names, NamesOptions, Progress, Watcher};
use crate::sinks::metrics::{Families, Family, Figures, Reading};
use crate::threads::Threads;

/// The first requests of all agents of a cluster are spread over this time.
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
        let options = NamesOptions {
            enabled: config.kubernetes,
            kubeconfig: config.kubeconfig.clone(),
            scope: config.scope,
            node: config.node_name.clone(),
            networks: config.networks.clone(),
            labels: config.chosen.keys(),
            start_within: START_WITHIN,
        };
        let (names, watcher) = names::start(&options, threads)?;
        let names = (watcher.is_some() || !config.networks.is_empty()).then_some(names);
        Ok(NamesSource { names, watcher })
    }

    /// The index of names; `None` if nobody has a name.
    pub(super) fn names(&self) -> Option<Arc<Names>> {
        self.names.clone()
    }

    /// The state of reading them, if there is a cluster.
    pub(super) fn progress(&self) -> Option<Progress> {
        self.watcher.as_ref().map(Watcher::progress)
    }

    /// Ends the thread, if there is one.
    pub(super) fn stop(self) -> Result<()> {
        self.watcher.map_or(Ok(()), Watcher::stop)
    }
}

impl Figures for Progress {
    const FAMILIES: &'static [Family] = &[
        Family::gauge("netmon_names_age_seconds", "Time since the API server last answered for every kind of object."),
        Family::gauge("netmon_names_objects", "Objects of the cluster that names come from."),
        Family::counter(
            "netmon_names_errors_total",
            "Requests to the API server that failed, and watches that broke off.",
        ),
    ];

    fn collect(&self, _: &Reading, families: &mut Families) {
        let status = self.read();
        families.add("netmon_names_age_seconds", &[], status.age.as_secs_f64());
        for kind in &status.kinds {
            let labels = [("kind", kind.kind.name())];
            families.add("netmon_names_objects", &labels, kind.objects as f64);
            families.add("netmon_names_errors_total", &labels, kind.errors as f64);
        }
    }
}

/// The state of reading names, as the control socket shows it.
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
