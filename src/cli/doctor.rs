//! The health of a running agent, in addition to the checks of its host.

mod detection;

use std::collections::BTreeMap;

use serde_json::Value;

use super::client::Client;
use crate::config::{Config, Given, Key, Settings, Sources};
use crate::doctor::{self, Check, DoctorOptions, Help, Report, shorten};

/// A coverage below this share is reported: another program has taken packets first.
const COVERED: f64 = 0.99;
/// Use of the series budget above this share is reported.
const SERIES: f64 = 0.9;

/// Checks the host and its running agent.
pub(super) fn report(client: &Client) -> Report {
    // If an agent runs, check the host for the agent's configuration.
    let config = client.value("GET", "/v1/config", &[]).map(|values| configured(&values)).unwrap_or_default();
    let mut report = doctor::run(&DoctorOptions { config: config.clone() });
    match client.value("GET", "/v1/status", &[]) {
        Ok(status) => {
            report.extend(agent(&status, Help::here()));
            let flows = client.value("GET", "/v1/stats/flows", &[]).unwrap_or_default();
            let (check, blind) = detection::detectors(&config, &status, &flows);
            report.extend([check]);
            report.blind_spots.extend(blind);
        }
        Err(error) => {
            let remedy = Help::here().either(
                "systemctl start netmon, or sudo netmon",
                "kubectl -n netmon-system logs daemonset/netmon-agent --previous says why it ended",
            );
            report.extend([Check::fail("agent", format!("{error:#}"), remedy)])
        }
    }
    report
}

/// The agent's configuration, from the values in force.
fn configured(values: &Value) -> Config {
    let value = |value: &Value| {
        let key = Key::named(value["key"].as_str()?)?;
        let shown = value["running"].as_str().or(value["value"].as_str())?;
        Some((key.path, Given::Text(shown.to_owned())))
    };
    let set: BTreeMap<&'static str, Given> = values.as_array().into_iter().flatten().filter_map(value).collect();
    Settings::read(&Sources { set, ..Sources::default() }).map(|settings| settings.config).unwrap_or_default()
}

