//! Which detectors work here, and which are blind.

use serde_json::Value;

use crate::config::Config;
use crate::doctor::{BlindSpot, Check};
use crate::sinks::detect::Kind;

/// With fewer connections, nothing can be said about the path of their packets.
const ENOUGH: u64 = 20;

/// What the detectors look for, and what they cannot see. `status` and `flows` are the agent's answers.
pub(super) fn detectors(config: &Config, status: &Value, flows: &Value) -> (Check, Vec<BlindSpot>) {
    let wanted: Vec<&str> =
        Kind::ALL.into_iter().filter(|kind| kind.is_wanted(&config.security)).map(Kind::name).collect();
    if wanted.is_empty() {
        let off = "off; features.security_monitoring.enabled=true looks for port scans, floods and more";
        return (Check::ok("detection", off), Vec::new());
    }
    let mut blind = Vec::new();
    let mut spot = |kinds: &[Kind], detail: String, remedy: Option<&str>| {
        let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).filter(|name| wanted.contains(name)).collect();
        if !names.is_empty() {
            let name = format!("detection: {}", names.join(", "));
            blind.push(BlindSpot { name, detail, remedy: remedy.map(str::to_owned) });
        }
    };
    if config.sampling_rate < 1.0 {
        let share = format!("only {} of all flows are tracked: thresholds are reached later", config.sampling_rate);
        spot(&Kind::ALL, share, Some("capture.sampling_rate=1"));
    }
    if config.features.apps.is_empty() {
        let detail = "protocols are not recognised".to_owned();
        spot(&[Kind::Cleartext, Kind::ProtocolMismatch], detail, Some("features.protocol_detection.enabled=true"));
    }
    if status["names"].is_null() {
        spot(&[Kind::NewEdge], "without a cluster there are no workloads".to_owned(), None);
    }
    let tcp = flows["by_protocol"]["tcp"].as_u64().unwrap_or_default();
    let one_sided = flows["one_sided"].as_u64().unwrap_or_default();
    if tcp >= ENOUGH && one_sided > tcp / 2 {
        let detail =
            format!("only one direction of {one_sided} of {tcp} connections is seen: who answers is not known");
        let remedy = "capture.interfaces: watch the interfaces of both directions";
        let kinds = [Kind::PortScan, Kind::AddressScan, Kind::SlowScan, Kind::SynFlood, Kind::BruteForce];
        spot(&kinds, detail, Some(remedy));
    }
    (Check::ok("detection", format!("looks for {}", wanted.join(", "))), blind)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::Security;

    fn spots(config: &Config, names: &Value, one_sided: u64) -> Vec<String> {
        let (status, flows) = (json!({"names": names}), json!({"by_protocol": {"tcp": 40}, "one_sided": one_sided}));
        detectors(config, &status, &flows).1.into_iter().map(|spot| spot.name).collect()
    }

    #[test]
    fn detectors_that_are_blind_are_named() {
        let mut config = Config::default();
        let (check, blind) = detectors(&config, &Value::Null, &Value::Null);
        assert!(check.detail.starts_with("off;") && blind.is_empty());
        config.security = Security { enabled: true, ..Security::default() };
        let cluster = json!({});
        assert_eq!(spots(&config, &cluster, 20), [] as [&str; 0]);
        assert_eq!(spots(&config, &Value::Null, 0), ["detection: new_edge"]);
        let paths = "detection: port_scan, address_scan, slow_scan, syn_flood, brute_force";
        assert_eq!(spots(&config, &cluster, 21), [paths]);
        config.features.apps.clear();
        assert_eq!(spots(&config, &cluster, 0), ["detection: cleartext, protocol_mismatch"]);
        config.sampling_rate = 0.5;
        config.security.patterns = false;
        let scans = "detection: port_scan, address_scan, slow_scan, stealth_scan, udp_scan, ping_sweep";
        assert_eq!(spots(&config, &Value::Null, 0), [scans]);
    }
}
