//! What is looked for can be changed while the agent runs.

use serde_json::Value;

use super::{ATTACKER, Expected, Scene, VICTIM};
use crate::needs_root;

impl Scene {
    /// Scans so many ports, to the end.
    fn scan(&self, v6: bool, ports: u16) {
        let family = if v6 { "-6" } else { "-4" };
        let mut tool = self.attack("nmap", &format!("{family} -n -Pn -sS -p 1-{ports} {}", VICTIM.at(v6)));
        assert!(tool.0.wait().unwrap().success());
    }

    fn filtered(&self, options: &[&str]) -> usize {
        self.agent.says(&[&["events", "-o", "json"], options].concat()).lines().count()
    }
}

#[test]
fn take_effect_at_once() {
    needs_root!();
    let scene = Scene::new("settings");
    let set = |setting: &str| scene.agent.says(&["config", "set", setting]);
    let port_scan = |v6| Expected::of("port_scan", ATTACKER.at(v6), Some(VICTIM.at(v6)), "refused");
    // Whoever is ignored may do anything; that it is over is seen by another scan.
    set("security.ignore=10.8.0.0/24");
    scene.scan(false, 100);
    scene.scan(true, 100);
    scene.expect(&[port_scan(true)]);
    set("security.ignore=192.0.2.1");
    set("security.thresholds.port_scan=40");
    scene.scan(false, 100);
    let both = [port_scan(false), port_scan(true)];
    let thresholds: Vec<Value> = scene.expect(&both).iter().map(|event| event["threshold"].clone()).collect();
    assert_eq!(thresholds, [15, 40]);
    for (options, many) in [
        (&["--kind", "port_scan,syn_flood"][..], 2),
        (&["--kind", "syn_flood"], 0),
        (&["--source", ATTACKER.v4], 1),
        (&["--target", "fd07::/64"], 1),
        (&["--severity", "warning"], 2),
        (&["--severity", "critical"], 0),
    ] {
        assert_eq!(scene.filtered(options), many, "{options:?}");
    }
    let (_, error) = scene.agent.refused(&["events", "--kind", "port_scam"]);
    assert!(error.contains("port_scan"), "{error}");
    set("features.security_monitoring.enabled=false");
    // What was found before remains.
    assert_eq!(scene.events().len(), 2);
    let (_, error) = scene.agent.refused(&["events", "watch"]);
    assert!(error.contains("features.security_monitoring.enabled"), "{error}");
}
