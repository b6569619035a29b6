//! README, CONTRIBUTING, docs/ and the pages of deploy/: what they point at exists, what people are to type works, and what is
//! listed is complete.

mod commands;
mod examples;
mod generated;
mod links;
mod reference;
mod shell;

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A file of the project.
fn at(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(at(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A page, by its path in the project.
struct Page {
    path: String,
    text: String,
}

/// A fenced block of a page.
struct Block {
    /// `README.md:12`, its first line.
    place: String,
    /// What follows the opening fence.
    language: String,
    text: String,
}

impl Page {
    fn named(path: &str) -> Page {
        Page { path: path.to_owned(), text: read(path) }
    }

    /// Its lines with their numbers, and whether each is in a fenced block. The fences are.
    fn lines(&self) -> impl Iterator<Item = (usize, &str, bool)> {
        let mut fenced = false;
        self.text.lines().enumerate().map(move |(index, line)| {
            let is_fence = line.trim_start().starts_with("```");
            fenced ^= is_fence;
            (index + 1, line, fenced || is_fence)
        })
    }

    fn blocks(&self) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        let mut open = false;
        for (number, line, _) in self.lines() {
            let fence = line.trim_start().strip_prefix("```");
            match (fence, open) {
                (Some(language), false) => blocks.push(Block {
                    place: format!("{}:{}", self.path, number + 1),
                    language: language.trim().to_owned(),
                    text: String::new(),
                }),
                (None, true) => {
                    let block = blocks.last_mut().unwrap();
                    block.text += line;
                    block.text.push('\n');
                }
                _ => {}
            }
            open ^= fence.is_some();
        }
        assert!(!open, "{}: a block is not closed", self.path);
        blocks
    }

    /// Text in backticks outside of blocks, and where. A span may begin in one line and end in the next.
    fn spans(&self) -> Vec<(String, String)> {
        let mut spans = Vec::new();
        let mut paragraph: Vec<(usize, &str)> = Vec::new();
        let lines = self.lines().map(|(number, line, fenced)| (number, if fenced { "" } else { line }));
        for (number, line) in lines.chain([(0, "")]) {
            if !line.trim().is_empty() {
                paragraph.push((number, line.trim()));
                continue;
            }
            let text: Vec<&str> = paragraph.iter().map(|(_, line)| *line).collect();
            let text = text.join(" ");
            let place = paragraph.first().map_or(0, |(number, _)| *number);
            for range in code(&text) {
                spans.push((format!("{}:{place}", self.path), text[range].to_owned()));
            }
            paragraph.clear();
        }
        spans
    }
}

/// The ranges of `text` that stand between backticks.
fn code(text: &str) -> Vec<Range<usize>> {
    let ticks: Vec<usize> = text.match_indices('`').map(|(at, _)| at).collect();
    ticks.chunks_exact(2).map(|pair| pair[0] + 1..pair[1]).collect()
}

/// All files below a folder of the project that `wanted` picks by their path.
fn below(folder: &str, wanted: fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(at(&folder)).unwrap_or_else(|error| panic!("{folder}: {error}")) {
            let entry = entry.unwrap();
            let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if wanted(&path) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// What users read: README and docs/.
fn manual() -> Vec<Page> {
    let mut paths = vec!["README.md".to_owned()];
    paths.extend(below("docs", |path| path.ends_with(".md")));
    paths.iter().map(|path| Page::named(path)).collect()
}

/// The manual, and the pages for those who work on netmon.
fn pages() -> Vec<Page> {
    let mut paths = vec!["CHANGELOG.md".to_owned(), "CONTRIBUTING.md".to_owned()];
    paths.extend(below("deploy", |path| path.ends_with(".md")));
    let mut pages = manual();
    pages.extend(paths.iter().map(|path| Page::named(path)));
    pages
}

/// The cells of each row of the tables below `heading`, up to the next heading; without head and rule.
fn rows(page: &Page, heading: &str) -> Vec<Vec<String>> {
    let lines = page.lines().filter(|(_, _, fenced)| !fenced).map(|(_, line, _)| line);
    let section = lines.skip_while(|line| line.trim_start_matches('#').trim() != heading || !line.starts_with('#'));
    let section = section.skip(1).take_while(|line| !line.starts_with('#'));
    let cells = |line: &str| -> Vec<String> {
        let inner = line.trim().trim_matches('|').replace("\\|", "\u{1}");
        inner.split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect()
    };
    let mut rows: Vec<Vec<String>> = Vec::new();
    for line in section {
        if line.starts_with("|--") || line.starts_with("| --") {
            rows.pop();
        } else if line.starts_with('|') {
            rows.push(cells(line));
        }
    }
    assert!(!rows.is_empty(), "{}: no table below \"{heading}\"", page.path);
    rows
}

/// Names in backticks in a cell.
fn names(cell: &str) -> Vec<String> {
    code(cell).into_iter().map(|range| cell[range].to_owned()).collect()
}

/// The first page that people see is short.
#[test]
fn the_readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(lines <= 200, "README.md has {lines} lines: 200 at most, details belong in docs/");
}
