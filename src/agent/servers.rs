//! What the agent serves to its operator: the control socket and the debug server.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;

use crate::config::{Config, DEFAULT_DEBUG_SERVER, DEFAULT_SOCKET};
use crate::control::{self, Api};
use crate::debug;
use crate::http::{Limits, Running, Server};

/// What serves the operator. It ends with the value.
pub(super) struct OperatorServers {
    control: Option<control::Running>,
    debugging: Option<Running>,
}

impl OperatorServers {
    pub(super) fn start(
        control: Option<control::Server>,
        debug_server: Option<Server>,
        api: Arc<dyn Api>,
    ) -> Result<OperatorServers> {
        let debugging = debug_server.map(|server| start_debugging(server, &api)).transpose()?;
        let control = control.map(|control| control.start(control::Limits::default(), api)).transpose()?;
        if let Some(control) = &control {
            log::info!("control socket {}", control.path().display());
        }
        Ok(OperatorServers { control, debugging })
    }

    /// The one that has ended by itself, if one has.
    pub(super) fn ended(&self) -> Option<&'static str> {
        let control = self.control.as_ref().is_some_and(control::Running::is_finished).then_some("control");
        control.or(self.debugging.as_ref().is_some_and(Running::is_finished).then_some("debug"))
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
    match Server::bind(debug::SERVER, address, Limits::default()) {
        Err(error) if address == DEFAULT_DEBUG_SERVER => {
            log::warn!("no debug server: {error:#}");
            Ok(None)
        }
        bound => bound.map(Some),
    }
}

/// It stops when the value is dropped.
fn start_debugging(server: Server, api: &Arc<dyn Api>) -> Result<Running> {
    let running = server.start(Arc::new(debug::DebugPages::new(Arc::clone(api))))?;
    let address = running.local_addr();
    log::info!("debug server on http://{address}/debug/pprof/");
    if !address.ip().is_loopback() {
        log::warn!("anyone who reaches {address} may read flows and configuration, and take profiles");
    }
    Ok(running)
}
