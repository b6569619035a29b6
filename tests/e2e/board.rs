//! The dashboard's queries, answered by the traffic of the two nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use serde_json::{Value, json};

use super::Report;
use crate::live::prometheus::Prometheus;
use crate::support::dashboard::{self, Panel};

/// Queries of panels, by title and legend, that nothing but trouble of the agents themselves makes more than zero.
const ZERO_IS_GOOD: [(&str, &str); 7] = [
    ("Not told, not judged", "not judged: {{what}}"),
    ("Packet accounting", "lost"),
    ("Records", "dropped"),
    ("Limits reached", "{{resource}}"),
    ("Limits reached", "flows evicted"),
    ("Flows without a name", "flows"),
    ("Flows without a name", "errors of the API server"),
];

/// Each query of each panel has data of the traffic.
pub fn answers(report: &mut Report, prometheus: &Prometheus) {
    for Panel { row, title, targets, .. } in dashboard::panels() {
        for target in targets {
            let filled = target.filled("1m");
            // What stands in for data does not count.
            let query = filled.strip_suffix(" or vector(0)").unwrap_or(&filled);
            let mut found = prometheus.query(query);
            found.sort_by(|one, other| other.1.total_cmp(&one.1));
            let (labels, value) = found.first().unwrap_or_else(|| panic!("{row}: {title}: no data: {query}"));
            let more_than_zero = found.iter().any(|(_, value)| *value > 0.0);
            let may_be_zero = ZERO_IS_GOOD.contains(&(&title, &target.legend));
            assert!(more_than_zero || may_be_zero, "{row}: {title}: nothing but 0: {query}: {found:?}");
            report.ok(format!("{row}: {title}: {} series, such as {labels} {value}", found.len()));
        }
    }
}

fn text<'a>(labels: &'a Value, label: &str) -> &'a str {
    labels[label].as_str().unwrap_or_default()
}

/// The row of the zones tells traffic between them from traffic within.
pub fn zones(report: &mut Report, prometheus: &Prometheus) {
    let panels = dashboard::panels();
    let now = SystemTime::now();
    let ask = |title: &str| {
        let panel = panels.iter().find(|panel| panel.title == title).unwrap();
        prometheus.query_at(now, &panel.targets[0].filled("5m"))
    };
    let pairs = ask("Traffic between zones by pair of workloads");
    let between: BTreeSet<[String; 4]> = pairs
        .iter()
        .map(|(labels, _)| {
            ["src_workload", "src_zone", "dst_workload", "dst_zone"].map(|label| text(labels, label).to_owned())
        })
        .collect();
    for (src, src_zone, dst, dst_zone) in [
        ("frontend", "eu-1a", "api", "eu-1b"),
        ("api", "eu-1b", "frontend", "eu-1a"),
        ("api", "eu-1b", "cache", "eu-1a"),
        ("cache", "eu-1a", "api", "eu-1b"),
    ] {
        let row = [src, src_zone, dst, dst_zone].map(str::to_owned);
        assert!(between.contains(&row), "{row:?} is not among {between:?}");
    }
    assert!(between.iter().all(|[_, from, _, to]| from != to), "{between:?}");
    assert!(!between.iter().any(|[src, _, dst, _]| src == "frontend" && dst == "cache"), "{between:?}");
    assert_eq!(between.len(), pairs.len(), "each pair once: {pairs:?}");
    report.ok(format!("Zones: {} pairs of workloads send from zone to zone, frontend and cache do not", pairs.len()));
    let all = ask("Traffic by zones");
    let sum = |series: &[(Value, f64)], which: fn(&str, &str) -> bool| -> f64 {
        let fits = |labels: &Value| which(text(labels, "src_zone"), text(labels, "dst_zone"));
        series.iter().filter(|(labels, _)| fits(labels)).map(|(_, rate)| rate).sum()
    };
    let expected = sum(&all, |from, to| from != to) / sum(&all, |_, _| true);
    let [(_, share)] = ask("Between zones")[..] else { panic!("the share is one number") };
    assert!((share - expected).abs() < 1e-6 && share > 0.0 && share < 1.0, "{share}, not {expected}: {all:?}");
    report.ok(format!("Zones: {:.0} % of the traffic is between them", 100.0 * share));
}

