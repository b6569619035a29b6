//! The alerts of deploy/, on failures that really happen.
//!
//! Their times are minutes, which nobody waits for: [`in_seconds`] reads each minute of the rules as a second. Nothing
//! else of them changes.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::background::Background;
use super::cluster::Cluster;
use super::failures::{self, FAILURES};
use super::{Report, rules, start};
use crate::live::prometheus::Prometheus;
use crate::live::{PATIENCE, eventually};

/// The rules with each minute as a second: of `for`, of the windows of expressions, and of offsets.
fn in_seconds(rules: &str) -> String {
    with_unit(rules, 'm', 's')
}

/// The rules with other units in their times; texts stay as they are.
fn with_unit(rules: &str, old: char, new: char) -> String {
    let changed = |word: &str| {
        let bare = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        match bare.strip_suffix(old) {
            Some(number) if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) => {
                format!("{number}{new}{}", &word[bare.len()..])
            }
            _ => word.to_owned(),
        }
    };
    let is_text = |line: &str| {
        let line = line.trim_start();
        ["#", "summary:", "description:"].iter().any(|start| line.starts_with(start))
    };
    let lines = rules.lines().map(|line| match is_text(line) {
        true => format!("{line}\n"),
        false => {
            line.split_inclusive(|c: char| !c.is_ascii_alphanumeric()).map(changed).chain(["\n".to_owned()]).collect()
        }
    });
    lines.collect()
}

#[test]
fn minutes_of_the_rules_become_seconds_and_nothing_else_changes() {
    let rules = rules();
    let changed = in_seconds(&rules);
    for (minutes, seconds) in [("for: 10m\n", "for: 10s\n"), ("[5m]", "[5s]"), ("offset 30m)", "offset 30s)")] {
        let there = |text: &str, what: &str| text.matches(what).count();
        assert!(there(&rules, minutes) > 0 && there(&changed, seconds) > 0, "{minutes}");
    }
    let left = changed.lines().filter(|line| line.contains("m]") || line.contains("for: ") && line.ends_with('m'));
    let left: Vec<&str> = left.filter(|line| !line.contains("description:")).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(with_unit(&changed, 's', 'm'), rules);
}

/// The firing alerts.
fn firing(prometheus: &Prometheus) -> Vec<Value> {
    let answer = prometheus.ask("alerts", "").unwrap();
    let all = answer["alerts"].as_array().unwrap().iter();
    all.filter(|alert| alert["state"] == "firing").cloned().collect()
}

/// The firing alert with this name and label.
fn find(prometheus: &Prometheus, name: &str, (label, value): (&str, &str)) -> Option<Value> {
    let is_it = |alert: &Value| {
        let labels = &alert["labels"];
        labels["alertname"] == name && (label.is_empty() || labels[label] == value)
    };
    firing(prometheus).into_iter().find(is_it)
}

