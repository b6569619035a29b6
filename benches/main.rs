//! `make benchmark`: what netmon costs, measured in one run and compared with its budgets.
//!
//! Each number is the median of several rounds, shown with minimum and maximum. Variants that are compared run alternately, so that
//! both see the same conditions. Times are CPU time of the measuring thread, not wall clock time.

mod cold;
mod connection;
mod detect;
mod iperf;
mod links;
mod live;
mod load;
mod memory;
mod merge;
mod names;
mod packet;
mod pairs;
mod recognition;
mod record;
mod report;
mod scrape;
mod subject;
mod traffic;

// The tests' helpers for loading programs and creating packets and namespaces.
#[allow(dead_code, unused_macros, clippy::unwrap_used, clippy::expect_used)]
#[path = "../tests/support/mod.rs"]
mod support;

// The agent as a process, and the machine, as the load tools see them.
#[path = "../examples/load/runs/agent.rs"]
mod agent;
#[path = "../examples/load/runs/machine.rs"]
mod machine;

// The tests' API server, with a large cluster.
#[allow(dead_code, clippy::unwrap_used, clippy::expect_used)]
#[path = "../tests/names/clusters.rs"]
mod clusters;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;

use report::Report;

/// Measures the cost of a packet, a record and a flow.
#[derive(Debug, Parser)]
#[command(name = "cargo bench --")]
struct Args {
    /// What to measure: packet recognition record merge detect connection memory names load live cold links scrape iperf [default: all]
    sections: Vec<String>,
    /// Fewer rounds: a quick look, not a measurement
    #[arg(long)]
    quick: bool,
    /// Also write the rows to FILE, a JSON object on each line
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Passed by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

type Section = (&'static str, fn(&mut Report) -> Result<()>);

const SECTIONS: [Section; 14] = [
    ("packet", packet::run),
    ("recognition", recognition::run),
    ("record", record::run),
    ("merge", merge::run),
    ("detect", detect::run),
    ("connection", connection::run),
    ("memory", memory::run),
    ("names", names::run),
    ("load", load::run),
    ("live", live::run),
    ("cold", cold::run),
    ("links", links::run),
    ("scrape", scrape::run),
    ("iperf", iperf::run),
];

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("benchmark: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    netmon::bpf::check_host()?;
    netmon::bpf::set_log_sink();
    if args.sections == [memory::CHILD] {
        return memory::child();
    }
    if let [child, pods] = &args.sections[..]
        && child == names::CHILD
    {
        return names::child(pods);
    }
    let names: Vec<&str> = SECTIONS.iter().map(|s| s.0).collect();
    if let Some(unknown) = args.sections.iter().find(|s| !names.contains(&s.as_str())) {
        bail!("there is no section {unknown}; the sections are: {}", names.join(" "));
    }
    let mut report = Report::new(args.quick);
    report.host();
    for (name, section) in SECTIONS {
        if args.sections.is_empty() || args.sections.iter().any(|s| s == name) {
            subject::unpin()?;
            section(&mut report)?;
        }
    }
    report.summary();
    if let Some(file) = &args.json {
        report.write_json(file)?;
    }
    Ok(())
}