/// A frame as Grafana's panels get it: rows of fields.
type Frame = Vec<BTreeMap<String, Value>>;

/// What the panel's transformations leave of a query's result. Grafana names the value of a table after the query
/// when there are several, which is no name that the node graph knows.
fn frame(panel: &Panel, name: &str, prometheus: &Prometheus, now: SystemTime) -> Frame {
    let expected = json!([
        { "id": "organize", "options": { "excludeByName": { "Time": true } } },
        { "id": "calculateField",
          "options": { "mode": "reduceRow", "reduce": { "reducer": "sum" }, "alias": "mainstat", "replaceFields": false } },
    ]);
    // The first one also keeps the second from joining the two frames by their time.
    assert_eq!(panel.json["transformations"], expected, "this test does what these do");
    let target = panel.targets.iter().find(|target| target.name == name).unwrap();
    let rows = prometheus.query_at(now, &target.filled("1m")).into_iter().map(|(labels, value)| {
        let labels = labels.as_object().unwrap().iter().map(|(name, value)| (name.clone(), value.clone()));
        labels.chain([(format!("Value #{name}"), json!(value)), ("mainstat".to_owned(), json!(value))]).collect()
    });
    rows.collect()
}

/// The node graph gets its two frames with the fields that it needs, and they fit together.
pub fn graph(report: &mut Report, prometheus: &Prometheus) {
    let panels = dashboard::panels();
    let panel = panels.iter().find(|panel| panel.kind == "nodeGraph").unwrap();
    let now = SystemTime::now();
    let [nodes, edges] = ["nodes", "edges"].map(|name| frame(panel, name, prometheus, now));
    let field = |row: &BTreeMap<String, Value>, name: &str| row[name].as_str().unwrap().to_owned();
    let ids: BTreeSet<String> = nodes.iter().map(|node| field(node, "id")).collect();
    assert_eq!(ids.len(), nodes.len(), "ids are unique: {nodes:?}");
    let pairs: BTreeSet<[String; 2]> =
        edges.iter().map(|edge| [field(edge, "source"), field(edge, "target")]).collect();
    let edge_ids: BTreeSet<String> = edges.iter().map(|edge| field(edge, "id")).collect();
    assert!(edge_ids.len() == edges.len() && pairs.len() == edges.len(), "{edges:?}");
    assert!(pairs.iter().flatten().all(|end| ids.contains(end)), "each end is a node: {pairs:?}, {ids:?}");
    for (source, target) in
        [("shop/frontend", "shop/api"), ("shop/frontend", "shop/cache"), ("shop/web", "shop/frontend")]
    {
        assert!(pairs.contains(&[source, target].map(str::to_owned)), "{source} to {target}: {pairs:?}");
    }
    let find = |id: &str| nodes.iter().find(|node| field(node, "id") == id).unwrap();
    let (frontend, host) = (find("shop/frontend"), find("node-b"));
    assert_eq!([field(frontend, "title"), field(frontend, "subtitle")], ["frontend", "shop"]);
    assert_eq!(field(host, "title"), "node-b");
    assert!(!host.contains_key("subtitle"), "a node has no namespace");
    // A node's value is the sum of what it sends and receives.
    for node in &nodes {
        let id = field(node, "id");
        let touches = |edge: &&BTreeMap<String, Value>| field(edge, "source") == id || field(edge, "target") == id;
        let sum: f64 = edges.iter().filter(touches).map(|edge| edge["mainstat"].as_f64().unwrap()).sum();
        let own = node["mainstat"].as_f64().unwrap();
        assert!((own - sum).abs() <= 1e-6 * sum, "{id}: {own}, and {sum} at its edges");
    }
    report.ok(format!("Map of workloads: {} nodes and {} edges that fit together: {ids:?}", nodes.len(), edges.len()));
}