/// Repeats `trouble` until the alert fires; returns it.
fn until_it_fires(
    report: &mut Report,
    prometheus: &Prometheus,
    (name, because): (&str, &str),
    label: (&str, &str),
    mut trouble: impl FnMut(),
) -> Value {
    let start = Instant::now();
    loop {
        trouble();
        if let Some(alert) = find(prometheus, name, label) {
            let (took, summary) = (start.elapsed().as_secs(), alert["annotations"]["summary"].as_str().unwrap());
            report.ok(format!("{name} fires after {took} s, because {because}: {summary}"));
            return alert;
        }
        assert!(start.elapsed() < PATIENCE, "{name} does not fire, although {because}: {:?}", firing(prometheus));
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn until_it_ends(prometheus: &Prometheus, name: &str) {
    eventually(&format!("the end of {name}"), || find(prometheus, name, ("", "")).is_none().then_some(()));
}

/// What an alert says to run; it ends where the sentence goes on.
fn query_of(alert: &Value) -> String {
    let description = alert["annotations"]["description"].as_str().unwrap();
    description.split(" shows ").next().unwrap().replace("[5m]", "[5s]")
}

/// Makes the alerts fire, one after the other.
pub fn fire(report: &mut Report, cluster: &Cluster) {
    failures::prepare(cluster);
    let ([mut a, b], prometheus) = start(cluster, &in_seconds(&rules()));
    let [at_a, at_b] = [&cluster.a, &cluster.b].map(|node| node.metrics().to_string());
    let background = Background::start(cluster);
    report.ok("two agents and Prometheus run, and connections that succeed, from frontend to the service");

    // Longer than any window and `for` of the rules together.
    let healthy = Instant::now();
    while healthy.elapsed() < Duration::from_secs(35) {
        assert_eq!(firing(&prometheus), Vec::<Value>::new(), "nothing is wrong yet");
        std::thread::sleep(Duration::from_millis(500));
    }
    let all = prometheus.ask("rules", "").unwrap();
    let groups = all["groups"].as_array().unwrap().iter();
    let healths: Vec<&Value> =
        groups.flat_map(|group| group["rules"].as_array().unwrap()).map(|r| &r["health"]).collect();
    assert!(healths.len() > 10 && healths.iter().all(|health| *health == "ok"), "{healths:?}");
    let made = background.made();
    assert!(made > 100, "{made} connections");
    report.ok(format!("{} rules, none of which fires while {made} connections succeed", healths.len()));

    for failure in &FAILURES {
        let because = format!("connections to {} fail with {}: {}", failure.to, failure.reason, failure.how);
        let name = "NetmonConnectionsFail";
        let alert =
            until_it_fires(report, &prometheus, (name, &because), ("instance", &at_a), || failure.happen(cluster));
        let found = prometheus.query(&query_of(&alert));
        let named = found.iter().any(|(labels, rate)| {
            labels["src_workload"] == "frontend"
                && labels["dst_workload"] == failure.to
                && labels["reason"] == failure.reason
                && *rate > 0.0
        });
        assert!(named, "what the alert says to run names no {}: {found:?}", failure.reason);
        until_it_ends(&prometheus, name);
        report.ok(format!("what it says to run names the pair and {}; it ends with the failures", failure.reason));
    }

    let because = "the pod of the service drops a third of what it receives";
    background.lose(cluster);
    until_it_fires(report, &prometheus, ("NetmonRetransmits", because), ("instance", &at_a), || ());
    until_it_fires(report, &prometheus, ("NetmonConnectsSlowly", because), ("dst_service", "front"), || ());
    background.lose_nothing(cluster);
    until_it_ends(&prometheus, "NetmonRetransmits");
    until_it_ends(&prometheus, "NetmonConnectsSlowly");
    report.ok("both end when nothing is dropped any more");
    drop(background);

    failures::scan(cluster);
    let because = "cache has tried 30 closed ports of web";
    until_it_fires(report, &prometheus, ("NetmonSecurityEvents", because), ("src", "shop/cache"), || ());
    until_it_ends(&prometheus, "NetmonSecurityEvents");
    report.ok("it ends when nothing more happens");

    let config = cluster.config(&cluster.a);
    fs::write(&config, fs::read_to_string(&config).unwrap() + "nonsense: true\n").unwrap();
    a.wait_for("unknown key nonsense");
    let because = "node-a's file has a key that there is not";
    until_it_fires(report, &prometheus, ("NetmonConfigRefused", because), ("instance", &at_a), || ());

    b.signal("TERM");
    assert!(b.end().0.success(), "the agent of node-b ends as it should");
    let because = "the agent of node-b has ended";
    until_it_fires(report, &prometheus, ("NetmonAgentGone", because), ("instance", &at_b), || ());
    a.signal("TERM");
    assert!(a.end().0.success(), "the agent of node-a ends as it should");
    until_it_fires(report, &prometheus, ("NetmonAbsent", "no agent is left"), ("severity", "critical"), || ());
}
