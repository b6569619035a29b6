//! Examples that pages have and deploy/ has: queries, configurations, variables.

use std::collections::BTreeSet;
use std::process::Command;

use netmon::agent::metric_names;
use netmon::config::{Key, Settings};
use std::path::Path;

use super::{Page, at, manual, read};
use crate::support::{dashboard, not_run};

/// Variables that are no keys.
const MORE_VARIABLES: [&str; 2] = ["NETMON_CONFIG", "NETMON_VERSION"];

/// Queries in blocks, and where: those of a block are separated by an empty line.
fn queries() -> Vec<(String, String)> {
    let mut queries = Vec::new();
    for block in manual().iter().flat_map(|page| page.blocks()).filter(|block| block.language == "promql") {
        let all = block.text.split("\n\n").map(str::trim).filter(|query| !query.is_empty());
        queries.extend(all.map(|query| (block.place.clone(), query.to_owned())));
    }
    assert!(queries.len() > 15, "found {} queries alone", queries.len());
    queries
}

#[test]
fn queries_are_valid() {
    if Command::new("promtool").arg("--version").output().is_err() {
        not_run("docs::examples::queries_are_valid", "promtool is missing: run scripts/deps test");
        return;
    }
    let mut rules = "groups:\n- name: docs\n  rules:\n".to_owned();
    for (index, (_, query)) in queries().iter().enumerate() {
        let indented = query.replace('\n', "\n      ");
        rules += &format!("  - record: docs:query_{index}\n    expr: |\n      {indented}\n");
    }
    let file = std::env::temp_dir().join(format!("netmon-docs-{}.yaml", std::process::id()));
    std::fs::write(&file, rules).unwrap();
    let output = Command::new("promtool").args(["check", "rules"]).arg(&file).output().unwrap();
    std::fs::remove_file(file).unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let places: Vec<String> = queries().into_iter().map(|(place, _)| place).collect();
    assert!(output.status.success(), "{said}\nin this order: {places:?}");
}

/// Words of pages that are spelt as metrics are metrics.
#[test]
fn metrics_that_pages_name_exist() {
    let known: BTreeSet<&str> = metric_names().collect();
    let mut unknown = Vec::new();
    for page in manual() {
        for (number, line, _) in page.lines() {
            for word in line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
                let parts = ["", "_bucket", "_sum", "_count"];
                let is_known =
                    parts.iter().any(|part| word.strip_suffix(part).is_some_and(|stem| known.contains(stem)));
                if word.starts_with("netmon_") && !is_known {
                    unknown.push(format!("{}:{number}: {word}", page.path));
                }
            }
        }
    }
    assert!(unknown.is_empty(), "there are no such metrics:\n{}", unknown.join("\n"));
}

/// The row of the zones and the page about them ask the same.
#[test]
fn zones_are_asked_for_as_in_the_dashboard() {
    let squeezed = |query: &str| query.chars().filter(|c| !c.is_whitespace()).collect::<String>();
    let page = Page::named("docs/questions/what-crosses-zones.md");
    let on_page: Vec<String> =
        queries().iter().filter(|(place, _)| place.starts_with(&page.path)).map(|(_, query)| squeezed(query)).collect();
    let mut count = 0;
    for panel in dashboard::panels().iter().filter(|panel| panel.row == "Zones") {
        let query = panel.targets[0].query.replace("instance=~\"$instance\",", "").replace("$__rate_interval", "5m");
        assert!(on_page.contains(&squeezed(&query)), "{} is not on the page: {query}", panel.title);
        assert!(page.text.contains(&panel.title), "the page does not name the panel {}", panel.title);
        count += 1;
    }
    assert_eq!(count, on_page.len(), "each query of the page has its panel");
}

#[test]
fn variables_that_pages_name_exist() {
    let mut known: BTreeSet<String> = MORE_VARIABLES.map(str::to_owned).into();
    known.extend(Key::all().map(Key::variable));
    known.extend(Key::all().filter_map(|key| key.short).map(str::to_owned));
    let mut unknown = Vec::new();
    for page in manual() {
        for (number, line, _) in page.lines() {
            for word in line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
                // What starts a family of names ends with its underscore.
                if word.starts_with("NETMON_") && !word.ends_with('_') && !known.contains(word) {
                    unknown.push(format!("{}:{number}: {word}", page.path));
                }
            }
        }
    }
    assert!(unknown.is_empty(), "there are no such variables:\n{}", unknown.join("\n"));
}

/// Configurations in blocks: those whose first line is `# netmon.yaml`.
#[test]
fn configurations_are_valid() {
    let mut count = 0;
    for block in manual().iter().flat_map(|page| page.blocks()) {
        if block.language == "yaml" && block.text.starts_with("# netmon.yaml") {
            count += 1;
            valid(&block.place, &block.text);
        }
    }
    assert!(count > 3, "found {count} configurations alone");
}

fn valid(place: &str, text: &str) -> Settings {
    let settings = Settings::of_text(Path::new(place), text).unwrap_or_else(|error| panic!("{error:#}"));
    assert!(settings.without_effect().is_empty(), "{place}: {:?}", settings.without_effect());
    settings
}

/// The examples in deploy/config: one changes nothing, and shows all there is; the other is for development.
#[test]
fn example_files_are_taken() {
    let all = "deploy/config/netmon.yaml";
    let bare = format!("{:?}", Settings::of_text(Path::new("none"), "").unwrap().config);
    let text = read(all);
    assert_eq!(format!("{:?}", valid(all, &text).config), bare);
    // A comment is set off by a blank, a key is not: all keys at once.
    let uncommented: Vec<String> = text
        .lines()
        .map(|line| {
            let key = line.trim_start();
            let is_key = key.starts_with('#') && !key.starts_with("# ") && key != "#";
            if is_key { line.replacen('#', "", 1) } else { line.to_owned() }
        })
        .collect();
    let config = valid(all, &uncommented.join("\n")).config;
    assert_eq!(format!("{config:?}"), bare, "the values in {all} are the defaults");
    assert!(at("deploy/config/dev.yaml").exists());
    let dev = valid("deploy/config/dev.yaml", &read("deploy/config/dev.yaml")).config;
    assert!(dev.log_level == log::LevelFilter::Debug && dev.debug_server.is_some());
}
