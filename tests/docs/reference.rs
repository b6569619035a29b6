//! The reference is complete, and says everything once.

use std::collections::BTreeMap;

use netmon::agent::metric_names;
use netmon::filter::{FIELDS, Field, PacketFilter};
use netmon::line::{Ends, Line, Nat, Stats};
use netmon::sinks::detect::Kind;
use serde_json::Value;

use super::{Page, names, rows};
use crate::control::ask;

/// `found` has each of `wanted` once, and nothing else.
fn once<'a>(page: &str, found: impl Iterator<Item = String>, wanted: impl Iterator<Item = &'a str>) {
    let mut counts: BTreeMap<String, i32> = BTreeMap::new();
    for name in wanted {
        counts.entry(name.to_owned()).or_default();
    }
    let mut wrong = Vec::new();
    for name in found {
        match counts.get_mut(&name) {
            Some(count) => *count += 1,
            None => wrong.push(format!("{name}: there is no such thing")),
        }
    }
    wrong.extend(counts.iter().filter(|(_, count)| **count == 0).map(|(name, _)| format!("{name}: missing")));
    wrong.extend(counts.iter().filter(|(_, count)| **count > 1).map(|(name, count)| format!("{name}: {count} times")));
    assert!(wrong.is_empty(), "{page}:\n{}", wrong.join("\n"));
}

/// All tables of a page together.
fn all_rows(page: &Page) -> Vec<Vec<String>> {
    let headings = page.lines().filter(|(_, line, fenced)| !fenced && line.starts_with('#')).map(|(_, line, _)| line);
    let has_table = |heading: &str| {
        let mut section = page.text.lines().skip_while(|line| *line != heading).skip(1);
        section.by_ref().take_while(|line| !line.starts_with('#')).any(|line| line.starts_with('|'))
    };
    let titles = headings.filter(|heading| has_table(heading)).map(|heading| heading.trim_start_matches('#').trim());
    titles.flat_map(|title| rows(page, title)).collect()
}

#[test]
fn each_metric_is_there_once() {
    let page = Page::named("docs/reference/metrics.md");
    let described: Vec<Vec<String>> = all_rows(&page)
        .into_iter()
        .filter(|row| row[0].starts_with("`netmon_") || row[0].starts_with("`process_"))
        .collect();
    once(&page.path, described.iter().flat_map(|row| names(&row[0])), metric_names());
    for row in &described {
        let [name, kind, labels, meaning] = &row[..] else { panic!("{row:?}: name, type, labels, meaning") };
        let is_counter = names(name).iter().all(|name| name.ends_with("_total"));
        assert_eq!(is_counter, kind == "counter", "{name} is a {kind}");
        assert!(["counter", "gauge", "histogram", "summary"].contains(&kind.as_str()), "{name} is a {kind}");
        assert!(!labels.is_empty() && !meaning.is_empty(), "{row:?}: \"none\" is the word for no labels");
    }
}

fn object(value: Value) -> Vec<String> {
    match value {
        Value::Object(fields) => fields.into_iter().map(|(name, _)| name).collect(),
        other => panic!("{other}"),
    }
}

#[test]
fn each_field_of_a_flow_is_there_once() {
    let page = Page::named("docs/reference/flow-record.md");
    let line = object(serde_json::to_value(Line::default()).unwrap());
    let parts = [
        ("Fields", line),
        ("Ends", object(serde_json::to_value(Ends::default()).unwrap())),
        ("Times", object(serde_json::to_value(Stats::default()).unwrap())),
        ("Translated addresses", object(serde_json::to_value(Nat::default()).unwrap())),
    ];
    for (heading, fields) in parts {
        let found = rows(&page, heading).into_iter().flat_map(|row| names(&row[0]));
        once(&format!("{}, {heading}", page.path), found, fields.iter().map(String::as_str));
    }
}

#[test]
fn each_field_of_a_filter_is_there_once() {
    let page = Page::named("docs/reference/filters.md");
    let line = object(serde_json::to_value(Line::default()).unwrap());
    let more = FIELDS.iter().map(|field| field.name).filter(|name| !line.iter().any(|field| field == name));
    let found = rows(&page, "Fields of flows").into_iter().flat_map(|row| names(&row[0]));
    once(&page.path, found, more);
    for row in rows(&page, "Short names") {
        let [short, field] = &row[..] else { panic!("{row:?}") };
        let field = Field::named(&names(field)[0]).unwrap_or_else(|| panic!("{field}"));
        assert_eq!(Field::named(&names(short)[0]).map(|field| field.name), Some(field.name), "{short}");
    }
    // The message lists what there is.
    let error = PacketFilter::parse("status=ok").unwrap_err().to_string();
    let listed = error.lines().next().map(|line| &line[line.find("protocol ").unwrap()..]).unwrap();
    let found = rows(&page, "Fields of packets").into_iter().flat_map(|row| names(&row[0]));
    once(&page.path, found, listed.split(' '));
}

/// Each kind of events, with its severity and a section of its own.
#[test]
fn each_kind_of_event_is_there_once() {
    let page = Page::named("docs/detection/README.md");
    let rows = rows(&page, "Kinds");
    once(&page.path, rows.iter().flat_map(|row| names(&row[0])), Kind::ALL.iter().map(|kind| kind.name()));
    for kind in Kind::ALL {
        let name = kind.name();
        let row = rows.iter().find(|row| names(&row[0])[0] == name).unwrap();
        assert_eq!(row[1], kind.severity().name(), "{name}");
        assert!(row[0].ends_with(&format!(".md#{name})")), "{name} leads to its section: {}", row[0]);
    }
}

/// Each route of the control API, with its parameters.
#[test]
fn each_route_is_there_once() {
    let page = Page::named("docs/reference/control-api.md");
    let (status, body) = ask("GET", "/v1");
    assert_eq!(status, 200);
    let body: Value = serde_json::from_str(&body).unwrap();
    let routes = body.as_array().or(body["routes"].as_array()).unwrap_or_else(|| panic!("{body}"));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let is: BTreeMap<String, Vec<String>> = routes
        .iter()
        .map(|route| {
            let parameters = route["parameters"].as_array().unwrap().iter().map(text);
            (format!("{} {}", text(&route["method"]), text(&route["path"])), parameters.collect())
        })
        .collect();
    let rows = rows(&page, "Routes");
    once(&page.path, rows.iter().flat_map(|row| names(&row[0])), is.keys().map(String::as_str));
    for row in rows {
        let name = &names(&row[0])[0];
        for parameter in &is[name] {
            assert!(names(&row[1]).contains(parameter), "{name}: {parameter} is missing");
        }
    }
}
