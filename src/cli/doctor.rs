//! What a running agent knows of its own health, beside what its host is found to be.

use std::collections::BTreeMap;

use serde_json::Value;

use super::client::Client;
use crate::config::{Config, Given, Key, Settings, Sources};
use crate::doctor::{self, Check, DoctorOptions, Report};

/// Less of an interface's packets than this was seen: somebody had them before.
const COVERED: f64 = 0.99;
/// More of the budget of series than this is in use.
const SERIES: f64 = 0.9;

/// Checks of the host, and of the agent that runs there.
pub(super) fn report(client: &Client) -> Report {
    // Where an agent runs, its host is looked at as it is configured.
    let config = client.value("GET", "/v1/config", &[]).map(|values| configured(&values)).unwrap_or_default();
    let mut report = doctor::run(&DoctorOptions { config });
    match client.value("GET", "/v1/status", &[]) {
        Ok(status) => report.extend(agent(&status)),
        Err(error) => {
            report.extend([Check::fail("agent", format!("{error:#}"), "systemctl start netmon, or sudo netmon")])
        }
    }
    report
}

/// What the agent does, by the values that are in force.
fn configured(values: &Value) -> Config {
    let value = |value: &Value| {
        let key = Key::named(value["key"].as_str()?)?;
        let shown = value["running"].as_str().or(value["value"].as_str())?;
        let list = shown.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        // What is left to the agent is not given.
        (!["none", "auto"].contains(&shown)).then(|| (key.path, Given::Text(list.unwrap_or(shown).to_owned())))
    };
    let set: BTreeMap<&'static str, Given> = values.as_array().into_iter().flatten().filter_map(value).collect();
    Settings::read(&Sources { set, ..Sources::default() }).map(|settings| settings.config).unwrap_or_default()
}

fn agent(status: &Value) -> Vec<Check> {
    let text = |name: &str| status[name].as_str().unwrap_or_default().to_owned();
    let number = |name: &str| status[name].as_u64().unwrap_or_default();
    let mut checks = vec![match status["unready"].as_str().or(status["unhealthy"].as_str()) {
        Some(trouble) => Check::warn("agent", trouble, "netmon-cli status, and the agent's log"),
        None => Check::ok("agent", format!("netmon {} runs since {}", text("version"), text("started"))),
    }];
    let lost = status["packets"]["lost"].as_u64().unwrap_or_default();
    checks.push(match (lost, number("records_lost")) {
        (0, 0) => Check::ok("losses", "none since the start"),
        (packets, records) => Check::warn(
            "losses",
            format!("{packets} packets in {records} records found their ring full"),
            "raise performance.buffer_size or performance.workers",
        ),
    });
    if number("flows_evicted") > 0 {
        let detail = format!("{} flows had to go before their time", number("flows_evicted"));
        checks.push(Check::warn("flow table", detail, "raise flow.max_flows or resources.memory_limit"));
    }
    let (series, limit) = (number("series"), number("series_limit"));
    let detail = format!("{series} of {limit} are in use");
    checks.push(if series as f64 > SERIES * limit as f64 {
        Check::warn("series", detail, "netmon-cli stats series names the label; raise export.prometheus.series_limit")
    } else {
        Check::ok("series", detail)
    });
    if number("log_lines_held_back") > 0 {
        let detail = format!("{} lines came too often and were left out", number("log_lines_held_back"));
        checks.push(Check::warn("log", detail, "the log says which: grep 'held back'"));
    }
    if number("config_reload_failures") > 0 {
        let detail = format!("{} times a changed configuration was refused", number("config_reload_failures"));
        checks.push(Check::warn("configuration", detail, "netmon-cli config reload says what is wrong"));
    }
    let waiting: Vec<&str> =
        status["restart_needed"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !waiting.is_empty() {
        checks.push(Check::warn(
            "configuration",
            format!("{} wait for a restart", waiting.join(", ")),
            "restart netmon",
        ));
    }
    checks.extend(status["interfaces"].as_array().into_iter().flatten().flat_map(interface));
    checks
}

fn interface(interface: &Value) -> Vec<Check> {
    let name = format!("interface {}", interface["name"].as_str().unwrap_or_default());
    let mut checks = Vec::new();
    if let Some(error) = interface["error"].as_str() {
        checks.push(Check::warn(&name, error, format!("capture.interfaces=[\"!{}\"] leaves it out", &name[10..])));
    }
    let shares = interface["coverage"].as_array().into_iter().flatten().filter_map(Value::as_f64);
    if let Some(least) = shares.reduce(f64::min).filter(|least| *least < COVERED) {
        let detail = format!("{:.1} % of its packets are seen on the side that has fewer", 100.0 * least);
        checks.push(Check::warn(&name, detail, "netmon-cli status: BEFORE names who has them first"));
    }
    checks
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::doctor::Status;

    #[test]
    fn the_host_is_looked_at_as_the_agent_is_configured() {
        let values = json!([
            {"key": "capture.interfaces", "value": "[vb, !va]", "running": null},
            {"key": "capture.nat", "value": "true", "running": "false"},
            {"key": "resources.memory_limit", "value": "none", "running": null},
        ]);
        let config = configured(&values);
        assert_eq!((config.interfaces.patterns(), config.nat), (&["vb".to_owned(), "!va".to_owned()][..], false));
        assert_eq!(config.memory_limit, None);
    }

    #[test]
    fn a_troubled_agent_is_told() {
        let status = json!({
            "version": "1", "started": "now", "unready": null, "unhealthy": null,
            "packets": {"lost": 3}, "records_lost": 1, "flows_evicted": 7, "series": 95, "series_limit": 100,
            "log_lines_held_back": 5,
            "config_reload_failures": 1, "restart_needed": ["performance.workers"],
            "interfaces": [
                {"name": "eth0", "error": null, "coverage": [1.0, 0.5]},
                {"name": "eth1", "error": "no", "coverage": [null, null]},
            ],
        });
        let checks = agent(&status);
        let of =
            |name: &str| checks.iter().filter(|check| check.name == name).map(|check| check.status).collect::<Vec<_>>();
        assert_eq!(of("agent"), [Status::Ok]);
        for name in ["losses", "flow table", "series", "log", "interface eth0", "interface eth1"] {
            assert_eq!(of(name), [Status::Warn], "{name}");
        }
        assert_eq!(of("configuration").len(), 2);
    }
}
