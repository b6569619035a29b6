//! Links of pages, and paths of pages that other files name.

use std::collections::{BTreeMap, BTreeSet};

use super::{Page, at, below, code, manual, pages, read};

/// Where the links of a line lead: `[text](target)`.
fn targets(line: &str) -> Vec<String> {
    let mut plain = line.to_owned();
    for range in code(line) {
        plain.replace_range(range.clone(), &"_".repeat(range.len()));
    }
    let starts = plain.match_indices("](").map(|(at, _)| at + 2);
    starts.filter_map(|start| Some(line[start..].split_once(')')?.0.to_owned())).collect()
}

/// The anchors that a page's headings get.
fn anchors(text: &str) -> BTreeSet<String> {
    let page = Page { path: String::new(), text: text.to_owned() };
    let mut taken: BTreeMap<String, usize> = BTreeMap::new();
    let mut anchors = BTreeSet::new();
    for (_, line, fenced) in page.lines() {
        let title = line.trim_start_matches('#');
        if fenced || title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let kept = title.trim().to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let slug: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let again = taken.entry(slug.clone()).or_default();
        anchors.insert(if *again == 0 { slug } else { format!("{slug}-{again}") });
        *again += 1;
    }
    anchors
}

/// A relative path from the folder of a page.
fn resolve(page: &str, path: &str) -> String {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Links of a page to files of the project, with the line: path and anchor.
fn links(page: &Page) -> Vec<(usize, String, Option<String>)> {
    let mut links = Vec::new();
    for (number, line, fenced) in page.lines() {
        let targets = if fenced { Vec::new() } else { targets(line) };
        for target in targets.iter().filter(|target| !target.contains("://")) {
            let (path, anchor) =
                target.split_once('#').map_or((target.as_str(), None), |(path, rest)| (path, Some(rest)));
            let path = if path.is_empty() { page.path.clone() } else { resolve(&page.path, path) };
            links.push((number, path, anchor.map(str::to_owned)));
        }
    }
    links
}

#[test]
fn links_resolve() {
    let mut broken = Vec::new();
    for page in pages() {
        for (number, path, anchor) in links(&page) {
            let there = at(&path).exists();
            let found = match &anchor {
                Some(anchor) => there && path.ends_with(".md") && anchors(&read(&path)).contains(anchor),
                None => there,
            };
            if !found {
                let anchor = anchor.map_or(String::new(), |anchor| format!("#{anchor}"));
                broken.push(format!("{}:{number}: {path}{anchor}", page.path));
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}

/// Who starts at the README gets everywhere.
#[test]
fn every_page_is_linked() {
    let pages = manual();
    let mut reached = BTreeSet::from(["README.md".to_owned()]);
    let mut next = vec!["README.md".to_owned()];
    while let Some(path) = next.pop() {
        let page = pages.iter().find(|page| page.path == path);
        for (_, path, _) in page.map(links).unwrap_or_default() {
            if path.ends_with(".md") && reached.insert(path.clone()) {
                next.push(path);
            }
        }
    }
    let lost: Vec<&str> = pages.iter().map(|page| page.path.as_str()).filter(|path| !reached.contains(*path)).collect();
    assert!(lost.is_empty(), "no page leads to {lost:?}");
}

/// Programs, manifests and scripts name pages in messages and comments.
#[test]
fn pages_that_other_files_name_exist() {
    let text = |path: &str| {
        [".rs", ".c", ".h", ".yaml", ".json", ".txt", ".toml"].iter().any(|end| path.ends_with(end))
            || path.starts_with("scripts/") && !path.contains("/tools/")
            || path.starts_with("deploy/") && !path.contains('.')
    };
    let files =
        ["src", "bpf", "tests", "benches", "examples", "deploy", "scripts"].map(|folder| below(folder, |_| true));
    let mut missing = Vec::new();
    for path in files.iter().flatten().filter(|path| text(path)) {
        let Ok(text) = std::fs::read_to_string(at(path)) else { continue };
        for (start, _) in text.match_indices("docs/") {
            let rest = &text[start..];
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "/-_.".contains(c))).unwrap_or(rest.len());
            let named = rest[..end].trim_end_matches('.');
            let is_word = text[..start].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '/');
            if named.ends_with(".md") && !is_word && !at(named).exists() {
                missing.push(format!("{path}: {named}"));
            }
        }
    }
    assert!(missing.is_empty(), "pages that are not there:\n{}", missing.join("\n"));
}

#[test]
fn links_and_anchors_are_found() {
    let line = "see [a](b.md#c), `[not](this)` and ![d](e.svg)";
    assert_eq!(targets(line), ["b.md#c", "e.svg"]);
    let text = "# `netmon-cli top`\n## What, and why?\n```\n# no heading\n```\n## What and why\n## What and why\n";
    let wanted = ["netmon-cli-top", "what-and-why", "what-and-why-1", "what-and-why-2"];
    assert_eq!(anchors(text), wanted.map(str::to_owned).into());
    assert_eq!(resolve("a/b/c.md", "../d/e.md"), "a/d/e.md");
}
