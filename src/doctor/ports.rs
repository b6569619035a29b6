//! Checks what the agent's ports show, and to whom.

use std::net::{IpAddr, SocketAddr};

use super::{Check, Help};
use crate::config::Config;
use crate::http::Guard;

const METRICS: &str = "metrics port";
const DEBUG: &str = "debug server";

pub(super) fn check(config: &Config, help: Help) -> Vec<Check> {
    let debug = config.debug_server.as_deref().filter(|address| !is_local(address)).map(|address| {
        let detail = format!("anyone who reaches {address} may read flows and configuration, and take profiles");
        Check::warn(DEBUG, detail, help.setting("debug_server", "127.0.0.1:6060"))
    });
    [metrics(config, help)].into_iter().chain(debug).collect()
}

fn metrics(config: &Config, help: Help) -> Check {
    let address = &config.metrics_addr;
    if !config.metrics_enabled {
        return Check::ok(METRICS, "closed (export.prometheus.enabled is false)");
    }
    if let Some(path) = &config.web_config {
        return match Guard::load(path) {
            Err(error) => {
                let remedy =
                    "correct the file: an agent that starts does not accept it, and one that runs keeps what it had";
                Check::warn(METRICS, format!("{error:#}"), remedy)
            }
            Ok(guard) => Check::ok(
                METRICS,
                format!("{address}: {}; anyone who reaches it may ask /healthz and /readyz", guard.describe()),
            ),
        };
    }
    if is_local(address) {
        return Check::ok(METRICS, format!("{address}: users and programs of this host can read who talks to whom"));
    }
    let protect = help.either("--web-config", "export.prometheus.web_config");
    Check::ok(
        METRICS,
        format!(
            "{address}: anyone who reaches it can read who talks to whom, and how much; {protect} adds TLS and passwords"
        ),
    )
}

/// Only this host can reach the address.
fn is_local(address: &str) -> bool {
    let ip = address.parse::<SocketAddr>().map(|address| address.ip());
    ip.map(|ip| IpAddr::to_canonical(&ip)).is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn it_says_who_reads_what() {
        let config = |address: &str| Config { metrics_addr: address.to_owned(), ..Config::default() };
        let said = |config: &Config| {
            let checks = check(config, Help::Host);
            assert_eq!((checks.len(), checks[0].status), (1, Status::Ok), "{checks:?}");
            checks[0].detail.clone()
        };
        for address in [":9090", "0.0.0.0:9090", "[::]:9090", "192.0.2.1:9090"] {
            let detail = said(&config(address));
            assert!(detail.contains("anyone who reaches it") && detail.contains("--web-config"), "{detail}");
        }
        for address in ["127.0.0.1:9090", "[::1]:9090", "[::ffff:127.0.0.1]:9090"] {
            assert!(said(&config(address)).contains("of this host"), "{address}");
        }
        assert!(said(&Config { metrics_enabled: false, ..config(":9090") }).starts_with("closed"));
        let broken = Config { web_config: Some("/nonexistent/web.yaml".into()), ..config(":9090") };
        let check = &check(&broken, Help::Host)[0];
        assert!(check.status == Status::Warn && check.detail.contains("/nonexistent/web.yaml"), "{check:?}");
    }

    #[test]
    fn an_open_debug_server_is_reported() {
        for (address, reported) in [(":6060", true), ("127.0.0.1:6060", false)] {
            let config = Config { debug_server: Some(address.to_owned()), ..Config::default() };
            let checks = check(&config, Help::Host);
            assert_eq!(checks.iter().any(|check| check.name == DEBUG && check.status == Status::Warn), reported);
        }
    }
}
