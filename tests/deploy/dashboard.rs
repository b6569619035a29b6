//! The dashboard: Grafana's schema and the places of its panels.

use serde_json::{Value, json};

use super::{needs_tools, run};
use crate::support::dashboard::{self, Panel};

/// What Grafana's schema says against a dashboard; nothing if it fits.
fn misfits(board: &Value) -> String {
    let file = std::env::temp_dir().join(format!("netmon-dashboard-{}-{:p}.json", std::process::id(), board));
    std::fs::write(&file, board.to_string()).unwrap();
    let said = run(&["dashboard", file.to_str().unwrap()], "").err().unwrap_or_default();
    std::fs::remove_file(file).unwrap();
    said
}

#[test]
fn fits_grafanas_schema() {
    needs_tools!();
    let board = dashboard::json();
    assert_eq!(misfits(&board), "");
    let graph = board["panels"].as_array().unwrap().iter().position(|panel| panel["type"] == "nodeGraph").unwrap();
    for (place, value, finding) in [
        ("/panels/1/titel", json!("Flows"), "panels[1].titel is not in the schema"),
        ("/panels/1/title", json!(3), "panels[1].title is 3, and must be str"),
        ("/panels/1/gridPos/h", json!("4"), "must be int"),
        ("/panels/1/targets/0/format", json!("tabel"), "is 'tabel', and must be PromQueryFormat"),
        ("/panels/1/targets/0/query", json!("up"), "targets[0].query is not in the schema"),
        (&format!("/panels/{graph}/options/nodes/unit"), json!("Bps"), "options.nodes.unit is not in the schema"),
        (&format!("/panels/{graph}/transformations/0/id"), json!(7), "must be str"),
    ] {
        let mut wrong = board.clone();
        let (parent, key) = place.rsplit_once('/').unwrap();
        wrong.pointer_mut(parent).unwrap()[key] = value;
        let said = misfits(&wrong);
        assert!(said.contains(finding) && said.lines().count() == 1, "{place}: {said:?}");
    }
}

#[test]
fn panels_have_their_places() {
    let panels = dashboard::panels();
    let mut rows: Vec<&str> = panels.iter().map(|panel| panel.row.as_str()).collect();
    rows.dedup();
    assert_eq!(rows, ["Connections", "Latency", "Failures", "Zones", "Security", "Agents"]);
    let board = dashboard::json();
    let all = board["panels"].as_array().unwrap();
    let of = |panel: &Value, key: &str| panel["gridPos"][key].as_u64().unwrap();
    for (index, one) in all.iter().enumerate() {
        assert!(of(one, "x") + of(one, "w") <= 24, "{} leaves the page", one["title"]);
        for other in &all[..index] {
            assert_ne!(one["id"], other["id"], "{} and {}", one["title"], other["title"]);
            let apart = |from: &str, size: &str| {
                of(one, from) >= of(other, from) + of(other, size) || of(other, from) >= of(one, from) + of(one, size)
            };
            assert!(apart("x", "w") || apart("y", "h"), "{} covers {}", one["title"], other["title"]);
        }
    }
    for Panel { title, kind, json, targets, .. } in &panels {
        assert!(!json["description"].as_str().unwrap().is_empty(), "{title} has no description");
        for target in targets {
            assert!(target.query.contains("instance=~\"$instance\""), "{title} ignores the choice of agents");
            assert_eq!(target.is_table, ["table", "nodeGraph"].contains(&kind.as_str()), "{title}");
        }
    }
}
