//! Loads an agent with real traffic between namespaces and compares what it counted with what was sent; and shows what a running
//! agent takes. `make test-load`, `performance-report`, `comprehensive-benchmark` and `monitor-performance` call it.

mod monitor;
mod runs;

// The tests' helpers for namespaces and sockets.
#[allow(dead_code, unused_macros, clippy::unwrap_used, clippy::expect_used)]
#[path = "../../tests/support/mod.rs"]
mod support;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::consts::{SIGINT, SIGTERM};

use runs::part::{EVEN, Plan, REALISTIC};
use runs::{Setup, print, report, run};

/// Loads a netmon agent and compares what it counted with what was sent
#[derive(Debug, Parser)]
#[command(name = "load")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Connections over TCP, UDP, HTTP and DNS in equal shares; exit status 1 if the agent disagrees
    Test(Load),
    /// The same, with a report in the folder of results
    Report(Load),
    /// A realistic mix with failures, and a report
    Benchmark(Load),
    /// What a running agent takes, until Ctrl-C
    Monitor(monitor::Options),
}

#[derive(Args, Debug)]
struct Load {
    /// Connections in all
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    connections: u64,
    /// Time over which they are spread
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// The netmon program [default: the one built with this one]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Folder of the reports
    #[arg(long, value_name = "FOLDER", default_value = "results")]
    results: PathBuf,
    /// Further arguments for netmon, such as --set capture.sampling_rate=0.5
    #[arg(last = true, value_name = "ARGUMENT")]
    arguments: Vec<String>,
}

fn main() -> ExitCode {
    let stop = Arc::new(AtomicBool::new(false));
    match start(Cli::parse().command, &stop) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// False if the agent disagrees.
fn start(command: Command, stop: &Arc<AtomicBool>) -> Result<bool> {
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(stop))?;
    }
    let (load, parts, name) = match command {
        Command::Test(load) => (load, EVEN, None),
        Command::Report(load) => (load, EVEN, Some("performance")),
        Command::Benchmark(load) => (load, REALISTIC, Some("benchmark")),
        Command::Monitor(options) => {
            let mut out = std::io::stdout();
            let is_terminal = out.is_terminal() && std::io::stderr().is_terminal();
            let lines: Option<&mut dyn Write> = if is_terminal { None } else { Some(&mut out) };
            return monitor::run(&options, stop, lines).map(|()| true);
        }
    };
    let plan = Plan::new(parts, load.connections, load.duration)?;
    let program = match load.program {
        Some(program) => program,
        None => beside(&std::env::current_exe()?)?,
    };
    let bar = ProgressBar::new(plan.connections);
    bar.set_style(ProgressStyle::with_template("{wide_bar} {human_pos}/{human_len} {msg} {elapsed}")?);
    bar.enable_steady_tick(Duration::from_millis(200));
    let cli = program.with_file_name("netmon-cli");
    let setup = Setup { program, arguments: load.arguments, cli, stop: Arc::clone(stop), bar };
    let run = run(&plan, &setup)?;
    setup.bar.finish_and_clear();
    println!("{}", print::text(&run));
    if let Some(name) = name {
        let files = report::write(&run, &load.results, name)?;
        println!();
        files.iter().for_each(|file| println!("{}", file.display()));
    }
    Ok(run.agrees)
}

/// The netmon program that was built with this one, `target/release/examples/load`.
fn beside(this: &Path) -> Result<PathBuf> {
    let folder =
        this.parent().and_then(Path::parent).context("no folder above this program: name netmon with --program")?;
    Ok(folder.join("netmon"))
}