fn agent(status: &Value, help: Help) -> Vec<Check> {
    let text = |name: &str| status[name].as_str().unwrap_or_default().to_owned();
    let number = |name: &str| status[name].as_u64().unwrap_or_default();
    let mut checks = vec![match status["unready"].as_str().or(status["unhealthy"].as_str()) {
        Some(trouble) => Check::warn("agent", trouble, "netmon-cli status, and the agent's log"),
        None => Check::ok("agent", format!("netmon {} has been running since {}", text("version"), text("started"))),
    }];
    let lost = status["packets"]["lost"].as_u64().unwrap_or_default();
    checks.push(match (lost, number("records_lost")) {
        (0, 0) => Check::ok("losses", "none since the start"),
        (packets, records) => Check::warn(
            "losses",
            format!("{packets} packets in {records} records were lost because a ring was full"),
            "raise performance.buffer_size or performance.workers",
        ),
    });
    if number("flows_evicted") > 0 {
        let detail = format!("{} flows were evicted to make room", number("flows_evicted"));
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
        let detail =
            format!("{} log lines were suppressed because they repeated too often", number("log_lines_held_back"));
        checks.push(Check::warn("log", detail, "search the log for 'held back' to see which"));
    }
    if number("config_reload_failures") > 0 {
        let detail = format!("{} changed configurations were refused", number("config_reload_failures"));
        checks.push(Check::warn("configuration", detail, "netmon-cli config reload says what is wrong"));
    }
    let waiting: Vec<&str> =
        status["restart_needed"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !waiting.is_empty() {
        checks.push(Check::warn(
            "configuration",
            format!("a restart is needed for {}", waiting.join(", ")),
            help.restart(),
        ));
    }
    for idle in status["without_effect"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        checks.push(Check::warn(
            "configuration",
            format!("without effect: {idle}"),
            "remove it from the configuration",
        ));
    }
    if number("hooks_lost") > number("hooks_restored") {
        let detail = format!(
            "another program detached netmon from {} hooks; {} of them were restored at once",
            number("hooks_lost"),
            number("hooks_restored")
        );
        checks.push(Check::warn(
            "hooks",
            detail,
            "the log says which interfaces are affected, and why restoring failed",
        ));
    } else if number("hooks_lost") > 0 {
        let detail =
            format!("another program detached netmon from {} hooks; all of them were restored", number("hooks_lost"));
        checks.push(Check::warn(
            "hooks",
            detail,
            "find out what detaches programs or deletes qdiscs; the log has the times",
        ));
    }
    checks.extend(interfaces(status["interfaces"].as_array().map_or(&[][..], Vec::as_slice), help));
    checks
}

/// Interfaces with the same failure, and those that are only partly seen, are reported together: a node has as many
/// interfaces as pods.
fn interfaces(interfaces: &[Value], help: Help) -> Vec<Check> {
    let name = |interface: &Value| interface["name"].as_str().unwrap_or_default().to_owned();
    let called = |names: &[String]| {
        let what = if names.len() == 1 { "interface" } else { "interfaces" };
        format!("{what} {}", shorten(names))
    };
    let mut failed = BTreeMap::<&str, Vec<String>>::new();
    for interface in interfaces {
        if let Some(error) = interface["error"].as_str() {
            failed.entry(error).or_default().push(name(interface));
        }
    }
    let mut checks: Vec<Check> = Vec::new();
    let outdated = interfaces.iter().filter_map(|one| Some((name(one), one["outdated"].as_str()?)));
    checks.extend(outdated.map(|(name, why)| {
        let detail = format!("it still runs the programs of an earlier configuration: {why}");
        Check::warn(called(&[name]), detail, help.restart())
    }));
    for (error, names) in failed {
        let left_out = format!("[\"!{}\"]", names[0]);
        let remedy = help.either(
            format!("capture.interfaces={left_out} excludes it"),
            format!("capture.interfaces: {left_out} in the ConfigMap netmon-config excludes it"),
        );
        checks.push(Check::warn(called(&names), error, remedy));
    }
    let mut partly: Vec<(f64, String)> = interfaces
        .iter()
        .filter_map(|interface| {
            let shares = interface["coverage"].as_array().into_iter().flatten().filter_map(Value::as_f64);
            let least = shares.reduce(f64::min).filter(|least| *least < COVERED)?;
            Some((least, name(interface)))
        })
        .collect();
    partly.sort_by(|(a, one), (b, other)| a.total_cmp(b).then_with(|| one.cmp(other)));
    if !partly.is_empty() {
        let names: Vec<String> = partly.iter().map(|(_, name)| name.clone()).collect();
        let shares: Vec<String> = partly.iter().map(|(share, _)| format!("{:.1} %", 100.0 * share)).collect();
        let detail = format!("{} of their packets are seen, in the direction with less coverage", shorten(&shares));
        let detail = if partly.len() == 1 { detail.replace("their", "its") } else { detail };
        checks.push(Check::warn(
            called(&names),
            detail,
            "netmon-cli status: the column BEFORE names the programs that run first",
        ));
    }
    checks
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::doctor::Status;

    #[test]
    fn the_host_is_checked_for_the_agents_configuration() {
        let values = json!([
            {"key": "capture.interfaces", "value": "[vb, !va]", "running": null},
            {"key": "capture.nat", "value": "true", "running": "false"},
            {"key": "resources.memory_limit", "value": "none", "running": null},
            {"key": "names.cidrs", "value": "[10.1.0.0/16=corp]", "running": null},
        ]);
        let config = configured(&values);
        assert_eq!((config.interfaces.patterns(), config.nat), (&["vb".to_owned(), "!va".to_owned()][..], false));
        assert_eq!((config.memory_limit, config.networks.len()), (None, 1));
    }

    #[test]
    fn the_troubles_of_an_agent_are_reported() {
        let status = json!({
            "version": "1", "started": "now", "unready": null, "unhealthy": null,
            "packets": {"lost": 3}, "records_lost": 1, "flows_evicted": 7, "series": 95, "series_limit": 100,
            "log_lines_held_back": 5,
            "hooks_lost": 3, "hooks_restored": 2, "config_reload_failures": 1, "restart_needed": ["performance.workers"],
            "without_effect": ["kubernetes.scope=node: kubernetes.enabled is off"],
            "interfaces": [
                {"name": "eth0", "error": null, "coverage": [1.0, 0.5]},
                {"name": "eth1", "error": "no", "coverage": [null, null]},
                {"name": "eth2", "error": "no", "coverage": [null, null]},
                {"name": "eth3", "error": "another", "coverage": [null, null]},
                {"name": "eth4", "error": null, "coverage": [0.25, 1.0]},
                {"name": "eth5", "error": null, "coverage": [1.0, 1.0]},
                {"name": "eth6", "error": null, "coverage": [1.0, 1.0], "outdated": "no memory"},
            ],
        });
        let checks = agent(&status, Help::Host);
        let of =
            |name: &str| checks.iter().filter(|check| check.name == name).map(|check| check.status).collect::<Vec<_>>();
        assert_eq!(of("agent"), [Status::Ok]);
        for name in [
            "losses",
            "flow table",
            "series",
            "log",
            "interfaces eth4, eth0",
            "interfaces eth1, eth2",
            "interface eth3",
            "interface eth6",
            "hooks",
        ] {
            assert_eq!(of(name), [Status::Warn], "{name}");
        }
        assert_eq!(of("configuration").len(), 3);
        assert_eq!(
            checks.iter().filter(|check| check.name.starts_with("interface")).count(),
            4,
            "equal failures are in one check"
        );
        let of = |name: &str| checks.iter().find(|check| check.name == name).unwrap();
        assert!(of("interfaces eth4, eth0").detail.starts_with("25.0 %, 50.0 % of their packets"));
        assert_eq!(of("interface eth3").remedy.as_deref(), Some("capture.interfaces=[\"!eth3\"] excludes it"));
        let pod = agent(&status, Help::Pod);
        let remedies: Vec<&str> = pod.iter().filter_map(|check| check.remedy.as_deref()).collect();
        assert!(remedies.iter().any(|remedy| remedy.contains("rollout restart")), "{remedies:?}");
        assert!(remedies.iter().any(|remedy| remedy.contains("ConfigMap netmon-config excludes it")), "{remedies:?}");
    }
}
