//! The dashboard in deploy/grafana, as its panels.

use std::path::Path;

use serde_json::Value;

/// A panel, and the row that it is in.
pub struct Panel {
    pub row: String,
    pub title: String,
    pub kind: String,
    pub json: Value,
    pub targets: Vec<Target>,
}

/// A query of a panel.
pub struct Target {
    /// `refId`: the name of its data in Grafana.
    pub name: String,
    pub legend: String,
    /// With `$instance` and `$__rate_interval`.
    pub query: String,
    pub is_table: bool,
}

impl Target {
    /// The query with the variables filled in: all agents, and this window.
    pub fn filled(&self, window: &str) -> String {
        let query = self.query.replace("$__rate_interval", window).replace("$instance", ".*");
        assert!(!query.contains("$_") && !query.contains("${"), "a variable that this does not know: {query}");
        query
    }
}

/// The whole dashboard.
pub fn json() -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/grafana/netmon.json");
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

/// Its panels in their order, without the rows.
pub fn panels() -> Vec<Panel> {
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let (mut row, mut panels) = (String::new(), Vec::new());
    for json in json()["panels"].as_array().unwrap() {
        if json["type"] == "row" {
            row = text(json, "title");
            continue;
        }
        let targets = json["targets"].as_array().unwrap().iter();
        let targets = targets.map(|target| Target {
            name: text(target, "refId"),
            legend: text(target, "legendFormat"),
            query: text(target, "expr"),
            is_table: target["format"] == "table" && target["instant"] == true,
        });
        panels.push(Panel {
            row: row.clone(),
            title: text(json, "title"),
            kind: text(json, "type"),
            targets: targets.collect(),
            json: json.clone(),
        });
    }
    assert!(panels.len() > 20, "{} panels alone", panels.len());
    panels
}
