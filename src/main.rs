//! `netmon`: the agent.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use crossbeam_channel::bounded;
use netmon::agent;
use netmon::config::{Args, Config};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

fn main() -> ExitCode {
    let config = match Args::parse().into_config() {
        Ok(config) => config,
        Err(error) => return fail(&error),
    };
    env_logger::Builder::new().filter_level(config.log_level).format_target(false).init();
    match run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("netmon: {error:#}");
    ExitCode::FAILURE
}

fn run(config: &Config) -> Result<()> {
    let (stop, stopped) = bounded(1);
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("handle signals")?;
    let handle = signals.handle();
    let thread = std::thread::Builder::new()
        .name("nm-signals".to_owned())
        .spawn(move || {
            if signals.forever().next().is_some() {
                // A second signal finds the channel full: the first is being obeyed.
                let _ = stop.try_send(());
                signals.forever().for_each(drop);
            }
        })
        .context("start the signal thread")?;
    let result = agent::run(config, &stopped, |_| log::info!("ready"));
    handle.close();
    let _ = thread.join();
    result.map(drop)
}
