//! What the agent serves to its operator, the control socket and the debug server; and what protects the metrics.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};

use super::stop::Trouble;
use crate::config::{Config, DEFAULT_DEBUG_SERVER, DEFAULT_SOCKET};
use crate::control::{self, Api};
use crate::debug;
use crate::http::{Guard, Running, Server, ServerLimits};
use crate::threads::Threads;

/// What serves the operator.
pub(super) struct OperatorServers {
    control: Option<control::Running>,
    debugging: Option<Running>,
}

impl OperatorServers {
    pub(super) fn start(
        control: Option<control::Server>,
        debug_server: Option<Server>,
        api: &Arc<dyn Api>,
        threads: &Threads,
    ) -> Result<OperatorServers> {
        let debugging = debug_server.map(|server| start_debugging(server, api, threads)).transpose()?;
        let control = control.map(|control| control.start(threads, Arc::clone(api))).transpose()?;
        if let Some(control) = &control {
            log::info!("control socket {}", control.address().path().display());
        }
        Ok(OperatorServers { control, debugging })
    }

    pub(super) fn stop(self, trouble: &mut Trouble) {
        let OperatorServers { control, debugging } = self;
        trouble.take(control.map(control::Running::stop).transpose());
        trouble.take(debugging.map(Running::stop).transpose());
    }
}

/// What protects the metrics, if anything does.
pub(super) fn guard(config: &Config) -> Result<Option<Arc<Guard>>> {
    let path = config.web_config.as_ref().filter(|_| config.metrics_enabled);
    let guard = path.map(|path| Guard::load(path)).transpose().context("protect the metrics")?;
    Ok(guard.map(Arc::new))
}

/// Says where the metrics are, and how they are protected if that was asked for.
pub(super) fn log_metrics(address: SocketAddr, guard: Option<&Guard>) {
    match guard {
        None => log::info!("metrics on http://{address}/metrics"),
        Some(guard) => log::info!("metrics on {}://{address}/metrics: {}", guard.scheme(), guard.describe()),
    }
}

/// The one that nobody asked for may be missing: another agent may have it, or the file system be read-only.
pub(super) fn control_socket(config: &Config) -> Result<Option<control::Server>> {
    let Some(path) = &config.socket else { return Ok(None) };
    match control::Server::bind(path) {
        Err(error) if *path == Path::new(DEFAULT_SOCKET) => {
            log::warn!("no control socket: {error:#}");
            Ok(None)
        }
        bound => bound.map(Some),
    }
}

/// As with the control socket: that of `--debug` alone may be missing.
pub(super) fn debug_server(config: &Config) -> Result<Option<Server>> {
    let Some(address) = &config.debug_server else { return Ok(None) };
    match Server::bind(debug::SERVER, address, ServerLimits::default()) {
        Err(error) if address == DEFAULT_DEBUG_SERVER => {
            log::warn!("no debug server: {error:#}");
            Ok(None)
        }
        bound => bound.map(Some),
    }
}

fn start_debugging(server: Server, api: &Arc<dyn Api>, threads: &Threads) -> Result<Running> {
    let running = server.start(threads, Arc::new(debug::DebugPages::new(Arc::clone(api))))?;
    let address = running.local_addr();
    log::info!("debug server on http://{address}/debug/pprof/");
    if !address.ip().is_loopback() {
        log::warn!("anyone who reaches {address} may read flows and configuration, and take profiles");
    }
    Ok(running)
}
