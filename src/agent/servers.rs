//! What the agent serves to its operator: the control socket and the debug server.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;

use super::stop::Trouble;
use crate::config::{Config, DEFAULT_DEBUG_SERVER, DEFAULT_SOCKET};
use crate::control::{self, Api};
use crate::debug;
use crate::http::{Running, Server, ServerLimits};
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
