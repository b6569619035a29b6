//! The debug server: shows what the agent is doing, to find faults in it. It is off by default, and changes nothing.

mod profile;

use std::sync::Arc;

use serde_json::json;

use crate::control::{Api, TablePlace};
use crate::http::{Page, Pages, Purpose, Reply, TEXT, parameters};
use profile::Profiling;

/// The server of these pages.
pub const SERVER: Purpose = Purpose { name: "debug", flag: "--debug-server", port: 6060, own_name_only: true };

const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";
/// Flows on a page by default.
const FLOWS: usize = 100;
/// The largest limit.
const FLOWS_MOST: usize = 1000;

const INDEX: &str = "\
<!DOCTYPE html>
<title>netmon: debug</title>
<ul>
<li><a href=\"/debug/pprof/profile?seconds=30\">/debug/pprof/profile?seconds=30</a>: where CPU time goes, for pprof
<li><a href=\"/debug/flows?limit=100\">/debug/flows?limit=100&amp;cursor=</a>: the flow table; \"next\" is the cursor of the next page
<li><a href=\"/debug/config\">/debug/config</a>: the configuration, and where each value comes from
</ul>
";

/// `/debug/pprof/`, `/debug/flows`, `/debug/config`.
pub struct DebugPages {
    api: Arc<dyn Api>,
    profiling: Profiling,
}

impl DebugPages {
    /// Pages about `api`. They call nothing that changes the agent.
    pub fn new(api: Arc<dyn Api>) -> DebugPages {
        DebugPages { api, profiling: Profiling::default() }
    }

    fn flows(&self, query: &str) -> Result<Page, String> {
        let given = known(query, &["limit", "cursor"])?;
        let limit = match given.get("limit") {
            None => FLOWS,
            Some(text) => text
                .parse()
                .ok()
                .filter(|limit| (1..=FLOWS_MOST).contains(limit))
                .ok_or_else(|| format!("limit={text}; valid: a number from 1 to {FLOWS_MOST}"))?,
        };
        let from = match given.get("cursor").filter(|text| !text.is_empty()) {
            None => TablePlace::default(),
            Some(text) => text.parse().map_err(|()| format!("cursor={text}; valid: \"next\" of the page before"))?,
        };
        let api = Arc::clone(&self.api);
        Ok(Page::Soon(Box::new(move || {
            let (flows, next) = api.flows_from(from, limit);
            object(&json!({ "flows": flows, "next": next.map(|next| next.to_string()) }))
        })))
    }

    fn config(&self, query: &str) -> Result<Page, String> {
        known(query, &[])?;
        let api = Arc::clone(&self.api);
        Ok(Page::Soon(Box::new(move || object(&json!(api.config())))))
    }
}

impl Pages for DebugPages {
    fn get(&self, path: &str, query: &str) -> Option<Page> {
        let page = match path {
            "/" | "/debug" | "/debug/" | "/debug/pprof" | "/debug/pprof/" => {
                Ok(Reply { status: 200, content_type: HTML, body: Vec::from(INDEX).into() }.into())
            }
            "/debug/pprof/profile" => self.profiling.page(query),
            "/debug/flows" => self.flows(query),
            "/debug/config" => self.config(query),
            _ => return None,
        };
        Some(page.unwrap_or_else(|wrong| text(400, wrong).into()))
    }
}

/// The parameters of a query, all of which must be known.
fn known(query: &str, names: &[&str]) -> Result<std::collections::BTreeMap<String, String>, String> {
    let given = parameters(query)?;
    match given.keys().find(|name| !names.contains(&name.as_str())) {
        Some(unknown) if names.is_empty() => Err(format!("there is no parameter {unknown}, nor any other")),
        Some(unknown) => Err(format!("there is no parameter {unknown}; valid: {}", names.join(", "))),
        None => Ok(given),
    }
}

fn text(status: u16, text: String) -> Reply {
    Reply { status, content_type: TEXT, body: (text + "\n").into_bytes().into() }
}

fn object(value: &serde_json::Value) -> Reply {
    Reply { status: 200, content_type: JSON, body: format!("{value}\n").into_bytes().into() }
}
