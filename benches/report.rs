//! Plain-text tables of results, compared with their budgets.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::machine::Machine;

/// Median, minimum and maximum of several rounds.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// The spread of `values`, of which there must be at least one.
    pub fn of(mut values: Vec<f64>) -> Spread {
        values.sort_by(f64::total_cmp);
        let at = |i: usize| values.get(i).copied().unwrap_or(f64::NAN);
        let last = values.len().saturating_sub(1);
        Spread { median: (at(last / 2) + at(values.len() / 2)) / 2.0, min: at(0), max: at(last) }
    }

    pub fn one(value: f64) -> Spread {
        Spread { median: value, min: value, max: value }
    }

    pub fn map(self, f: impl Fn(f64) -> f64) -> Spread {
        let (a, b) = (f(self.min), f(self.max));
        Spread { median: f(self.median), min: a.min(b), max: a.max(b) }
    }
}

/// Limit for a median.
#[derive(Clone, Copy, Debug)]
pub enum Budget {
    None,
    AtMost(f64),
    AtLeast(f64),
}

use Budget::{AtLeast, AtMost};

/// A line of the report, for programs. Values that could not be measured are null.
#[derive(Debug, Serialize)]
struct Row {
    table: String,
    unit: String,
    name: String,
    median: f64,
    min: f64,
    max: f64,
}

pub struct Report {
    pub quick: bool,
    /// Title and unit of the table that rows go to.
    table: (String, String),
    rows: Vec<Row>,
    started: Instant,
    within: usize,
    over: Vec<String>,
}

impl Report {
    pub fn new(quick: bool) -> Report {
        Report {
            quick,
            table: Default::default(),
            rows: Vec::new(),
            started: Instant::now(),
            within: 0,
            over: Vec::new(),
        }
    }

    /// The given number of rounds, or only a few for a quick run.
    pub fn rounds(&self, many: usize) -> usize {
        if self.quick { many.min(3) } else { many }
    }

    /// Prints the machine that the numbers were measured on.
    pub fn host(&self) {
        let Machine { kernel, cpus, model, load_average, .. } = Machine::here();
        println!("Linux {kernel} on {cpus} x {model}");
        println!("Load average before the run: {load_average}");
    }

    pub fn table(&mut self, title: &str, unit: &str) {
        self.table = (title.to_owned(), unit.to_owned());
        println!("\n{title} ({unit})");
        println!("  {:<58}{:>10}{:>10}{:>10}  {:<12}", "", "median", "min", "max", "budget");
    }

    pub fn row(&mut self, name: &str, value: Spread, budget: Budget, note: &str) {
        let (limit, holds) = match budget {
            Budget::None => (String::new(), None),
            AtMost(most) => (format!("<= {}", number(most)), Some(value.median <= most)),
            AtLeast(least) => (format!(">= {}", number(least)), Some(value.median >= least)),
        };
        let verdict = match holds {
            None => "",
            Some(true) => "ok",
            Some(false) => "OVER",
        };
        match holds {
            Some(true) => self.within += 1,
            Some(false) => self.over.push(format!("{}: {} (budget {limit})", name.trim(), number(value.median))),
            None => {}
        }
        let (table, unit) = self.table.clone();
        let Spread { median, min, max } = value;
        self.rows.push(Row { table, unit, name: name.trim().to_owned(), median, min, max });
        let (median, min, max) = (number(median), number(min), number(max));
        let line = format!("  {name:<58}{median:>10}{min:>10}{max:>10}  {limit:<11}{verdict:<6}{note}");
        println!("{}", line.trim_end());
    }

    /// Writes all rows, a JSON object on each line.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn write_json(&self, file: &Path) -> Result<()> {
        let mut text = String::new();
        for row in &self.rows {
            text += &serde_json::to_string(row)?;
            text.push('\n');
        }
        std::fs::write(file, text).with_context(|| file.display().to_string())
    }

    pub fn summary(&self) {
        println!(
            "\n{} budgets hold, {} do not; {:.0} s",
            self.within,
            self.over.len(),
            self.started.elapsed().as_secs_f64()
        );
        for over in &self.over {
            println!("  OVER  {over}");
        }
    }
}

/// Formats with three significant digits and thousands separators.
fn number(value: f64) -> String {
    if !value.is_finite() {
        return "-".to_owned();
    }
    let digits = match value.abs() {
        v if v < 10.0 => 2,
        v if v < 100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    let (sign, rest) = text.strip_prefix('-').map_or(("", text.as_str()), |rest| ("-", rest));
    let (whole, fraction) = rest.find('.').map_or((rest, ""), |dot| rest.split_at(dot));
    let mut grouped = String::from(sign);
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i) % 3 == 0 {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped + fraction
}
