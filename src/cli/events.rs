//! Events that look hostile.

use std::io::{BufRead, BufReader, Write};

use anyhow::{Context, Result};
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::Client;
use super::show::Style;
use crate::printable::without_controls;
use crate::sinks::detect::{Kind, Severity};

fn kinds() -> PossibleValuesParser {
    PossibleValuesParser::new(Kind::ALL.map(Kind::name))
}

fn severities() -> PossibleValuesParser {
    PossibleValuesParser::new(Severity::ALL.map(Severity::name))
}

/// The command, and what its events have to be.
#[derive(Clone, Debug, Args)]
pub struct EventArgs {
    /// What to do
    #[command(subcommand)]
    pub act: Option<EventAct>,

    /// Show only these kinds, separated by commas
    #[arg(long, value_name = "KIND", value_delimiter = ',', global = true, value_parser = kinds())]
    pub kind: Vec<String>,

    /// Show only what is at least this severe
    #[arg(long, value_name = "SEVERITY", global = true, value_parser = severities())]
    pub severity: Option<String>,

    /// Show only events of this source: an address, a network, a workload, namespace/workload
    #[arg(long, value_name = "WHO", global = true)]
    pub source: Option<String>,

    /// Show only events with this target
    #[arg(long, value_name = "WHOM", global = true)]
    pub target: Option<String>,
}

/// What to do with events.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum EventAct {
    /// Print events as they come, until interrupted
    Watch,
}

/// Prints events.
pub(super) fn run(client: &Client, what: &EventArgs, json: bool, style: Style, out: &mut impl Write) -> Result<()> {
    let kinds = what.kind.join(",");
    let parameters = [
        ("kind", (!kinds.is_empty()).then_some(kinds.as_str())),
        ("severity", what.severity.as_deref()),
        ("source", what.source.as_deref()),
        ("target", what.target.as_deref()),
    ];
    let parameters: Vec<(&str, &str)> =
        parameters.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let path = if what.act.is_some() { "/v1/events/watch" } else { "/v1/events" };
    let mut lines = BufReader::new(client.ask("GET", path, &parameters)?).lines();
    while let Some(line) = lines.next().transpose()? {
        // An empty line only shows that the agent is alive.
        if !line.is_empty() {
            if json {
                writeln!(out, "{line}")?;
            } else {
                let event = serde_json::from_str(&line).context("the agent's answer is not JSON")?;
                writeln!(out, "{}", shown(&event, style))?;
            }
        }
        out.flush()?;
    }
    Ok(())
}

fn shown(event: &Value, style: Style) -> String {
    if let Some(lost) = event["lost"].as_u64() {
        return style.bad(&format!("{lost} events were lost because they came too fast"));
    }
    let text = |name: &str| event[name].as_str().unwrap_or_default();
    let time = text("time").get(..19).unwrap_or_default().replace('T', " ");
    // Names of networks and workloads may hold anything.
    let message = without_controls(text("message"));
    let line = format!("{time}  {:<8}  {:<17}  {message}", text("severity"), text("kind"));
    if text("severity") == "info" { line } else { style.bad(&line) }
}
